#!/usr/bin/env python
"""Makes docs/gpu.md from the reports of GPUs and the counts in docs/gpu."""

import argparse
from itertools import groupby
from operator import itemgetter

import torch
from common import DOCS, read_json, span, write_json, write_text
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
TEXT = """# On a GPU

`tools/gpu_check.sh` checks in minutes that HAT-Net gives the same results on
your GPUs as on a CPU, in each precision, and that it trains: in mixed
precision, with DDP and SyncBN, resumed from a CPU and back, compiled, and in
CUDA graphs. It runs `tests/test_gpu.py`, so it needs a clone of mmhatnet with
pytest (`tools/setup_env.sh --tests`). The verdicts are in
`gpu_check/report.md` and `report.json`; please attach them when you report a
problem. `tools/gpu_check.sh -k parity` runs only the tests with this name.

## What limits

A step has two costs. The *host*, the Python process, launches one operator
after the other, and takes some time for each. The *GPU* takes time for each
kernel: mostly for the bytes that it moves, and little for the arithmetic. The
longer of the two is what a clock shows. Fewer operators, CUDA graphs and
larger batches help against a slow host; fewer bytes help a busy GPU.

The table of the H100 below may show the host. Its training steps of 64 images
in bfloat16 took {per_operator},
nearly the same for different networks.

{limits}

### Counts

`python tools/pages/gpu.py --count` counted the tables below with torch
{torch}, on fake tensors, which needs no GPU.
*operators* are those of torch that launch kernels; *kernels* are as far as it
is known how torch computes. *moved* is what the operators read and write: all
arguments and results once, but the maps that norms read twice. *kept* is what
stays for the backward pass. In training, the last map has a gradient, and no
path is dropped.
`tools/analysis_tools/count_launches.py` counts the backbone of any config.

*before* is HAT-Net without the kernels below, counted by a trial script, and
*without Triton* what runs today where there is no Triton. PVTv2-B2 is that of
timm; the other peers are those of mmpretrain and mmdetection. *H100* is the
time of the table further below, which knows no kernels: there it stands in
the row *before*.

{counts}

### Kernels

On a GPU, four operations have a form of their own:

| name | what it computes |
| --- | --- |
| `norm` | a norm with one group |
| `mlp` | SiLU, depthwise convolution, SiLU; torch 2.7 is needed |
| `windows` | attention inside windows, in half precision |
| `casts` | the casts of a block's weights in training with autocast |

The first three are kernels of Triton. `mlp` keeps its input alone for the
backward pass, and `windows` reads the map and writes it, without cutting it.
All are on by default. `MMHATNET_KERNELS=norm,mlp python tools/train.py ...`
uses only those that it names, and `MMHATNET_KERNELS=none` none. The first time
on a GPU and in a precision, kernels are compared with the plain computation.
If they fail or differ, a warning says so, and HAT-Net computes without them.
It does the same without a warning where there is no Triton, or torch is older
than 2.6: only `casts` is left then. Results differ by rounding alone. `norm`
can be used in other models: `mmhatnet.models.GroupNorm1` is
`torch.nn.GroupNorm` with one group. No kernel has run on a GPU yet. Tests
interpret them on a CPU, and compile them for GPUs of the classes sm_80, sm_90
and sm_100.

## What to expect

- With small batches, a GPU waits for the launches of HAT-Net's many short
  kernels; the tables below show what CUDA graphs gain.
- Mixed precision saves memory. On the H100, before the kernels, it cost
  HAT-Net time in training, {amp}.
  Autocast adds operators, for which the host takes time.
- `cudnn_benchmark` and TF32 are as in the libraries: mmsegmentation looks for
  the fastest convolution for each size, mmdetection does not, and torch uses
  TF32 in convolutions.
- Detectors use [operators of torchvision](operators.md), which support
  bfloat16; mmcv's compiled operators do not. The checks below used
  torchvision's NMS and RoIAlign.
- All checks below ran on one GPU, before they were tests of pytest. Several
  GPUs, torch.compile, kernels, CUDA graphs of training and whole trainings of
  the paper's recipes have not been run yet.

The first command measures the backbone on your GPU in three forms, the second
a whole model with one image, as mm's benchmarks do. Neither has been run on
a GPU yet.

```
python tools/analysis_tools/benchmark.py hatnet-small_8xb128_in1k \\
    --plain --cuda-graph --compile --device cuda --amp bfloat16 --batch 64 \\
    --out docs/gpu/benchmark.csv
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
        "torch's defaults: TF32 in convolutions, not in matrix products. All "
        'ran operator by operator, so that the times may be those of the '
        'host instead of the GPU.\n',
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


def per_operator(reports: list[dict]) -> str:
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
        f'{span(found.values(), ".0f")} µs per operator ({other:.0f} '
        'for ConvNeXt-T)'
    )


def precision_costs(report: dict) -> str:
    """Times of HAT-Net in float32 and mixed precision."""
    times = {
        (row['train'], row['dtype']): f'{row["milliseconds"]:.1f}'
        for row in report['timings']
        if row['backbone'] == SMALL and row['shape'][0] == 64
    }
    training, inference = (
        f'{times[train, "bfloat16"]} ms instead of {times[train, "float32"]}'
        for train in (True, False)
    )
    return f'{training}, and saved little in inference, {inference}'


def make_page() -> str:
    files = map(read_json, sorted(FOLDER.glob('*.json')))
    reports = [report for report in files if 'machine' in report]
    counted = read_json(COUNTS)
    text = TEXT.format(
        limits=make_limits(reports),
        per_operator=per_operator(reports),
        torch=counted['torch'],
        counts=make_counts(counted['counts'], reports),
        amp=precision_costs(next(r for r in reports if 'timings' in r)),
    )
    parts = [text, *map(section, reports)]
    measured = groupby(read_csv(BENCHMARK), itemgetter('case'))
    for title, rows in measured:
        parts.append(f'## Benchmark: {title}\n\n{make_table([*rows])}\n')
    return '\n'.join(parts).rstrip() + '\n'


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Make docs/gpu.md from the files in docs/gpu.'
    )
    parser.add_argument(
        '--count',
        action='store_true',
        help='count launches and bytes again before, which takes minutes',
    )
    if parser.parse_args().count:
        write_json(COUNTS, count())
    write_text(DOCS / 'gpu.md', make_page())


if __name__ == '__main__':
    with one_line_errors():
        main()
