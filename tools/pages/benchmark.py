#!/usr/bin/env python
"""Makes docs/benchmark.md: cases, goals, and whether they are met."""

import argparse
from pathlib import Path
from statistics import median
from typing import NamedTuple

import yaml
from matplotlib.figure import Figure
from mmengine.utils import get_installed_path

from mmhatnet.analysis.comparison import (
    compare_rows,
    comparison_page,
    format_ratios,
    short_name,
)
from mmhatnet.analysis.forms import PRODUCT, Case, split_forms
from mmhatnet.analysis.report import markdown_table, write_csv
from mmhatnet.analysis.side_by_side import measure_cases
from mmhatnet.apis.zoo import model_entries
from mmhatnet.engine.cli import one_line_errors, positive

ROOT = Path(__file__).resolve().parents[2]
TINY = 'hatnet-tiny_8xb128_in1k'
SMALL = 'hatnet-small_8xb128_in1k'
DENSE = 'fpn_hatnet-small_8xb2-80k_ade20k-512x512'
PVT = 'mmdet::pvt/retinanet_pvtv2-b2_fpn_1x_coco.py'
# Classifiers, and backbones that return the features of all four stages.
SWIN, CONVNEXT, RESNET = (
    'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
    'mmpretrain::convnext/convnext-tiny_32xb128_in1k.py',
    'mmpretrain::resnet/resnet50_8xb32_in1k.py',
)
DENSE_SWIN, DENSE_CONVNEXT, DENSE_RESNET = (
    'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py',
    'mmdet::convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py',
    'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
)
DENSE_PEERS = (DENSE_SWIN, DENSE_CONVNEXT, PVT, DENSE_RESNET)


def plain(backbone: str) -> str:
    return f'plain:{backbone}'


class Goal(NamedTuple):
    """A ratio to reach: at least the bound, for memory at most."""

    column: str
    backbone: str
    base: str
    bound: float


def beat_peers(backbone: str, swin: str, convnext: str) -> list[Goal]:
    return [
        Goal('speed', backbone, swin, 1.4),
        Goal('speed', backbone, convnext, 1.1),
    ]


BOTH = (plain(SMALL), SMALL)
SUITE = {
    Case(
        (
            *BOTH,
            f'compile:{SMALL}',
            plain(TINY),
            TINY,
            f'compile:{TINY}',
            *(SWIN, CONVNEXT, PVT, RESNET),
        ),
        (224, 224),
        8,
    ): [
        Goal('speed', SMALL, plain(SMALL), 2.0),
        Goal('speed', TINY, plain(TINY), 2.0),
        *beat_peers(SMALL, SWIN, CONVNEXT),
    ],
    Case((*BOTH, *DENSE_PEERS), (512, 512), 2): beat_peers(
        SMALL, DENSE_SWIN, DENSE_CONVNEXT
    ),
    Case((plain(DENSE), DENSE, *DENSE_PEERS), (800, 1344), 1): beat_peers(
        DENSE, DENSE_SWIN, DENSE_CONVNEXT
    ),
    Case(BOTH, (448, 448), 2): [Goal('speed', SMALL, plain(SMALL), 2.0)],
    Case(BOTH, (896, 1344), 1): [
        Goal('speed', SMALL, plain(SMALL), 2.5),
        Goal('memory', SMALL, plain(SMALL), 0.25),
    ],
    Case((*BOTH, f'with_cp:{SMALL}'), (448, 448), 2, train=True): [
        Goal('speed', SMALL, plain(SMALL), 1.5),
        Goal('memory', SMALL, plain(SMALL), 0.7),
        Goal('memory', f'with_cp:{SMALL}', plain(SMALL), 0.3),
    ],
    Case((*BOTH, plain(TINY), TINY), (224, 224), 8, keep_memory=True): [
        Goal('speed', SMALL, plain(SMALL), 1.5),
        Goal('speed', TINY, plain(TINY), 1.6),
    ],
    Case(BOTH, (448, 448), 2, keep_memory=True): [
        Goal('speed', SMALL, plain(SMALL), 1.6)
    ],
    Case(BOTH, (896, 1344), 1, keep_memory=True): [
        Goal('speed', SMALL, plain(SMALL), 2.3)
    ],
    Case(BOTH, (448, 448), 2, train=True, keep_memory=True): [
        Goal('speed', SMALL, plain(SMALL), 1.25)
    ],
    Case(
        (TINY, f'compile:{TINY}', f'compile_blocks:{TINY}'),
        (224, 224),
        2,
        train=True,
    ): [],
}


