"""Helpers of the makers of pages: files, regions, plots and arguments."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mmhatnet.utils.atomic import replacing

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / 'docs'
sys.path.append(str(ROOT / 'tools'))  # has the package reproduction


def read_json(path: Path) -> Any:
    return json.loads(path.read_text('utf-8'))


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=1) + '\n')


def write_text(path: Path, text: str) -> None:
    """Write a file completely or not at all."""
    with replacing(path) as part:
        part.write_text(text, 'utf-8')


def fill_regions(text: str, name: str, make: Callable[..., str]) -> str:
    """Fill the regions of a page between two comments.

    Args:
        text (str): The page, with regions from ``<!-- NAME -->`` to
            ``<!-- end -->``.
        name (str): A pattern of the names.
        make (Callable): Gets the groups of the pattern, and makes the content.

    Returns:
        str: The page with new contents.
    """
    return re.sub(
        rf'(<!-- {name} -->\n).*?<!-- end -->',
        lambda match: f'{match[1]}{make(*match.groups()[1:])}\n<!-- end -->',
        text,
        flags=re.DOTALL,
    )


def fill_page(
    page: Path, regions: dict[str, Callable[[], str]], out: Path | None = None
) -> None:
    """Fill regions of a page, and write it to its place or to ``out``.

    Raises:
        ValueError: If the page lacks a region.
    """
    text = page.read_text('utf-8')
    for name, make in regions.items():
        if f'<!-- {name} -->' not in text:
            raise ValueError(f'{page} has no region <!-- {name} -->')
        text = fill_regions(text, name, make)
    write_text(out or page, text)


def span(values: Collection[float], form: str = '.4g') -> str:
    """The least and the greatest number, or one if they look alike."""
    ends = f'{min(values):{form}}', f'{max(values):{form}}'
    return ' to '.join(dict.fromkeys(ends))


def make_figure(
    *shape: int, size: tuple[float, float], dpi: int = 100, **kwargs
) -> tuple:
    """Make a figure, and its panels with grids in a row-major list."""
    figure = Figure(figsize=size, layout='constrained', dpi=dpi)
    panels = figure.subplots(*shape, squeeze=False, **kwargs).ravel()
    for panel in panels:
        panel.grid(alpha=0.3)
    return figure, panels


def save_figure(figure: Figure, path: Path, **options) -> None:
    """Write a figure completely or not at all."""
    with replacing(path) as part:
        figure.savefig(part, format=path.suffix[1:], **options)


def page_path(text: str) -> Path:
    """Parse the file of a page, which has a table or a figure beside it."""
    path = Path(text)
    if path.suffix != '.md':
        raise argparse.ArgumentTypeError(f'{text} is not a .md file')
    return path
