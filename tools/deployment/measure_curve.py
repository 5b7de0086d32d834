#!/usr/bin/env python
import argparse
from itertools import product
from pathlib import Path

from mmhatnet.analysis.curve import draw_curve, measure_curve
from mmhatnet.analysis.report import markdown_table
from mmhatnet.analysis.sweep import name_sizes
from mmhatnet.apis.zoo import load_model_config
from mmhatnet.deploy.evaluation import evaluate_exported
from mmhatnet.deploy.writer import write_curve
from mmhatnet.engine.cli import (
    add_cfg_options,
    add_grids,
    apply_options,
    one_line_errors,
)
from mmhatnet.utils.atomic import replacing


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Measure an ONNX file of export.py --free-grids with '
        'several sizes of images, G1 and G2: the metric on the test data of '
        'its config, and the time on this machine. The curve, also an '
        'incomplete one after Ctrl-C, is written into '
        'the file, where OnnxModel(..., budget_ms=30) chooses from it, and '
        'drawn beside it.'
    )
    add = parser.add_argument
    add('model', help='name of a model, or config file')
    add('file', type=Path, metavar='FILE.onnx')
    add_grids(parser)
    add(
        '--factors',
        type=float,
        nargs='+',
        default=[0.5, 0.75, 1.0],
        help='of the sizes of images in the file (default: 0.5 0.75 1)',
    )
    add_cfg_options(parser)
    args = parser.parse_args()
    if not all(0 < factor <= 16 for factor in args.factors):
        parser.error('--factors are above 0, and at most 16')
    cfg = load_model_config(args.model)
    apply_options(cfg, args)
    cfg.work_dir = str(Path('work_dirs', 'exported'))
    grids = list(product(args.g1, args.g2))
    curve = measure_curve(
        cfg, args.file, grids, args.factors, evaluate_exported
    )
    write_curve(args.file, curve)
    picture = args.file.with_suffix('.png')
    with replacing(picture) as part:
        draw_curve(curve).savefig(part, format='png')
    table = [
        {
            'G1': name_sizes(row['G1']),
            'G2': name_sizes(row['G2']),
            'size': f'x {row["factor"]:g}',
            curve['metric']: f'{row["metric"]:.4g}',
            'time (ms)': f'{row["ms"]:.1f}',
        }
        for row in curve['rows']
    ]
    print(f'{markdown_table(table)}\n\n{args.file}, {picture}')


if __name__ == '__main__':
    with one_line_errors():
        main()
