#!/usr/bin/env python
"""Fills docs/benchmark.md from the table of its cases."""

import argparse
from functools import partial
from pathlib import Path
from statistics import median

import yaml
from common import DOCS, fill_page, make_figure, save_figure, span
from matplotlib.figure import Figure
from mmengine.utils import get_installed_path

from mmhatnet.analysis.benchmark import (
    FORMS,
    PRODUCT,
    Case,
    Entry,
    compare,
    make_table,
    measure_cases,
)
from mmhatnet.analysis.report import markdown_table, write_csv
from mmhatnet.apis.zoo import model_entries
from mmhatnet.engine.cli import one_line_errors, positive

TABLE = DOCS / 'benchmark.csv'
TINY = 'hatnet-tiny_8xb128_in1k'
SMALL = 'hatnet-small_8xb128_in1k'
DENSE = 'fpn_hatnet-small_8xb2-80k_ade20k-512x512'
PVT = Entry('mmdet::pvt/retinanet_pvtv2-b2_fpn_1x_coco.py')
# Classifiers, and backbones that return the features of all four stages.
CLASSIFIERS = (
    Entry('mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py'),
    Entry('mmpretrain::convnext/convnext-tiny_32xb128_in1k.py'),
    PVT,
    Entry('mmpretrain::resnet/resnet50_8xb32_in1k.py'),
)
DENSE_PEERS = (
    Entry('mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'),
    Entry(
        'mmdet::convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py'
    ),
    PVT,
    Entry('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'),
)


def forms(model: str, *more: str) -> tuple[Entry, ...]:
    return tuple(Entry(model, form) for form in ('plain', 'eager', *more))


BOTH = forms(SMALL)
COMPILED = forms(SMALL, 'compile') + forms(TINY, 'compile')
SUITE = (
    Case(COMPILED + CLASSIFIERS, (224, 224), 8),
    Case(BOTH + DENSE_PEERS, (512, 512), 2),
    Case(forms(DENSE) + DENSE_PEERS, (800, 1344), 1),
    Case(BOTH, (448, 448), 2),
    Case(BOTH, (896, 1344), 1),
    Case(forms(SMALL, 'with_cp'), (448, 448), 2, train=True),
    Case(BOTH + forms(TINY), (224, 224), 8, keep_memory=True),
    Case(BOTH, (448, 448), 2, keep_memory=True),
    Case(BOTH, (896, 1344), 1, keep_memory=True),
    Case(BOTH, (448, 448), 2, train=True, keep_memory=True),
    Case(
        forms(TINY, 'compile', 'compile_blocks')[1:], (224, 224), 2, train=True
    ),
)


def compare_case(case: Case, rows: list[dict]) -> list[dict[str, str]]:
    """Each HAT-Net beside its plain form, and Small beside others."""
    return [
        {
            'case': str(case),
            'model': f'`{entry.name}`',
            'beside': f'`{other.name}`, {other.form}',
            'speed': compare(rows, entry, other, 'speed'),
            'memory': compare(rows, entry, other, 'memory'),
        }
        for entry in case.entries
        if entry.form == 'eager' and '::' not in entry.model
        for other in case.entries
        if other == Entry(entry.model, 'plain')
        or ('::' in other.model and entry.model != TINY)
    ]


def show_machine(rows: list[dict]) -> str:
    peaks = [
        2e-9 * row['operations'] / median(row['seconds'])
        for row in rows
        if row['model'] == PRODUCT.model
    ]
    return (
        'Measured by `python tools/pages/benchmark.py --measure` on '
        f'{rows[0]["machine"]},\nin {len(rows[0]["seconds"])} rounds. The '
        'matrix product, with which the rate of operations is\ncompared, '
        f'reached {span(peaks, ".0f")} GFLOP/s, counting one '
        'multiply-accumulate as two\nFLOPs.'
    )


def show_ratios(rows: dict[str, list[dict]]) -> str:
    cells = (compare_case(case, rows[str(case)]) for case in SUITE)
    return markdown_table(sum(cells, []))


def show_tables(rows: dict[str, list[dict]]) -> str:
    return '\n\n'.join(
        f'## {case[0].upper()}{case[1:]}\n\n{make_table(rows[case])}'
        for case in map(str, SUITE)
    )


def accuracy(model: str) -> float | None:
    """Top-1 accuracy in the metafile of a config, in percent."""
    models = [model_entries().get(model, dict(Results=[]))]
    if '::' in model:
        package, _, config = model.partition('::')
        path = Path(get_installed_path(package), '.mim/configs', config)
        metafile = path.with_name('metafile.yml').read_text('utf-8')
        models = yaml.safe_load(metafile)['Models']
        models = [m for m in models if Path(m['Config']).name == path.name]
    for result in [result for m in models for result in m['Results']]:
        for name, value in result['Metrics'].items():
            if name.rstrip('*') == 'Top 1 Accuracy':
                return value
    return None


def plot_accuracy(title: str, rows: list[dict]) -> Figure:
    """Accuracy against time, for the backbones of classifiers."""
    figure, (axis,) = make_figure(size=(9, 4))
    for row in rows:
        top1 = accuracy(row['model'])
        if top1:
            milliseconds = 1e3 * median(row['seconds']) / row['batch']
            label = f'{Entry(row["model"]).name}, {row["form"]}'
            axis.plot(milliseconds, top1, 'o', label=label)
    axis.set(title=title, xlabel='ms per image', ylabel='top-1 accuracy (%)')
    axis.margins(0.1)
    axis.legend(loc='upper left', bbox_to_anchor=(1, 1))
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Fill docs/benchmark.md from the table beside it.'
    )
    add = parser.add_argument
    add(
        '--measure',
        action='store_true',
        help='first measure the cases that the table lacks, or that another '
        'machine measured; if it is interrupted, run it again to continue',
    )
    add('--rounds', type=positive, default=7, help='repetitions (default: 7)')
    args = parser.parse_args()
    rows = measure_cases(SUITE if args.measure else (), TABLE, args.rounds)
    # Cases of an earlier suite may be in the table.
    rows = {str(case): rows[str(case)] for case in SUITE}
    every = sum(rows.values(), [])
    if args.measure:
        write_csv(TABLE, every)
    figure = plot_accuracy(str(SUITE[0]), rows[str(SUITE[0])])
    save_figure(figure, TABLE.with_suffix('.png'))
    forms = '\n'.join(f'- *{form}*: {text}' for form, text in FORMS.items())
    regions = {
        'machine': partial(show_machine, every),
        'forms': lambda: forms,
        'ratios': partial(show_ratios, rows),
        'tables': partial(show_tables, rows),
    }
    fill_page(TABLE.with_suffix('.md'), regions)


if __name__ == '__main__':
    with one_line_errors():
        main()
