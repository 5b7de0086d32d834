#!/usr/bin/env python
"""Makes docs/scaling.md: costs of backbones as the image grows."""

import argparse
from bisect import bisect_left
from functools import cache, partial
from math import inf
from pathlib import Path
from statistics import median

import torch
from common import DOCS, fill_page, make_figure, page_path, save_figure
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from tqdm import tqdm

from mmhatnet.analysis.complexity import Complexity, measure_complexity
from mmhatnet.analysis.report import markdown_table, read_csv, write_csv
from mmhatnet.analysis.timing import peak_memory, time_in_turns
from mmhatnet.apis.zoo import load_backbone_config
from mmhatnet.engine.cli import one_line_errors
from mmhatnet.engine.provenance import describe_machine

PAGE = DOCS / 'scaling.md'
SIZES = 224, 384, 512, 768, 1024, 1280, 1536
ROUNDS = 3
LIMIT = 60  # seconds; slower backbones are not timed
HATNET = 'mask-rcnn_hatnet-small_fpn_8xb2-1x_coco'
# A window, or a pooled cell, that covers any map.
WHOLE = (10**6,) * 3
G2 = ((8, 4, 2), (16, 8, 4), (32, 16, 8))
MHSA = 'plain MHSA'
LOCAL = 'HAT-Net-Small, one pooled token'


def g2_name(ds_ratios: tuple[int, ...]) -> str:
    return f'G2 {", ".join(map(str, ds_ratios))}'


# Config and changes to its backbone. LOCAL is counted but not timed: it tells
# the products of the windows from those of the global attention.
BACKBONES = {
    **{
        f'HAT-Net-Small, {g2_name(g2)}': (HATNET, dict(ds_ratios=g2))
        for g2 in G2
    },
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
SHOWN = [name for name in BACKBONES if name != LOCAL]
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
def rows_of(size: int, before: list[dict], device: str) -> list[dict]:
    """Measure all backbones at one size."""
    rows, models = {}, {}
    # The row of the next smaller size comes last.
    last = {row['backbone']: row for row in before if row['size'] < size}
    for name in BACKBONES:
        result = count(name, size)
        rows[name] = dict(
            backbone=name,
            size=size,
            operations=result.operations,
            products=result.products,
            rounds=ROUNDS,
            machine=describe_machine(device),
        )
        smaller = last.get(name, dict(operations=inf, seconds=0))
        growth = result.operations / smaller['operations']
        if name != LOCAL and growth * smaller.get('seconds', inf) <= LIMIT:
            models[name] = MODELS.build(backbone_config(name)).to(device)
            models[name].eval()
    image = torch.rand(1, 3, size, size, device=device)
    steps = {name: partial(model, image) for name, model in models.items()}
    for name, seconds in time_in_turns(steps, ROUNDS, device).items():
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
    name = f'HAT-Net-Small, {g2_name(ds_ratios)}'
    sizes = range(64, 8193, 64)
    index = bisect_left(
        sizes,
        0.5,
        key=lambda size: (
            1 - count(LOCAL, size).operations / count(name, size).operations
        ),
    )
    return str(sizes[index]) if index < len(sizes) else 'never'


def points(rows: list[dict], name: str, column: str) -> dict[int, float]:
    """Size -> value in the unit of the column, where it was measured."""
    return {
        row['size']: row[column] / UNITS[column][1]
        for row in rows
        if row['backbone'] == name and column in row
    }


def plot(rows: list[dict], path: Path) -> None:
    """Draw operations, time, memory, and the share of the global attention."""
    figure, panels = make_figure(2, 2, size=(12, 9))
    *measured, attention = panels
    for panel, (column, (label, _)) in zip(
        measured, UNITS.items(), strict=True
    ):
        for name in SHOWN:
            found = points(rows, name, column)
            if found:
                line = 'o--' if name == MHSA else 'o-'
                panel.plot(list(found), list(found.values()), line, label=name)
        panel.set(title=label)
    local = points(rows, LOCAL, 'operations')
    attention.plot(
        list(local),
        list(local.values()),
        'k--',
        label='HAT-Net-Small without global attention',
    )
    for g2 in G2:
        both = points(rows, f'HAT-Net-Small, {g2_name(g2)}', 'operations')
        attention.plot(
            list(both),
            [value - local[size] for size, value in both.items()],
            'o-',
            label=f'global attention, {g2_name(g2)}',
        )
    attention.set(title=f'{UNITS["operations"][0]} of HAT-Net-Small')
    measured[0].legend()
    attention.legend()
    for panel in panels:
        panel.set(
            xscale='log', yscale='log', xlabel='side of the image (pixels)'
        )
        panel.set_xticks(list(local), map(str, local))
        panel.minorticks_off()
    save_figure(figure, path)


def figures(value: float) -> str:
    return f'{value:.0f}' if value >= 100 else f'{value:.3g}'


def show_costs(rows: list[dict], picture: Path) -> str:
    """Make the figure and the tables of what was measured."""
    plot(rows, picture)
    parts = [
        f'Measured on {rows[0]["machine"]}, in {rows[0]["rounds"]} rounds.',
        f'![operations, time and memory against size]({picture.name})',
    ]
    sizes = list(dict.fromkeys(row['size'] for row in rows))
    for column, (label, _) in UNITS.items():
        found = {name: points(rows, name, column) for name in SHOWN}
        table = [
            {
                'backbone': name,
                **{
                    str(x): figures(here[x]) if x in here else ''
                    for x in sizes
                },
            }
            for name, here in found.items()
        ]
        parts.append(
            f'## {label[0].upper()}{label[1:]}\n\n{markdown_table(table)}'
        )
    return '\n\n'.join(parts)


def show_limits() -> str:
    """Make the table of sizes from which the global attention costs more."""
    g1 = load_backbone_config(HATNET).grid_sizes
    table = [
        {
            'G2': ', '.join(map(str, g2)),
            'more than the windows (stages 0 to 2)': ', '.join(
                str(4 * 2**stage * g1[stage] * g2[stage]) for stage in range(3)
            ),
            'more than everything else': takes_over(g2),
        }
        for g2 in tqdm(G2, desc='where G2 takes over')
    ]
    return markdown_table(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Fill docs/scaling.md: operations, time and peak memory '
        'of HAT-Net with several G2, Swin, PVTv2, Twins and plain MHSA for '
        'growing images. Sizes that its table lacks are measured first. If it '
        'is interrupted, run the same command again to continue.'
    )
    add = parser.add_argument
    add('--device', default='cpu', help='such as cpu or cuda (default: cpu)')
    add(
        '--out',
        type=page_path,
        default=PAGE,
        metavar='PAGE.md',
        help='page, with .csv and .png beside it (default: docs/scaling.md)',
    )
    args = parser.parse_args()
    table, picture = (args.out.with_suffix(end) for end in ('.csv', '.png'))
    rows = read_csv(table)
    for size in tqdm(SIZES, unit='size'):
        if size not in {row['size'] for row in rows}:
            rows += rows_of(size, rows, args.device)
            rows.sort(key=lambda row: row['size'])
            write_csv(table, rows)
    fill_page(
        PAGE,
        {'costs': partial(show_costs, rows, picture), 'G2': show_limits},
        args.out,
    )


if __name__ == '__main__':
    with one_line_errors():
        main()
