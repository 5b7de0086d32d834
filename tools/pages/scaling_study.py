#!/usr/bin/env python
"""Measures how the cost of backbones grows with the image."""

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
    describe_machine,
    peak_memory,
    time_in_turns,
)
from mmhatnet.cli import one_line_errors
from mmhatnet.zoo import load_backbone_config

HATNET = 'mask-rcnn_hatnet-small_fpn_8xb2-1x_coco'
# A window or a pooled cell as large as any map.
WHOLE = (10**6,) * 3
G2 = ((8, 4, 2), (16, 8, 4), (32, 16, 8))
MHSA = 'plain MHSA'
LOCAL = 'HAT-Net-Small, one pooled token'


def hatnet_name(ds_ratios: tuple[int, ...]) -> str:
    return f'HAT-Net-Small, G2 {", ".join(map(str, ds_ratios))}'


# Config and changes to its backbone. LOCAL is only counted, to tell the
# windows' products from those of the global attention.
BACKBONES = {
    **{hatnet_name(g2): (HATNET, dict(ds_ratios=g2)) for g2 in G2},
    'Swin-T': ('mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py', {}),
    'PVTv2-B2': ('mmdet::pvt/retinanet_pvtv2-b2_fpn_1x_coco.py', {}),
    'Twins-SVT-S': (
        'mmseg::twins/twins_svt-s_fpn_fpnhead_8xb4-80k_ade20k-512x512.py',
        {},
    ),
    # HAT-Net-Small with Eq. (5) in all blocks.
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
    """Everything at one size."""
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
    """The size from which on G2 decides about more than half of it."""

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
    """Operations, time and memory, and what G2 decides about."""
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
        label='all of HAT-Net-Small but the global attention',
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
        'Made by `python tools/pages/scaling_study.py --out '
        'docs/scaling.md`: backbones as in the configs, for one square image, '
        'inference, eager, random weights. Time is the median of '
        f'{rows[0]["rounds"]} rounds in which all take turns; memory is the '
        f'peak above the weights. Measured on {rows[0]["machine"]}. *{MHSA}* '
        'is HAT-Net-Small with Eq. (5) in all blocks, by fused attention, '
        'which never holds the H²W² weights; what would take too long was not '
        'timed.\n',
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
        '## What G2 does\n\nThe global attention of a block takes 2 H²W²C / '
        'G2² multiply-accumulates (Eq. 15), the only part but the last '
        "stage's that is quadratic. It outgrows the windows' 2 H W C G1² when "
        'the side of the map is G1 G2 tokens, and then, unless the last stage '
        'does so before, the whole rest:\n'
    )
    g1 = load_backbone_config(HATNET).grid_sizes
    parts.append(
        markdown_table(
            [
                {
                    'G2': ', '.join(map(str, g2)),
                    "more than the windows', stages 0 to 2, from": ', '.join(
                        str(4 * 2**stage * g1[stage] * g2[stage])
                        for stage in range(3)
                    ),
                    'more than everything else, from': str(takes_over(g2)),
                }
                for g2 in tqdm(G2, desc='where G2 takes over')
            ]
        )
    )
    parts.append(
        '\nin pixels of the side of the image, the latter in steps of 64.\n'
    )
    return '\n'.join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Measure operations, time and peak memory of HAT-Net with '
        'several G2, Swin, PVTv2, Twins and plain MHSA for growing images. '
        'Goes on where it was stopped.'
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
        help='leave out the time of what takes more seconds (default: 60)',
    )
    parser.add_argument('--device', default='cpu', help='(default: cpu)')
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('outputs/scaling.md'),
        metavar='PAGE.md',
        help='the page, with .csv and .png beside it '
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
    args.out.write_text(page(rows, picture.name))
    print(args.out)


if __name__ == '__main__':
    with one_line_errors():
        main()
