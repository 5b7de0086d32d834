"""YOLO: a text file with boxes or polygons beside each image."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from ..samples import Box, Reading
from .boxes import make_reading
from .files import Files

# Class, and x and y of the centre, width and height, in shares of the image.
LINE = re.compile(r'(?i)\d+(\.0*)?(\s+-?\d*\.?\d+(e-?\d+)?){4,}\s*')


def read_yolo(files: Files) -> Reading | None:
    """Read boxes, or polygons as masks; None without such labels.

    An image without a text file, or with an empty one, has no objects.
    """
    texts = {
        _place(path): path
        for path in files.others['.txt']
        if _is_labels(path, files)
    }
    if not texts:
        return None
    names = _read_names(files) or files.names()
    samples = []
    for image in files.images:
        path = texts.pop(_place(image), None)
        sample = files.sample(image, None, str(image))
        if not path:
            files.odd.add('empty', image)
        if sample and sample.size:
            sides = np.array(sample.size)
            lines = _read_lines(path, sides, names, files) if path else ()
            sample.boxes = list(lines)
            samples.append(sample)
    for path in texts.values():
        files.odd.add('alone', path)
    return make_reading('YOLO', samples, files, names)


def _place(path: Path) -> Path:
    """What an image and its labels share: images/a.jpg, labels/a.txt."""
    parts = path.with_suffix('').parts
    return Path(*('images' if x.lower() == 'labels' else x for x in parts))


def _is_labels(path: Path, files: Files) -> bool:
    with open(files.root / path, encoding='utf-8', errors='replace') as file:
        start = file.readline(1000)
    # An empty file belongs to an image without objects.
    empty = not start.strip() and 'labels' in path.parts
    return empty or bool(LINE.fullmatch(start))


def _read_lines(
    path: Path, size: np.ndarray, names: list[str], files: Files
) -> Iterator[Box]:
    for line in dict.fromkeys(files.text(path).split('\n')):
        if not line.strip():
            continue
        if not LINE.fullmatch(line.strip()):
            files.odd.add('incomplete', path)
            continue
        number, *values = map(float, line.split())
        known = int(number) < len(names)
        label = names[int(number)] if known else str(int(number))
        if names and not known:
            files.odd.add('numbers', label)
        if len(values) >= 6 and len(values) % 2 == 0:
            points = np.reshape(values, (-1, 2)) * size
            first, last = points.min(0).tolist(), points.max(0).tolist()
            mask = [points.ravel().tolist()]
            yield Box._make((*first, *last, label, mask, False))
        else:  # a fifth number is the score of a prediction
            centre, sides = np.reshape(values[:4], (2, 2)) * size
            first = (centre - sides / 2).tolist()
            last = (centre + sides / 2).tolist()
            yield Box._make((*first, *last, label, None, False))


def _read_names(files: Files) -> list[str]:
    """Read names of classes from data.yaml."""
    for path in (*files.others['.yaml'], *files.others['.yml']):
        try:
            content = yaml.safe_load(files.text(path))
        except (yaml.YAMLError, RecursionError) as error:
            line = ' '.join(str(error).split())
            raise ValueError(
                f'{path} is not valid YAML: {line:.200}'
            ) from error
        if not isinstance(content, dict) or 'names' not in content:
            continue
        names = content['names']
        if isinstance(names, dict):
            most = max((x for x in names if isinstance(x, int)), default=-1)
            names = [names.get(x, x) for x in range(min(most, 10_000) + 1)]
        # To write nested lists can take any memory.
        if not isinstance(names, list) or any(
            isinstance(name, list | dict) for name in names
        ):
            raise ValueError(f'{path}: names is not a list of the classes')
        return [str(name) for name in names]
    return []
