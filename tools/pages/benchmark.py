#!/usr/bin/env python
"""Fills docs/benchmark.md from the table of its cases."""

from statistics import median

from common import (
    CLASSIFIERS,
    DETECTORS,
    DOCS,
    PVT,
    complete_table,
    make_figure,
    make_page,
    save_figure,
)
from matplotlib.figure import Figure
from mmpretrain.apis import ModelHub

from mmhatnet.analysis.benchmark import FORMS, Case, Entry, make_table, measure
from mmhatnet.apis.zoo import model_entries

TABLE = DOCS / 'benchmark.csv'
TINY = 'hatnet-tiny_8xb128_in1k'
SMALL = 'hatnet-small_8xb128_in1k'
DENSE = 'fpn_hatnet-small_8xb2-80k_ade20k-512x512'
# Classifiers, and backbones that return the features of all four stages.
PEERS = (
    *map(Entry, (*CLASSIFIERS.values(), PVT)),
    Entry('mmpretrain::resnet/resnet50_8xb32_in1k.py'),
)
DENSE_PEERS = (
    *map(Entry, (*DETECTORS.values(), PVT)),
    Entry('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'),
)


def forms(model: str, *names: str) -> tuple[Entry, ...]:
    return tuple(Entry(model, form) for form in ('eager', *names))


COMPILED = 'plain', 'compile'
SUITE = (
    Case(
        forms(SMALL, *COMPILED) + forms(TINY, *COMPILED) + PEERS,
        (224, 224),
        8,
    ),
    Case(forms(SMALL, 'plain') + DENSE_PEERS, (512, 512), 2),
    Case(forms(DENSE, 'plain') + DENSE_PEERS, (800, 1344), 1),
    Case(forms(SMALL, 'plain', 'with_cp'), (448, 448), 2, train=True),
    Case(forms(TINY, 'compile', 'compile_blocks'), (224, 224), 2, train=True),
)


def accuracy(model: str) -> float | None:
    """Published top-1 accuracy of a config in percent, if there is one."""
    name = Entry(model).name
    if entry := model_entries().get(name):
        return entry['Results'][0]['Metrics']['Top 1 Accuracy*']
    if model.startswith('mmpretrain::'):
        return ModelHub.get(name).results[0].metrics['Top 1 Accuracy']
    return None


def plot_accuracy(title: str, rows: list[dict]) -> Figure:
    """Accuracy against time, for the backbones of classifiers."""
    figure, (axis,) = make_figure(size=(9, 5))
    for row in rows:
        top1 = accuracy(row['model'])
        if top1:
            milliseconds = 1e3 * median(row['seconds']) / row['batch']
            label = f'{Entry(row["model"]).name}, {row["form"]}'
            axis.plot(milliseconds, top1, 'o', label=label)
    axis.set(title=title, xlabel='ms per image', ylabel='top-1 accuracy (%)')
    axis.margins(0.1)
    return figure


def make_regions(measuring: bool) -> dict[str, str]:
    rows = complete_table(TABLE, 'case', SUITE if measuring else (), measure)
    cases = {
        str(case): [row for row in rows if row['case'] == str(case)]
        for case in SUITE
    }
    (title, first), *_ = cases.items()
    save_figure(plot_accuracy(title, first), TABLE.with_suffix('.png'))
    tables = (
        f'## {title[0].upper()}{title[1:]}\n\n{make_table(here)}'
        for title, here in cases.items()
    )
    return {
        'machine': (
            'Measured by `python tools/pages/benchmark.py --measure` on\n'
            f'{rows[0]["machine"]}, in {len(rows[0]["seconds"])} rounds.'
        ),
        'forms': '\n'.join(f'- *{x}*: {text}' for x, text in FORMS.items()),
        'tables': '\n\n'.join(tables),
    }


if __name__ == '__main__':
    make_page(TABLE.with_suffix('.md'), __doc__, make_regions)
