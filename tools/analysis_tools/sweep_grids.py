#!/usr/bin/env python
import argparse
import shlex
import sys
from itertools import product
from pathlib import Path

from mmhatnet.analysis.sweep import (
    main_metric,
    metrics_of,
    plot_sweep,
    sweep_grids,
    sweep_tables,
)
from mmhatnet.apis.zoo import load_model_config, model_entries
from mmhatnet.engine.cli import (
    add_cfg_options,
    add_grids,
    apply_options,
    one_line_errors,
    positive,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Evaluate a trained model under many settings of G1 and '
        'G2, without training: the metric on its test data, operations, time '
        'and peak memory, as a table and a Pareto plot. All pairs of a G1 and '
        'a G2 are measured, and the configured pair. If it is interrupted, '
        'run the same command again to continue.'
    )
    parser.add_argument('config', help='name of a model, or config file')
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='file, URL or hatnet://NAME; without it only the costs are '
        'measured, and no data are needed',
    )
    add_grids(parser)
    parser.add_argument(
        '--shape',
        type=positive,
        nargs=2,
        action='append',
        metavar=('H', 'W'),
        help='size of the image for operations, time and memory in pixels; '
        "may be repeated (default: the metafile's Input Size)",
    )
    parser.add_argument(
        '--metric',
        help='metric to plot (default: the one that decides about the best '
        'checkpoint)',
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
        help='folder for grids.md, grids.csv and grids.png '
        '(default: work_dirs/grids/CONFIG)',
    )
    add_cfg_options(parser)
    args = parser.parse_args()
    name = Path(args.config).stem
    if not args.shape:
        entry = model_entries().get(name)
        if not entry:
            parser.error(f'--shape H W is needed: {name} is not in the zoo')
        args.shape = [map(int, entry['Metadata']['Input Size'].split('x'))]
    args.out_dir = args.out_dir or Path('work_dirs', 'grids', name)
    return args


def main() -> None:
    args = parse_args()
    cfg = load_model_config(args.config)
    apply_options(cfg, args)
    name = Path(args.config).stem
    cfg.work_dir = str(Path('work_dirs', name))
    rows = sweep_grids(
        cfg,
        list(product(args.g1, args.g2)),
        list(map(tuple, args.shape)),
        args.out_dir,
        args.checkpoint,
        args.rounds,
    )
    metric = args.metric or main_metric(cfg, rows)
    if metric and metric not in metrics_of(rows[0]):
        known = ', '.join(metrics_of(rows[0])) or 'none without a checkpoint'
        sys.exit(
            f'sweep_grids.py: error: no metric {metric}; there are: {known}'
        )
    plot_sweep(rows, metric).savefig(args.out_dir / 'grids.png', dpi=100)
    command = shlex.join(['python', *sys.argv])
    page = args.out_dir / 'grids.md'
    page.write_text(
        f"""\
# G1 and G2 of {name}

Made by `{command}`, without training. #FLOPs are multiply-accumulates of the \
model. Time and memory are those of the backbone with one image, eager, on \
{rows[0]['machine']}. *relative* is the median ratio to the configured \
setting, which takes turns with the others. Memory is the peak above the \
weights, within a few MiB. In the figure, points with a black edge are the \
Pareto front: no other setting is better in both.

![metric and cost of each setting](grids.png)

{sweep_tables(rows, metric)}""",
        'utf-8',
    )
    print(page)


if __name__ == '__main__':
    with one_line_errors():
        main()
