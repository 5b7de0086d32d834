#!/usr/bin/env python
import argparse

from mmhatnet.analysis.launches import count_launches
from mmhatnet.apis.zoo import load_backbone_config, load_model_config
from mmhatnet.engine.cli import (
    add_cfg_options,
    add_shape,
    apply_options,
    one_line_errors,
    positive,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Count the operators of a backbone's step on a GPU, and "
        'the bytes that they move. No GPU is needed.'
    )
    add = parser.add_argument
    add('config', help='name of a model, or config file')
    add_shape(parser)
    add('--batch', type=positive, default=1, help='images (default: 1)')
    add('--train', action='store_true', help='count forward and backward')
    add('--amp', choices=('bfloat16', 'float16'), help='type for autocast')
    add_cfg_options(parser)
    args = parser.parse_args()
    cfg = load_model_config(args.config)
    apply_options(cfg, args)
    found = count_launches(
        load_backbone_config(cfg),
        *(args.shape, args.batch, args.train, args.amp),
    )
    print(f'Operators: {found.operators}')
    print(f'Moved: {found.moved / 2**30:.2f} GiB')
    print(f'Kept for the backward pass: {found.kept / 2**30:.2f} GiB')


if __name__ == '__main__':
    with one_line_errors():
        main()
