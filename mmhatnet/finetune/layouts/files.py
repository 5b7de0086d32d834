"""The files in a folder, and what their names say."""

import os
import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from unicodedata import normalize

from PIL import Image

from ...runtime.images import open_image, read_size
from ..samples import Oddities, Sample

# What OpenCV reads in every version.
IMAGES = {
    *('.jpg', '.jpeg', '.jpe', '.png', '.bmp', '.webp'),
    *('.tif', '.tiff', '.ppm', '.pgm'),
}
OTHER_IMAGES = {'.heic', '.heif', '.gif', '.avif', '.dng', '.cr2', '.nef'}
SPLIT_OF = {
    **dict.fromkeys(('train', 'training', 'trainval'), 'train'),
    **dict.fromkeys(('val', 'valid', 'validation', 'dev', 'eval'), 'val'),
    **dict.fromkeys(('test', 'testing'), 'test'),
}
# Words that may stand beside the name of a split.
BESIDE = {
    *('a', 'an', 'images', 'image', 'img', 'imgs', 'set', 'data', 'dataset'),
    *('labels', 'label', 'masks', 'mask', 'annot', 'annotations'),
}
# Files with the names of classes -> a name in a line.
NAMES = {
    **dict.fromkeys(
        ('classes.txt', '_classes.txt', 'labels.txt', 'obj.names'),
        r'(?m)^\s*(\S.*?)\s*$',
    ),
    '_classes.csv': r'(?m)^\d+, *(\S.*?)\s*$',  # roboflow: value, class
}
ERRORS = OSError, ValueError, SyntaxError, Image.DecompressionBombError


class Files:
    """The files of a folder, relative to it.

    Links are followed, hidden files are not read. ``odd`` gets what is odd,
    ``named`` the images that labels name.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.odd = root, Oddities()
        self.images: list[Path] = []
        self.named: set[Path] = set()
        self.others: dict[str, list[Path]] = defaultdict(list)
        self._named: dict[str, list[Path]] = defaultdict(list)
        self.size = cache(self._size)
        seen = set()

        def closed(error: OSError) -> None:
            self.odd.add('file', error.filename)

        for place, folders, names in os.walk(root, True, closed, True):
            real = os.path.realpath(place)
            if real in seen:  # a link leads to a folder that was read
                folders.clear()
                continue
            seen.add(real)
            if not folders and not names and place != str(root):
                self.odd.add('hollow', os.path.relpath(place, root))
            folders[:] = sorted(x for x in folders if x[0] not in '._')
            for name in sorted(names):
                if name[0] != '.' and name != 'Thumbs.db':
                    self._add(Path(os.path.relpath(place, root), name))

    def _add(self, path: Path) -> None:
        suffix = path.suffix.lower()
        # Lists have a name in each line, in UTF-8.
        name = str(path).encode('utf-8', 'ignore').decode()
        if name != str(path) or len(name.splitlines()) != 1:
            self.odd.add('name', ascii(path.name))
        elif not (self.root / path).is_file():
            self.odd.add('file', path, 'a link that leads nowhere')
        elif suffix in IMAGES:
            self.images.append(path)
            for key in {_key(path.name), _key(path.stem)}:
                self._named[key].append(path)
        else:
            self.others[suffix].append(path)
            if suffix in OTHER_IMAGES:
                self.odd.add('format', path)

    def with_name(self, name: str) -> list[Path]:
        """Find the images of a name, in any folder and of any suffix."""
        name = _key(re.split(r'[\\/]', name.strip())[-1])
        return self._named.get(name) or self._named.get(Path(name).stem) or []

    def sample(
        self, near: Path, split: str | None, *names: str
    ) -> Sample | None:
        """Find the image that a file of labels, ``near``, names for a split.

        A name is the end of a path. Its suffix may be missing, or that of
        before a conversion. Of several names, the first that leads to one
        image counts. None if there is no such image that can be read.
        """
        found = (self._find(name, near, split) for name in names)
        image = next(filter(None, found), None)
        if not image:
            if not self.with_name(names[0]):  # else it is ambiguous
                self.odd.add('alone', names[0])
            return None
        split, size = split or split_of(*image.parent.parts), self.size(image)
        return Sample(self.root / image, split, size) if size else None

    def _find(self, name: str, near: Path, split: str | None) -> Path | None:
        parts = _key(name.strip()).replace('\\', '/').split('/')

        def fit(path: Path) -> tuple:
            folders = [_key(part) for part in path.parent.parts[::-1]]
            return (
                len(os.path.commonprefix([folders, parts[-2::-1]])),
                split is not None and split_of(*path.parent.parts) == split,
                len(os.path.commonprefix([path.parts, near.parts])),
                path.name == name,
            )

        found = sorted(self.with_name(name), key=fit)
        if len(found) > 1 and fit(found[-1]) == fit(found[-2]):
            self.odd.add('ambiguous', name)
            self.named.update(found)
            return None
        self.named.update(found[-1:])
        return found[-1] if found else None

    def _size(self, path: Path) -> tuple[int, int] | None:
        """Read width and height from the header, as the libraries see them."""
        try:
            with open_image(self.root / path) as image:
                size = image.size
            known, turned = read_size(self.root / path)
        except ERRORS as error:
            self.odd.add('file', path, error)
            return None
        if turned:
            self.odd.add('turned', path)
        return known or size

    def text(self, path: Path) -> str:
        """Read a text in the encodings that programs of offices write."""
        content = (self.root / path).read_bytes()
        if content[:2] in (b'\xff\xfe', b'\xfe\xff'):
            return content.decode('utf-16', 'replace')
        try:
            return content.decode('utf-8-sig')
        except UnicodeDecodeError:
            return content.decode('cp1252', 'replace')

    def names(self) -> list[str]:
        """Read the names of the classes from classes.txt or the like."""
        for path in (
            x for y in ('.txt', '.names', '.csv') for x in self.others[y]
        ):
            if path.name.lower() in NAMES:
                return re.findall(NAMES[path.name.lower()], self.text(path))
        return []


def _key(name: str) -> str:
    """The same for all ways to write a name in Unicode."""
    return normalize('NFC', name)


def split_of(*names: str, strict: bool = True) -> str | None:
    """Read 'train', 'val' or 'test' from names, the outermost first.

    If strict, only words such as 'images' may be beside it.
    """
    for name in names:
        words = re.findall('[a-z]+', name.lower())
        words = [word.removesuffix('annot') or 'annot' for word in words]
        found = [SPLIT_OF[word] for word in words if word in SPLIT_OF]
        if found and not (strict and {*words} - {*SPLIT_OF} - BESIDE):
            return found[0]
    return None


def split_of_file(path: Path) -> str | None:
    """Read the split of the images in a file of labels from its place."""
    return split_of(*path.parent.parts) or split_of(path.stem, strict=False)
