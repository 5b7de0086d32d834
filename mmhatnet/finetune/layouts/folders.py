"""Folders of classes."""

from ..samples import Found, Sample
from .files import Files, split_of


def read_folders(files: Files) -> Found | None:
    """Take the names of folders as the classes of the images in them.

    Above the classes there may be folders of splits, and folders that
    everything is in. None if there are no folders.
    """
    # Image, the folders above it that are not explained, split.
    places = [(path, path.parent.parts, '') for path in files.images]
    while True:
        names = {folders[0] for _, folders, _ in places if folders}
        splits = _are_splits(names)
        # Images are directly in the only folder, or beside it.
        if not splits and (
            len(names) != 1 or any(len(x) < 2 for _, x, _ in places)
        ):
            break
        for path, folders, _ in places:
            if splits and not split_of(*folders[:1]):
                files.odd.add('outside', path)
        places = [
            (path, folders[1:], split or split_of(folders[0]) or '')
            for path, folders, split in places
            if not splits or split_of(*folders[:1])
        ]
    if not names:
        return None
    samples = []
    for path, folders, split in places:
        if folders:
            image, label = files.root / path, folders[0]
            samples.append(Sample(image, split or None, label=label))
        else:
            files.odd.add('outside', path)
    layout, task = 'folders of classes', 'classification'
    return Found(files.root, layout, task, samples, [])


def _are_splits(names: set[str]) -> bool:
    """Whether folders are splits; a class may be named 'train', too."""
    found = {split_of(name) for name in names}
    known = found - {None}
    return bool(known) and (
        None not in found or len(known) > 1 and 'train' in known
    )
