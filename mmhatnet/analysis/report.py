"""Tables of what was measured, for people and for programs."""

import ast
import csv
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path


def markdown_table(rows: Sequence[Mapping[str, str]]) -> str:
    """Make a table for a page.

    Args:
        rows (Sequence[Mapping[str, str]]): The rows, whose keys are the
            titles of the columns and equal in all.

    Returns:
        str: The table in Markdown, columns of numbers to the right.
    """

    def line(cells: Sequence[str]) -> str:
        return f'| {" | ".join(cells)} |'

    titles = list(rows[0])
    rules = [
        '---:'
        if all(re.match(r'[-+]?\d|$', row[title]) for row in rows)
        else '---'
        for title in titles
    ]
    body = [list(row.values()) for row in rows]
    return '\n'.join(map(line, [titles, rules, *body]))


def write_csv(
    path: str | os.PathLike, rows: Sequence[Mapping[str, object]]
) -> None:
    """Write a table for programs, whole or not at all.

    Args:
        path (str | PathLike): The file; its folder is made.
        rows (Sequence[Mapping[str, object]]): The rows; a column that a row
            lacks stays empty.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    titles = {title: None for row in rows for title in row}
    part = path.with_name(f'{path.name}.part')
    with part.open('w', newline='') as file:
        writer = csv.DictWriter(file, titles, lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
    part.replace(path)


def read_csv(path: str | os.PathLike) -> list[dict[str, object]]:
    """Read a table of :func:`write_csv`.

    Args:
        path (str | PathLike): The file.

    Returns:
        list[dict[str, object]]: The rows, without empty cells; numbers and
        tuples are such again. None, where there is no file.
    """
    if not Path(path).exists():
        return []
    with open(path, newline='') as file:
        return [
            {title: _value(text) for title, text in row.items() if text}
            for row in csv.DictReader(file)
        ]


def _value(text: str) -> object:
    for parse in (ast.literal_eval, float):  # 'nan' is only the latter's
        try:
            return parse(text)
        except (SyntaxError, ValueError):
            pass
    return text
