"""CSV files with a label or a box of an image in each row."""

import csv
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..samples import Box, Reading, Sample, sort_names
from .boxes import make_reading
from .files import Files, split_of

# Names of columns, in small letters and without other characters.
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


def read_tables(files: Files) -> Reading | None:
    """Read a label of each image, or the boxes in it; None without a CSV."""
    rows = [
        row
        for path in (*files.others['.csv'], *files.others['.tsv'])
        if 'submission' not in path.stem.lower()  # made-up labels of a contest
        for row in _read_table(path, files)
    ]
    samples: dict[Path, Sample] = {}
    for sample, *_ in rows:
        samples.setdefault(sample.image, sample)
    boxed = [x for x in rows if x[2] is not None]
    for new, name, box in boxed:
        sample = samples[new.image]
        boxes = [Box._make((*box, name, None, False))] if box else []
        sample.boxes = [*(sample.boxes or ()), *boxes]
    if boxed:
        found = [x for x in samples.values() if x.boxes is not None and x.size]
        return make_reading('CSV', found, files)
    classes = sort_names(name for _, name, _ in rows)
    for new, name, _ in rows:
        sample, label = samples[new.image], classes.index(name)
        if sample.label not in (None, label):
            raise ValueError(
                f'{sample.image.name} has several labels in the CSV, but a '
                'classifier learns one for each image: keep one row'
            )
        sample.label = label
    found = [*samples.values()]
    return Reading('CSV', 'classification', classes, found) if found else None


def _read_table(
    path: Path, files: Files
) -> Iterator[tuple[Sample, str, tuple | None]]:
    """Read rows: image, name of the class, and box or () or None."""
    lines = files.text(path).splitlines()
    dialect: type[csv.Dialect] = csv.excel
    with suppress(csv.Error):
        dialect = csv.Sniffer().sniff('\n'.join(lines[:20]), ',;\t|')
    table = [row for row in csv.reader(lines, dialect) if row]
    if not table:
        return
    header, *rows = table
    keys = [re.sub('[^a-z0-9]', '', cell.lower()) for cell in header]
    rows = [row + [''] * (len(keys) - len(row)) for row in rows]
    if any(map(files.knows, header)) and not {*keys} & {*LABELS}:
        raise ValueError(
            f'the first line of {path} is no header: write the names of the '
            'columns above it, such as filename,label'
        )
    column = _find_paths(keys, rows, files)
    if column is None or keys[0] == 'pixelvalue':  # classes of label maps
        return
    place = {name: i for i, name in enumerate(keys) if i != column}
    label = next((place.pop(x) for x in LABELS if x in place), None)
    part = next((place.pop(x) for x in SPLIT if x in place), None)
    groups = [
        x.split() for x in (*CORNERS, *SIDES) if {*x.split()} <= {*place}
    ]
    if label is None and not groups:
        if len(place) != 1:
            files.odd.add('columns', path)
            return
        (label,) = place.values()
    of_file = split_of(*path.parent.parts) or split_of(path.stem, strict=False)
    for row in rows:
        split = of_file if part is None else split_of(row[part])
        sample = files.sample(path, split, row[column])
        name = 'object' if label is None else row[label].strip()
        box = None
        if groups:
            box = _read_box([row[place[x]] for x in groups[0]], groups[0])
        if not name and (box is None or box):
            files.odd.add('incomplete', f'{path}, {row[column]}')
        elif sample:
            yield sample, name, box


def _find_paths(
    keys: list[str], rows: list[list[str]], files: Files
) -> int | None:
    """Find the column that names the most images."""
    counts = [
        (sum(files.knows(row[i]) for row in rows[:TRIED]), key not in LABELS)
        for i, key in enumerate(keys)
    ]
    return counts.index(max(counts)) if max(counts)[0] else None


def _read_box(cells: list[str], names: list[str]) -> tuple:
    """Read a box; () if the row has none."""
    numbers = [float(x) for x in NUMBER.findall(' '.join(cells))]
    if len(numbers) != 4:
        return ()
    left, top, right, bottom = numbers
    if ' '.join(names) in SIDES:
        right, bottom = left + right, top + bottom
    return left, top, right, bottom
