"""The costs of the models in the paper's tables are those of docs/."""

import re

import pytest
from helpers import ROOT, import_page

from mmhatnet.analysis.report import read_csv

PAGE = ROOT / 'docs' / 'paper_tables.md'
PAPER = ROOT.parent / 'shared' / 'reference' / 'paper.txt'


COSTS = (
    *('params', 'flops_without_products', 'flops_with_products'),
    *('products', 'norms'),
)


@pytest.fixture(scope='module')
def pages():
    """The module of the page maker."""
    return import_page('paper_tables')


@pytest.fixture(scope='module')
def source(pages):
    return pages.SOURCE


@pytest.fixture(scope='module')
def committed():
    return read_csv(PAGE.with_suffix('.csv'))


@pytest.mark.default_stack
@pytest.mark.parametrize(
    ('number', 'model'),
    [
        pytest.param(2, '', marks=pytest.mark.slow),
        (3, 'HAT-Net-Tiny'),
        (3, 'Twins-SVT-L'),
        (4, 'R-18'),
        (4, 'Swin-T'),
        pytest.param(6, '', marks=pytest.mark.slow),
    ],
)
def test_measured_again(number, model, pages, committed):
    """A sample; the slow cases are whole tables."""
    chosen = [
        row
        for row in pages.rows_in_print(number)
        if model in ('', row['model'])
    ]
    stored = [
        row
        for row in committed
        if row['table'] == number and model in ('', row['model'])
    ]
    assert len(stored) == len(chosen) > 0
    for row, expected in zip(chosen, stored, strict=True):
        found = pages.measure_row(row)
        for key in ('head', 'model', *COSTS):
            assert found.get(key) == expected.get(key)


def test_no_row_is_missing(source, committed):
    """The page has every row, and an origin or a reason for its absence."""
    for number, table in source['tables'].items():
        rows = [row for row in committed if row['table'] == number]
        assert len(rows) == len(table['rows']) * len(table['heads'])
        for row in rows:
            absent = row['model'] in source['absent']
            assert ('params' in row) != absent
            assert ('absent' in row.get('note', '')) == absent


def test_hatnet_is_that_of_the_paper(pages, committed):
    """Else the command fails, and tells what differs."""
    assert not pages.find_misses(committed)
    rows = [row for row in committed if row['model'] == 'HAT-Net-Small']
    rows[0] |= dict(params=1.01 * rows[0]['params'])
    rows[1] |= dict(params=1.01 * rows[1]['params'])
    expected = [
        f'HAT-Net-Small of Table {n} differs from the paper' for n in (2, 3)
    ]
    assert pages.find_misses(rows) == expected


@pytest.mark.skipif(
    not PAPER.is_file(), reason="needs the paper's text in ../shared"
)
def test_print_is_in_the_paper(source):
    """The paper has every row, with its numbers."""
    lines = []
    for line in PAPER.read_text().splitlines():
        cells = [re.sub(r' \[\d+\]', '', cell) for cell in line.split('\t')]
        if cells[0] in ('', 'CNN', 'Trans'):  # a column of Table 2 only
            del cells[0]
        lines.append([cell.replace('ViT _r -', 'ViT_t-') for cell in cells])
    for number in (2, 3, 4):
        for name, *printed in source['tables'][number]['rows']:
            where = [line for line in lines if line and line[0] == name]
            assert any(
                # Between the pairs of Table 4 there are six metrics.
                [cell.rstrip('MG') for cell in (line[1:3] + line[9:11])][
                    : len(printed)
                ]
                == list(map(str, printed))
                for line in where
            ), (number, name)
    for _, g1, g2, printed in source['tables'][6]['rows']:
        grids = [
            str(grid).replace('[', '{').replace(']', '}') for grid in (g1, g2)
        ]
        assert any(line[:3] == [*grids, str(printed)] for line in lines)
