#!/usr/bin/env python
"""Measures backbones side by side."""

import argparse
import math
import multiprocessing
import os
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path
from statistics import median
from unittest import mock

import torch
import torch.nn.functional as F  # noqa: N812
import yaml
from matplotlib.figure import Figure
from mmcv.cnn.bricks import DropPath
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.utils import get_installed_path
from torch import Tensor, nn
from torch._inductor import config as inductor
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from mmhatnet.analysis.complexity import measure_complexity
from mmhatnet.analysis.report import markdown_table, read_csv, write_csv
from mmhatnet.analysis.timing import describe_machine, peak_memory, time_once
from mmhatnet.cli import one_line_errors
from mmhatnet.models import HATNet
from mmhatnet.models.hatnet import HMHSA, keep_freed_memory
from mmhatnet.zoo import load_backbone_config, model_entries

FORMS = ('plain', 'compile', 'channels_last', 'with_cp', 'malloc')
PRODUCT = 'matrix product'
# Rounds before those that count, while memory grows.
WARMUP = 2
# Convolutions and linear layers, and the products of activations.
LAYERS, ATTENTION, REST = 'layers', 'attention', 'rest'


class PlainHATNet(nn.Module):
    """The paper's equations written out in NCHW: the baseline.

    Products and softmax are explicit, and the inner products of windows that
    the border cuts are masked. The weights are a HATNet's.

    Args:
        model (HATNet): With H-MHSA and SiLU, as in the paper.
    """

    def __init__(self, model: HATNet) -> None:
        super().__init__()
        for block in (block for stage in model.stages for block in stage):
            mlp, grid_size = block.mlp, block.attn.grid_size
            if (
                not isinstance(block.attn, HMHSA) and grid_size is not None
            ) or (mlp.dw_conv is None or not isinstance(mlp.act, nn.SiLU)):
                raise ValueError(
                    'plain: is for the backbone of the paper, with h-mhsa, '
                    'SiLU and the depthwise convolutions'
                )
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, 3, H, W) to what the HATNet does."""
        outs = []
        for i, stage in enumerate(self.model.stages):
            x = self.model.downsamples[i - 1](x) if i else self.model.stem(x)
            for block in stage:
                x = x + self.attention(block.attn, x)
                x = x + self.mlp(block.mlp, x)
            if i in self.model.out_indices:
                norms = self.model.out_norms
                outs.append(norms[str(i)](x) if norms else x)
        return tuple(outs)

    @staticmethod
    def attend(
        q: Tensor, k: Tensor, v: Tensor, real: Tensor | None = None
    ) -> Tensor:
        """Eq. (2), on (..., tokens, head_dim)."""
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        if real is not None:
            scores = scores.masked_fill(~real, float('-inf'))
        return scores.softmax(dim=-1) @ v

    def attention(self, attn: nn.Module, x: Tensor) -> Tensor:
        """H-MHSA, or MHSA in the last stage."""

        head_dim = x.shape[1] // attn.num_heads

        def heads(x: Tensor, parts: int) -> tuple[Tensor, ...]:
            x = x.reshape(len(x), parts, attn.num_heads, head_dim, -1)
            return x.transpose(-2, -1).unbind(1)

        qkv = attn.qkv(attn.norm(x))
        if not isinstance(attn, HMHSA):
            out = self.attend(*heads(qkv, 3))
            return attn.proj(out.transpose(-2, -1).reshape(x.shape))
        local = attn.grid_norm(x + self.windows(attn, qkv))
        # Eqs. (10) to (13)
        pooled = F.avg_pool2d(
            local, attn.ds_ratio, ceil_mode=True, count_include_pad=False
        )
        kv = attn.kv(attn.pool_norm(pooled))
        out = self.attend(*heads(attn.q(local), 1), *heads(kv, 2))
        out = out.transpose(-2, -1).reshape(x.shape)
        return attn.proj(out + local)  # Eq. (14)

    def windows(self, attn: nn.Module, qkv: Tensor) -> Tensor:
        """Eqs. (6) to (9)."""
        n, c, h, w = qkv.shape
        c, g = c // 3, attn.grid_size
        padding = (0, -w % g, 0, -h % g)
        rows, cols = -(-h // g), -(-w // g)

        def cut(x: Tensor, parts: int, heads: int) -> Tensor:
            x = F.pad(x, padding)
            x = x.reshape(len(x), parts, heads, -1, rows, g, cols, g)
            x = x.permute(1, 0, 2, 4, 6, 5, 7, 3)
            return x.reshape(parts, -1, heads, rows * cols, g * g, x.shape[-1])

        real = None
        if any(padding):
            real = cut(qkv.new_ones(1, 1, h, w), 1, 1)[0].bool()
            real = real.transpose(-2, -1)
        out = self.attend(*cut(qkv, 3, attn.num_heads), real)
        out = out.reshape(n, attn.num_heads, rows, cols, g, g, -1)
        out = out.permute(0, 1, 6, 2, 4, 3, 5)
        return out.reshape(n, c, rows * g, cols * g)[:, :, :h, :w]

    @staticmethod
    def mlp(mlp: nn.Module, x: Tensor) -> Tensor:
        """Sec. 3.3."""
        x = F.silu(mlp.fc1(mlp.norm1(x)))
        return mlp.norm2(mlp.fc2(F.silu(mlp.dw_conv(x))))


@dataclass(frozen=True)
class Case:
    """What is measured in turns.

    Attributes:
        backbones (tuple[str, ...]): Names of models or config files, with
            FORMS before them; the others are compared with the first.
        shape (tuple[int, int]): Height and width of the images in pixels.
        batch (int): Number of images.
        train (bool): Forward and backward instead of inference.
        dtype (str): Another one than float32 is by autocast.
    """

    backbones: tuple[str, ...]
    shape: tuple[int, int]
    batch: int
    train: bool = False
    dtype: str = 'float32'

    def __str__(self) -> str:
        what = 'training step' if self.train else 'inference'
        dtype = '' if self.dtype == 'float32' else f', {self.dtype}'
        return (
            f'{what}, {self.shape[0]}x{self.shape[1]} (H x W), '
            f'batch {self.batch}{dtype}'
        )


TINY = 'hatnet-tiny_8xb128_in1k'
SMALL = 'hatnet-small_8xb128_in1k'
DENSE = 'fpn_hatnet-small_8xb2-80k_ade20k-512x512'
PEERS = (
    'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
    'mmpretrain::convnext/convnext-tiny_32xb128_in1k.py',
    'mmdet::pvt/retinanet_pvtv2-b2_fpn_1x_coco.py',
)
# Those that keep no freed memory by themselves, with it kept.
KEPT = tuple(f'malloc:{other}' for other in (f'plain:{SMALL}', *PEERS))
# Cases, and what of them is aimed at: the backbone, beside whom, in what, and
# at least or, of memory, at most how much.
SUITE = {
    Case(
        (
            f'plain:{SMALL}',
            SMALL,
            f'malloc:compile:{SMALL}',
            f'plain:{TINY}',
            TINY,
            *PEERS,
            *KEPT,
        ),
        (224, 224),
        8,
    ): [
        (SMALL, f'plain:{SMALL}', 'speed', 1.7),
        (TINY, f'plain:{TINY}', 'speed', 1.7),
        *((SMALL, peer, 'speed', 1) for peer in PEERS),
        (f'malloc:compile:{SMALL}', SMALL, 'speed', 1.15),
        (SMALL, PRODUCT, 'share', 0.65),
    ],
    Case((f'plain:{SMALL}', SMALL, *PEERS, *KEPT), (512, 512), 2): [
        (SMALL, peer, 'speed', 1) for peer in PEERS
    ],
    Case((f'plain:{SMALL}', SMALL, f'malloc:plain:{SMALL}'), (896, 1344), 1): [
        (SMALL, f'plain:{SMALL}', 'speed', 2.3),
        (SMALL, f'plain:{SMALL}', 'memory', 0.25),
    ],
    Case((f'plain:{DENSE}', DENSE, f'malloc:plain:{DENSE}'), (800, 1344), 1): [
        (DENSE, f'plain:{DENSE}', 'speed', 2.3)
    ],
    Case(
        (
            f'plain:{SMALL}',
            SMALL,
            f'with_cp:{SMALL}',
            f'malloc:plain:{SMALL}',
        ),
        (448, 448),
        2,
        True,
    ): [
        (SMALL, f'plain:{SMALL}', 'speed', 1.4),
        (SMALL, f'plain:{SMALL}', 'memory', 0.75),
        (f'with_cp:{SMALL}', f'plain:{SMALL}', 'memory', 0.35),
    ],
}


def split_forms(backbone: str) -> tuple[list[str], str]:
    """The forms before a name, and the name."""
    forms = []
    while (parts := backbone.partition(':'))[0] in FORMS:
        forms.append(parts[0])
        backbone = parts[2]
    return forms, backbone


def backbone_config(name: str) -> Config:
    backbone = load_backbone_config(name)
    backbone.init_cfg = None
    return Config(dict(model=backbone))


def build_step(
    backbone: str, case: Case, device: str
) -> Callable[[], tuple[Tensor, ...]]:
    """What to measure; forms of one backbone have the same weights."""
    forms, name = split_forms(backbone)
    cfg = backbone_config(name).model
    if 'malloc' in forms:
        keep_freed_memory()
    if 'with_cp' in forms:
        cfg.with_cp = True
    torch.manual_seed(0)
    model = MODELS.build(cfg).to(device)
    model.train(case.train)
    for module in model.modules():
        if isinstance(module, DropPath):
            module.eval()  # what is dropped would differ
    image = torch.rand(case.batch, 3, *case.shape, device=device)
    if 'channels_last' in forms:
        model.to(memory_format=torch.channels_last)
        image = image.contiguous(memory_format=torch.channels_last)
    forward = model
    if 'plain' in forms:
        if not isinstance(model, HATNet):
            raise ValueError(f'plain: is a form of HATNet, not of {name}')
        forward = PlainHATNet(model)
    if 'compile' in forms:
        # The convolutions of a CPU are fused with what follows them only if
        # the weights are constants. Among the options of compile it would
        # come too late for the tracing.
        inductor.freezing = not case.train
        forward = torch.compile(forward)
    autocast = nullcontext()
    if case.dtype != 'float32':
        dtype = getattr(torch, case.dtype)
        autocast = torch.autocast(torch.device(device).type, dtype)

    def step() -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(case.train):
            with autocast:
                outs = forward(image)
            if case.train:
                model.zero_grad()
                sum(out.float().mean() for out in outs).backward()
            return outs

    return step


def product_side(device: str) -> int:
    """Of the square matrices whose product the peak is measured by."""
    return 2048 if device == 'cpu' else 8192


def build_product(case: Case, device: str) -> Callable[[], Tensor]:
    side = product_side(device)
    a, b = torch.rand(2, side, side, device=device).to(
        getattr(torch, case.dtype)
    )
    return lambda: a @ b


def process() -> Pool:
    """A process that has not done anything yet."""
    return multiprocessing.get_context('spawn').Pool(1)


def prepare(build: Callable[..., Callable], *args: object) -> None:
    """Have something to time in a process."""
    prepare.step = build(*args)


def turn(device: str) -> float:
    """Time it once."""
    return time_once(prepare.step, device)


def take_turns(
    case: Case, device: str, rounds: int
) -> dict[str, dict[str, object]]:
    """The seconds of each backbone and of the product in each round.

    And of a backbone on a CPU, what they are spent in.

    Each has a process of its own, as a user's has: in one, its time would
    depend on the memory that the others left to malloc.
    """
    builds = {
        backbone: (build_step, backbone, case, device)
        for backbone in case.backbones
    }
    builds[PRODUCT] = (build_product, case, device)
    columns = {name: {'seconds': ()} for name in builds}
    with ExitStack() as stack:
        pools = {name: stack.enter_context(process()) for name in builds}
        for name, pool in pools.items():
            pool.apply(prepare, builds[name])
        for count in range(WARMUP + rounds):
            for name, pool in pools.items():
                time = pool.apply(turn, (device,))
                if count >= WARMUP:
                    columns[name]['seconds'] += (round(time, 5),)
        if device == 'cpu':
            for backbone in case.backbones:
                columns[backbone] |= pools[backbone].apply(shares)
    return columns


def memory_of(backbone: str, case: Case, device: str) -> int | None:
    """Peak memory, in a process that has not done anything else."""
    step = build_step(backbone, case, device)
    for _ in range(2):
        step()
    return peak_memory(step, device)


def check(steps: dict[str, Callable[[], tuple[Tensor, ...]]]) -> None:
    """Raise AssertionError if two forms of a backbone are not equal."""
    expected = {}
    for backbone, step in steps.items():
        name, outs = split_forms(backbone)[1], step()
        # Autocast keeps 8 bits of a number.
        tolerance = 1e-3 if outs[-1].dtype == torch.float32 else 0.1
        for a, b in zip(outs, expected.setdefault(name, outs), strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def shares() -> dict[str, float]:
    """What part of the time of a CPU is spent in what."""
    times = dict.fromkeys((LAYERS, ATTENTION, REST), 0.0)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(3):
            prepare.step()
    for event in found.key_averages():
        kind = REST
        if re.search('bmm|softmax|scaled_dot_product', event.key):
            kind = ATTENTION
        elif re.search('convolution|mm|linear', event.key):
            kind = LAYERS
        times[kind] += event.self_cpu_time_total
    return {kind: time / sum(times.values()) for kind, time in times.items()}


def rows_of(case: Case, device: str, rounds: int) -> list[dict]:
    """Measure a case."""
    check(
        {
            backbone: build_step(backbone, case, device)
            for backbone in case.backbones
        }
    )
    rows = []
    for backbone, columns in take_turns(case, device, rounds).items():
        row = dict(
            case=str(case),
            backbone=backbone,
            batch=case.batch,
            operations=product_side(device) ** 3,
            machine=describe_machine(device),
            **columns,
        )
        rows.append(row)
        if backbone == PRODUCT:
            continue
        cfg = backbone_config(split_forms(backbone)[1])
        result = measure_complexity(cfg, case.shape)
        # A backward pass has twice the products of the forward pass.
        times = case.batch * (3 if case.train else 1)
        row['operations'] = times * result.operations
        if device == 'cpu':
            row['products'] = times * result.products
        with mock.patch.dict(os.environ):
            # Nothing that was there before may be used again unseen, and what
            # is freed goes back to the system: glibc keeps more or less of it
            # by the order in which it comes.
            os.environ.setdefault(
                'GLIBC_TUNABLES', 'glibc.malloc.mmap_threshold=1048576'
            )
            with process() as pool:
                memory = pool.apply(memory_of, (backbone, case, device))
        if memory is not None:
            row['memory'] = memory
    return rows


def accuracy(name: str) -> float | None:
    """Top-1 accuracy in the metafile of a config, in percent."""
    if name in model_entries():
        models = [model_entries()[name]]
    elif '::' in name:
        package, _, config = name.partition('::')
        config = Path(get_installed_path(package), '.mim/configs', config)
        metafile = config.with_name('metafile.yml')
        models = yaml.safe_load(metafile.read_text())['Models']
        models = [m for m in models if Path(m['Config']).name == config.name]
    else:
        models = []
    for model in models:
        for result in model['Results']:
            for metric, value in result['Metrics'].items():
                if metric.rstrip('*') == 'Top 1 Accuracy':
                    return value
    return None


def by_case(rows: list[dict]) -> dict[str, list[dict]]:
    cases = {}
    for row in rows:
        cases.setdefault(row['case'], []).append(row)
    return cases


def is_product(row: dict) -> bool:
    return row['backbone'] == PRODUCT


def gflops(row: dict) -> float:
    """A multiply-accumulate is two floating point operations."""
    return 2e-9 * row['operations'] / median(row['seconds'])


def compare(rows: list[dict], backbone: str, to: str, column: str) -> float:
    """Of a case: how much faster, with what part of the memory, ..."""
    row, base = (
        next(row for row in rows if row['backbone'] == name)
        for name in (backbone, to)
    )
    if column == 'share':
        return gflops(row) / gflops(base)
    if column == 'memory':
        return row.get('memory', math.nan) / base.get('memory', math.nan)
    return median(
        x / y for x, y in zip(base['seconds'], row['seconds'], strict=True)
    )


def short(backbone: str) -> str:
    """Without folders."""
    forms, name = split_forms(backbone)
    return ':'.join([*forms, Path(name.rpartition('::')[2]).stem])


def table(rows: list[dict]) -> str:
    """All of a case."""
    first, cells = rows[0]['backbone'], []
    for row in rows:
        if is_product(row):
            continue
        name, seconds = row['backbone'], median(row['seconds'])
        cell = {
            'backbone': f'`{short(name)}`',
            'time (s)': f'{seconds:.3f}',
            'images/s': f'{row["batch"] / seconds:.2f}',
            'speed': f'{compare(rows, name, first, "speed"):.2f}',
            'operations (G)': f'{row["operations"] / 1e9:.1f}',
            'GFLOP/s': f'{gflops(row):.0f}',
            'of the peak': f'{compare(rows, name, PRODUCT, "share"):.0%}',
        }
        if 'memory' in row:
            ratio = compare(rows, name, first, 'memory')
            cell['memory (MiB)'] = f'{row["memory"] / 2**20:.0f}'
            cell['memory'] = f'{ratio:.2f}'
        cells.append(cell)
    return markdown_table(cells)


def parts_table(rows: list[dict]) -> str:
    """Where the time goes, and at what rate."""
    cells = []
    for row in rows:
        if LAYERS not in row:
            continue
        seconds, products = median(row['seconds']), row['products']
        cell = {'backbone': f'`{short(row["backbone"])}`'}
        for kind, operations in (
            (LAYERS, row['operations'] - products),
            (ATTENTION, products),
        ):
            rate = 2e-9 * operations / (row[kind] * seconds or math.inf)
            cell |= {
                kind: f'{row[kind]:.0%}',
                f'{kind}, GFLOP/s': f'{rate:.0f}' if operations else '',
            }
        cells.append(cell | {REST: f'{row[REST]:.0%}'})
    return markdown_table(cells) if cells else ''


def aims(rows: dict[str, list[dict]]) -> list[dict[str, str]]:
    """What is aimed at, and what was measured."""
    cells = []
    for case, wanted in SUITE.items():
        for backbone, to, column, bound in wanted:
            found = rows.get(str(case), [])
            if not {backbone, to} <= {row['backbone'] for row in found}:
                continue
            value = compare(found, backbone, to, column)
            less = column == 'memory'
            cells.append(
                {
                    'what': f'{column}, `{short(backbone)}` : `{short(to)}`',
                    'where': str(case),
                    'aim': f'{"≤" if less else "≥"} {bound:g}',
                    'measured': f'{value:.2f}',
                    'met': 'yes'
                    if (value <= bound if less else value >= bound)
                    else 'no',
                }
            )
    return cells


def plot(rows: dict[str, list[dict]]) -> Figure:
    """Accuracy against time, where there are several accuracies."""
    panels = {}
    for case, found in rows.items():
        points = [
            (
                1e3 * median(row['seconds']) / row['batch'],
                accuracy(split_forms(row['backbone'])[1]),
                short(row['backbone']),
            )
            for row in found
        ]
        points = [point for point in points if point[1]]
        if len({top1 for _, top1, _ in points}) > 1:
            panels[case] = points
    figure = Figure(figsize=(9, 4 * len(panels)), layout='constrained')
    for i, (case, points) in enumerate(panels.items()):
        axis = figure.add_subplot(len(panels), 1, i + 1)
        for time, top1, name in points:
            axis.plot(time, top1, 'o', label=name)
        axis.set(
            title=case, xlabel='ms per image', ylabel='top-1 accuracy (%)'
        )
        axis.margins(0.1)
        axis.grid(alpha=0.3)
        axis.legend(loc='upper left', bbox_to_anchor=(1, 1))
    return figure


def page(
    rows: dict[str, list[dict]], picture: str | None, command: str
) -> str:
    every = [row for found in rows.values() for row in found]
    peaks = [gflops(row) for row in every if is_product(row)]
    parts = [
        f'# Benchmark\n\nMade by `{command}` on {every[0]["machine"]}. Random '
        'weights; eager and float32 if nothing else is said.\n',
        '- All of a table take turns, each in a process of its own. *Time* is '
        'the median of '
        f'{len(every[0]["seconds"])} rounds, *speed* the median of the ratios '
        'to the first line within a round.',
        '- *Operations* are multiply-accumulates of the batch; a training '
        'step is taken for three times the inference.',
        '- The *peak* is a matrix product of torch, measured in turns with '
        f'them: {min(peaks):.0f} to {max(peaks):.0f} GFLOP/s.',
        '- *Memory* is its peak above the weights, in a process of its own; '
        'the ratio is to the first line. On CPUs, malloc gives back what is '
        'freed there (`glibc.malloc.mmap_threshold`), which it else does in '
        'part.',
        '- *Layers* are the convolutions and linear layers, *attention* the '
        'products of activations with the softmax, and the *rest* norms, '
        'activations, sums and changes of layout.\n',
        'Before a name, `plain:` is the same weights in the equations of the '
        'paper, written out in NCHW with explicit products and softmax; '
        '`compile:` is torch.compile, for inference with constant weights '
        '(`freezing`); `with_cp:` computes the blocks again in the backward '
        'pass; `channels_last:` hands over weights and images so; `malloc:` '
        'has freed memory kept, as eager HAT-Net does by itself: what of its '
        'speed is due to that.\n',
    ]
    table_of_aims = aims(rows)
    if table_of_aims:
        parts += ['## Aims\n', markdown_table(table_of_aims), '']
    if picture:
        parts += [
            '## Accuracy and time\n',
            'Accuracy is what the metafiles of the libraries say; for HAT-Net '
            "it is the authors'.\n",
            f'![accuracy against time]({picture})\n',
        ]
    for case, found in rows.items():
        parts += [f'## {case[0].upper()}{case[1:]}\n', table(found), '']
        parts_of = parts_table(found)
        if parts_of:
            parts += ['Where the time goes, by the profiler:\n', parts_of, '']
    return '\n'.join(parts)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Measure time, memory and the share of the peak of '
        'backbones side by side. Without any backbone, what docs/benchmark.md '
        'shows. Goes on where it was stopped.'
    )
    parser.add_argument(
        'backbones',
        nargs='*',
        metavar='[FORM:]BACKBONE',
        help='names of models or config files, also of an installed library '
        f'(mmdet::....py); FORM is one or more of {", ".join(FORMS)}; the '
        'others are compared with the first',
    )
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        action='append',
        metavar=('H', 'W'),
        help='size of the images in pixels; may be given several times '
        '(default: 224 224)',
    )
    parser.add_argument(
        '--batch', type=int, default=1, help='images (default: 1)'
    )
    parser.add_argument(
        '--train',
        action='store_true',
        help='measure forward and backward instead of inference',
    )
    parser.add_argument(
        '--dtype',
        choices=('float32', 'bfloat16', 'float16'),
        default='float32',
        help='another one by autocast (default: float32)',
    )
    parser.add_argument(
        '--rounds', type=int, default=7, help='repetitions (default: 7)'
    )
    parser.add_argument('--device', default='cpu', help='(default: cpu)')
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('outputs/benchmark.md'),
        metavar='PAGE.md',
        help='the page, with .csv and .png beside it '
        '(default: outputs/benchmark.md)',
    )
    args = parser.parse_args()
    if args.out.suffix != '.md':
        parser.error(f'--out writes a .md file, not {args.out}')
    return args


def main() -> None:
    args = parse_args()
    cases = SUITE
    if args.backbones:
        cases = [
            Case(
                tuple(args.backbones),
                tuple(shape),
                args.batch,
                args.train,
                args.dtype,
            )
            for shape in args.shape or [(224, 224)]
        ]
    csv = args.out.with_suffix('.csv')
    rows = by_case(read_csv(csv))
    for case in tqdm(cases, unit='case'):
        # Other rounds or another machine are measured anew.
        found = [
            (row['backbone'], len(row['seconds']), row['machine'])
            for row in rows.get(str(case), [])
        ]
        if found != [
            (backbone, args.rounds, describe_machine(args.device))
            for backbone in (*case.backbones, PRODUCT)
        ]:
            rows[str(case)] = rows_of(case, args.device, args.rounds)
            write_csv(csv, sum(rows.values(), []))
    figure = plot(rows)
    picture = args.out.with_suffix('.png') if figure.axes else None
    if picture:
        figure.savefig(picture, dpi=100)
    command = shlex.join(['python', *sys.argv])
    args.out.write_text(page(rows, picture and picture.name, command))
    for case in cases:
        print(f'{case}\n{table(rows[str(case)])}\n')
    print(args.out)


if __name__ == '__main__':
    with one_line_errors():
        main()
