#!/usr/bin/env python
"""Fills docs/gpu.md from the reports of GPUs and the counts in docs/gpu."""

import argparse
from itertools import groupby

import torch
from common import DOCS, fill_page, read_json, write_json
from mmengine.config import ConfigDict

from mmhatnet.analysis.launches import count_launches
from mmhatnet.analysis.report import markdown_table
from mmhatnet.apis.zoo import load_backbone_config
from mmhatnet.engine.cli import one_line_errors
from mmhatnet.models.kernels import select_kernels
from mmhatnet.models.kernels.choice import HAS_TRITON

FOLDER = DOCS / 'gpu'
COUNTS = FOLDER / 'counts.json'
BEFORE = FOLDER / 'counts_before.json'  # HAT-Net had kernels
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


def count_case(
    configs: dict, batch: int, shape: tuple, train: bool, amp: str | None
) -> list[dict]:
    """Count HAT-Net in three ways and its peers."""
    ours = load_backbone_config(configs[SMALL])
    peers = {
        name: (load_backbone_config(configs[name]), '')
        for name in ('Swin-T', 'ConvNeXt-T')
    }
    backbones = {
        SMALL: (ours, ''),
        WITHOUT: (ours, 'casts'),
        BASE: (ours | dict(fast=False), 'none'),
        **peers,
        'PVTv2-B2': (PVT, ''),
    }
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
                gib=round(found.moved / 2**30, 2),
                kept=round(found.kept / 2**30, 2),
            )
        )
    return rows


def show_counts(counted: list[dict], timed: list[dict]) -> str:
    """A table for each case, with times of the H100 where they compare."""
    before = read_json(BEFORE)['counts']
    times = {(case(x), x['backbone']): x['milliseconds'] for x in timed}
    parts = []
    for title, rows in groupby(counted, case):
        cells = []
        for row in [*(x for x in before if case(x) == title), *rows]:
            name, kept = row['backbone'], row.get('kept')
            # HAT-Net was timed before it had kernels.
            found = times.get((title, name.removesuffix(', before')))
            known = found and name != SMALL
            cells.append(
                {
                    'backbone': name,
                    'operators': f'{row["operators"]}',
                    'moved (GiB)': f'{row["gib"]:.1f}',
                    'kept (GiB)': f'{kept:.1f}' if kept else '',
                    'H100 (ms)': f'{found:.1f}' if known else '',
                }
            )
        parts += [f'**{title}**', markdown_table(cells)]
    return '\n\n'.join(parts)


def show_limits(reports: list[dict]) -> str:
    """What the host and the GPU take, where it was measured."""
    cells = [
        {'GPU': report['machine'], **row}
        for report in reports
        for check in report['checks']
        for row in check.get('times', ())
    ]
    return markdown_table(cells) if cells else 'Not measured yet.'


def show_report(report: dict) -> str:
    """The checks of a GPU, and the times of backbones."""
    titles = 'name', 'verdict', 'found'
    checks = [{k: check[k] for k in titles} for check in report['checks']]
    parts = [f'### {report["machine"]}', markdown_table(checks)]
    for title, group in groupby(report.get('timings', ()), case):
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
        parts += [f'#### {title}', markdown_table(cells)]
    return '\n\n'.join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Fill docs/gpu.md from the files in docs/gpu.'
    )
    parser.add_argument(
        '--count',
        action='store_true',
        help='count operators and bytes again before, which takes minutes',
    )
    if parser.parse_args().count:
        if not HAS_TRITON:
            raise ValueError('install Triton, whose kernels are counted')
        rows = [row for each in CASES for row in count_case(*each)]
        write_json(COUNTS, dict(torch=torch.__version__, counts=rows))
    files = map(read_json, sorted(FOLDER.glob('*.json')))
    reports = [report for report in files if 'machine' in report]
    timed = [row for report in reports for row in report.get('timings', ())]
    counted = read_json(COUNTS)
    regions = {
        'limits': show_limits(reports),
        'counts': f'Counted with torch {counted["torch"]}.\n\n'
        + show_counts(counted['counts'], timed),
        'reports': '\n\n'.join(map(show_report, reports)),
    }
    fill_page(DOCS / 'gpu.md', regions)


if __name__ == '__main__':
    with one_line_errors():
        main()
