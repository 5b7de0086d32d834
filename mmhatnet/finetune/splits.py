"""The split of a data set into training, validation and test."""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from networkx.utils import UnionFind  # comes with torch
from PIL import Image

from ..runtime.images import open_image
from .layouts.files import ERRORS, UNREADABLE, Files
from .samples import Oddities, Reading, Sample

SHARE = 0.2  # of the images for validation
# Of larger data sets, not all files are read before the training.
MANY_FILES, MANY_PIXELS = 20_000, 1_000_000_000
SAMPLED = 2000  # images of many files
# What programs that augment images add to their names.
AUGMENTED = re.compile(
    r'((_(jpe?g|png|bmp|webp|tiff?))?\.rf\.[0-9a-zA-Z]+|'
    r'[-_](aug(mented)?|[hv]?flip(ped)?|rot(ated?)?\d*|crop(ped)?|bright|'
    r'noise|blur|copy)([-_]?\d+)*)+$'
)
LOOK = 17, 16  # width and height in pixels
MOST_BITS = 20  # of 256 that differ between copies
MOST_ALIKE = 10


def drop_unreadable(reading: Reading, files: Files) -> dict[Path, np.ndarray]:
    """Drop images that cannot be read, and look at the others.

    Args:
        reading (Reading): The data set; changed in place.
        files (Files): Its files.

    Returns:
        dict[Path, ndarray]: Image -> its look, about the same for copies in
        other sizes and qualities; empty for large data sets.
    """
    samples = reading.samples[:: -(-len(reading.samples) // MANY_FILES) or 1]
    pixels = 0
    broken = set()
    for sample in samples:
        size = files.size(sample.image.relative_to(files.root))
        pixels += size[0] * size[1] if size else 0
        if not size:
            broken.add(sample.image)
    looks = {}
    whole = len(reading.samples)
    step = max(1, -(-pixels // MANY_PIXELS))
    if whole > MANY_FILES:
        step = max(step, whole // SAMPLED)
    decoded = reading.samples[::step]
    if step > 1:
        files.odd.add(
            'only some images were decoded to find damaged ones, and copies '
            'were not searched by their look',
            f'{len(decoded)} of {whole}',
        )
    for sample in decoded:
        if sample.image in broken:
            continue
        try:
            looks[sample.image] = _look(sample.image)
        except ERRORS as error:
            broken.add(sample.image)
            name = sample.image.relative_to(files.root)
            files.odd.add(UNREADABLE, f'{name} ({error!s:.100})')
    reading.samples = [s for s in reading.samples if s.image not in broken]
    return looks if step == 1 else {}


def _look(path: Path) -> np.ndarray:
    """Decode an image: 1 where it is brighter than to the right, else -1."""
    with open_image(path) as image:
        image.load()
        small = image.convert('L').resize(LOOK, Image.Resampling.BOX)
    pixels = np.asarray(small).astype(np.int16)
    brighter = pixels[:, :-1] > pixels[:, 1:]
    return np.where(brighter, 1, -1).astype(np.float32).ravel()


def _find_alike(looks: dict[Path, np.ndarray]) -> Iterator[tuple[Path, Path]]:
    """Find pairs of images that look alike, but for few bits."""
    paths = list(looks)
    every = np.array(list(looks.values()))
    for start in range(0, len(paths), 1000):
        products = every[start : start + 1000] @ every.T
        close = products >= every.shape[1] - 2 * MOST_BITS
        # Plain images look like many others.
        close[close.sum(1) > MOST_ALIKE] = False
        for first, second in np.argwhere(close).tolist():
            yield paths[start + first], paths[second]


def digest(path: Path) -> str:
    """Compute a hash of a file, of a large one by three of its parts."""
    part = 1 << 16
    with open(path, 'rb') as file:
        size = file.seek(0, 2)
        found = hashlib.sha256(str(size).encode())
        for start in sorted({0, max(0, size // 2), max(0, size - part)}):
            file.seek(start)
            found.update(file.read(part))
    return found.hexdigest()


def make_splits(
    reading: Reading,
    looks: dict[Path, np.ndarray],
    files: Files,
    seed: int = 0,
) -> dict[str, list[Sample]]:
    """Take the split that the folder has, and make what is missing.

    Copies of one photograph stay together: the same bytes, names that differ
    by what programs add when they augment images, and, in small data sets,
    the same look.

    Args:
        reading (Reading): The data set.
        looks (dict[Path, np.ndarray]): As from :func:`drop_unreadable`.
        files (Files): Its files; gets what is odd.
        seed (int): Another one gives another split. Defaults to 0.

    Returns:
        dict[str, list[Sample]]: 'train', 'val' and perhaps 'test'.

    Raises:
        ValueError: If nothing is there for training or validation.
    """
    odd = files.odd
    splits: dict[str, list[Sample]] = defaultdict(list)
    stated = any(sample.split for sample in reading.samples)
    for sample in reading.samples:
        if stated and not sample.split:
            odd.add(
                'images that belong to no split, added to train',
                sample.image.name,
            )
        splits[sample.split or 'train'].append(sample)
    if not splits['train']:
        raise ValueError(
            f'there are images for {" and ".join(filter(splits.get, splits))},'
            ' but none for training: name their folder train, or remove the '
            'folders of splits, and a split is made'
        )
    few = len(reading.samples) <= MANY_FILES
    hashes = {
        sample.image: digest(sample.image)
        if few
        else os.path.relpath(sample.image, files.root)
        for sample in reading.samples
    }
    if stated and few:
        _note_leaks(splits, hashes, odd)
    if not splits['val']:
        train, val = _divide(splits['train'], hashes, looks, odd, seed)
        splits['train'], splits['val'] = train, val
        if stated:
            odd.add(
                'a validation split is made of train', f'{len(val)} images'
            )
        else:
            odd.add('a split is made', f'{len(train)} and {len(val)} images')
    return {
        name: splits[name] for name in ('train', 'val', 'test') if splits[name]
    }


def _note_leaks(splits: dict, hashes: dict[Path, str], odd: Oddities) -> None:
    known = {hashes[sample.image] for sample in splits['train']}
    for split in ('val', 'test'):
        for sample in splits[split]:
            if hashes[sample.image] in known:
                odd.add(
                    f'images of {split} that are in train, too, so that the '
                    'score is too good; remove them from one',
                    sample.image.name,
                )


def _divide(
    samples: list[Sample],
    hashes: dict[Path, str],
    looks: dict[Path, np.ndarray],
    odd: Oddities,
    seed: int,
) -> tuple[list[Sample], list[Sample]]:
    """Divide samples into groups of copies, and these by their hashes."""
    if len(samples) < 2:
        raise ValueError(
            'there is one image that can be used: training and validation '
            'need two at least, and better a hundred'
        )
    groups = _group(samples, hashes, looks)
    if len(groups) == 1:
        odd.add(
            'all images seem to come from one photograph, so the score '
            'says little',
            samples[0].image.name,
        )
        groups = [[sample] for sample in samples]
    copies = len(samples) - len(groups)
    if copies:
        odd.add('copies of other images, kept in one split', f'{copies}')
    counts = Counter(label for s in samples for label in labels_of(s))
    strata = defaultdict(list)
    for group in groups:
        labels = {label for sample in group for label in labels_of(sample)}
        rarest = min(labels, key=lambda x: (counts[x], x), default=-1)
        order = min(hashes[sample.image] for sample in group)
        order = hashlib.sha256(f'{seed} {order}'.encode()).hexdigest()
        strata[rarest].append((order, group))
    chosen: set[Path] = set()
    for stratum in strata.values():
        whole = sum(len(group) for _, group in stratum)
        # At least one group for each of the splits.
        wanted = max(1, round(SHARE * whole)) if len(stratum) > 1 else 0
        taken = 0
        for _, group in sorted(stratum, key=lambda item: item[0])[:-1]:
            # A large group, as of tiles of one photograph, is for training.
            if taken < wanted and taken + len(group) <= 2 * wanted:
                chosen.update(sample.image for sample in group)
                taken += len(group)
    if not chosen:
        chosen = {s.image for s in min(groups, key=len)}
    train = [s for s in samples if s.image not in chosen]
    return train, [s for s in samples if s.image in chosen]


def labels_of(sample: Sample) -> set[int]:
    """Get the labels of an image or of its objects.

    Args:
        sample (Sample): The image.

    Returns:
        set[int]: The labels; empty for label maps, which are not read.
    """
    own = set() if sample.label is None else {sample.label}
    return own | {box.label for box in sample.boxes or ()}


def _group(
    samples: list[Sample],
    hashes: dict[Path, str],
    looks: dict[Path, np.ndarray],
) -> list[list[Sample]]:
    """Group copies of one photograph."""
    sets = UnionFind()
    for sample in samples:
        path = sample.image
        name = AUGMENTED.sub('', path.stem)
        sets.union(path, hashes[path], (path.parent, name))
    for pair in _find_alike(
        {s.image: looks[s.image] for s in samples if looks}
    ):
        sets.union(*pair)
    groups = defaultdict(list)
    for sample in samples:
        groups[sets[sample.image]].append(sample)
    return list(groups.values())
