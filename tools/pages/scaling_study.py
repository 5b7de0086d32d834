#!/usr/bin/env python
"""Makes docs/scaling.md: costs of backbones as the image grows."""

from functools import partial
from statistics import median

import torch
from common import (
    DOCS,
    add_legend,
    complete_table,
    fill_page,
    make_figure,
    pivot,
    plot_lines,
    save_figure,
    wants_measuring,
)
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS

from mmhatnet.analysis.complexity import measure_complexity
from mmhatnet.analysis.timing import peak_memory, time_in_turns
from mmhatnet.apis.zoo import load_backbone_config
from mmhatnet.engine.cli import one_line_errors
from mmhatnet.engine.provenance import describe_machine

PAGE = DOCS / 'scaling.md'
SIZES = 224, 384, 512, 768, 1024, 1280, 1536
ROUNDS = 3
# Backbones with more operations (G) would take minutes, and are not timed.
LIMIT = 5000
HATNET = 'mask-rcnn_hatnet-small_fpn_8xb2-1x_coco'
# Config and changes to its backbone.
BACKBONES = {
    'HAT-Net-Small, G2 8, 4, 2': (HATNET, dict(ds_ratios=(8, 4, 2))),
    'HAT-Net-Small, G2 16, 8, 4': (HATNET, dict(ds_ratios=(16, 8, 4))),
    'HAT-Net-Small, G2 32, 16, 8': (HATNET, dict(ds_ratios=(32, 16, 8))),
    'Swin-T': ('mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py', {}),
    'PVTv2-B2': ('mmdet::pvt/retinanet_pvtv2-b2_fpn_1x_coco.py', {}),
    'Twins-SVT-S': (
        'mmseg::twins/twins_svt-s_fpn_fpnhead_8xb4-80k_ade20k-512x512.py',
        {},
    ),
    # HAT-Net-Small with the attention of Eq. (5) in all blocks: a window that
    # covers any map.
    'plain MHSA': (
        HATNET,
        dict(attn_types=('window',) * 3, grid_sizes=(10**6,) * 3),
    ),
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
def rows_of(size: int) -> list[dict]:
    """Measure all backbones at one size."""
    rows, steps = {}, {}
    image = torch.rand(1, 3, size, size)
    for name in BACKBONES:
        cfg = Config(dict(model=backbone_config(name)))
        operations = measure_complexity(cfg, (size, size)).operations
        rows[name] = dict(
            backbone=name,
            size=size,
            operations=operations,
            rounds=ROUNDS,
            machine=describe_machine(),
        )
        if operations <= 1e9 * LIMIT:
            steps[name] = partial(MODELS.build(cfg.model).eval(), image)
    for name, seconds in time_in_turns(steps, ROUNDS).items():
        rows[name]['seconds'] = median(seconds)
        memory = peak_memory(steps[name])
        if memory is not None:
            rows[name]['memory'] = memory
    return list(rows.values())


def show_cost(row: dict, column: str) -> str:
    if column not in row:
        return ''
    value = row[column] / UNITS[column][1]
    return f'{value:.0f}' if value >= 100 else f'{value:.3g}'


def plot(rows: list[dict]) -> None:
    figure, panels = make_figure(1, 3, size=(13, 5))
    for panel, (column, (label, unit)) in zip(
        panels, UNITS.items(), strict=True
    ):
        lines = []
        for name in BACKBONES:
            found = {
                row['size']: row[column] / unit
                for row in rows
                if row['backbone'] == name and column in row
            }
            lines.append((name, found, found.values()))
        plot_lines(panel, lines)
        panel.set(title=label, xlabel='side of the image (pixels)')
        panel.set(xscale='log', yscale='log')
        panel.set_xticks(SIZES, map(str, SIZES))
        panel.minorticks_off()
    add_legend(figure)
    save_figure(figure, PAGE.with_suffix('.png'))


def main() -> None:
    measuring = wants_measuring(
        'Fill docs/scaling.md: operations, time and peak memory of HAT-Net '
        'with several G2, Swin, PVTv2, Twins and plain MHSA for growing '
        'images.'
    )
    table = PAGE.with_suffix('.csv')
    todo = SIZES if measuring else ()
    rows = complete_table(table, 'size', todo, rows_of)
    plot(rows)
    parts = [
        f'Measured on {rows[0]["machine"]}, in {rows[0]["rounds"]} rounds.',
        '![operations, time and memory against size](scaling.png)',
    ]
    for column, (label, _) in UNITS.items():
        show = partial(show_cost, column=column)
        title = f'{label[0].upper()}{label[1:]}'
        costs = pivot(rows, 'backbone', 'size', show)
        parts.append(f'## {title}\n\n{costs}')
    fill_page(PAGE, {'costs': '\n\n'.join(parts)})


if __name__ == '__main__':
    with one_line_errors():
        main()
