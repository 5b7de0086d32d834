#!/usr/bin/env python
import argparse

from mmhatnet.analysis.complexity import measure_complexity
from mmhatnet.apis.zoo import load_model_config
from mmhatnet.engine.cli import (
    add_cfg_options,
    add_shape,
    apply_options,
    one_line_errors,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Count a model's parameters and multiply-accumulates, "
        'including the products of attention. No data set is needed.'
    )
    parser.add_argument('config', help='name of a model, or config file')
    add_shape(parser)
    add_cfg_options(parser)
    args = parser.parse_args()
    cfg = load_model_config(args.config)
    apply_options(cfg, args)
    result = measure_complexity(cfg, args.shape)
    print(f'Input:       {args.shape[0]}x{args.shape[1]} (H x W)')
    print(f'Parameters:  {result.params / 1e6:.2f} M')
    print(f'Operations:  {result.operations / 1e9:.2f} G')
    print(f'  products of attention: {result.products / 1e9:.2f} G')
    print(f'Norms, in addition: {result.norms / 1e9:.2f} G')
    print(
        'As in Table 2 of the paper, with norms and without products: '
        f'{result.without_products / 1e9:.2f} G'
    )


if __name__ == '__main__':
    with one_line_errors():
        main()
