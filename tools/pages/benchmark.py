#!/usr/bin/env python
"""Makes docs/benchmark.md from its cases."""

import argparse
from pathlib import Path
from statistics import median

import yaml
from matplotlib.figure import Figure
from mmengine.utils import get_installed_path

from mmhatnet.analysis.benchmark import (
    FORMS,
    KEEP_FREED,
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

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / 'docs' / 'benchmark.csv'
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
        forms(TINY, 'compile', 'compile_blocks')[1:],
        (224, 224),
        2,
        train=True,
    ),
)
TEXT = """# Benchmark

Made by `python tools/pages/benchmark.py` on {machine}, with random weights. \
Each row is the backbone of the named model or config, in float32.

- The models of a table take turns, each in its own process. *time* is the \
median of {rounds} rounds; a round runs two steps and times the second. \
*speed* is relative to the first row: 2 is twice as fast. Ratios of times are \
medians of the ratios of each round, with their smallest and largest in \
brackets.
- *operations* are the multiply-accumulates of the whole batch. A training \
step counts as three times the inference.
- *of the peak* compares the rate of operations with that of a large matrix \
product in torch, which takes turns with the models. The product reached \
{low:.0f} to {high:.0f} GFLOP/s, counting one multiply-accumulate as two FLOPs.
- *memory (MiB)* is the peak above the weights, measured in another process; \
*memory* is relative to the first row. On CPUs, that process returns freed \
memory at once, because reused memory does not raise the peak.
- *attention* is the share of the time in products of activations and the \
softmax, *layers* in convolutions and linear layers, and *rest* in norms, \
activations, sums and copies.
- *start (s)* is the time until a model has its first features, with empty \
caches.
- *freed memory kept* means that every model of the table ran with \
`{kept}`. By default, glibc returns the memory of large tensors to the \
system, and the next layer waits for new pages.

All forms of a model have the same weights:

{forms}

## HAT-Net compared with others

HAT-Nets as they run by default (eager), relative to their plain form and to \
other backbones; the tables below give the times.

{ratios}

## Accuracy and time

The accuracies are from the metafiles of the libraries, and those of HAT-Net \
from the paper.

![accuracy against time](benchmark.png)

"""


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


def make_page(rows: dict[str, list[dict]]) -> str:
    every = sum(rows.values(), [])
    peaks = [
        2e-9 * row['operations'] / median(row['seconds'])
        for row in every
        if row['model'] == PRODUCT.model
    ]
    page = TEXT.format(
        machine=every[0]['machine'],
        rounds=len(every[0]['seconds']),
        low=min(peaks),
        high=max(peaks),
        kept=' '.join(f'{name}={x}' for name, x in KEEP_FREED.items()),
        forms='\n'.join(f'- *{form}*: {text}' for form, text in FORMS.items()),
        ratios=markdown_table(
            sum((compare_case(case, rows[str(case)]) for case in SUITE), [])
        ),
    )
    for case in SUITE:
        title = str(case)[0].upper() + str(case)[1:]
        page += f'## {title}\n\n{make_table(rows[str(case)])}\n\n'
    return page.rstrip() + '\n'


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
    figure = Figure(figsize=(9, 4), layout='constrained')
    axis = figure.add_subplot()
    for row in rows:
        top1 = accuracy(row['model'])
        if top1:
            milliseconds = 1e3 * median(row['seconds']) / row['batch']
            label = f'{Entry(row["model"]).name}, {row["form"]}'
            axis.plot(milliseconds, top1, 'o', label=label)
    axis.set(title=title, xlabel='ms per image', ylabel='top-1 accuracy (%)')
    axis.margins(0.1)
    axis.grid(alpha=0.3)
    axis.legend(loc='upper left', bbox_to_anchor=(1, 1))
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Measure the cases of docs/benchmark.md on a CPU, and '
        'make the page. If it is interrupted, run the same command again to '
        'continue.'
    )
    parser.add_argument(
        '--rounds', type=positive, default=7, help='repetitions (default: 7)'
    )
    args = parser.parse_args()
    rows = measure_cases(SUITE, TABLE, args.rounds)
    # Cases of an earlier suite may be in the table.
    rows = {str(case): rows[str(case)] for case in SUITE}
    write_csv(TABLE, sum(rows.values(), []))
    title = str(SUITE[0])
    figure = plot_accuracy(title, rows[title])
    figure.savefig(TABLE.with_suffix('.png'), dpi=100)
    TABLE.with_suffix('.md').write_text(make_page(rows), 'utf-8')


if __name__ == '__main__':
    with one_line_errors():
        main()
