#!/usr/bin/env python
"""Fills docs/paper_tables.md: #Param and #FLOPs of the models in the paper.

They are compared with the published numbers. No data set, GPU or weights are
needed.
"""

import sys
from collections.abc import Iterator
from math import isclose
from pathlib import Path

import torch
import yaml
from common import DOCS, complete_table, make_page, span
from mmengine.config import Config

from mmhatnet.analysis.complexity import build_on_meta, measure_complexity
from mmhatnet.analysis.report import markdown_table, read_csv
from mmhatnet.apis.zoo import load_backbone_config, load_model_config

SOURCE = yaml.safe_load(Path(__file__).with_suffix('.yml').read_text('utf-8'))
TABLES = SOURCE['tables']
DATA = DOCS / 'paper_tables.csv'


def with_backbone(config: str, origin: str) -> Config:
    """Config of one of our models with the backbone of another config."""
    cfg, backbone = load_model_config(config), load_backbone_config(origin)
    # Some configs leave the first stage out.
    backbone.out_indices = (0, 1, 2, 3)
    model = build_on_meta(Config(dict(model=backbone)))
    with torch.no_grad():
        features = model(torch.empty(2, 3, 224, 224, device='meta'))
    channels = [feature.shape[1] for feature in features]
    cfg.model.backbone = backbone
    if 'neck' in cfg.model:
        cfg.model.neck.in_channels = channels
    else:
        backbone.out_indices = (3,)
        cfg.model.head.in_channels = channels[-1]
    return cfg


def rows_in_print(number: int) -> Iterator[dict]:
    """The rows of a table, one for each of its heads."""
    table = TABLES[number]
    for index, head in enumerate(table['heads']):
        for name, *printed in table['rows']:
            row = dict(table=number, head=head, model=name)
            row['height'], row['width'] = table['shape']
            if number == 6:
                row['G1'], row['G2'], row['flops_in_print'] = printed
            else:
                row['params_in_print'] = printed[2 * index]
                row['flops_in_print'] = printed[2 * index + 1]
            yield row


def measure_row(row: dict) -> dict:
    """Add the costs of the model to a row, or the reason why it is absent."""
    name = row['model'].rstrip('*')
    if name in SOURCE['absent']:
        return row | dict(note=f'absent: {SOURCE["absent"][name]}')
    row = dict(row)
    how = SOURCE['classifiers'].get(name, {}) if row['table'] == 2 else {}
    if how:
        origin = how['config']
        cfg = load_model_config(origin)
        cfg.merge_from_dict(dict(model=how.get('options', {})))
        row['height'], row['width'] = how.get('shape', (224, 224))
    else:
        origin = SOURCE['backbones'][name]
        cfg = with_backbone(row['head'], origin)
    if 'G1' in row:
        cfg.model.backbone.update(grid_sizes=row['G1'], ds_ratios=row['G2'])
    result = measure_complexity(cfg, (row['height'], row['width']))
    return row | dict(
        params=result.params,
        flops_without_products=result.without_products,
        flops_with_products=result.operations,
        products=result.products,
        norms=result.norms,
        origin=origin,
        note=how.get('note', ''),
    )


def pairs(row: dict) -> Iterator[tuple[str, float, float]]:
    """Yield what is compared: its title, our number, the published one."""
    if 'params_in_print' in row:
        yield '#Param', row['params'] / 1e6, row['params_in_print']
    for count in 'without products', 'with products':
        value = row[f'flops_{count.replace(" ", "_")}'] / 1e9
        yield f'#FLOPs {count}', value, row['flops_in_print']


def relative(value: float, printed: float) -> float:
    """Difference from the published value in percent."""
    return 100 * (value / printed - 1)


def cells(row: dict) -> dict[str, str]:
    """Make a row of the page."""
    shown = {'model': row['model'].replace('*', '\\*')}
    if 'G1' in row:
        shown = {key: ', '.join(map(str, row[key])) for key in ('G1', 'G2')}
    else:
        shown['#Param, print'] = str(row['params_in_print'])
    shown['#FLOPs, print'] = str(row['flops_in_print'])
    for title, value, printed in pairs(row) if 'params' in row else ():
        shown[title] = f'{value:.2f} ({relative(value, printed):+.1f} %)'
    if row.get('note'):
        shown['note'] = row['note']
    return shown


def summarize(rows: list[dict]) -> Iterator[dict[str, str]]:
    """How far the rows of each table are from the paper, in percent."""
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        if 'params' in row:
            ours = row['model'].startswith('HAT-Net')
            system = 'HAT-Net' if ours else 'others'
            head = row['head'].partition('_')[0] if row['table'] != 2 else ''
            groups.setdefault((row['table'], head, system), []).append(row)
    for (number, head, system), here in groups.items():
        found: dict[str, list[float]] = {}
        for row in here:
            for title, value, printed in pairs(row):
                found.setdefault(title, []).append(relative(value, printed))
        spans = {k: f'{span(v, "+.1f")} %' for k, v in found.items()}
        yield dict(table=f'{number} {head}'.strip(), system=system) | spans


def find_misses(rows: list[dict]) -> list[str]:
    """HAT-Nets that differ from the published ones by more than rounding.

    Compared are #Param, but for Tiny with a head, and #FLOPs of Table 2.
    """
    found = []
    for row in rows:
        number, model = row['table'], row['model']
        if number == 6 or not model.startswith('HAT-Net'):
            continue
        (_, params, printed), (_, flops, flops_printed), _ = pairs(row)
        same = isclose(params, printed, rel_tol=3e-3, abs_tol=0.05)
        if number == 2:
            same = same and isclose(flops, flops_printed, rel_tol=0.01)
        elif model == 'HAT-Net-Tiny':
            same = True
        if not same:
            found.append(f'{model} of Table {number} differs from the paper')
    return found


def show_table(rows: list[dict], number: int) -> str:
    """Make a table for each of the heads."""
    parts = []
    for head in TABLES[number]['heads']:
        here = [x for x in rows if (x['table'], x['head']) == (number, head)]
        parts += [f'`{head}`:', markdown_table([cells(row) for row in here])]
    return '\n\n'.join(parts)


def make_regions(measuring: bool) -> dict[str, str]:
    rows = complete_table(
        DATA,
        'table',
        TABLES if measuring else (),
        lambda number: map(measure_row, rows_in_print(number)),
    )
    regions = {f'table {x}': show_table(rows, x) for x in TABLES}
    return regions | {'summary': markdown_table(list(summarize(rows)))}


if __name__ == '__main__':
    make_page(DATA.with_suffix('.md'), __doc__, make_regions)
    misses = find_misses(read_csv(DATA))
    if misses:
        sys.exit('\n'.join(misses))
