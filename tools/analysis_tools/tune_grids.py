#!/usr/bin/env python
import argparse
import os
from functools import partial, reduce
from itertools import takewhile
from operator import getitem
from pathlib import Path

from mmengine.config import Config

from mmhatnet.analysis.sweep import main_metric, setting_of, sweep_grids
from mmhatnet.analysis.tuning import (
    comparable_rows,
    nearby_grids,
    within_budget,
)
from mmhatnet.apis.zoo import load_model_config
from mmhatnet.engine.cli import (
    add_cfg_options,
    apply_options,
    one_line_errors,
    positive,
)
from mmhatnet.utils.atomic import replacing
from mmhatnet.weights.releases import locate_weights


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Find the G1 and G2 with which a trained model is best '
        'within a budget of time or memory on this machine: half, once and '
        'twice the configured G1 and G2 are tried, and the model is evaluated '
        'with those within the budget, without training. If it is '
        'interrupted, run the same command again to continue.'
    )
    parser.add_argument('config', help='name of a model, or config file')
    parser.add_argument('checkpoint', help='file, URL or hatnet://NAME')
    parser.add_argument(
        '--latency-ms',
        type=float,
        help='maximum time of the backbone for one image, in milliseconds',
    )
    parser.add_argument(
        '--memory-mb',
        type=float,
        help='maximum memory of the backbone above '
        'the weights for one image, in MiB',
    )
    parser.add_argument(
        '--shape',
        type=positive,
        nargs=2,
        required=True,
        metavar=('H', 'W'),
        help='size of the image in pixels',
    )
    parser.add_argument(
        '--rounds',
        type=positive,
        default=10,
        help='repetitions (default: 10)',
    )
    parser.add_argument(
        '--out-dir',
        type=Path,
        help='folder for costs/grids.csv, grids.csv and tuned.py, a config '
        '(default: work_dirs/tuning/CONFIG)',
    )
    add_cfg_options(parser)
    args = parser.parse_args()
    if args.latency_ms is None and args.memory_mb is None:
        parser.error('a budget is needed: --latency-ms or --memory-mb')
    for budget in (args.latency_ms, args.memory_mb):
        if budget is not None and not budget > 0:
            parser.error('budgets must be positive numbers')
    name = Path(args.config).stem
    args.out_dir = args.out_dir or Path('work_dirs', 'tuning', name)
    return args


def write_config(
    args: argparse.Namespace, cfg: Config, g1: tuple, g2: tuple
) -> None:
    tuned = Config(dict(_base_=os.path.relpath(cfg.filename, args.out_dir)))
    for option, value in (args.cfg_options or {}).items():
        # A config replaces a list of its base as a whole.
        parts = list(
            takewhile(lambda part: not part.isdigit(), option.split('.'))
        )
        name = '.'.join(parts)
        if name != option:
            value = reduce(getitem, parts, cfg)
        tuned.merge_from_dict({name: value})
    grids = dict(grid_sizes=g1, ds_ratios=g2)
    tuned.merge_from_dict(dict(model=dict(backbone=grids)))
    print(tuned.pretty_text)
    with replacing(args.out_dir / 'tuned.py') as part:
        part.write_text(tuned.pretty_text, 'utf-8')


def main() -> None:
    args = parse_args()
    cfg = load_model_config(args.config)
    apply_options(cfg, args)
    cfg.work_dir = str(args.out_dir)
    locate_weights(args.checkpoint)  # not after the costs
    shape = tuple(args.shape)
    measure = partial(sweep_grids, cfg, shapes=[shape], rounds=args.rounds)
    # Costs take seconds, so they come before the evaluations.
    grids = nearby_grids(cfg)
    rows = measure(grids, out_dir=args.out_dir / 'costs')
    costs = comparable_rows(rows, grids, shape)
    affordable = within_budget(costs, args.latency_ms, args.memory_mb)
    evaluated = measure(
        [setting_of(row) for row in affordable],
        out_dir=args.out_dir,
        checkpoint=args.checkpoint,
    )
    metric = main_metric(cfg, evaluated)
    metrics = {setting_of(row): row[metric] for row in evaluated}
    best = max(
        affordable,
        key=lambda row: (metrics[setting_of(row)], -row['latency']),
    )
    write_config(args, cfg, *setting_of(best))
    for row in costs:
        if row is best or row['configured']:
            name = 'configured' if row['configured'] else 'chosen'
            memory = f', {row["memory"] / 2**20:.0f} MiB' * ('memory' in row)
            print(
                f'{name}: {metric} {metrics[setting_of(row)]:.4g}, '
                f'{1000 * row["latency"]:.1f} ms{memory}'
            )
    print(args.out_dir / 'tuned.py')


if __name__ == '__main__':
    with one_line_errors():
        main()
