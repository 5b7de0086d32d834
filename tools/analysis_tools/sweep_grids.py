#!/usr/bin/env python
import argparse
import shlex
import sys
from collections.abc import Sequence
from itertools import cycle, pairwise, product
from pathlib import Path

from matplotlib.figure import Figure

from mmhatnet.analysis.report import markdown_table
from mmhatnet.analysis.sweep import (
    main_metric,
    metrics_of,
    name_sizes,
    shape_of,
    sweep_grids,
)
from mmhatnet.apis.zoo import load_model_config, model_entries
from mmhatnet.engine.cli import (
    add_cfg_options,
    add_grids,
    apply_options,
    one_line_errors,
    positive,
)

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
    axes = [(x, y) for y in others]
    if metric:
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
            points = [(value_of(row, x), value_of(row, y)) for row in here]
            front = pareto_front(points) if metric else []
            for i, (row, point) in enumerate(zip(here, points, strict=True)):
                style = dict(marker=markers[row['G1']], c=colours[row['G2']])
                edge = 'black' if i in front else 'none'
                panel.plot(*point, **style, mec=edge)
                if row['configured']:
                    panel.plot(*point, 'ko', ms=13, mfc='none')
            for ends in pairwise(front):
                joined = zip(*(points[i] for i in ends), strict=True)
                panel.plot(*joined, 'k-', lw=0.8, zorder=0)
            panel.set(title=shape, xlabel=label_of(x), ylabel=label_of(y))
            panel.grid(alpha=0.3)
    legend = panels[0, -1]
    for g2, colour in colours.items():
        legend.plot([], [], 's', color=colour, label=f'G2 {name_sizes(g2)}')
    for g1, marker in markers.items():
        legend.plot([], [], marker, color='gray', label=f'G1 {name_sizes(g1)}')
    legend.plot([], [], 'ko', ms=11, mfc='none', label='configured')
    figure.legend(loc='outside right upper')
    return figure


def value_of(row: dict, name: str) -> float:
    return row[name] / COSTS[name][1] if name in COSTS else row[name]


def label_of(name: str) -> str:
    return COSTS[name][0] if name in COSTS else name


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
    cells['relative'] = f'{row["latency_ratio"]:.2f}'
    if 'memory' in row:
        cells['memory (MiB)'] = f'{row["memory"] / 2**20:.0f}'
    cells[''] = 'configured' if row['configured'] else ''
    return cells


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
