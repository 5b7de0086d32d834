#!/usr/bin/env python
import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from itertools import cycle, product
from pathlib import Path
from statistics import median

import numpy as np
from matplotlib.figure import Figure
from mmengine.config import Config

from mmhatnet.analysis.report import markdown_table, show_ratios
from mmhatnet.analysis.sweep import (
    build_hatnet,
    main_metric,
    name_sizes,
    nearby_grids,
    setting_of,
    shape_of,
    sweep_grids,
)
from mmhatnet.apis.zoo import load_model_config, model_entries
from mmhatnet.engine.cli import (
    add_cfg_options,
    add_grids,
    apply_options,
    inherit_options,
    one_line_errors,
    positive,
)
from mmhatnet.models.archs import Grids, complete_grids
from mmhatnet.utils.atomic import write_text
from mmhatnet.weights.releases import locate_weights

# Column, its label in a figure, and the unit there.
COSTS = dict(
    operations=('multiply-accumulates of the model (G)', 1e9),
    latency_ratio=('time of the backbone, configured = 1', 1),
    memory=('peak memory of the backbone (MiB)', 2**20),
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Evaluate a trained model under many settings of G1 and '
        'G2, without training: the metric on its test data, operations, time '
        'and peak memory, as a table and a Pareto plot. All pairs of a G1 and '
        'a G2 are measured, and the configured pair. With a budget, only the '
        'pairs within it are evaluated, and a config with the best one is '
        'written. If it is interrupted, run the same command again to '
        'continue.'
    )
    add = parser.add_argument
    add('config', help='name of a model, or config file')
    add(
        'checkpoint',
        nargs='?',
        help='file, URL or hatnet://NAME; without it only the costs are '
        'measured, and no data are needed',
    )
    add_grids(parser)
    add(
        '--shape',
        type=positive,
        nargs=2,
        action='append',
        metavar=('H', 'W'),
        help='size of the image for operations, time and memory in pixels; '
        "may be repeated (default: the metafile's Input Size)",
    )
    add(
        '--latency-ms',
        type=float,
        help='budget: maximum time of the backbone for one image in '
        'milliseconds; without --g1 and --g2, half, once and twice the '
        'configured ones are tried',
    )
    add(
        '--memory-mb',
        type=float,
        help='budget: maximum memory of the backbone above the weights for '
        'one image in MiB',
    )
    add(
        '--rounds',
        type=positive,
        default=10,
        help='how often each setting is timed, in turns (default: 10)',
    )
    add(
        '--out-dir',
        type=Path,
        help='folder for grids.md, grids.csv, grids.png and, with a budget, '
        'costs/grids.csv and tuned.py (default: work_dirs/grids/CONFIG)',
    )
    add_cfg_options(parser)
    args = parser.parse_args()
    name = Path(args.config).stem
    budgets = args.latency_ms, args.memory_mb
    args.budgets = [each for each in budgets if each is not None]
    if not all(each > 0 for each in args.budgets):
        parser.error('budgets must be positive numbers')
    if args.budgets and (not args.checkpoint or len(args.shape or ()) != 1):
        parser.error('a budget needs a checkpoint and one --shape H W')
    if not args.shape:
        entry = model_entries().get(name)
        if not entry:
            parser.error(f'--shape H W is needed: {name} is not in the zoo')
        args.shape = [map(int, entry['Metadata']['Input Size'].split('x'))]
    args.out_dir = args.out_dir or Path('work_dirs', 'grids', name)
    return args


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Find the points of cost and metric that no other beats, by cost."""
    front: list[int] = []
    order = sorted(
        range(len(points)), key=lambda i: (points[i][0], -points[i][1])
    )
    for index in order:
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def by_shape(rows: Sequence[dict]) -> dict[str, list[dict]]:
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault('{}x{}'.format(*shape_of(row)), []).append(row)
    return groups


def plot_sweep(rows: Sequence[dict], metric: str | None) -> Figure:
    """Draw the metric against the costs, or costs against the operations.

    There is a row of panels for each shape. The colour is G2, the marker is
    G1, and a ring marks the configured setting. A line joins the settings of
    the Pareto front, which have a black edge.
    """
    groups = by_shape(rows)
    x, *others = [name for name in COSTS if name in rows[0]]
    columns, axes = COSTS, [(x, y) for y in others]
    if metric:
        columns = COSTS | {metric: (metric, 1)}
        axes = [(cost, metric) for cost in (x, *others)]
    figure = Figure(
        figsize=(5 * len(axes) + 1, 4.2 * len(groups)), layout='constrained'
    )
    panels = figure.subplots(len(groups), len(axes), squeeze=False)
    colours = {g2: f'C{i}' for i, g2 in enumerate({r['G2']: 0 for r in rows})}
    markers = dict(
        zip({r['G1']: 0 for r in rows}, cycle('osD^vP*X<>'), strict=False)
    )
    for (shape, here), line in zip(groups.items(), panels, strict=True):
        for (x, y), panel in zip(axes, line, strict=True):
            (x_label, x_unit), (y_label, y_unit) = columns[x], columns[y]
            points = [(row[x] / x_unit, row[y] / y_unit) for row in here]
            front = pareto_front(points) if metric else []
            for i, (row, point) in enumerate(zip(here, points, strict=True)):
                style = dict(marker=markers[row['G1']], c=colours[row['G2']])
                edge = 'black' if i in front else 'none'
                panel.plot(*point, **style, mec=edge)
                if row['configured']:
                    panel.plot(*point, 'ko', ms=13, mfc='none')
            joined = np.reshape([points[i] for i in front], (-1, 2)).T
            panel.plot(*joined, 'k-', lw=0.8, zorder=0)
            panel.set(title=shape, xlabel=x_label, ylabel=y_label)
            panel.grid(alpha=0.3)
    legend = panels[0, -1]
    for g2, colour in colours.items():
        legend.plot([], [], 's', color=colour, label=f'G2 {name_sizes(g2)}')
    for g1, marker in markers.items():
        legend.plot([], [], marker, color='gray', label=f'G1 {name_sizes(g1)}')
    legend.plot([], [], 'ko', ms=11, mfc='none', label='configured')
    figure.legend(loc='outside right upper')
    return figure


def sweep_tables(rows: Sequence[dict], metric: str | None) -> str:
    """Make one Markdown table with a title for each shape."""
    parts = []
    for shape, here in by_shape(rows).items():
        table = markdown_table([cells_of(row, metric) for row in here])
        parts.append(f'## {shape}\n\n{table}\n')
    return '\n'.join(parts)


def cells_of(row: dict, metric: str | None) -> dict[str, str]:
    cells = {'G1': name_sizes(row['G1']), 'G2': name_sizes(row['G2'])}
    if metric:
        cells[metric] = f'{row[metric]:.4g}'
    cells['#FLOPs (G)'] = f'{row["operations"] / 1e9:.2f}'
    cells['time (ms)'] = f'{1000 * row["latency"]:.1f}'
    ratios = ('latency_ratio', 'latency_ratio_min', 'latency_ratio_max')
    cells['relative'] = show_ratios([row[x] for x in ratios if x in row])
    if 'memory' in row:
        cells['memory (MiB)'] = f'{row["memory"] / 2**20:.0f}'
    cells[''] = 'configured' if row['configured'] else ''
    return cells


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
    for name, budget, unit, symbol in (
        ('latency', latency, 1e-3, 'ms'),
        ('memory', memory, 2**20, 'MiB'),
    ):
        if budget is None:
            continue
        if any(name not in row for row in rows):
            raise ValueError(
                f'the {name} cannot be measured on this machine: leave its '
                'budget out'
            )
        lowest = min(row[name] for row in left) / unit
        left = [row for row in left if row[name] <= budget * unit]
        if not left:
            raise ValueError(
                f'no setting has a {name} of at most {budget:g} {symbol}; the '
                f'lowest is {lowest:.4g} {symbol}'
            )
    return left


def write_config(args: argparse.Namespace, cfg: Config, best: Grids) -> None:
    """Write a config that inherits all but G1 and G2."""
    tuned = Config(dict(_base_=os.path.relpath(cfg.filename, args.out_dir)))
    inherit_options(tuned, args, cfg)
    grids = dict(zip(('grid_sizes', 'ds_ratios'), best, strict=True))
    tuned.merge_from_dict(dict(model=dict(backbone=grids)))
    write_text(args.out_dir / 'tuned.py', tuned.pretty_text)
    print(f'{tuned.pretty_text}{args.out_dir / "tuned.py"}')


def main() -> None:
    args = parse_args()
    cfg = load_model_config(args.config)
    apply_options(cfg, args)
    name = Path(args.config).stem
    cfg.work_dir = str(Path('work_dirs', name))
    shapes = list(map(tuple, args.shape))
    measure = partial(sweep_grids, cfg, shapes=shapes, rounds=args.rounds)
    grids = list(product(args.g1, args.g2))
    if args.budgets:
        locate_weights(args.checkpoint)  # not after the costs
        backbone = build_hatnet(cfg)
        grids = (
            nearby_grids(backbone)
            if grids == [(None, None)]
            else complete_grids(backbone, grids)
        )
        # Costs take seconds, so they come before the evaluations.
        costs = measure(grids, out_dir=args.out_dir / 'costs')
        costs = comparable_rows(costs, grids, *shapes)
        affordable = within_budget(costs, args.latency_ms, args.memory_mb)
        grids = list(map(setting_of, affordable))
    rows = measure(grids, out_dir=args.out_dir, checkpoint=args.checkpoint)
    metric = main_metric(cfg, rows)
    write_page(args, rows, metric)
    if args.budgets:
        found = {setting_of(row): row[metric] for row in rows}
        best = max(
            affordable, key=lambda x: (found[setting_of(x)], -x['latency'])
        )
        write_config(args, cfg, setting_of(best))


def write_page(
    args: argparse.Namespace, rows: list[dict], metric: str | None
) -> None:
    plot_sweep(rows, metric).savefig(args.out_dir / 'grids.png', dpi=100)
    page = args.out_dir / 'grids.md'
    page.write_text(
        f"""\
# G1 and G2 of {Path(args.config).stem}

Made by `{shlex.join(['python', *sys.argv])}`, without training. #FLOPs are \
multiply-accumulates of the model. Time and memory are those of the backbone \
with one image, eager, on {rows[0]['machine']}. *relative* is the median \
ratio to the configured setting, which takes turns with the others. Memory is \
the peak above the weights, within a few MiB. In the figure, points with a \
black edge are the Pareto front: no other setting is better in both.

![metric and cost of each setting](grids.png)

{sweep_tables(rows, metric)}""",
        'utf-8',
    )
    print(page)


if __name__ == '__main__':
    with one_line_errors():
        main()
