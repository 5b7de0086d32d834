#!/usr/bin/env python
import argparse
import os
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

from mmengine.config import Config

from mmhatnet.analysis.sweep import (
    Grids,
    build_hatnet,
    main_metric,
    setting_of,
    shape_of,
    sweep_grids,
)
from mmhatnet.apis.zoo import load_model_config
from mmhatnet.engine.cli import (
    add_cfg_options,
    apply_options,
    inherit_options,
    one_line_errors,
    positive,
)
from mmhatnet.models.archs import as_integers
from mmhatnet.utils.atomic import replacing
from mmhatnet.weights.releases import locate_weights

FACTORS = (0.5, 1, 2)
UNITS = dict(latency=(1e-3, 'ms'), memory=(2**20, 'MiB'))


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


def nearby_grids(cfg: Config) -> list[Grids]:
    """All pairs of half, once and twice G1 and G2, unless it is 'auto'."""
    backbone = build_hatnet(cfg)

    def scaled(sides: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [
            tuple(max(1, round(side * factor)) for side in sides)
            for factor in FACTORS
        ]

    numbers = as_integers(backbone.ds_ratios)
    ratios = scaled(numbers) if numbers else [backbone.ds_ratios]
    return list(product(scaled(backbone.grid_sizes), ratios))


def comparable_rows(
    rows: Sequence[dict], grids: Sequence[Grids], shape: tuple[int, int]
) -> list[dict]:
    """Select rows, and make their times comparable.

    A busy machine changes the time of the same setting from row to row; its
    ratio to the configured one, which took turns with it, holds.
    """
    rows = [
        row
        for row in rows
        if shape_of(row) == shape and setting_of(row) in grids
    ]
    configured = median(row['latency'] / row['latency_ratio'] for row in rows)
    return [
        {**row, 'latency': configured * row['latency_ratio']} for row in rows
    ]


def within_budget(
    rows: Sequence[dict],
    latency: float | None = None,
    memory: float | None = None,
) -> list[dict]:
    """Select the rows within a budget in milliseconds and MiB."""
    left = list(rows)
    for name, budget in (('latency', latency), ('memory', memory)):
        if budget is None:
            continue
        if any(name not in row for row in rows):
            raise ValueError(f'the {name} cannot be measured on this machine')
        unit, symbol = UNITS[name]
        lowest = min(row[name] for row in left) / unit
        left = [row for row in left if row[name] <= budget * unit]
        if not left:
            raise ValueError(
                f'no setting has a {name} of at most {budget:g} {symbol}; the '
                f'lowest is {lowest:.4g} {symbol}'
            )
    return left


def write_config(
    args: argparse.Namespace, cfg: Config, g1: tuple, g2: tuple
) -> None:
    tuned = Config(dict(_base_=os.path.relpath(cfg.filename, args.out_dir)))
    inherit_options(tuned, args, cfg)
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
