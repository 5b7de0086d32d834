#!/usr/bin/env python
"""Makes docs/scaling.md: costs of backbones as the image grows."""

import argparse
import math
from bisect import bisect_left
from functools import cache
from pathlib import Path
from statistics import median

import torch
from matplotlib.figure import Figure
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from tqdm import tqdm

from mmhatnet.analysis.complexity import Complexity, measure_complexity
from mmhatnet.analysis.report import markdown_table, read_csv, write_csv
from mmhatnet.analysis.timing import (
    peak_memory,
    time_in_turns,
)
from mmhatnet.apis.zoo import load_backbone_config
from mmhatnet.engine.cli import one_line_errors
from mmhatnet.engine.provenance import describe_machine

HATNET = 'mask-rcnn_hatnet-small_fpn_8xb2-1x_coco'
# A window, or a pooled cell, that covers any map.
WHOLE = (10**6,) * 3
G2 = ((8, 4, 2), (16, 8, 4), (32, 16, 8))
MHSA = 'plain MHSA'
LOCAL = 'HAT-Net-Small, one pooled token'


def hatnet_name(ds_ratios: tuple[int, ...]) -> str:
    return f'HAT-Net-Small, G2 {", ".join(map(str, ds_ratios))}'


# Config and changes to its backbone. LOCAL is counted but not timed: it tells
# the products of the windows from those of the global attention.
BACKBONES = {
    **{hatnet_name(g2): (HATNET, dict(ds_ratios=g2)) for g2 in G2},
    'Swin-T': ('mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py', {}),
    'PVTv2-B2': ('mmdet::pvt/retinanet_pvtv2-b2_fpn_1x_coco.py', {}),
    'Twins-SVT-S': (
        'mmseg::twins/twins_svt-s_fpn_fpnhead_8xb4-80k_ade20k-512x512.py',
        {},
    ),
    # HAT-Net-Small with the attention of Eq. (5) in all blocks.
    MHSA: (HATNET, dict(attn_types=('window',) * 3, grid_sizes=WHOLE)),
    LOCAL: (HATNET, dict(ds_ratios=WHOLE)),
}
UNITS = dict(
    operations=('multiply-accumulates (G)', 1e9),
    seconds=('time (s)', 1),
    memory=('peak memory above the weights (MiB)', 2**20),
)


def backbone_config(name: str) -> ConfigDict:
    config, options = BACKBONES[name]
    backbone = load_backbone_config(config)
    backbone.update(options, init_cfg=None)
    return backbone


@torch.no_grad()
def rows_of(
    size: int, before: list[dict], device: str, rounds: int, limit: float
) -> list[dict]:
    """Measure all backbones at one size."""
    rows, models = {}, {}
    for name in BACKBONES:
        backbone = backbone_config(name)
        result = count(name, size)
        rows[name] = dict(
            backbone=name,
            size=size,
            operations=result.operations,
            products=result.products,
            rounds=rounds,
            machine=describe_machine(device),
        )
        last = [row for row in before if row['backbone'] == name]
        expected = 0
        if last:
            growth = result.operations / last[-1]['operations']
            expected = last[-1].get('seconds', math.inf) * growth
        if name != LOCAL and expected <= limit:
            models[name] = MODELS.build(backbone).to(device)
            models[name].eval()
    image = torch.rand(1, 3, size, size, device=device)
    steps = {
        name: lambda model=model: model(image)
        for name, model in models.items()
    }
    for name, seconds in time_in_turns(steps, rounds, device).items():
        rows[name]['seconds'] = median(seconds)
        memory = peak_memory(steps[name], device)
        if memory is not None:
            rows[name]['memory'] = memory
    return list(rows.values())


@cache
def count(name: str, size: int) -> Complexity:
    return measure_complexity(
        Config(dict(model=backbone_config(name))), (size, size)
    )


def takes_over(ds_ratios: tuple[int, ...]) -> str:
    """Size from which the global attention is more than half of the cost."""

    def share(size: int) -> float:
        local, both = count(LOCAL, size), count(hatnet_name(ds_ratios), size)
        return 1 - local.operations / both.operations

    sizes = range(64, 8193, 64)
    index = bisect_left(sizes, 0.5, key=share)
    return str(sizes[index]) if index < len(sizes) else 'never'


def points(rows: list[dict], name: str, column: str) -> list[tuple]:
    return [
        (row['size'], row[column])
        for row in rows
        if row['backbone'] == name and column in row
    ]


