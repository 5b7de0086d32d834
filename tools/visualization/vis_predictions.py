#!/usr/bin/env python
import argparse
from pathlib import Path

from mmhatnet.analysis.montage import draw_montage
from mmhatnet.apis.zoo import find_weights, load_model_config
from mmhatnet.engine.cli import (
    add_cfg_options,
    apply_options,
    one_line_errors,
    positive,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Draw a segmentor's predictions for images of its "
        'test data next to the ground truth, in one picture.'
    )
    parser.add_argument('model', help='name of a model, or config file')
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='file, URL or hatnet://NAME (default: the released weights of '
        'the name)',
    )
    parser.add_argument(
        '--count',
        type=positive,
        default=6,
        help='number of images, spread over the data (default: 6)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('outputs/predictions.png'),
        help='figure, .png, .pdf or .svg (default: outputs/predictions.png)',
    )
    add_cfg_options(parser)
    return parser.parse_args()


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
