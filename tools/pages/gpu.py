#!/usr/bin/env python
"""Makes docs/gpu.md from the reports of GPUs in docs/gpu."""

import argparse
import json
from itertools import groupby
from pathlib import Path

from mmhatnet.analysis.report import markdown_table
from mmhatnet.cli import one_line_errors

ROOT = Path(__file__).resolve().parents[2]
BASE = 'HAT-Net-Small, fast=False'
TEXT = """# On a GPU

`tools/gpu_check.sh` checks in minutes, on one GPU, that HAT-Net computes there
what it computes on a CPU, in each precision, and that it trains: in mixed
precision, with DDP and SyncBN, resumed from a CPU and back, compiled, and in
CUDA graphs. It prints a verdict for each check, and writes
`gpu_check/report.md` and `report.json`; please attach them when you report a
problem.

What was run so far follows. Not run on a GPU yet: mmcv's CUDA operators,
several GPUs, whole trainings of the paper's recipes, and `torch.compile`.
"""


def case(row: dict) -> str:
    n, _, height, width = row['shape']
    kind = 'training step' if row['train'] else 'inference'
    return f'{kind}, {n} x {height}x{width}, {row["dtype"]}'


def section(report: dict) -> str:
    parts = [
        f'## {report["machine"]}\n',
        markdown_table(
            [
                {k: check[k] for k in ('name', 'verdict', 'found')}
                for check in report['checks']
            ]
        ),
        '\nBackbones with random weights, measured once by a script that is '
        'not part of mmhatnet, in one process and in turns; medians. *speed* '
        'and *memory* are relative to the plain equations in NCHW '
        '(`fast=False`), as the authors compute them. float32 has '
        "torch's defaults: TF32 in convolutions, not in matrix products.\n",
    ]
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
        parts += [f'### {title}\n', markdown_table(cells), '']
    return '\n'.join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Make docs/gpu.md from docs/gpu/*.json.'
    )
    parser.parse_args()
    docs = ROOT / 'docs'
    reports = [
        json.loads(path.read_text())
        for path in sorted((docs / 'gpu').glob('*.json'))
    ]
    page = '\n'.join([TEXT, *map(section, reports)])
    (docs / 'gpu.md').write_text(page.rstrip() + '\n')


if __name__ == '__main__':
    with one_line_errors():
        main()
