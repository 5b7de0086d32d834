"""CSV files with a label or a box of an image in each row."""

import csv
import re
from pathlib import Path
from typing import NamedTuple

from ..samples import Box, Reading, Sample, sort_names
from .boxes import make_reading
from .files import Files, split_of

# Names of columns, in small letters and without other characters.
PATHS = (
    *('filename', 'filepath', 'filepaths', 'imagepath', 'path', 'image'),
    *('file', 'imagefile', 'imagename', 'img', 'imageid', 'id', 'name'),
)
LABELS = (
    *('label', 'labels', 'class', 'classname', 'category', 'target'),
    *('labelname', 'species', 'breed', 'diagnosis', 'name'),
)
SPLIT = 'split', 'dataset', 'subset', 'set', 'partition'
CORNERS = 'xmin ymin xmax ymax', 'x1 y1 x2 y2', 'left top right bottom'
# Of these, the last two are the width and the height.
SIDES = 'x y w h', 'x y width height', 'left top width height', 'bbox', 'box'
WITHOUT_HEADER = {2: 'path label', 6: 'path x1 y1 x2 y2 label'}
NUMBER = re.compile(r'-?\d+(?:\.\d*)?(?:e[-+]?\d+)?', re.IGNORECASE)
ROWS_TRIED = 50


class Columns(NamedTuple):
    """Numbers of the columns; several for labels are 0 or 1 for a class."""

    names: list[str]
    path: int
    labels: list[int]
    box: list[int]
    corners: bool
    split: int | None


def read_tables(files: Files) -> Reading | None:
    """Read a label of each image, or the boxes in each image.

    Args:
        files (Files): The files.

    Returns:
        Reading, optional: The images; None without such a file.

    Raises:
        ValueError: If images have several labels and no boxes.
    """
    tables = [
        _read_table(path, files)
        for path in (*files.others['.csv'], *files.others['.tsv'])
        if 'submission' not in path.stem.lower()  # made-up labels of a contest
    ]
    rows = [row for table in tables for row in table or ()]
    classes = sort_names(name for _, name, _, _ in rows if name)
    samples: dict[Path, Sample] = {}
    for image, name, box, split in rows:
        label = classes.index(name) if name else None
        if image not in samples:
            samples[image] = Sample(files.root / image, label, split=split)
        sample = samples[image]
        if box is not None:
            sample.size = files.size(image)
            boxes = [Box._make((*box, label or 0, None, False))] if box else []
            sample.boxes = [*(sample.boxes or ()), *boxes]
        elif sample.label != label:
            raise ValueError(
                f'{image} has several labels in the CSV, but a classifier '
                'learns one for each image: keep one row'
            )
    found = [s for s in samples.values() if s.boxes is not None and s.size]
    if found:
        for sample in found:
            sample.label = None
        return make_reading('CSV', classes, found, files)
    if all(table is None for table in tables):
        return None
    return Reading('CSV', 'classification', classes, [*samples.values()])


def _read_table(path: Path, files: Files) -> list[tuple] | None:
    """Read rows: image, name of the class, box or (), and split.

    None if it is another table.
    """
    lines = files.text(path).splitlines()
    try:
        dialect = csv.Sniffer().sniff('\n'.join(lines[:20]), ',;\t|')
        table = [row for row in csv.reader(lines, dialect) if row]
    except csv.Error:
        table = [row for row in csv.reader(lines) if row]
    columns = _find_columns(table, files) if table else None
    if not columns:
        return None
    if not any(files.knows(cell) for cell in table[0]):
        table = table[1:]
    of_file = split_of(*path.parent.parts) or split_of(path.stem, strict=False)
    found = []
    for row in table:
        row += [''] * (len(columns.names) - len(row))
        split = of_file
        if columns.split is not None:
            split = split_of(row[columns.split])
        image = files.find(row[columns.path].strip(), path, split)
        name = _read_name(row, columns)
        box = _read_box(row, columns)
        if not image:
            files.odd.add('labels without their image, left out', row)
        elif not name and (box is None or box):
            files.odd.add('rows without a label, left out', f'{path}, {image}')
        else:
            split = split or split_of(*image.parent.parts)
            found.append((image, name, box, split))
    return found


def _find_columns(table: list[list[str]], files: Files) -> Columns | None:
    header = table[0]
    names = [re.sub('[^a-z0-9]', '', cell.lower()) for cell in header]
    if any(files.knows(cell) for cell in table[0]):
        names = WITHOUT_HEADER.get(len(names), '').split()
    else:
        table = table[1:]
    place = {name: column for column, name in enumerate(names)}
    label = next((place[name] for name in LABELS if name in place), None)
    if names[:1] == ['pixelvalue']:  # the classes of label maps
        return None
    known = [
        (
            sum(
                files.knows(row[i])
                for row in table[:ROWS_TRIED]
                if i < len(row)
            ),
            name in PATHS,
            -i,
        )
        for i, name in enumerate(names)
        if i != label or name == 'name'
    ]
    if not known or not max(known)[0]:
        return None
    path = -max(known)[-1]
    box: list[int] = []
    for group in (*SIDES, *CORNERS):
        if {*group.split()} <= place.keys():
            box = [place[name] for name in group.split()]
            corners = group in CORNERS
    split = next((place[name] for name in SPLIT if name in place), None)
    rest = [i for i in range(len(names)) if i not in (path, split, *box)]
    labels = [label] if label is not None and label != path else rest
    if len(labels) > 1 and any(
        row[i].strip() not in ('0', '1', '0.0', '1.0')
        for row in table[:ROWS_TRIED]
        for i in labels
        if i < len(row)
    ):
        labels = []
    if not labels and not box:
        return None
    names = [cell.strip() for cell in header]
    return Columns(names, path, labels, box, bool(box) and corners, split)


def _read_name(row: list[str], columns: Columns) -> str:
    if not columns.labels:
        return 'object'
    if len(columns.labels) == 1:
        return row[columns.labels[0]].strip()
    named = [
        columns.names[i] for i in columns.labels if row[i].strip()[:1] == '1'
    ]
    return named[0] if len(named) == 1 else ''


def _read_box(row: list[str], columns: Columns) -> tuple | None:
    """Read a box; () if the row has none, None if the table has none."""
    if not columns.box:
        return None
    text = ' '.join(row[i] for i in columns.box)
    numbers = [float(number) for number in NUMBER.findall(text)]
    if len(numbers) != 4:
        return ()
    left, top, *last = numbers
    if not columns.corners:
        last = [left + last[0], top + last[1]]
    return left, top, *last
