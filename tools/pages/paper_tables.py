#!/usr/bin/env python
"""Makes docs/paper_tables.md: costs of the models in the paper's tables."""

import sys
from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path

import torch
import yaml
from common import DOCS, complete_table, fill_page, span, wants_measuring
from mmengine.config import Config
from torch import nn
from torchvision.models.regnet import BlockParams, RegNet

from mmhatnet.analysis.complexity import build_on_meta, measure_complexity
from mmhatnet.analysis.report import markdown_table
from mmhatnet.apis.zoo import load_backbone_config, load_model_config
from mmhatnet.engine.cli import one_line_errors

SOURCE = yaml.safe_load(Path(__file__).with_suffix('.yml').read_text('utf-8'))
TABLES = SOURCE['tables']
PAGE = DOCS / 'paper_tables.md'
DATA = PAGE.with_suffix('.csv')
COUNTS = 'without products', 'with products'


def regnet_y(depths: list, widths: list, group_width: int) -> nn.Module:
    """Build a RegNetY; mmpretrain only has RegNetX."""
    groups, ones, twos = ([x] * len(depths) for x in (group_width, 1.0, 2))
    # The widths are given because torchvision rounds the widths of the formula
    # in another way than the paper of RegNet.
    return RegNet(BlockParams(depths, widths, groups, ones, twos, 0.25))


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


def flops(row: dict, count: str = 'with products') -> float:
    """Measured #FLOPs in G, by one of COUNTS."""
    return row[f'flops_{count.replace(" ", "_")}'] / 1e9


def relative(value: float, printed: float) -> float:
    """Difference from the published value in percent."""
    return 100 * (value / printed - 1)


def compare(value: float, printed: float) -> str:
    return f'{value:.2f} ({relative(value, printed):+.1f} %)'


def cells(row: dict) -> dict[str, str]:
    """Make a row of the page."""
    measured = 'params' in row
    if 'G1' in row:
        shown = {key: ', '.join(map(str, row[key])) for key in ('G1', 'G2')}
    else:
        printed = row['params_in_print']
        shown = {
            'model': row['model'].replace('*', '\\*'),
            '#Param, print': str(printed),
            'measured': compare(row['params'] / 1e6, printed)
            if measured
            else '',
        }
    printed = row['flops_in_print']
    shown['#FLOPs, print'] = str(printed)
    for count in COUNTS:
        shown[count] = compare(flops(row, count), printed) if measured else ''
    shown['note'] = row.get('note', '')
    return shown


def params_agree(row: dict) -> bool:
    """Whether #Param is within 0.3 % of the paper's, or rounds to it."""
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
    for number in (2, 3, 4):
        skipped = '' if number == 2 else 'HAT-Net-Tiny'
        yield (
            f'Table {number}: #Param is within 0.3 % of the published value, '
            'or rounds to it' + (', except for Tiny' if skipped else ''),
            all(
                params_agree(row)
                for row in tables[number]
                if row['model'] != skipped
            ),
        )
    differences = [
        relative(flops(row, 'without products'), row['flops_in_print'])
        for row in tables[2]
    ]
    yield (
        'Table 2: #FLOPs without products are within 1 % of the published '
        'value',
        all(abs(difference) <= 1 for difference in differences),
    )
    steps = [
        flops(a) - flops(b) - (a['flops_in_print'] - b['flops_in_print'])
        for a, b in pairwise(tables[6][1:])
    ]
    yield (
        'Table 6: from one row to the next, except for the first row, '
        '#FLOPs with products change as published within 3 G (2 G and '
        'rounding)',
        all(abs(step) <= 3 for step in steps),
    )


def show_misses(rows: list[dict]) -> Iterator[str]:
    """Differences of #FLOPs of dense prediction from the paper."""
    for (number, head), here in groupby(
        rows, lambda x: (x['table'], x['head'])
    ):
        found: dict[str, list[float]] = {}
        for row in here:
            if number != 2 and 'params' in row:
                ours = row['model'].startswith('HAT-Net')
                found.setdefault('HAT-Net' if ours else 'others', []).append(
                    relative(flops(row), row['flops_in_print'])
                )
        if found:
            spans = (f'{k} {span(v, "+.1f")} %' for k, v in found.items())
            yield f'- Table {number}, {head.partition("_")[0]}: {"; ".join(spans)}.'


def show_table(rows: list[dict], number: int) -> str:
    """Make a table for each of the heads."""
    parts = []
    for head in TABLES[number]['heads']:
        here = [x for x in rows if (x['table'], x['head']) == (number, head)]
        parts += [f'`{head}`:', markdown_table([cells(row) for row in here])]
    return '\n\n'.join(parts)


def main() -> None:
    measuring = wants_measuring(
        'Make docs/paper_tables.md: #Param and #FLOPs of the models in the '
        "paper's tables, compared with the published numbers. No data set, "
        'GPU or weights are needed.'
    )
    rows = complete_table(
        DATA,
        'table',
        TABLES if measuring else (),
        lambda number: map(measure_row, rows_in_print(number)),
    )
    verdicts = {True: 'holds', False: 'does not hold'}
    regions = {f'table {x}': show_table(rows, x) for x in TABLES}
    regions['claims'] = '\n'.join(
        f'- {text}: {verdicts[holds]}.' for text, holds in claims(rows)
    )
    regions['misses'] = '\n'.join(show_misses(rows))
    fill_page(PAGE, regions)
    failed = [text for text, holds in claims(rows) if not holds]
    if failed:
        sys.exit('\n'.join(f'does not hold: {text}' for text in failed))


if __name__ == '__main__':
    with one_line_errors():
        main()
