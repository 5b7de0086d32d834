"""Recognize what is in a user's folder, and say it."""

import os
from collections import Counter
from pathlib import Path

import numpy as np

from ..datasets.coco2semantic import encode_mask
from ..runtime.images import read_image
from .converting import make_palette
from .layouts.coco import read_coco
from .layouts.files import IMAGES, Files
from .layouts.folders import read_folders
from .layouts.label_maps import read_label_maps, read_labels
from .layouts.tables import read_tables
from .layouts.voc import read_voc
from .layouts.yolo import read_yolo
from .samples import IGNORED, Oddities, Reading
from .samples import Box as Box
from .samples import Found as Found
from .samples import Sample as Sample
from .splits import drop_unreadable, labels_of, make_splits

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
        if not files.images:
            known = ' '.join(sorted(IMAGES))
            raise ValueError(f'there are no images ({known})')
        reading = _read(files)
        looks = drop_unreadable(reading, files)
        _check(reading, files)
        splits = make_splits(reading, looks, files, seed)
        _note_unlearned(reading.classes, splits, odd)
    except ValueError as error:
        lines = '; '.join(odd.lines()[:3])
        found = f' ({lines})' if lines else ''
        raise ValueError(f'{root}: {error}{found}') from error
    return Found(
        root=root,
        layout=reading.layout,
        task=reading.task,
        classes=reading.classes,
        splits=splits,
        notes=odd.lines(),
        values=reading.values,
    )


def _read(files: Files) -> Reading:
    for read in READERS:
        reading = read(files)
        if reading:
            return reading
    raise ValueError(
        f'{len(files.images)} images without labels: give {LAYOUTS}'
    )


def _check(reading: Reading, files: Files) -> None:
    """Check that there is something to learn."""
    if not reading.samples:
        raise ValueError('no image can be used')
    if reading.task == 'classification' and len(reading.classes) < 2:
        raise ValueError(
            f"all images are in the folder or class '{reading.classes[0]}', "
            f'and a classifier needs two or more: give {LAYOUTS}'
        )
    if len(reading.classes) > len(reading.samples):
        raise ValueError(
            f'{len(reading.classes)} classes, but only '
            f'{len(reading.samples)} images: if these are not classes, give '
            f'{LAYOUTS}'
        )
    boxes = [box for sample in reading.samples for box in sample.boxes or ()]
    if reading.task in ('detection', 'instances') and not boxes:
        raise ValueError('no image has an object that can be used')
    odd = files.odd
    if reading.task != 'classification':
        for sample in reading.samples:
            if sample.image in files.turned:
                odd.add(
                    'images that are rotated when they are read, as their '
                    'EXIF says; check whether the labels fit',
                    sample.image.relative_to(files.root),
                )
    same: dict[str, str] = {}
    for name in reading.classes:
        other = same.setdefault(name.casefold().strip(), name)
        if other != name:
            odd.add(
                'classes whose names differ by case only; give them one name '
                'if they are the same',
                f"'{other}' and '{name}'",
            )


def _note_unlearned(
    classes: list[str], splits: dict[str, list[Sample]], odd: Oddities
) -> None:
    learned = {label for s in splits['train'] for label in labels_of(s)}
    if not learned:
        return  # of label maps
    for label, name in enumerate(classes):
        if label not in learned:
            odd.add(
                'classes without an image for training; add some, or move '
                'them from val',
                name,
            )


def count_labels(found: Found, split: str) -> Counter[int]:
    """Count images or objects by class.

    Args:
        found (Found): The data set.
        split (str): The split.

    Returns:
        Counter[int]: Label -> number; empty for label maps, which are not
        read for this.
    """
    samples = found.splits[split]
    labels = [s.label for s in samples if s.label is not None]
    labels += [b.label for s in samples for b in s.boxes or () if not b.crowd]
    return Counter(labels)


def describe(found: Found) -> str:
    """Say what was found, in a few lines.

    Args:
        found (Found): The data set.

    Returns:
        str: The task, the classes with their counts, the splits, the notes.
    """
    total: Counter = Counter()
    sizes = []
    for split, samples in found.splits.items():
        counts = count_labels(found, split)
        total.update(counts)
        boxes = sum(len(sample.boxes or ()) for sample in samples)
        objects = f' with {boxes} objects' if boxes else ''
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


def draw_examples(found: Found, file: str | os.PathLike) -> None:
    """Draw examples with their labels, one picture.

    Args:
        found (Found): The data set.
        file (str | PathLike): The picture to write, such as a .png.
    """
    from matplotlib.figure import Figure

    samples = _choose_examples(found)
    rows = -(-len(samples) // 4)
    figure = Figure(figsize=(12, 3 * rows), layout='constrained')
    axes = figure.subplots(rows, 4, squeeze=False).ravel()
    palette = np.array(make_palette(found) + [[128] * 3] * IGNORED, np.uint8)
    palette[IGNORED] = 128
    for axis in axes:
        axis.axis('off')
    for axis, sample in zip(axes, samples, strict=False):
        try:
            image = read_image(sample.image)[..., ::-1]
        except ValueError:
            continue
        _draw(axis, image, sample, found, palette)
    figure.savefig(file, dpi=100)


def _choose_examples(found: Found) -> list[Sample]:
    """Choose examples of training, one of each class first."""
    seen: Counter = Counter()
    ranked = []
    for i, sample in enumerate(found.splits['train']):
        labels = labels_of(sample)
        ranked.append((min((seen[x] for x in labels), default=i), i, sample))
        seen.update(labels)
    ranked.sort(key=lambda each: each[:2])
    return [sample for *_, sample in ranked[:EXAMPLES]]


def _draw(axis, image, sample: Sample, found: Found, palette) -> None:
    """Draw an image and its labels on matplotlib's axes."""
    from matplotlib.patches import Rectangle
    from pycocotools import mask as mask_utils

    shade = image.astype(np.float32)
    height, width = image.shape[:2]
    names = []
    if sample.label is not None:
        names = [found.classes[sample.label]]
    if sample.label_map and found.values:
        labels = read_labels(sample.label_map, found.values)
        shade = 0.5 * shade + 0.5 * palette[labels]
        names = [
            found.classes[label]
            for label in np.unique(labels).tolist()
            if label != IGNORED
        ]
    for box in sample.boxes or ():
        names.append(found.classes[box.label])
        colour = palette[box.label]
        if box.mask:
            rle = encode_mask(box.mask, height, width)
            inside = mask_utils.decode(rle) > 0
            shade[inside] = 0.5 * shade[inside] + 0.5 * colour
        corner = box.left, box.top
        sides = box.right - box.left, box.bottom - box.top
        axis.add_patch(
            Rectangle(corner, *sides, fill=False, color=colour / 255)
        )
    axis.imshow(shade.astype(np.uint8))
    title = ', '.join(dict.fromkeys(names)) or 'nothing'
    # matplotlib takes text between two dollars for formulas.
    axis.set_title(title[:40].replace('$', r'\$'), fontsize=9)
