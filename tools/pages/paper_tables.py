#!/usr/bin/env python
"""Makes docs/paper_tables.md: costs of the models in the paper's tables."""

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from operator import itemgetter
from pathlib import Path

import torch
import yaml
from common import DOCS, fill_page, span
from mmengine.config import Config
from torch import nn
from torchvision.models.regnet import BlockParams, RegNet
from tqdm import tqdm

from mmhatnet.analysis.complexity import build_on_meta, measure_complexity
from mmhatnet.analysis.report import markdown_table, read_csv, write_csv
from mmhatnet.apis.zoo import load_backbone_config, load_model_config
from mmhatnet.engine.cli import one_line_errors

SOURCE = yaml.safe_load(Path(__file__).with_suffix('.yml').read_text('utf-8'))
TABLES = SOURCE['tables']
PAGE = DOCS / 'paper_tables.md'
DATA = PAGE.with_suffix('.csv')


def regnet_y(depths: list, widths: list, group_width: int) -> nn.Module:
    """Build a RegNetY; mmpretrain only has RegNetX."""
    stages = len(depths)
    # The widths are given because torchvision rounds the widths of the formula
    # in another way than the paper of RegNet.
    return RegNet(
        BlockParams(
            depths,
            widths,
            [group_width] * stages,
            [1.0] * stages,
            [2] * stages,
            se_ratio=0.25,
        )
    )


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


def classifier(how: dict) -> tuple[Config, str]:
    """Config of a whole model of Table 2, and its origin."""
    if 'regnet_y' in how:
        backbone = dict(type=regnet_y, **how['regnet_y'])
        model = dict(type='ImageClassifier', backbone=backbone)
        cfg = Config(dict(model=model, default_scope='mmpretrain'))
        return cfg, 'torchvision.models.regnet.RegNet'
    cfg = load_model_config(how['config'])
    cfg.merge_from_dict(dict(model=how.get('options', {})))
    return cfg, how['config']


def rows_in_print(number: int) -> Iterator[dict]:
    """The rows of a table, one for each of its heads."""
    table = TABLES[number]
    for index, head in enumerate(table['heads']):
        for name, *printed in table['rows']:
            row = dict(table=number, head=head, model=name)
            row['height'], row['width'] = table['shape']
            if number == 6:
                row.update(zip(('G1', 'G2'), printed, strict=False))
                row['flops_in_print'] = printed[2]
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
        cfg, origin = classifier(how)
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


def relative(value: float, printed: float) -> float:
    """Difference from the published value in percent."""
    return 100 * (value / printed - 1)


def cells(row: dict) -> dict[str, str]:
    """Make a row of the page."""
    if 'G1' in row:
        shown = {key: ', '.join(map(str, row[key])) for key in ('G1', 'G2')}
    else:
        shown = dict(model=row['model'].replace('*', '\\*'))

    def compare(title: str, diff: str, value: float, printed: float) -> None:
        shown[title] = f'{value:.2f}' if value else ''
        shown[diff] = f'{relative(value, printed):+.1f} %' if value else ''

    if 'params_in_print' in row:
        printed = row['params_in_print']
        shown['#Param, print'] = str(printed)
        compare('measured', 'diff.', row.get('params', 0) / 1e6, printed)
    printed = row['flops_in_print']
    shown['#FLOPs, print'] = str(printed)
    for column in ('without products', 'with products'):
        value = row.get(f'flops_{column.replace(" ", "_")}', 0) / 1e9
        compare(column, f'diff. {column}', value, printed)
    if 'G1' not in row:
        origin, note = row.get('origin'), row.get('note')
        both = f'{origin} ({note})'
        shown['from'] = both if origin and note else origin or note
    return shown


def params_agree(row: dict) -> bool:
    value, printed = row['params'] / 1e6, row['params_in_print']
    digits = len(str(printed).partition('.')[2])
    return (
        abs(relative(value, printed)) <= 0.3 or round(value, digits) == printed
    )


