#!/usr/bin/env python
"""Fills docs/gpu.md from the reports of GPUs and the counts in docs/gpu."""

import argparse
from functools import partial
from itertools import groupby
from operator import itemgetter

import torch
from common import DOCS, fill_page, read_json, span, write_json
from mmengine.config import ConfigDict

from mmhatnet.analysis.benchmark import make_table
from mmhatnet.analysis.launches import count_launches
from mmhatnet.analysis.report import markdown_table, read_csv
from mmhatnet.apis.zoo import load_backbone_config
from mmhatnet.engine.cli import one_line_errors
from mmhatnet.models.kernels import select_kernels
from mmhatnet.models.kernels.choice import HAS_TRITON

FOLDER = DOCS / 'gpu'
COUNTS = FOLDER / 'counts.json'
BENCHMARK = FOLDER / 'benchmark.csv'  # if it was measured
SMALL = 'HAT-Net-Small'
BASE = f'{SMALL}, fast=False'
WITHOUT = f'{SMALL}, without Triton'
CLASSIFIERS = {
    SMALL: 'hatnet-small_8xb128_in1k',
    'Swin-T': 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
    'ConvNeXt-T': 'mmpretrain::convnext/convnext-tiny_32xb128_in1k.py',
}
DETECTORS = {
    SMALL: 'mask-rcnn_hatnet-small_fpn_8xb2-1x_coco',
    'Swin-T': 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py',
    'ConvNeXt-T': (
        'mmdet::convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py'
    ),
}
PVT = ConfigDict(type='mmpretrain.TIMMBackbone', model_name='pvt_v2_b2')
# (configs, images, height and width, training, type for autocast)
CASES = (
    (CLASSIFIERS, 64, (224, 224), False, 'bfloat16'),
    (CLASSIFIERS, 64, (224, 224), True, 'bfloat16'),
    (DETECTORS, 2, (800, 1344), False, None),
    (DETECTORS, 2, (800, 1344), True, 'bfloat16'),
)


def case(row: dict) -> str:
    n, _, height, width = row['shape']
    kind = 'training step' if row['train'] else 'inference'
    return f'{kind}, {n} x {height}x{width}, {row["dtype"]}'


def section(report: dict) -> str:
    titles = 'name', 'verdict', 'found'
    checks = [{k: check[k] for k in titles} for check in report['checks']]
    parts = [f'### {report["machine"]}\n', markdown_table(checks)]
    if 'timings' not in report:
        return '\n'.join([*parts, ''])
    parts.append('')
    for title, group in groupby(report['timings'], case):
        rows = list(group)
        base = next(row for row in rows if row['backbone'] == BASE)
        cells = [
            {
                'backbone': row['backbone'],
                'time (ms)': f'{row["milliseconds"]:.1f}',
                'speed': f'{base["milliseconds"] / row["milliseconds"]:.2f}',
                'memory (MiB)': f'{row["mib"]}',
                'memory': f'{row["mib"] / base["mib"]:.2f}',
            }
            for row in rows
        ]
        parts += [f'#### {title}\n', markdown_table(cells), '']
    return '\n'.join(parts)


def count_case(
    configs: dict, batch: int, shape: tuple, train: bool, amp: str | None
) -> list[dict]:
    """Count HAT-Net in three ways and its peers."""
    ours = load_backbone_config(configs[SMALL])
    backbones = {
        SMALL: (ours, ''),
        WITHOUT: (ours, 'casts'),
        BASE: (ours | dict(fast=False), 'none'),
    }
    for name, config in configs.items():
        backbones.setdefault(name, (load_backbone_config(config), ''))
    backbones['PVTv2-B2'] = PVT, ''
    rows = []
    for name, (backbone, kernels) in backbones.items():
        backbone = ConfigDict(backbone, init_cfg=None)
        with select_kernels(kernels):
            found = count_launches(backbone, shape, batch, train, amp)
        rows.append(
            dict(
                shape=[batch, 3, *shape],
                train=train,
                dtype=amp or 'float32',
                backbone=name,
                operators=found.operators,
                kernels=found.kernels,
                gib=round((found.read + found.written) / 2**30, 2),
                kept=round(found.kept / 2**30, 2),
            )
        )
    return rows


def count() -> dict:
    """Count all cases.

    Raises:
        ValueError: If there is no Triton.
    """
    if not HAS_TRITON:
        raise ValueError('install Triton, whose kernels are counted')
    rows = [row for each in CASES for row in count_case(*each)]
    return dict(torch=torch.__version__, counts=rows)


