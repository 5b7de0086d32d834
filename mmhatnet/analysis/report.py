"""Tables of measurements, for people and for programs."""

import ast
import csv
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ..utils.atomic import replacing


def markdown_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Make a Markdown table, with columns of numbers aligned to the right.

    Args:
        rows (Sequence[Mapping[str, str]]): The rows. Their keys are the
            titles of the columns; a cell that a row lacks stays empty.

    Returns:
        str: The table.
    """

    def line(cells: Sequence[str]) -> str:
        return f'| {" | ".join(cells)} |'

    titles = list({title: None for row in rows for title in row})
    body = [[row.get(title, '') for title in titles] for row in rows]
    rules = [
        '---:'
        if all(re.match(r'[-+]?\d|$', cell) for cell in column)
        else '---'
        for column in zip(*body, strict=True)
    ]
    return '\n'.join(map(line, [titles, rules, *body]))


def show_ratios(values: Sequence[float]) -> str:
    """Write the median, and the smallest and largest if they differ."""
    low, high = min(values), max(values)
    span = f' ({low:.2f} to {high:.2f})' if low < high else ''
    return f'{median(values):.2f}{span}'


def write_csv(
    path: str | os.PathLike, rows: Sequence[Mapping[str, object]]
) -> None:
    """Write a table for programs, completely or not at all.

    A column that a row lacks stays empty.
    """
    titles = {title: None for row in rows for title in row}
    with (
        replacing(path) as part,
        open(part, 'w', newline='', encoding='utf-8') as file,
    ):
        writer = csv.DictWriter(file, titles, lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Read a table that :func:`write_csv` wrote.

    Returns:
        list[dict[str, Any]]: The rows in order, each from column title to
        value, without empty cells; none if there is no such file. Python
        literals, 'inf' and 'nan' become values; other cells are strings.
    """
    if not Path(path).exists():
        return []
    with open(path, newline='', encoding='utf-8') as file:
        return [
            {title: _parse(cell) for title, cell in row.items() if cell}
            for row in csv.DictReader(file)
        ]


def _parse(cell: str) -> object:
    for parse in (ast.literal_eval, float):  # only float reads 'nan'
        try:
            return parse(cell)
        except (SyntaxError, ValueError):
            pass
    return cell
