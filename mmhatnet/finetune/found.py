"""Recognize what is in a user's folder, and report it."""

import os
from collections import Counter
from pathlib import Path

from .layouts.boxes import check_boxes
from .layouts.coco import read_coco
from .layouts.files import IMAGES, Files
from .layouts.folders import read_folders
from .layouts.label_maps import read_label_maps
from .layouts.tables import read_tables
from .layouts.voc import read_voc
from .layouts.yolo import read_yolo
from .samples import Found, Oddities, counted
from .splits import drop_unreadable, make_splits

# In the order in which they are tried.
READERS = (
    *(read_coco, read_yolo, read_voc, read_tables),
    *(read_label_maps, read_folders),
)
LAYOUTS = (
    'folders of classes (cat/1.jpg), images/ and masks/ of the same names, '
    'COCO JSON, YOLO with data.yaml, Pascal VOC XML, or a CSV of paths and '
    'labels'
)
SHOWN = 20  # classes or notes


def recognize(root: str | os.PathLike, seed: int = 0) -> Found:
    """Recognize the images and labels in a folder, which is only read.

    Args:
        root (str | PathLike): The folder.
        seed (int): Another one gives another split, if the folder has none.
            Defaults to 0.

    Returns:
        Found: The data set.

    Raises:
        ValueError: If nothing can be learned from the folder. The message is
            one line that says what to do.
    """
    root = Path(root)
    if not root.exists():
        raise ValueError(f'there is no folder at {root}')
    if not root.is_dir():
        raise ValueError(
            f'{root} is a file: give the folder that it is in, or unpack it'
        )
    files = Files(root)
    try:
        found = _read(files)
        looks = drop_unreadable(found, files)
        if found.task == 'detection':
            check_boxes(found, files)
        if found.task != 'segmentation':
            _number_classes(found, files.odd)
        _check(found, files.odd)
        make_splits(found, looks, files, seed)
    except ValueError as error:
        lines = '; '.join(files.odd.lines()[:3])
        reasons = f' ({lines})' if lines else ''
        raise ValueError(f'{root}: {error}{reasons}') from error
    found.notes = files.odd.lines()
    return found


def _read(files: Files) -> Found:
    if not files.images:
        known = ' '.join(sorted(IMAGES))
        raise ValueError(f'there are no images ({known})')
    for read in READERS:
        found = read(files)
        if found:
            for image in files.images if files.named else ():
                if image not in files.named:
                    files.odd.add('unlabelled', image)
            return found
    raise ValueError(
        f'{counted(len(files.images), "image")} without labels: give {LAYOUTS}'
    )


def _number_classes(found: Found, odd: Oddities) -> None:
    """Replace names in labels by numbers, and drop classes without objects.

    Names that the folder does not list are sorted, as numbers if they are.
    """

    def key(name: str) -> tuple:
        number = name.isdecimal()
        return not number, int(name) if number else 0, name

    used = set().union(*(sample.labels for sample in found.samples))
    listed = dict.fromkeys(found.classes)
    for name in listed.keys() - used:
        odd.add('unused', name)
    found.classes = [name for name in listed if name in used]
    found.classes += sorted(used - listed.keys(), key=key)
    numbers = {name: label for label, name in enumerate(found.classes)}
    for sample in found.samples:
        sample.label = numbers.get(sample.label)
        sample.boxes = [
            box._replace(label=numbers[box.label]) for box in sample.boxes
        ]


def _check(found: Found, odd: Oddities) -> None:
    """Check that there is something to learn."""
    images, classes = len(found.samples), found.classes
    if not images:
        raise ValueError('no image can be used')
    if not classes:
        raise ValueError('no image has an object that can be used')
    if found.task == 'classification':
        odd.pop('turned', None)
        if len(classes) < 2:
            raise ValueError(
                f"all images have the class '{classes[0]}', and a classifier "
                f'needs two classes or more: give {LAYOUTS}'
            )
        if images < 2 * len(classes):
            raise ValueError(
                f'{len(classes)} classes, but only {images} images: give '
                f'two or more of each, or, if these are none, {LAYOUTS}'
            )
    total = count_labels(found)
    same: dict[str, str] = {}
    for label, name in enumerate(classes):
        if total[label] == 1:
            odd.add('rare', name)
        other = same.setdefault(name.casefold().strip(), name)
        if other != name:
            odd.add('case', f"'{other}' and '{name}'")


def count_labels(found: Found) -> Counter:
    """Count the images or objects of each label; empty for label maps."""
    boxes = (box for sample in found.samples for box in sample.boxes)
    total = Counter(box.label for box in boxes if not box.crowd)
    labels = (sample.label for sample in found.samples)
    return total + Counter(x for x in labels if x is not None)


def describe(found: Found) -> str:
    """Say what was found: task, classes with counts, splits and notes."""
    total, sizes = count_labels(found), []
    for split, samples in found.splits.items():
        boxes = [box for sample in samples for box in sample.boxes]
        objects = f' with {counted(len(boxes), "object")}' if boxes else ''
        sizes.append(f'{split} {counted(len(samples), "image")}{objects}')
    names = [
        f'{name} ({total[label]})' if total else name
        for label, name in enumerate(found.classes)
    ]
    more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
    lines = [
        f'{found.root}: {found.layout}, for {found.task}',
        f'  classes ({len(names)}): {", ".join(names[:SHOWN])}{more}',
        f'  {"; ".join(sizes)}',
        *(f'  note: {note}' for note in found.notes[:SHOWN]),
    ]
    return '\n'.join(lines)
