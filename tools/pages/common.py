"""What the makers of pages share: files, tables, plots and arguments."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

from mmhatnet.analysis.report import read_csv, write_csv
from mmhatnet.engine.cli import one_line_errors
from mmhatnet.utils.atomic import replacing, write_text

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / 'docs'
sys.path.append(str(ROOT / 'tools'))  # has the package reproduction
# Configs of the models that several pages compare with HAT-Net.
PVT = 'mmdet::pvt/retinanet_pvtv2-b2_fpn_1x_coco.py'
CLASSIFIERS = {
    'Swin-T': 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
    'ConvNeXt-T': 'mmpretrain::convnext/convnext-tiny_32xb128_in1k.py',
}
DETECTORS = {
    'Swin-T': 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py',
    'ConvNeXt-T': (
        'mmdet::convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py'
    ),
}


def make_page(
    page: Path, description: str, make: Callable[[bool], Mapping[str, str]]
) -> None:
    """Run a maker whose arguments are ``--measure`` alone.

    Args:
        page (Path): The page.
        description (str): What the maker does.
        make (Callable): Gets whether to measure what the stored data lack, and
            makes the regions of the page.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        '--measure',
        action='store_true',
        help='first measure what the stored data lack; if it is interrupted, '
        'run it again to continue',
    )
    with one_line_errors():
        fill_page(page, make(parser.parse_args().measure))


def complete_table(
    path: Path,
    key: str,
    todo: Iterable,
    measure: Callable[[Any], Iterable[Mapping]],
) -> list[dict]:
    """Measure what a table lacks, and write the rows as soon as they exist.

    Args:
        path (Path): The table, a .csv file.
        key (str): The column that tells what a row belongs to.
        todo (Iterable): What to measure; ``str`` gives the cell of the column.
        measure (Callable): Gets one of these, and makes its rows.

    Returns:
        list[dict]: All rows of the table.
    """
    rows = read_csv(path)
    done = {str(row[key]) for row in rows}
    missing = [each for each in todo if str(each) not in done]
    for each in tqdm(missing, desc=path.stem, disable=not missing):
        rows += measure(each)
        write_csv(path, rows)
    return rows


def read_json(path: Path) -> Any:
    return json.loads(path.read_text('utf-8'))


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + '\n')


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


def fill_page(page: Path, regions: Mapping[str, str]) -> None:
    """Fill regions of a page.

    Raises:
        ValueError: If the page lacks a region.
    """
    text = page.read_text('utf-8')
    for name, content in regions.items():
        if f'<!-- {name} -->' not in text:
            raise ValueError(f'{page} has no region <!-- {name} -->')
        text = fill_regions(text, name, lambda content=content: content)
    write_text(page, text)


def span(values: Collection[float], form: str = '.4g') -> str:
    """The least and the greatest number, or one if they look alike."""
    ends = f'{min(values):{form}}', f'{max(values):{form}}'
    return ' to '.join(dict.fromkeys(ends))


def make_figure(
    *shape: int, size: tuple[float, float], dpi: int = 100, **kwargs
) -> tuple[Figure, Sequence[Axes]]:
    """Make a figure, and its panels with grids in a row-major list."""
    figure = Figure(figsize=size, layout='constrained', dpi=dpi)
    panels = figure.subplots(*shape, squeeze=False, **kwargs).ravel()
    for panel in panels:
        panel.grid(alpha=0.3)
    return figure, panels


def plot_lines(
    panel: Axes, lines: Iterable[tuple[str, Iterable, Iterable]]
) -> None:
    """Plot lines of (label, x, y); those of one label share a colour."""
    colors: dict[str, str] = {}
    for label, x, y in lines:
        shown = label if label not in colors else None
        color = colors.setdefault(label, f'C{len(colors)}')
        panel.plot(list(x), list(y), '.-', color=color, label=shown)


def save_figure(figure: Figure, path: Path, **options) -> None:
    """Write a figure, with the legend of its first panel below all panels.

    It is written completely or not at all.
    """
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if labels:
        figure.legend(
            handles,
            labels,
            loc='outside lower center',
            ncols=3,
            fontsize='small',
        )
    with replacing(path) as part:
        figure.savefig(part, format=path.suffix[1:], **options)
