"""The split of a data set into training, validation and test."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
from networkx.utils import UnionFind  # comes with torch
from PIL import Image

from ..runtime.images import open_image
from .layouts.files import ERRORS, Files
from .samples import Found, Oddities, Sample

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
Looks = dict[Path, np.ndarray]


def drop_unreadable(found: Found, files: Files) -> Looks:
    """Drop images that cannot be read, and look at the others.

    The looks are about the same for copies in other sizes and qualities. They
    are empty for large data sets.
    """
    names = {s.image: s.image.relative_to(files.root) for s in found.samples}
    images, whole = [*names], len(names)
    step = -(-whole // SAMPLED) if whole > MANY_FILES else 1
    sizes = {image: files.size(names[image]) for image in images[::step]}
    pixels = sum(prod(size) for size in sizes.values() if size)
    step *= max(1, -(-pixels // MANY_PIXELS))
    looks = {}
    for image in images[::step]:
        try:
            if sizes[image]:
                looks[image] = _look(image)
        except ERRORS as error:
            sizes[image] = None
            files.odd.add('file', names[image], error)
    found.samples = [s for s in found.samples if sizes.get(s.image, True)]
    for sample in found.samples:
        sample.size = sizes.get(sample.image) or sample.size
    if step == 1:
        return looks
    files.odd.add('sampled', f'{len(looks)} of {whole}')
    return {}


def _look(path: Path) -> np.ndarray:
    """Decode an image: 1 where it is brighter than to the right, else -1."""
    with open_image(path) as image:
        image.load()
        small = image.convert('L').resize(LOOK, Image.Resampling.BOX)
    brighter = np.diff(np.asarray(small, np.int16)) < 0
    return np.where(brighter, 1, -1).astype(np.float32).ravel()


def _find_alike(looks: Looks) -> Iterator[tuple[Path, Path]]:
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


def _digest(path: Path) -> str:
    """Compute a hash of a file, of a large one by three of its parts."""
    part = 1 << 16
    with open(path, 'rb') as file:
        size = file.seek(0, 2)
        found = hashlib.sha256(str(size).encode())
        for start in sorted({0, max(0, size // 2), max(0, size - part)}):
            file.seek(start)
            found.update(file.read(part))
    return found.hexdigest()


def make_splits(found: Found, looks: Looks, files: Files, seed: int) -> None:
    """Take the split that the folder has, and make what is missing.

    Copies of one photograph stay together: the same bytes, names that differ
    by what programs add when they augment images, and, in small data sets,
    the same look. ValueError if nothing is there for training or validation.
    """
    odd, samples, stated = files.odd, found.samples, [*found.splits]
    if stated and 'train' not in stated:
        raise ValueError(
            f'there are images for {" and ".join(stated)}, but none for '
            'training: name their folder train, or remove the folders of '
            'splits, and a split is made'
        )
    for sample in samples:
        if stated and not sample.split:
            odd.add('no_split', sample.image.name)
        sample.split = sample.split or 'train'
    few = len(samples) <= MANY_FILES
    hashes = {
        s.image: _digest(s.image)
        if few
        else f'{s.image.relative_to(found.root)}'
        for s in samples
    }
    train = found.splits['train']
    known = {hashes[sample.image] for sample in train}
    for sample in samples:
        if sample.split != 'train' and hashes[sample.image] in known:
            odd.add('leaks', sample.image.name)
    if 'val' not in stated:
        chosen = _choose(_group(train, hashes, looks, odd), hashes, seed)
        for sample in chosen:
            sample.split = 'val'
        odd.add('split', f'{len(chosen)} are for validation')
    learned = set().union(*(x.labels for x in found.splits['train']))
    for label, name in enumerate(found.classes):
        if learned and label not in learned:  # those of label maps are unknown
            odd.add('unlearned', name)


def _group(
    samples: list[Sample], hashes: dict[Path, str], looks: Looks, odd: Oddities
) -> list[list[Sample]]:
    """Group copies of one photograph."""
    if len(samples) < 2:
        raise ValueError(
            'there is one image that can be used: training and validation '
            'need two at least, and better a hundred'
        )
    sets = UnionFind()
    for path in (sample.image for sample in samples):
        name = AUGMENTED.sub('', path.stem)
        sets.union(path, hashes[path], (path.parent, name))
    for pair in _find_alike(
        {x.image: looks[x.image] for x in samples if looks}
    ):
        sets.union(*pair)
    groups = defaultdict(list)
    for sample in samples:
        groups[sets[sample.image]].append(sample)
    if len(groups) == 1:
        odd.add('one', samples[0].image.name)
        return [[sample] for sample in samples]
    if len(groups) < len(samples):
        odd.add('copies', len(samples) - len(groups))
    return list(groups.values())


def _choose(
    groups: list[list[Sample]], hashes: dict[Path, str], seed: int
) -> list[Sample]:
    """Choose about a fifth of the images, SHARE, for validation.

    Groups are sorted by hashes within the rarest class of each. A class with
    a single group stays in training.
    """

    def order(group: list[Sample]) -> str:
        first = min(hashes[sample.image] for sample in group)
        return hashlib.sha256(f'{seed} {first}'.encode()).hexdigest()

    counts = Counter(x for group in groups for s in group for x in s.labels)
    strata = defaultdict(list)
    for group in sorted(groups, key=order):
        labels = set().union(*(sample.labels for sample in group))
        rarest = min(labels, key=lambda x: (counts[x], x), default=-1)
        strata[rarest].append(group)
    chosen: list[Sample] = []
    for stratum in strata.values():
        # The last group is for training.
        wanted, taken = max(1, round(SHARE * sum(map(len, stratum)))), 0
        for group in stratum[:-1]:
            # A large group, as of tiles of one photograph, is for training.
            if taken < wanted and taken + len(group) <= 2 * wanted:
                chosen += group
                taken += len(group)
    return chosen or min(groups, key=len)
