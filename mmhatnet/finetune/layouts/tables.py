"""CSV files with a label or a box of an image in each row."""

import csv
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import dropwhile
from pathlib import Path

from ..samples import Box, Found, Sample
from .files import Files, split_of, split_of_file

# Names of columns, as they are without case, spaces and punctuation.
LABELS = (
    *('label', 'labels', 'class', 'classname', 'category', 'target'),
    *('labelname', 'species', 'breed', 'diagnosis', 'name'),
)
SPLIT = 'split', 'dataset', 'subset', 'set', 'partition'
CORNERS = 'xmin ymin xmax ymax', 'x1 y1 x2 y2', 'left top right bottom'
# Of these, the last two are the width and the height.
SIDES = 'x y w h', 'x y width height', 'left top width height', 'bbox', 'box'
NUMBER = re.compile(r'-?\d+(?:\.\d*)?(?:e[-+]?\d+)?', re.IGNORECASE)
TRIED = 50  # rows
MANY = 20  # labels that are numbers, and may be quantities


def read_tables(files: Files) -> Found | None:
    """Read a label of each image, or the boxes in it; None without a CSV."""
    rows = [
        row
        for path in (*files.others['.csv'], *files.others['.tsv'])
        if 'submission' not in path.stem.lower()  # made-up labels of a contest
        for row in _read_table(path, files)
    ]
    rows = [row for row in rows if row.label is None] or rows
    samples: dict[Path, Sample] = {}
    for row in rows:
        sample = samples.setdefault(row.image, row)
        if sample.label != row.label:
            raise ValueError(
                f'{row.image.name} has several labels in the CSV, but a '
                'classifier learns one for each image: keep one row'
            )
        if sample is not row:
            sample.boxes += row.boxes
    if not rows:
        return None
    _check_numbers([row.label for row in rows if row.label], files)
    task = 'classification' if rows[0].label else 'detection'
    return Found(files.root, 'CSV', task, [*samples.values()], [])


def _check_numbers(labels: list[str], files: Files) -> None:
    """Check that labels are classes, and not quantities."""
    numbers = {float(x) for x in labels if NUMBER.fullmatch(x)}
    if len(numbers) < len({*labels}):
        return
    if quantity := min((x for x in numbers if x % 1), default=None):
        raise ValueError(
            f'the labels in the CSV are quantities, such as {quantity:g}, but '
            'only classes can be learned: write a name for each range'
        )
    if len(numbers) >= MANY:
        files.odd.add('quantity', f'{len(numbers)} numbers')


def _read_table(path: Path, files: Files) -> Iterator[Sample]:
    """Read the sample of each row, with a label or up to one box."""
    lines = files.text(path).splitlines()
    lines = [*dropwhile(lambda line: not line.strip(), lines)]
    dialect: type[csv.Dialect] = csv.excel
    with suppress(csv.Error):
        dialect = csv.Sniffer().sniff('\n'.join(lines[:20]), ',;\t|')
    table = csv.DictReader(lines, dialect=dialect, restval='')
    header = table.fieldnames or ()
    keys = [re.sub('[^a-z0-9]', '', cell.lower()) for cell in header]
    if any(map(files.with_name, header)) and not {*keys} & {*LABELS}:
        raise ValueError(
            f'the first line of {path} is not a header: write the names of '
            'the columns above it, such as filename,label'
        )
    table.fieldnames = keys
    rows = [*table]

    def images(key: str) -> tuple[int, bool]:
        known = sum(bool(files.with_name(x[key])) for x in rows[:TRIED])
        return known, key not in LABELS

    column = max(keys, key=images, default='')
    if not rows or not images(column)[0] or keys[0] == 'pixelvalue':
        return  # the last has the classes of label maps
    rest = {*keys} - {column}
    part = next((x for x in SPLIT if x in rest), None)
    label = next((x for x in LABELS if x in rest), None)
    shapes = (x for x in (*CORNERS, *SIDES) if {*x.split()} <= rest)
    shape = next(shapes, '')
    if not label and not shape:
        if len(rest - {part}) != 1:
            files.odd.add('columns', path)
            return
        (label,) = rest - {part}
    for row in rows:
        name = row[label].strip() if label else 'object'
        boxes = _read_box(row, shape, name) if shape else []
        if not name and (boxes or not shape):
            files.odd.add('incomplete', f'{path}, {row[column]}')
            continue
        split = split_of(row[part]) if part else split_of_file(path)
        sample = files.sample(path, split, row[column])
        if sample:
            sample.boxes, sample.label = boxes, None if shape else name
            yield sample


def _read_box(row: dict[str, str], shape: str, name: str) -> list[Box]:
    """Read the box of a row, if it has one."""
    cells = ' '.join(row[key] for key in shape.split())
    numbers = [float(x) for x in NUMBER.findall(cells)]
    if len(numbers) != 4:
        return []
    left, top, right, bottom = numbers
    if shape in SIDES:
        right, bottom = left + right, top + bottom
    return [Box(left, top, right, bottom, name)]
