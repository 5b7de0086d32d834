#!/usr/bin/env python
import argparse
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from mmhatnet.apis.inference import get_inferencer, predict
from mmhatnet.apis.zoo import (
    find_test_dataset,
    find_weights,
    load_model_config,
)
from mmhatnet.engine.checks import check_data
from mmhatnet.engine.cli import (
    add_cfg_options,
    apply_options,
    one_line_errors,
    positive,
)

IGNORED = 255  # label of pixels that are not counted
GREY = (128, 128, 128)
GROUPS = 2  # samples in a row


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Draw a segmentor's predictions for images of its "
        'test data next to the ground truth, in one picture.'
    )
    add = parser.add_argument
    add('model', help='name of a model, or config file')
    add(
        'checkpoint',
        nargs='?',
        help='file, URL or hatnet://NAME (default: the released weights of '
        'the name)',
    )
    add(
        '--count',
        type=positive,
        default=6,
        help='number of images, spread over the data (default: 6)',
    )
    add(
        '--out',
        type=Path,
        default=Path('outputs/predictions.png'),
        help='figure, .png, .pdf or .svg (default: outputs/predictions.png)',
    )
    add_cfg_options(parser)
    return parser.parse_args()


def draw_montage(cfg: Config, checkpoint: str, count: int) -> Figure:
    """Draw images of the test data, each beside its prediction and truth."""
    if cfg.get('default_scope') != 'mmseg':
        raise ValueError(
            'predictions beside the truth need a segmentor: for other models, '
            'use tools/test.py --show-dir'
        )
    settings = find_test_dataset(cfg)
    check_data(cfg, ('test',))
    inferencer = get_inferencer(cfg, checkpoint)
    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset = DATASETS.build(settings)
        chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset)))
        samples = [dataset[i]['data_samples'] for i in chosen.astype(int)]
    meta = inferencer.model.dataset_meta
    # Pixels that are not counted have no class.
    colours = np.full((256, 3), GREY, np.uint8)
    colours[: len(meta['palette'])] = meta['palette']
    rows = -(-len(samples) // GROUPS)
    height, width = samples[0].gt_sem_seg.shape
    side = 1.9  # inches of a panel's width
    figure = Figure(
        figsize=(
            side * 3 * GROUPS,
            (side * height / width + 0.3) * rows + 0.5,
        ),
        layout='constrained',
    )
    axes = figure.subplots(rows, 3 * GROUPS, squeeze=False)
    for axis in axes.flat:
        axis.axis('off')
    shown: set[int] = set()
    for sample, panels in zip(samples, axes.reshape(-1, 3), strict=False):
        truth = sample.gt_sem_seg.data[0].numpy()
        found = np.asarray(predict(inferencer, sample.img_path)[2])
        counted = truth != IGNORED
        right = (found == truth)[counted].mean() if counted.any() else 1
        image = np.asarray(cv2.imread(sample.img_path))[..., ::-1]
        # The colours of the image would change those of the classes.
        shade = 0.35 * image.mean(2, keepdims=True)
        pictures = {
            'image': image,
            f'prediction: {100 * right:.0f} % right': shade
            + 0.65 * colours[found],
            'truth': shade + 0.65 * colours[truth],
        }
        for axis, (title, picture) in zip(
            panels, pictures.items(), strict=True
        ):
            axis.imshow(picture.astype(np.uint8))
            axis.set_title(title, fontsize=9)
        shown.update(np.unique(found), np.unique(truth))
    names = dict(enumerate(meta['classes']))
    patches = [
        Patch(
            facecolor=colours[label] / 255,
            edgecolor='black',
            label=names.get(label, 'not counted'),
        )
        for label in sorted(shown)
    ]
    figure.legend(
        handles=patches,
        loc='outside lower center',
        ncols=min(8, len(patches)),
        fontsize=9,
        frameon=False,
    )
    return figure


def main() -> None:
    args = parse_args()
    cfg = load_model_config(args.model)
    apply_options(cfg, args)
    checkpoint = args.checkpoint or find_weights(args.model)
    figure = draw_montage(cfg, checkpoint, args.count)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=130)
    print(args.out)


if __name__ == '__main__':
    with one_line_errors():
        main()