def check_goals(rows: dict[str, list[dict]]) -> list[dict[str, str]]:
    """A row for each goal whose backbones are measured."""
    cells = []
    for case, goals in SUITE.items():
        found = rows.get(str(case), [])
        for column, backbone, base, bound in goals:
            if not {backbone, base} <= {row['backbone'] for row in found}:
                continue
            ratios = compare_rows(found, backbone, base, column)
            less = column == 'memory'
            met = [x <= bound if less else x >= bound for x in ratios]
            limit = ''
            if not less:
                shares = compare_rows(found, backbone, PRODUCT, 'share')
                limit = format_ratios(
                    [x / y for x, y in zip(ratios, shares, strict=True)]
                )
            cells.append(
                {
                    'case': str(case),
                    'column': column,
                    'backbone': f'`{short_name(backbone)}`',
                    'relative to': f'`{short_name(base)}`',
                    'goal': f'{"≤" if less else "≥"} {bound:g}',
                    'measured': format_ratios(ratios),
                    'limit': limit,
                    'met': 'yes'
                    if all(met)
                    else f'in {sum(met)} of {len(met)} rounds'
                    if any(met)
                    else 'no',
                }
            )
    return cells


def accuracy(name: str) -> float | None:
    """Top-1 accuracy in the metafile of a config, in percent."""
    if name in model_entries():
        models = [model_entries()[name]]
    elif '::' in name:
        package, _, config = name.partition('::')
        config = Path(get_installed_path(package), '.mim/configs', config)
        metafile = config.with_name('metafile.yml')
        models = yaml.safe_load(metafile.read_text('utf-8'))['Models']
        models = [m for m in models if Path(m['Config']).name == config.name]
    else:
        models = []
    for model in models:
        for result in model['Results']:
            for metric, value in result['Metrics'].items():
                if metric.rstrip('*') == 'Top 1 Accuracy':
                    return value
    return None


def plot_accuracy(title: str, rows: list[dict]) -> Figure:
    """Accuracy against time, for the backbones of classifiers."""
    figure = Figure(figsize=(9, 4), layout='constrained')
    axis = figure.add_subplot()
    for row in rows:
        top1 = accuracy(split_forms(row['backbone'])[1])
        if top1:
            milliseconds = 1e3 * median(row['seconds']) / row['batch']
            label = short_name(row['backbone'])
            axis.plot(milliseconds, top1, 'o', label=label)
    axis.set(title=title, xlabel='ms per image', ylabel='top-1 accuracy (%)')
    axis.margins(0.1)
    axis.grid(alpha=0.3)
    axis.legend(loc='upper left', bbox_to_anchor=(1, 1))
    return figure


def make_page(rows: dict[str, list[dict]]) -> str:
    goals = check_goals(rows)
    verdicts = [goal['met'] for goal in goals]
    missed = len(goals) - verdicts.count('yes')
    sections = [
        '## Goals\n',
        f'{missed} of {len(goals)} goals are missed, '
        f'{missed - verdicts.count("no")} of them in some rounds only: a goal '
        'is met only if every round meets it. *limit* is the speed '
        'without any loss: all operations at the rate of the matrix product, '
        'and norms, activations, sums, copies and new pages of memory in no '
        'time. The profile below each table shows the losses: layers and '
        'attention that run below the peak, and the *rest*.\n',
        markdown_table(goals),
        '',
        '## Accuracy and time\n',
        'The accuracies are those of the metafiles of the libraries; those of '
        "HAT-Net are the authors'.\n",
        '![accuracy against time](benchmark.png)\n',
    ]
    return comparison_page(rows, 'python tools/pages/benchmark.py', sections)


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Measure the cases of docs/benchmark.md on a CPU, and '
        'make the page. After a stop, the same command continues.'
    )
    parser.add_argument(
        '--rounds',
        type=positive,
        default=7,
        help='repetitions (default: 7)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=ROOT / 'docs' / 'benchmark.md',
        metavar='PAGE.md',
        help='page, with .csv and .png beside it (default: docs/benchmark.md)',
    )
    args = parser.parse_args()
    table = args.out.with_suffix('.csv')
    rows = measure_cases(SUITE, table, rounds=args.rounds)
    # Cases of another suite may be in the table.
    rows = {str(case): rows[str(case)] for case in SUITE}
    write_csv(table, sum(rows.values(), []))
    title = next(iter(rows))
    figure = plot_accuracy(title, rows[title])
    figure.savefig(args.out.with_name('benchmark.png'), dpi=100)
    args.out.write_text(make_page(rows), 'utf-8')
    print(args.out)


if __name__ == '__main__':
    with one_line_errors():
        main()
