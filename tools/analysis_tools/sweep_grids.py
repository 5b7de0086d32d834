#!/usr/bin/env python
import argparse
import shlex
import sys
from itertools import product
from pathlib import Path

from mmhatnet.analysis.sweep import (
    main_metric,
    metrics_of,
    plot,
    sweep_grids,
    tables,
)
from mmhatnet.cli import add_cfg_options, one_line_errors
from mmhatnet.zoo import load_model_config, model_entries


def grid(text: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, text.split(',')))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}' is not like 8,8,8: one number for each of the stages "
            '0 to 2'
        ) from None


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Evaluate a trained model under many settings of G1 and '
        'G2, without training: the metric on its test data, operations, time '
        'and peak memory, as a table and a Pareto plot. All pairs of a G1 '
        'and a G2 are measured, and the configured one. Goes on where it was '
        'stopped.'
    )
    parser.add_argument('config', help='name of a model, or config file')
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='file, URL or hatnet://NAME; without it only the costs are '
        'measured, and no data are needed',
    )
    for option, name in (('--g1', 'grid_sizes'), ('--g2', 'ds_ratios')):
        parser.add_argument(
            option,
            type=grid,
            nargs='+',
            metavar='A,B,C',
            help=f'{name} of the stages 0 to 2 (default: the configured one)',
        )
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        action='append',
        metavar=('H', 'W'),
        help='image for operations, time and memory in pixels; may be given '
        "several times (default: the metafile's Input Size)",
    )
    parser.add_argument(
        '--metric',
        help='what to plot (default: what the config keeps the best '
        'checkpoint by)',
    )
    parser.add_argument(
        '--rounds', type=int, default=10, help='repetitions (default: 10)'
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
        if name not in model_entries():
            parser.error(f'--shape H W is needed: {name} is not in the zoo')
        size = model_entries()[name]['Metadata']['Input Size']
        args.shape = [size.split('x')]
    args.out_dir = args.out_dir or Path('work_dirs', 'grids', name)
    return args


def main() -> None:
    args = parse_args()
    cfg = load_model_config(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    name = Path(args.config).stem
    cfg.work_dir = str(Path('work_dirs', name))
    rows = sweep_grids(
        cfg,
        list(product(args.g1 or [None], args.g2 or [None])),
        [tuple(map(int, shape)) for shape in args.shape],
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
    plot(rows, metric).savefig(args.out_dir / 'grids.png', dpi=100)
    command = shlex.join(['python', *sys.argv])
    (args.out_dir / 'grids.md').write_text(
        f'# G1 and G2 of {name}\n\nMade by `{command}`, without training: '
        '#FLOPs are multiply-accumulates of the model; time and memory are '
        f'those of the backbone with one image, on {rows[0]["machine"]}, '
        'eager; *relative* is the median of the ratio to the configured '
        'setting, timed in turns with it; memory, to a few MiB, is the peak '
        'above the weights. In the figure, no other setting beats those with '
        'a black edge in both.\n\n![metric and cost of each setting]'
        f'(grids.png)\n\n{tables(rows, metric)}'
    )
    print(args.out_dir / 'grids.md')


if __name__ == '__main__':
    with one_line_errors():
        main()
