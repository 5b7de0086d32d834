"""YOLO: a text file with boxes or polygons beside each image."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from ..samples import Box, Found
from .files import Files, split_of

# Class, and x and y of the centre, width and height, in shares of the image.
LINE = re.compile(r'(?i)\d+(\.0*)?(\s+-?\d*\.?\d+(e-?\d+)?){4,}\s*')
PIXELS = 2  # larger numbers are not shares of an image


def read_yolo(files: Files) -> Found | None:
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
    splits = _read_lists(files)
    samples = []
    for image in files.images:
        path = texts.pop(_place(image), None)
        if not path:
            files.odd.add('empty', image)
        sample = files.sample(image, splits.get(image), str(image))
        if sample:
            size = np.array(sample.size)
            lines = _read_lines(path, size, names, files) if path else ()
            sample.boxes = list(lines)
            samples.append(sample)
    for path in texts.values():
        files.odd.add('alone', path)
    return Found(files.root, 'YOLO', 'detection', samples, names)


def _read_lists(files: Files) -> dict[Path, str]:
    """Read the splits of images from lists of them, such as train.txt."""
    found: dict[Path, str] = {}
    for path in files.others['.txt']:
        split = split_of(path.stem, strict=False)
        lines = files.text(path).splitlines() if split else []
        if split and lines and files.with_name(lines[0]):
            samples = (files.sample(path, split, x) for x in lines if x)
            listed = (sample.image for sample in samples if sample)
            found |= {x.relative_to(files.root): split for x in listed}
    return found


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
    lines = map(str.strip, files.text(path).split('\n'))
    for line in filter(None, dict.fromkeys(lines)):
        if not LINE.fullmatch(line):
            files.odd.add('incomplete', path)
            continue
        number, *values = map(float, line.split())
        label = str(int(number))
        if int(number) < len(names):
            label = names[int(number)]
        elif names:
            files.odd.add('numbers', label)
        if max(map(abs, values)) > PIXELS:
            files.odd.add('pixels', path)
            continue
        if len(values) >= 6 and len(values) % 2 == 0:
            points = np.reshape(values, (-1, 2)) * size
            mask = [points.ravel().tolist()]
        else:  # a fifth number is the score of a prediction
            centre, sides = np.reshape(values[:4], (2, 2)) * size
            points = np.stack([centre - sides / 2, centre + sides / 2])
            mask = None
        first, last = points.min(0).tolist(), points.max(0).tolist()
        yield Box._make((*first, *last, label, mask, False))


def _read_names(files: Files) -> list[str]:
    """Read names of classes from data.yaml."""
    for path in (*files.others['.yaml'], *files.others['.yml']):
        try:
            names = yaml.safe_load(files.text(path))['names']
        except (TypeError, KeyError):
            continue  # of something else
        except (yaml.YAMLError, RecursionError) as error:
            line = ' '.join(str(error).split())
            raise ValueError(
                f'{path} is not valid YAML: {line:.200}'
            ) from error
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
