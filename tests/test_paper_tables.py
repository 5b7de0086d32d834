"""The models of the paper's tables still cost what docs/ say."""

import re
import subprocess
import sys

import pytest
import yaml
from helpers import ROOT

from mmhatnet.analysis.report import read_csv

TOOL = ROOT / 'tools' / 'pages' / 'paper_tables.py'
PAGE = ROOT / 'docs' / 'paper_tables.md'
PAPER = ROOT.parent / 'shared' / 'reference' / 'paper.txt'


@pytest.fixture(scope='module')
def source():
    return yaml.safe_load(TOOL.with_suffix('.yml').read_text())


@pytest.fixture(scope='module')
def tables_2_and_6(tmp_path_factory):
    """What the tool writes of the fast part."""
    page = tmp_path_factory.mktemp('tables') / 'page.md'
    result = subprocess.run(
        [sys.executable, TOOL, '--table', '2', '6', '--out', str(page)],
        capture_output=True,
        text=True,
        check=False,
    )
    # It fails if what it asserts does not hold.
    assert result.returncode == 0, result.stderr
    return page


def test_measured_again(tables_2_and_6):
    found = read_csv(tables_2_and_6.with_suffix('.csv'))
    committed = read_csv(PAGE.with_suffix('.csv'))
    assert found == [row for row in committed if row['table'] in (2, 6)]
    for title in ('## Table 2', '## Table 6'):
        section = re.search(
            f'{title}.*?(?=\n## )', PAGE.read_text(), re.DOTALL
        )[0]
        assert section in tables_2_and_6.read_text()


def test_asserted(tables_2_and_6):
    text = tables_2_and_6.read_text()
    asserted = text.partition('## What is asserted')[2].split('\n## ')[0]
    assert asserted.count(': holds.') == asserted.count('\n- ') == 3


def test_no_row_is_missing(source):
    """Neither of a table on the page nor of what it is built from."""
    committed = read_csv(PAGE.with_suffix('.csv'))
    for number, table in source['tables'].items():
        rows = [row for row in committed if str(row['table']) == number]
        assert len(rows) == len(table['rows']) * len(table['heads'])
        for row in rows:
            absent = row['model'] in source['absent']
            assert ('params' in row) != absent
            assert ('absent' in row.get('note', '')) == absent


@pytest.mark.skipif(
    not PAPER.is_file(), reason="needs the paper's text in ../shared"
)
def test_print_is_the_papers(source):
    """Every row stands in the paper's text, with its numbers."""
    lines = []
    for line in PAPER.read_text().splitlines():
        cells = [re.sub(r' \[\d+\]', '', cell) for cell in line.split('\t')]
        if cells[0] in ('', 'CNN', 'Trans'):  # a column of Table 2 only
            del cells[0]
        lines.append([cell.replace('ViT _r -', 'ViT_t-') for cell in cells])
    for number in '234':
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
    for _, g1, g2, printed in source['tables']['6']['rows']:
        grids = [
            str(grid).replace('[', '{').replace(']', '}') for grid in (g1, g2)
        ]
        assert any(line[:3] == [*grids, str(printed)] for line in lines)