def make_counts(counted: list[dict], reports: list[dict]) -> str:
    """A table for each case, with today's and earlier counts."""
    times = {
        (case(row), row['backbone']): row['milliseconds']
        for report in reports
        for row in report.get('timings', ())
    }
    parts = []
    for title, group in groupby(counted, case):
        rows = list(group)
        cells = []
        for row in [*earlier(rows[0]), *rows]:
            name = row['backbone']
            cell = {
                'backbone': name,
                'operators': f'{row["operators"]}',
                'kernels': f'{row["kernels"]}',
                'moved (GiB)': f'{row["gib"]:.1f}',
            }
            if row['train']:
                kept = row.get('kept')
                cell['kept (GiB)'] = '' if kept is None else f'{kept:.1f}'
            # HAT-Net was another one then.
            found = times.get((title, name.removesuffix(', before')))
            if found and name not in (SMALL, WITHOUT):
                cell['H100 (ms)'] = f'{found:.1f}'
            cells.append(cell)
        parts += [f'**{title}**\n', markdown_table(cells), '']
    return '\n'.join(parts).rstrip()


def earlier(row: dict) -> list[dict]:
    """The row of a case before HAT-Net had kernels, by another name."""
    return [
        old | dict(backbone=f'{SMALL}, before')
        for old in read_json(FOLDER / 'counts_before.json')['counts']
        if old['backbone'] == SMALL and case(old) == case(row)
    ]


def make_limits(reports: list[dict]) -> str:
    """What the host and the GPU take, where it was measured."""
    cells = [
        {'GPU': report['machine'], **row}
        for report in reports
        for check in report['checks']
        for row in check.get('times', ())
    ]
    if cells:
        return (
            'Times in ms. Eager far above CUDA graph means that the host is '
            'too slow; *kernels* is the sum of their times in the eager '
            f'form.\n\n{markdown_table(cells)}'
        )
    return (
        'How long HAT-Net takes eager, compiled and as CUDA graphs, and how '
        'long its\nkernels take together, has not been measured yet; '
        '`tools/gpu_check.sh -k limits`\nmeasures it.'
    )


def show_host(reports: list[dict]) -> str:
    """Microseconds per operator in training, on a GPU before the kernels."""
    old = read_json(FOLDER / 'counts_before.json')['counts']
    counts = {(case(row), row['backbone']): row['operators'] for row in old}
    found = {
        row['backbone']: 1e3 * row['milliseconds'] / counts[key]
        for report in reports
        for row in report.get('timings', ())
        if row['train'] and (key := (case(row), row['backbone'])) in counts
    }
    other = found.pop('ConvNeXt-T')
    return (
        'The table of the H100 below may show the host. Its training steps of '
        f'64 images\nin bfloat16 took {span(found.values(), ".0f")} µs per '
        f'operator ({other:.0f} for ConvNeXt-T), nearly the\nsame for '
        'different networks.'
    )


def show_amp(reports: list[dict]) -> str:
    """Times of HAT-Net in float32 and mixed precision."""
    report = next(report for report in reports if 'timings' in report)
    times = {
        (row['train'], row['dtype']): f'{row["milliseconds"]:.1f}'
        for row in report['timings']
        if row['backbone'] == SMALL and row['shape'][0] == 64
    }
    training, inference = (
        f'{times[train, "bfloat16"]} ms instead of {times[train, "float32"]}'
        for train in (True, False)
    )
    return (
        'Mixed precision saves memory. On the H100, before the kernels, it '
        f'cost HAT-Net time\nin training, {training}, and saved little in '
        f'inference,\n{inference}. Autocast adds operators, for which the '
        'host\ntakes time.'
    )


def show_reports(reports: list[dict]) -> str:
    """The checks of each GPU, and the benchmark if it was measured."""
    parts = list(map(section, reports))
    for title, rows in groupby(read_csv(BENCHMARK), itemgetter('case')):
        parts.append(f'## Benchmark: {title}\n\n{make_table([*rows])}\n')
    return '\n'.join(parts).rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Fill docs/gpu.md from the files in docs/gpu.'
    )
    parser.add_argument(
        '--count',
        action='store_true',
        help='count launches and bytes again before, which takes minutes',
    )
    if parser.parse_args().count:
        write_json(COUNTS, count())
    files = map(read_json, sorted(FOLDER.glob('*.json')))
    reports = [report for report in files if 'machine' in report]
    counted = read_json(COUNTS)
    regions = {
        'host': partial(show_host, reports),
        'limits': partial(make_limits, reports),
        'torch': lambda: (
            '`python tools/pages/gpu.py --count` counted the tables below '
            f'with torch\n{counted["torch"]}, on fake tensors, which needs '
            'no GPU.'
        ),
        'counts': partial(make_counts, counted['counts'], reports),
        'amp': partial(show_amp, reports),
        'reports': partial(show_reports, reports),
    }
    fill_page(DOCS / 'gpu.md', regions)


if __name__ == '__main__':
    with one_line_errors():
        main()
