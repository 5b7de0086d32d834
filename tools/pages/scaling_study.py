#!/usr/bin/env python
"""Fills docs/scaling.md: costs of backbones as the image grows.

They are operations, time and peak memory of HAT-Net with several G2, Swin,
PVTv2, Twins and plain MHSA.
"""

from functools import partial
from statistics import median

import torch
from common import (
    DETECTORS,
    DOCS,
    PVT,
    complete_table,
    make_figure,
    make_page,
    plot_lines,
    save_figure,
)
from mmengine.config import Config
from mmengine.registry import MODELS

from mmhatnet.analysis.complexity import measure_complexity
from mmhatnet.analysis.report import markdown_table
from mmhatnet.analysis.timing import peak_memory, time_in_turns
from mmhatnet.apis.zoo import load_backbone_config
from mmhatnet.engine.provenance import describe_machine

TABLE = DOCS / 'scaling.csv'
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
    'Swin-T': (DETECTORS['Swin-T'], {}),
    'PVTv2-B2': (PVT, {}),
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


@torch.no_grad()
def rows_of(size: int) -> list[dict]:
    """Measure all backbones at one size."""
    rows, steps = {}, {}
    image = torch.rand(1, 3, size, size)
    for name, (config, options) in BACKBONES.items():
        backbone = load_backbone_config(config)
        backbone.update(options, init_cfg=None)
        cfg = Config(dict(model=backbone))
        operations = measure_complexity(cfg, (size, size)).operations
        rows[name] = dict(
            backbone=name,
            size=size,
            operations=operations,
            rounds=ROUNDS,
            machine=describe_machine(),
        )
        if operations <= 1e9 * LIMIT:
            model = MODELS.build(cfg.model)
            model.eval()  # returns nothing for a Swin
            steps[name] = partial(model, image)
    for name, seconds in time_in_turns(steps, ROUNDS).items():
        rows[name]['seconds'] = seconds
        memory = peak_memory(steps[name])
        if memory is not None:
            rows[name]['memory'] = memory
    return list(rows.values())


def cost_of(row: dict, column: str) -> float:
    return median(row[column]) if column == 'seconds' else row[column]


def costs_of(rows: list[dict], column: str) -> dict[str, dict[int, float]]:
    """The costs of each backbone that were measured, by size."""
    _, unit = UNITS[column]
    return {
        name: {
            row['size']: cost_of(row, column) / unit
            for row in rows
            if row['backbone'] == name and column in row
        }
        for name in BACKBONES
    }


def show_table(costs: dict[str, dict[int, float]]) -> str:
    cells = []
    for name, found in costs.items():
        shown = {
            str(size): f'{cost:.0f}' if cost >= 100 else f'{cost:.3g}'
            for size, cost in found.items()
        }
        cells.append({'backbone': name} | shown)
    return markdown_table(cells)


def plot(rows: list[dict]) -> None:
    figure, panels = make_figure(1, 3, size=(13, 5))
    for panel, (column, (label, _)) in zip(panels, UNITS.items(), strict=True):
        costs = costs_of(rows, column)
        plot_lines(panel, ((x, y, y.values()) for x, y in costs.items()))
        panel.set(title=label, xlabel='side of the image (pixels)')
        panel.set(xscale='log', yscale='log')
        panel.set_xticks(SIZES, map(str, SIZES))
        panel.minorticks_off()
    save_figure(figure, TABLE.with_suffix('.png'))


def make_regions(measuring: bool) -> dict[str, str]:
    rows = complete_table(TABLE, 'size', SIZES if measuring else (), rows_of)
    plot(rows)
    parts = [
        f'Measured on {rows[0]["machine"]}, in {rows[0]["rounds"]} rounds.',
        '![operations, time and memory against size](scaling.png)',
    ]
    for column, (label, _) in UNITS.items():
        title = f'{label[0].upper()}{label[1:]}'
        parts += [f'## {title}', show_table(costs_of(rows, column))]
    return {'costs': '\n\n'.join(parts)}


if __name__ == '__main__':
    make_page(TABLE.with_suffix('.md'), __doc__, make_regions)