def claims(rows: list[dict]) -> Iterator[tuple[str, bool]]:
    """Assertions about the rows of HAT-Net, and whether they hold."""
    tables: dict[int, list[dict]] = {}
    for row in rows:
        if row['model'].startswith('HAT-Net'):
            tables.setdefault(row['table'], []).append(row)
    for number in [x for x in tables if x != 6]:
        tiny = '' if number == 2 else ', except for Tiny'
        yield (
            f'Table {number}: #Param is within 0.3 % of the published value, '
            f'or rounds to it{tiny}',
            all(
                params_agree(row)
                for row in tables[number]
                if not tiny or row['model'] != 'HAT-Net-Tiny'
            ),
        )
    yield (
        'Table 2: #FLOPs without products are within 1 % of the published '
        'value',
        all(
            abs(relative(x['flops_without_products'] / 1e9, printed)) <= 1
            for x in tables[2]
            if (printed := x['flops_in_print'])
        ),
    )
    steps = [
        (a['flops_with_products'] - b['flops_with_products']) / 1e9
        - (a['flops_in_print'] - b['flops_in_print'])
        for a, b in pairwise(tables[6][1:])
    ]
    yield (
        'Table 6: from one row to the next, except for the first row, '
        '#FLOPs with products change as published within 3 G (2 G and '
        'rounding)',
        all(abs(step) <= 3 for step in steps),
    )


def misses(rows: list[dict]) -> Iterator[str]:
    """Differences of the rows of dense prediction from the paper."""
    heads: dict[tuple, list[dict]] = {}
    for row in rows:
        if row['table'] != 2 and 'params' in row:
            heads.setdefault((row['table'], row['head']), []).append(row)
    for (number, head), here in heads.items():
        flops = {True: [], False: []}  # of HAT-Net, and of other systems
        for row in here:
            flops[row['model'].startswith('HAT-Net')].append(
                relative(
                    row['flops_with_products'] / 1e9, row['flops_in_print']
                )
            )
        text = (
            '#FLOPs with products of HAT-Net differ by '
            f'{span(flops[True], "+.1f")} %'
        )
        if flops[False]:
            others = span(flops[False], '+.1f')
            text += f', those of other systems by {others} %'
        tiny = next(x for x in here if x['model'].startswith('HAT-Net'))
        if 'params_in_print' in tiny:
            more = tiny['params'] / 1e6 - tiny['params_in_print']
            text += f'; #Param of Tiny by {more:+.2f} M'
        yield f'- Table {number}, {head.partition("_")[0]}: {text}.'


def show_table(rows: list[dict], number: int) -> str:
    """Make a table for each of the heads."""
    heads = TABLES[number]['heads']
    parts = []
    for head in heads:
        here = [x for x in rows if (x['table'], x['head']) == (number, head)]
        if len(heads) > 1:
            parts.append(f'With the head of `{head}`:')
        parts.append(markdown_table([cells(row) for row in here]))
    return '\n\n'.join(parts)


def show_claims(rows: list[dict]) -> str:
    verdicts = {True: 'holds', False: 'does not hold'}
    return '\n'.join(f'- {text}: {verdicts[x]}.' for text, x in claims(rows))


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Make docs/paper_tables.md: #Param and #FLOPs of the '
        "models in the paper's tables, compared with the published numbers. "
        'No data set, GPU or weights are needed.'
    )
    parser.add_argument(
        '--measure',
        type=int,
        nargs='*',
        choices=TABLES,
        metavar='TABLE',
        help='first measure the tables with these numbers, or all',
    )
    measure, rows = parser.parse_args().measure, read_csv(DATA)
    if measure is not None:
        todo = [x for n in measure or TABLES for x in rows_in_print(n)]
        rows = [x for x in rows if measure and x['table'] not in measure]
        rows += [measure_row(row) for row in tqdm(todo, unit='row')]
        rows.sort(key=itemgetter('table'))
        write_csv(DATA, rows)
    regions = {
        f'table {number}': partial(show_table, rows, number)
        for number in TABLES
    }
    regions['claims'] = partial(show_claims, rows)
    regions['misses'] = lambda: '\n'.join(misses(rows))
    fill_page(PAGE, regions)
    failed = [text for text, holds in claims(rows) if not holds]
    if failed:
        sys.exit('\n'.join(f'does not hold: {text}' for text in failed))


if __name__ == '__main__':
    with one_line_errors():
        main()
