"""The files in a folder, and what their names say."""

import os
import re
from collections import defaultdict
from pathlib import Path
from unicodedata import normalize

from PIL import Image

from ...datasets.inspection import read_size
from ...runtime.images import open_image
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
NAMES = 'classes.txt', '_classes.txt', 'labels.txt', 'obj.names'
MOST_BYTES = 1_000_000_000  # of a text
ERRORS = OSError, ValueError, SyntaxError, Image.DecompressionBombError


class Files:
    """The files of a folder, relative to it.

    Links are followed, hidden files are not read. ``odd`` gets what is odd.
    """

    def __init__(self, root: Path, odd: Oddities):
        self.root, self.odd = root, odd
        self.images: list[Path] = []
        # Images that are rotated when they are read, which their size does
        # not show; absolute, as in samples.
        self.turned: set[Path] = set()
        self.others: dict[str, list[Path]] = defaultdict(list)
        self._named: dict[str, list[Path]] = defaultdict(list)
        self._sizes: dict[Path, tuple[int, int] | None] = {}
        seen = set()

        def closed(error: OSError) -> None:
            odd.add('file', error.filename)

        for place, folders, names in os.walk(root, True, closed, True):
            real = os.path.realpath(place)
            if real in seen:  # a link leads to a folder that was read
                folders.clear()
                continue
            seen.add(real)
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

    def knows(self, name: str) -> bool:
        """Whether an image has this name, perhaps in another folder."""
        return bool(self._candidates(name))

    def _candidates(self, name: str) -> list[Path]:
        name = _key(re.split(r'[\\/]', name.strip())[-1])
        return self._named.get(name) or self._named.get(Path(name).stem) or []

    def sample(
        self, near: Path, split: str | None, *names: str
    ) -> Sample | None:
        """Find the image that a file of labels, ``near``, names for a split.

        A name is the end of a path. Its suffix may be missing, or that of
        before a conversion. Of several names, the first that leads to one
        image counts. Only an image that can be read has a size.
        """
        found = (self._find(name, near, split) for name in names)
        image = next(filter(None, found), None)
        if not image:
            if not self.knows(names[0]):  # else it is ambiguous
                self.odd.add('alone', names[0])
            return None
        split = split or split_of(*image.parent.parts)
        size = self.size(image)
        return Sample(self.root / image, size=size, split=split)

    def _find(self, name: str, near: Path, split: str | None) -> Path | None:
        parts = _key(name.strip()).replace('\\', '/').split('/')
        found = self._candidates(name)

        def fit(path: Path) -> tuple:
            folders = [_key(part) for part in path.parent.parts[::-1]]
            return (
                len(os.path.commonprefix([folders, parts[-2::-1]])),
                split is not None and split_of(*path.parent.parts) == split,
                len(os.path.commonprefix([path.parts, near.parts])),
                path.name == name,
            )

        ranked = sorted(found, key=fit)
        if len(found) > 1 and fit(ranked[-1]) == fit(ranked[-2]):
            self.odd.add('ambiguous', name)
            return None
        return ranked[-1] if found else None

    def size(self, path: Path) -> tuple[int, int] | None:
        """Read width and height from the header, as the libraries see them."""
        if path not in self._sizes:
            self._sizes[path] = None
            try:
                with open_image(self.root / path) as image:
                    size = image.size
                known, turned = read_size(self.root / path)
                self._sizes[path] = known or size
                if turned:
                    self.turned.add(self.root / path)
            except ERRORS as error:
                self.odd.add('file', path, error)
        return self._sizes[path]

    def text(self, path: Path) -> str:
        """Read a text in the encodings that programs of offices write."""
        if (self.root / path).stat().st_size > MOST_BYTES:
            raise ValueError(f'{path} is larger than 1 GB')
        content = (self.root / path).read_bytes()
        if content[:2] in (b'\xff\xfe', b'\xfe\xff'):
            return content.decode('utf-16', 'replace')
        try:
            return content.decode('utf-8-sig')
        except UnicodeDecodeError:
            return content.decode('cp1252', 'replace')

    def names(self) -> list[str]:
        """Read the names of the classes from classes.txt or the like."""
        for path in (*self.others['.txt'], *self.others['.names']):
            if path.name.lower() in NAMES:
                lines = map(str.strip, self.text(path).splitlines())
                return [line for line in lines if line]
        for path in self.others['.csv']:  # roboflow: value, class
            if path.name == '_classes.csv':
                text = self.text(path)
                return re.findall(r'(?m)^\d+, *(\S.*?) *$', text)
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
