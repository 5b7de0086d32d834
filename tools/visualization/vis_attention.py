#!/usr/bin/env python
import argparse
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmengine.registry import MODELS

from mmhatnet.analysis.attention import attend_from
from mmhatnet.analysis.attention_figure import draw_attention
from mmhatnet.apis.inference import load_image
from mmhatnet.apis.zoo import find_weights, load_model_config
from mmhatnet.engine.cli import (
    add_cfg_options,
    apply_options,
    one_line_errors,
    positive,
)
from mmhatnet.runtime.images import unreadable
from mmhatnet.weights.loading import load_backbone


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Draw the attention of a point of an image, inside its '
        'window (G1) and to the pooled map (G2), for every stage and head.'
    )
    add = parser.add_argument
    add('model', help='name of a model, or config file')
    add('image', help='image file')
    add(
        '--checkpoint',
        help='file, URL or hatnet://NAME with the backbone (default: the '
        'released weights of the name)',
    )
    add(
        '--point',
        type=float,
        nargs=2,
        metavar=('X', 'Y'),
        help='pixel of the image (default: its middle)',
    )
    add(
        '--size',
        type=positive,
        help='shorter side of the resized image in pixels (default: 224 for '
        'a classifier, else 512)',
    )
    add(
        '--block',
        type=int,
        default=-1,
        help='index of the block in each stage (default: -1, the last)',
    )
    add(
        '--out',
        type=Path,
        default=Path('outputs/attention.png'),
        help='figure, .png, .pdf or .svg (default: outputs/attention.png)',
    )
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if reason := unreadable(args.image):
        raise ValueError(f'{args.image}: {reason}')
    cfg = load_model_config(args.model)
    apply_options(cfg, args)
    model = MODELS.build(cfg.model.backbone)
    load_backbone(
        model, args.checkpoint or find_weights(args.model), stem='strict'
    )

    image = load_image(cfg, args.image)
    classifies = cfg.get('default_scope') == 'mmpretrain'
    size = args.size or (224 if classifies else 512)
    scale = size / min(image.shape[:2])
    height, width = image.shape[:2]
    x, y = args.point or (width / 2, height / 2)
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(
            f'--point {x:g} {y:g} is outside the image of {width}x{height} '
            'pixels (W x H)'
        )
    image = np.atleast_3d(mmcv.imrescale(image, scale))
    # Rounding may have changed the scale slightly.
    point = x * image.shape[1] / width, y * image.shape[0] / height
    # BGR and maybe more, or less than three channels.
    shown = image[..., [2, 1, 0] if image.shape[2] > 2 else [0, 0, 0]]
    preprocessor = cfg.model.get('data_preprocessor')
    preprocessor = preprocessor or cfg.get('data_preprocessor') or {}
    to_rgb = preprocessor.get('bgr_to_rgb') or preprocessor.get('to_rgb')
    if to_rgb and image.shape[2] == 3:  # as the libraries do
        image = shown
    mean = torch.tensor(preprocessor.get('mean') or 0.0)
    std = torch.tensor(preprocessor.get('std') or 1.0)
    tensor = ((torch.tensor(image) - mean) / std).permute(2, 0, 1)[None]
    attentions = attend_from(model, tensor.float(), point, args.block)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    draw_attention(shown, point, attentions).savefig(args.out, dpi=130)
    print(args.out)


if __name__ == '__main__':
    with one_line_errors():
        main()
