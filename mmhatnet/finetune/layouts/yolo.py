"""YOLO: a text file with boxes or polygons beside each image."""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from ..samples import Box, Reading, Sample
from .boxes import make_reading
from .files import Files, split_of

# Class, and x and y of the centre, width and height, in shares of the image.
LINE = re.compile(r'\d+(\.0*)?(\s+-?\d*\.?\d+(e-?\d+)?){4,}\s*', re.IGNORECASE)


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
    names, splits = _read_yaml(files)
    names = names or files.names()
    samples = []
    for image in files.images:
        path = texts.pop(_place(image), None)
        size = files.size(image)
        if not size:
            continue
        if not path:
            files.odd.add('empty', image)
        boxes = list(_read_lines(path, size, files)) if path else []
        folders = image.parent.parts
        split = split_of(*folders) or splits.get(folders)
        samples.append(
            Sample(files.root / image, None, boxes, None, size, split)
        )
    for path in texts.values():
        files.odd.add('alone', path)
    labels = {box.label for sample in samples for box in sample.boxes or ()}
    for label in range(len(names), max(labels, default=-1) + 1):
        if names and label in labels:
            files.odd.add('numbers', label)
        names.append(str(label))
    return make_reading('YOLO', names, samples, files)


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
    path: Path, size: tuple[int, int], files: Files
) -> Iterator[Box]:
    width, height = size
    for line in dict.fromkeys(files.text(path).splitlines()):
        words = line.split()
        if not words:
            continue
        if not LINE.fullmatch(line.strip()):
            files.odd.add('incomplete', path)
            continue
        label, *numbers = int(float(words[0])), *map(float, words[1:])
        if len(numbers) >= 6 and len(numbers) % 2 == 0:
            xs = [width * x for x in numbers[::2]]
            ys = [height * y for y in numbers[1::2]]
            polygon = [v for point in zip(xs, ys, strict=True) for v in point]
            yield Box(min(xs), min(ys), max(xs), max(ys), label, [polygon])
        else:  # a fifth number is the score of a prediction
            x, y, w, h = numbers[:4]
            left, right = width * (x - w / 2), width * (x + w / 2)
            top, bottom = height * (y - h / 2), height * (y + h / 2)
            yield Box(left, top, right, bottom, label)


def _read_yaml(files: Files) -> tuple[list[str], dict]:
    """Read names of classes, and the split of folders from data.yaml."""
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
        return [str(name) for name in names], _find_splits(content, files)
    return [], {}


def _find_splits(content: dict, files: Files) -> dict[tuple[str, ...], str]:
    """Find the folders of data.yaml, wherever they were moved -> split."""
    ours = {path.parent.parts for path in files.images}
    found: dict[tuple[str, ...], set[str]] = {}
    for split in ('train', 'val', 'test'):
        entries = content.get(split) or []
        for entry in entries if isinstance(entries, list) else [entries]:
            if str(entry)[-4:] == '.txt':
                raise ValueError(
                    f'{entry} in data.yaml is a list of images, which is not '
                    f'read: put the images of {split} into folders of that '
                    'name, and delete the line'
                )
            parts = [x for x in Path(str(entry)).parts if x not in '..']
            ends = [tuple(parts[i:]) for i in range(len(parts))]
            place = next((end for end in ends if end in ours), None)
            if place:
                found.setdefault(place, set()).add(split)
    # The same folder for two splits is none for either.
    return {place: x.pop() for place, x in found.items() if len(x) == 1}
