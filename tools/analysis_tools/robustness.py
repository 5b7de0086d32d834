#!/usr/bin/env python
import argparse
from itertools import product
from pathlib import Path

from mmhatnet.analysis.report import markdown_table
from mmhatnet.analysis.robustness import CLEAN, measure_robustness
from mmhatnet.analysis.sweep import main_metric, name_of
from mmhatnet.apis.zoo import load_model_config
from mmhatnet.datasets.corruption import CORRUPTIONS
from mmhatnet.engine.cli import (
    add_cfg_options,
    add_grids,
    apply_options,
    one_line_errors,
    positive,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Evaluate a trained model on corrupted test images and on '
        'images of other sizes, with all pairs of a G1 and a G2, without '
        'training. After a stop, the same command continues.'
    )
    parser.add_argument('config', help='name of a model, or config file')
    parser.add_argument('checkpoint', help='file, URL or hatnet://NAME')
    add_grids(parser)
    parser.add_argument(
        '--corruptions',
        nargs='*',
        choices=CORRUPTIONS,
        default=list(CORRUPTIONS),
        metavar='KIND',
        help=f'any of {", ".join(CORRUPTIONS)} (default: all)',
    )
    parser.add_argument(
        '--scales',
        type=positive,
        nargs='*',
        default=[],
        metavar='PIXELS',
        help='sizes to which the test images are resized, where a step of '
        "the test pipeline has a scale (default: the config's alone)",
    )
    parser.add_argument(
        '--out',
        type=Path,
        help='CSV file (default: work_dirs/robustness/CONFIG.csv)',
    )
    add_cfg_options(parser)
    args = parser.parse_args()
    name = Path(args.config).stem
    args.out = args.out or Path('work_dirs', 'robustness', f'{name}.csv')
    return args


def main() -> None:
    args = parse_args()
    cfg = load_model_config(args.config)
    apply_options(cfg, args)
    cfg.work_dir = str(Path('work_dirs', Path(args.config).stem))
    rows = measure_robustness(
        cfg,
        args.checkpoint,
        list(product(args.g1, args.g2)),
        args.out,
        args.corruptions,
        args.scales,
    )
    metric = main_metric(cfg, rows)
    table = {}
    for row in rows:
        setting = name_of(row)
        kind = row['corruption']
        condition = f'{row["scale"]} pixels' if row['scale'] else kind
        found = table.setdefault(setting, {'G1; G2': setting})
        found['as it is' if condition == CLEAN else condition] = (
            f'{row[metric]:.4g}'
        )
    print(f'{metric}:\n\n{markdown_table(list(table.values()))}\n')
    print(args.out)


if __name__ == '__main__':
    with one_line_errors():
        main()
