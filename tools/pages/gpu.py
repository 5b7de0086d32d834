#!/usr/bin/env python
"""Fills docs/gpu.md from the reports of GPUs and the counts in docs/gpu."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from itertools import groupby
from multiprocessing import get_context
from operator import itemgetter
from unittest.mock import patch

import torch
from common import (
    CLASSIFIERS,
    DETECTORS,
    DOCS,
    PVT,
    complete_table,
    make_page,
    read_json,
)
from mmengine.config import ConfigDict

from mmhatnet.analysis.benchmark import Case, Entry, make_table, measure
from mmhatnet.analysis.launches import count_launches
from mmhatnet.analysis.report import markdown_table, read_csv
from mmhatnet.apis.zoo import load_backbone_config
from mmhatnet.models.kernels import select_kernels
from mmhatnet.models.kernels.choice import CHECKS, HAS_TRITON

FOLDER = DOCS / 'gpu'
BEFORE = FOLDER / 'counts_before.csv'  # HAT-Net had kernels
SMALL = 'HAT-Net-Small'
EARLIER = f'{SMALL}, before'
BASE = f'{SMALL}, fast=False'
WITHOUT = f'{SMALL}, without Triton'
IMAGENET = {SMALL: 'hatnet-small_8xb128_in1k'} | CLASSIFIERS
COCO = {SMALL: 'mask-rcnn_hatnet-small_fpn_8xb2-1x_coco'} | DETECTORS
PVT_COUNTED = ConfigDict(
    type='mmpretrain.TIMMBackbone', model_name='pvt_v2_b2'
)
KERNELS = 'norm', 'mlp', 'windows'
TIMED = 'eager', 'compile', 'cuda_graph'
COMPILED = 'compiled training step, 64 x 224x224, bfloat16'
# Case -> configs, height and width, images, training, type for autocast.
CASES = {
    'inference, 64 x 224x224, bfloat16': (
        *(IMAGENET, (224, 224), 64, False, 'bfloat16'),
    ),
    'training step, 64 x 224x224, bfloat16': (
        *(IMAGENET, (224, 224), 64, True, 'bfloat16'),
    ),
    COMPILED: (IMAGENET, (224, 224), 64, True, 'bfloat16'),
    'inference, 2 x 800x1344, float32': (COCO, (800, 1344), 2, False, None),
    'training step, 2 x 800x1344, bfloat16': (
        *(COCO, (800, 1344), 2, True, 'bfloat16'),
    ),
}


def case_of(timing: dict) -> str:
    n, _, height, width = timing['shape']
    kind = 'training step' if timing['train'] else 'inference'
    return f'{kind}, {n} x {height}x{width}, {timing["dtype"]}'


def count_case(case: str) -> list[dict]:
    """Count HAT-Net, in three ways if it is eager, and its peers."""
    if not HAS_TRITON:
        raise ValueError('install Triton, whose kernels are counted')
    configs, *settings = CASES[case]
    count = count_launches
    if case == COMPILED:
        from inductor import count_compiled as count

    todo = []  # name, backbone, kernels
    for name, config in configs.items():
        backbone = load_backbone_config(config)
        todo.append((name, backbone, ''))
        if name == SMALL and case != COMPILED:
            todo.append((WITHOUT, backbone, 'casts'))
            todo.append((BASE, backbone | dict(fast=False), 'none'))
    rows = []
    for name, backbone, kernels in (*todo, ('PVTv2-B2', PVT_COUNTED, '')):
        backbone = ConfigDict(backbone, init_cfg=None)
        with select_kernels(kernels):
            found = count(backbone, *settings)
        rows.append(
            dict(
                case=case,
                backbone=name,
                operators=found.operators,
                gib=round(found.moved / 2**30, 2),
                kept=round(found.kept / 2**30, 2),
                torch=torch.__version__,
            )
        )
    return rows


def check_kernel(name: str, dtype: torch.dtype) -> float:
    import_module(f'mmhatnet.models.kernels.{name}')
    torch.manual_seed(0)
    return CHECKS[name](torch.device('cpu'), dtype)


def compare_kernel(name: str) -> list[dict]:
    """Compare a kernel, interpreted on a CPU, with torch in float32."""
    # Triton decides when it is imported whether a CPU interprets its kernels.
    with (
        patch.dict(os.environ, TRITON_INTERPRET='1'),
        ProcessPoolExecutor(1, get_context('spawn')) as pool,
    ):
        dtypes = torch.float32, torch.float16
        full, half = pool.map(check_kernel, [name] * 2, dtypes)
    return [dict(kernel=name, float32=full, float16=half)]


def show_errors(rows: list[dict]) -> str:
    cells = [
        {'kernel': f'`{row["kernel"]}`'}
        | {key: f'{row[key]:.1e}' for key in ('float32', 'float16')}
        for row in rows
    ]
    return markdown_table(cells)


def show_counts(rows: list[dict], timings: list[dict]) -> str:
    """A table for each case, with times of the H100 where they compare."""
    # HAT-Net was timed before it had kernels.
    earlier = {SMALL: EARLIER}
    times = {
        (case_of(row), earlier.get(row['backbone'], row['backbone'])): row
        for row in timings
    }
    parts = [f'Counted with torch {rows[0]["torch"]}.']
    for case in CASES:
        cells = []
        for row in [*read_csv(BEFORE), *rows]:
            if row['case'] == case:
                name, kept = row['backbone'], row.get('kept')
                time = times.get((case, name), {}).get('milliseconds')
                cells.append(
                    {
                        'backbone': name,
                        'operators': f'{row["operators"]}',
                        'moved (GiB)': f'{row["gib"]:.1f}',
                        'kept (GiB)': f'{kept:.1f}' if kept else '',
                        'H100 (ms)': f'{time:.1f}' if time else '',
                    }
                )
        parts += [f'**{case}**', markdown_table(cells)]
    return '\n\n'.join(parts)


def timed_cases() -> Iterator[Case]:
    """The counted cases, as they are timed on a GPU."""
    for name, (configs, shape, batch, train, amp) in CASES.items():
        if name != COMPILED:
            ours, *peers = (*configs.values(), PVT)
            entries = (
                Entry(ours, 'plain'),
                *(Entry(x, form) for x in (ours, *peers) for form in TIMED),
            )
            yield Case(entries, shape, batch, train, 'cuda', amp)


def show_limits(rows: list[dict]) -> str:
    """What the host and the GPU take, where it was measured."""
    if not rows:
        return 'Not measured yet.'
    parts = [f'Measured on {rows[0]["machine"]}.']
    for case, found in groupby(rows, itemgetter('case')):
        parts += [f'**{case}**', make_table(list(found))]
    return '\n\n'.join(parts)


def show_report(report: dict) -> str:
    """The checks of a GPU, and the times of backbones."""
    titles = 'name', 'verdict', 'found'
    checks = [{k: check[k] for k in titles} for check in report['checks']]
    parts = [f'### {report["machine"]}', markdown_table(checks)]
    for title, group in groupby(report.get('timings', ()), case_of):
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


def make_regions(measuring: bool) -> dict[str, str]:
    todo = CASES if measuring else ()
    counts = complete_table(FOLDER / 'counts.csv', 'case', todo, count_case)
    kernels = KERNELS if measuring else ()
    errors = complete_table(
        FOLDER / 'errors.csv', 'kernel', kernels, compare_kernel
    )
    # Without a GPU, nothing is timed.
    timed = timed_cases() if measuring and torch.cuda.is_available() else ()
    limits = complete_table(FOLDER / 'limits.csv', 'case', timed, measure)
    found = map(read_json, sorted(FOLDER.glob('*.json')))
    reports = [each for each in found if 'checks' in each]
    timings = [row for report in reports for row in report.get('timings', ())]
    return {
        'limits': show_limits(limits),
        'counts': show_counts(counts, timings),
        'errors': show_errors(errors),
        'reports': '\n\n'.join(map(show_report, reports)),
    }


if __name__ == '__main__':
    make_page(FOLDER.with_suffix('.md'), __doc__, make_regions)
