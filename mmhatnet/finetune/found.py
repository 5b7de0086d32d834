"""Recognize what is in a user's folder, and say it."""

import os
from collections import Counter
from pathlib import Path

import numpy as np

from ..datasets.coco2semantic import encode_mask
from .converting import make_palette
from .layouts.coco import read_coco
from .layouts.files import IMAGES, Files
from .layouts.folders import read_folders
from .layouts.label_maps import read_label_maps, read_labels
from .layouts.tables import read_tables
from .layouts.voc import read_voc
from .layouts.yolo import read_yolo
from .pictures import draw_grid, draw_labels, save_figure
from .samples import Found, Oddities, Reading, Sample
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
EXAMPLES = 12


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
        raise ValueError(f'there is no {root}')
    if not root.is_dir():
        raise ValueError(f'{root} is a file: unpack it, and give the folder')
    odd = Oddities()
    files = Files(root, odd)
    try:
        reading = _read(files)
        looks = drop_unreadable(reading, files)
        _check(reading, files)
        splits = make_splits(reading, looks, files, seed)
    except ValueError as error:
        lines = '; '.join(odd.lines()[:3])
        found = f' ({lines})' if lines else ''
        raise ValueError(f'{root}: {error}{found}') from error
    learned = set().union(*(sample.labels for sample in splits['train']))
    for label, name in enumerate(reading.classes):
        if learned and label not in learned:  # those of label maps are unknown
            odd.add('unlearned', name)
    return Found(
        *(root, reading.layout, reading.task, reading.classes, splits),
        *(odd.lines(), reading.values),
    )


def _read(files: Files) -> Reading:
    if not files.images:
        known = ' '.join(sorted(IMAGES))
        raise ValueError(f'there are no images ({known})')
    for read in READERS:
        reading = read(files)
        if reading:
            return reading
    raise ValueError(
        f'{len(files.images)} images without labels: give {LAYOUTS}'
    )


def _check(reading: Reading, files: Files) -> None:
    """Check that there is something to learn."""
    samples, classes, odd = reading.samples, reading.classes, files.odd
    if not samples:
        raise ValueError('no image can be used')
    if reading.task == 'classification' and len(classes) < 2:
        raise ValueError(
            f"all images are in the folder or class '{classes[0]}', and a "
            f'classifier needs two or more: give {LAYOUTS}'
        )
    if not classes:
        raise ValueError('no image has an object that can be used')
    if reading.task == 'classification' and len(classes) > len(samples):
        raise ValueError(
            f'{len(classes)} classes, but only {len(samples)} images: if '
            f'these are not classes, give {LAYOUTS}'
        )
    if reading.task != 'classification':
        for image in (x.image for x in samples if x.image in files.turned):
            odd.add('turned', image.relative_to(files.root))
    same: dict[str, str] = {}
    for name in classes:
        other = same.setdefault(name.casefold().strip(), name)
        if other != name:
            odd.add('case', f"'{other}' and '{name}'")


def describe(found: Found) -> str:
    """Say what was found: task, classes with counts, splits and notes."""
    total: Counter = Counter()
    sizes = []
    for split, samples in found.splits.items():
        boxes = [box for s in samples for box in s.boxes or ()]
        total.update(box.label for box in boxes if not box.crowd)
        total.update(s.label for s in samples if s.label is not None)
        objects = f' with {len(boxes)} objects' if boxes else ''
        sizes.append(f'{split} {len(samples)} images{objects}')
    names = [
        f'{name} ({total[label]})' if total else name
        for label, name in enumerate(found.classes)
    ]
    more = len(names) - SHOWN
    lines = [
        f'{found.root}: {found.layout}, for {found.task}',
        f'  {len(names)} classes: {", ".join(names[:SHOWN])}'
        + (f' and {more} more' if more > 0 else ''),
        f'  {"; ".join(sizes)}',
        *(f'  note: {note}' for note in found.notes[:SHOWN]),
    ]
    return '\n'.join(lines)


def draw_examples(found: Found, file: Path) -> None:
    """Draw images of training with their labels, one of each class first."""
    seen: Counter = Counter()
    ranked = []
    for i, sample in enumerate(found.splits['train']):
        rank = min((seen[x] for x in sample.labels), default=i)
        ranked.append((rank, i, sample))
        seen.update(sample.labels)
    ranked.sort(key=lambda each: each[:2])
    pictures = [_draw(found, sample) for *_, sample in ranked[:EXAMPLES]]
    save_figure(draw_grid(pictures, ['']), file)


def _draw(found: Found, sample: Sample) -> np.ndarray:
    meta = dict(classes=found.classes, palette=make_palette(found))
    if sample.label is not None:
        scores = np.eye(len(found.classes))[sample.label]
        return draw_labels(sample.image, meta, scores=scores)
    if sample.label_map and found.values:
        labels = read_labels(sample.label_map, found.values)
        return draw_labels(sample.image, meta, label_map=labels)
    boxes, masks = sample.boxes or [], None
    width, height = sample.size or (0, 0)
    if found.task == 'instances':
        from pycocotools.mask import decode

        drawn = (box.mask or [] for box in boxes)
        masks = (decode(encode_mask(x, height, width)) > 0 for x in drawn)
    return draw_labels(
        *(sample.image, meta),
        boxes=np.array([box[:4] for box in boxes]),
        scores=np.ones(len(boxes)),
        labels=[box.label for box in boxes],
        masks=masks,
    )
