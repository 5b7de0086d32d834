#!/usr/bin/env python
"""Makes docs/gpu.md from the reports of GPUs in docs/gpu."""

import argparse
import json
from itertools import groupby
from pathlib import Path

from mmhatnet.analysis.report import markdown_table
from mmhatnet.engine.cli import one_line_errors

ROOT = Path(__file__).resolve().parents[2]
BASE = 'HAT-Net-Small, fast=False'
TEXT = """# On a GPU

`tools/gpu_check.sh` checks in minutes that HAT-Net gives the same results on
your GPUs as on a CPU, in each precision, and that it trains: in mixed
precision, with DDP and SyncBN, resumed from a CPU and back, compiled, and in
CUDA graphs. It runs `tests/test_gpu.py`, so it needs a clone of mmhatnet with
pytest (`tools/setup_env.sh --tests`). The verdicts are in
`gpu_check/report.md` and `report.json`; please attach them when you report a
problem. `tools/gpu_check.sh -k parity` runs only the tests with this name.

All checks below ran on one GPU. torch.compile, several GPUs and whole
trainings of the paper's recipes have not been run yet. The checks have become
tests of pytest since then, and have not been run again.

## What to expect

- With small batches, a GPU waits for the launches of HAT-Net's many short
  kernels; the tables below show what CUDA graphs gain. In these tables, mixed
  precision saves more memory than time, even with 64 images of 224x224.
- `cudnn_benchmark` and TF32 are as in the libraries: mmsegmentation looks for
  the fastest convolution for each size, mmdetection does not, and torch uses
  TF32 in convolutions.
- Detectors use [operators of torchvision](operators.md), which support
  bfloat16; mmcv's compiled operators do not. The checks below used
  torchvision's NMS and RoIAlign.

The first command measures the backbone on your GPU in three forms, the second
a whole model with one image, as mm's benchmarks do. Neither has been run on
a GPU yet.

```
python tools/analysis_tools/benchmark.py hatnet-small_8xb128_in1k \\
    --plain --cuda-graph --device cuda
python tools/analysis_tools/benchmark.py \\
    mask-rcnn_hatnet-small_fpn_8xb2-1x_coco --whole-model \\
    --shape 800 1344 --device cuda
```
"""


def case(row: dict) -> str:
    n, _, height, width = row['shape']
    kind = 'training step' if row['train'] else 'inference'
    return f'{kind}, {n} x {height}x{width}, {row["dtype"]}'


def section(report: dict) -> str:
    titles = 'name', 'verdict', 'found'
    checks = [{k: check[k] for k in titles} for check in report['checks']]
    parts = [f'## {report["machine"]}\n', markdown_table(checks)]
    if 'timings' not in report:
        return '\n'.join([*parts, ''])
    parts += [
        '\nBackbones with random weights, measured once by a script that is '
        'not part of mmhatnet, in one process and '
        'alternately. Values are medians; the script did not save the '
        'single rounds, so the ratios have no ranges. '
        '*speed* and *memory* are relative to the plain equations in NCHW '
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
        json.loads(path.read_text('utf-8'))
        for path in sorted((docs / 'gpu').glob('*.json'))
    ]
    page = '\n'.join([TEXT, *map(section, reports)])
    (docs / 'gpu.md').write_text(page.rstrip() + '\n', 'utf-8')


if __name__ == '__main__':
    with one_line_errors():
        main()
