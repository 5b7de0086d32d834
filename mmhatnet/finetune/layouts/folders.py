"""Folders of classes."""

from pathlib import Path
from typing import NamedTuple

from ..samples import Reading, Sample, sort_names
from .files import Files, split_of


class _Place(NamedTuple):
    """An image, the folders above it that are not explained, and its split."""

    path: Path
    folders: tuple[str, ...]
    split: str | None = None


def read_folders(files: Files) -> Reading | None:
    """Take the names of folders as the classes of the images in them.

    Above the classes there may be folders of splits, and folders that
    everything is in.

    Args:
        files (Files): The files.

    Returns:
        Reading, optional: The images; None if they are not in folders.
    """
    places = [_Place(path, path.parent.parts) for path in files.images]
    while True:
        names = {place.folders[0] for place in places if place.folders}
        if _are_splits(names):
            places = list(_take_splits(places, files))
        elif len(names) == 1 and all(len(p.folders) > 1 for p in places):
            places = [p._replace(folders=p.folders[1:]) for p in places]
        else:
            break
    if not names:
        return None
    classes = sort_names(names)
    numbers = {name: label for label, name in enumerate(classes)}
    samples = []
    for path, folders, split in places:
        if folders:
            label = numbers[folders[0]]
            samples.append(Sample(files.root / path, label, split=split))
        else:
            files.odd.add('images outside folders of classes, left out', path)
    return Reading('folders of classes', 'classification', classes, samples)


def _are_splits(names: set[str]) -> bool:
    """Whether folders are splits; a class may be named 'train', too."""
    found = [split_of(name) for name in names]
    known = {split for split in found if split}
    return bool(known) and (
        None not in found or len(known) > 1 and 'train' in known
    )


def _take_splits(places: list[_Place], files: Files):
    for path, folders, earlier in places:
        split = split_of(*folders[:1])
        if split:
            yield _Place(path, folders[1:], earlier or split)
        else:
            files.odd.add(
                'images outside the folders of splits, left out', path
            )
