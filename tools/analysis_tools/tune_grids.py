#!/usr/bin/env python
import argparse
import os
from pathlib import Path

from mmhatnet.analysis.sweep import main_metric, sweep_grids
from mmhatnet.analysis.tuning import choose_grids, nearby_grids
from mmhatnet.cli import (
    add_cfg_options,
    apply_options,
    one_line_errors,
    positive,
)
from mmhatnet.zoo import load_model_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Find the G1 and G2 with which a trained model is best '
        'within a budget of time or memory on this machine: the model is '
        'evaluated with half, once and twice the configured G1 and G2, '
        'without training. After a stop, the same command continues.'
    )
    parser.add_argument('config', help='name of a model, or config file')
    parser.add_argument('checkpoint', help='file, URL or hatnet://NAME')
    parser.add_argument(
        '--latency-ms',
        type=float,
        help='most milliseconds that the backbone may take for one image',
    )
    parser.add_argument(
        '--memory-mb',
        type=float,
        help='most MiB above the weights that the backbone may need for one '
        'image',
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
        help='folder for grids.csv and tuned.py, a config '
        '(default: work_dirs/tuning/CONFIG)',
    )
    add_cfg_options(parser)
    args = parser.parse_args()
    if args.latency_ms is None and args.memory_mb is None:
        parser.error('a budget is needed: --latency-ms or --memory-mb')
    name = Path(args.config).stem
    args.out_dir = args.out_dir or Path('work_dirs', 'tuning', name)
    return args


def main() -> None:
    args = parse_args()
    cfg = load_model_config(args.config)
    apply_options(cfg, args)
    cfg.work_dir = str(args.out_dir)
    rows = sweep_grids(
        cfg,
        nearby_grids(cfg),
        [tuple(args.shape)],
        args.out_dir,
        args.checkpoint,
        args.rounds,
    )
    best = choose_grids(cfg, rows, args.latency_ms, args.memory_mb)
    base = os.path.relpath(cfg.filename, args.out_dir)
    path = args.out_dir / 'tuned.py'
    path.write_text(f"""\
_base_ = {base!r}
model = dict(
    backbone=dict(grid_sizes={best['G1']}, ds_ratios={best['G2']}),
)
""")
    print(path.read_text())
    for row in rows:
        if row is best or row['configured']:
            metric = main_metric(cfg, rows)
            name = 'configured' if row['configured'] else 'chosen'
            memory = f', {row["memory"] / 2**20:.0f} MiB' * ('memory' in row)
            print(
                f'{name}: {metric} {row[metric]:.4g}, '
                f'{1000 * row["latency"]:.1f} ms{memory}'
            )
    print(path)


if __name__ == '__main__':
    with one_line_errors():
        main()