def plot(rows: list[dict]) -> Figure:
    """Draw operations, time, memory, and the part of the global attention."""
    figure = Figure(figsize=(12, 9), layout='constrained')
    axes = figure.subplots(2, 2).ravel()
    for axis, (column, (label, unit)) in zip(
        axes, UNITS.items(), strict=False
    ):
        for name in BACKBONES:
            found = points(rows, name, column)
            if found and name != LOCAL:
                sizes, values = zip(*found, strict=True)
                axis.plot(
                    sizes,
                    [value / unit for value in values],
                    'o--' if name == MHSA else 'o-',
                    label=name,
                )
        axis.set(title=label, yscale='log')
    axes[0].legend()
    local = dict(points(rows, LOCAL, 'operations'))
    axes[3].plot(
        local.keys(),
        [value / 1e9 for value in local.values()],
        'k--',
        label='HAT-Net-Small without global attention',
    )
    for g2 in G2:
        sizes, values = zip(
            *points(rows, hatnet_name(g2), 'operations'), strict=True
        )
        axes[3].plot(
            sizes,
            [
                (value - local[size]) / 1e9
                for size, value in zip(sizes, values, strict=True)
            ],
            'o-',
            label=f'global attention, G2 {", ".join(map(str, g2))}',
        )
    axes[3].set(
        title=f'{UNITS["operations"][0]} of HAT-Net-Small', yscale='log'
    )
    axes[3].legend()
    for axis in axes:
        axis.set(xscale='log', xlabel='side of the image (pixels)')
        axis.set_xticks(list(local), map(str, local))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    return figure


def figures(value: float) -> str:
    return f'{value:.0f}' if value >= 100 else f'{value:.3g}'


def page(rows: list[dict], picture: str) -> str:
    parts = [
        '# Scaling with the size of the image\n',
        'Made by `python tools/pages/scaling_study.py --out docs/scaling.md` '
        f'on {rows[0]["machine"]}: inference of one square image, eager, with '
        'random weights and the backbones of the configs. Time is the median '
        f'of {rows[0]["rounds"]} rounds in which all take turns. Memory is '
        f'the peak above the weights. *{MHSA}* is HAT-Net-Small with Eq. (5) '
        'in all blocks; its fused attention never stores the H²W² weights. '
        'Empty cells were not timed because they would take too long.\n',
        f'![operations, time and memory against size]({picture})\n',
    ]
    sizes = list(dict.fromkeys(row['size'] for row in rows))
    for column, (label, unit) in UNITS.items():
        table = []
        for name in BACKBONES:
            found = dict(points(rows, name, column))
            if name != LOCAL:
                cells = {
                    str(size): figures(found[size] / unit)
                    if size in found
                    else ''
                    for size in sizes
                }
                table.append({'backbone': name} | cells)
        parts += [
            f'## {label[0].upper()}{label[1:]}\n',
            markdown_table(table),
            '',
        ]
    parts.append(
        '## The effect of G2\n\nThe global attention of a block takes 2 H²W²C '
        '/ G2² multiply-accumulates (Eq. 15). Apart from the last stage, no '
        'other part is quadratic. It exceeds the 2 H W C G1² of the windows '
        'when the side of the map is more than G1 G2 tokens. For larger '
        'images, it may exceed everything else; for a large G2, the last '
        'stage grows faster. The table has the side of the image in pixels, '
        'in its last column in steps of 64.\n'
    )
    g1 = load_backbone_config(HATNET).grid_sizes
    parts.append(
        markdown_table(
            [
                {
                    'G2': ', '.join(map(str, g2)),
                    'more than the windows (stages 0 to 2)': ', '.join(
                        str(4 * 2**stage * g1[stage] * g2[stage])
                        for stage in range(3)
                    ),
                    'more than everything else': str(takes_over(g2)),
                }
                for g2 in tqdm(G2, desc='where G2 takes over')
            ]
        )
    )
    return '\n'.join([*parts, ''])


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Measure operations, time and peak memory of HAT-Net with '
        'several G2, Swin, PVTv2, Twins and plain MHSA for growing images. '
        'After a stop, the same command continues.'
    )
    parser.add_argument(
        '--sizes',
        type=int,
        nargs='+',
        default=(224, 384, 512, 768, 1024, 1280, 1536),
        help='sides of the image in pixels (default: 224 to 1536)',
    )
    parser.add_argument(
        '--rounds', type=int, default=3, help='repetitions (default: 3)'
    )
    parser.add_argument(
        '--limit',
        type=float,
        default=60,
        help='do not time backbones that would take more seconds '
        '(default: 60)',
    )
    parser.add_argument(
        '--device', default='cpu', help='such as cpu or cuda (default: cpu)'
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('outputs/scaling.md'),
        metavar='PAGE.md',
        help='page, with .csv and .png beside it '
        '(default: outputs/scaling.md)',
    )
    args = parser.parse_args()
    if args.out.suffix != '.md':
        parser.error(f'--out writes a .md file, not {args.out}')
    table, picture = (args.out.with_suffix(end) for end in ('.csv', '.png'))
    rows = read_csv(table)
    for size in tqdm(sorted(args.sizes), unit='size'):
        if size not in {row['size'] for row in rows}:
            rows += rows_of(size, rows, args.device, args.rounds, args.limit)
            rows.sort(key=lambda row: row['size'])
            write_csv(table, rows)
    plot(rows).savefig(picture, dpi=100)
    args.out.write_text(page(rows, picture.name), 'utf-8')
    print(args.out)


if __name__ == '__main__':
    with one_line_errors():
        main()
