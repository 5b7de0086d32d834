"""Images with label maps, pictures that have a class for each pixel."""

import re
from pathlib import Path

import numpy as np

from ...runtime.images import open_image
from ..samples import IGNORED, Found, Sample
from .files import ERRORS, Files, split_of

# Folders and names of images and of label maps.
OF_LABELS = re.compile(
    r'(?i)(.*?)[-_. ]?(masks?|labels?|label_?maps?|annotations?|annots?|gt|'
    r'ground_?truth|segmentation(class|_?masks?|s)?|seg|trimaps|'
    r'(gtFine_)?labelIds)$'
)
OF_IMAGES = re.compile(
    r'(?i)(.*?)[-_. ]?((jpeg)?images?|imgs?|pictures?|photos?|rgb|'
    r'leftImg8bit)$'
)
# A line of a table of colours.
COLOUR = re.compile(
    r'(?m)^\s*([^,;:\t\n]*[^\W\d][^,;:\t\n]*?)[ \t,;:]+'
    r'(\d{1,3})[ \t,;]+(\d{1,3})[ \t,;]+(\d{1,3})\b'
)
SOFT = 8  # more values up to 255 may be soft edges
MOST_READ = 1000  # label maps that tell the classes
COLOURED = 1 << 24  # added to the values of pixels that are not grey
MOST_BYTES = 100_000  # of a table of colours
LOSSY = {'.jpg', '.jpeg', '.jpe'}
DENSE = 64  # classes have smaller numbers where 255 is not one of them


def read_label_maps(files: Files) -> Found | None:
    """Pair images with the label maps that have the same name.

    None without label maps.
    """
    images: dict[tuple, Path] = {}
    maps: dict[tuple, Path] = {}
    double = []
    for path in files.images:
        key, labels = _key(path)
        if (maps if labels else images).setdefault(key, path) != path:
            double.append(path)
    if not images.keys() & maps.keys():
        return None
    for path in double:
        files.odd.add('double', path)
    samples = []
    for key, image in images.items():
        if key not in maps:
            files.odd.add('unlabelled', image)
            continue
        path = maps.pop(key)
        if path.suffix.lower() in LOSSY:
            raise ValueError(
                f'{path} is a JPEG, which changes values: save label maps as '
                'PNG'
            )
        size, own = files.size(image), files.size(path)
        if size and own and size != own:
            files.odd.add('size', path, '{}x{}, not {}x{}'.format(*own, *size))
        elif size and own:
            sample = Sample(files.root / image, split_of(*image.parts[:-1]))
            sample.size, sample.label_map = size, files.root / path
            samples.append(sample)
    for path in maps.values():
        files.odd.add('alone', path)
    values = _find_values(samples, files)
    names = _name_values(values, files)
    numbers = {value: label for label, value in enumerate(names)}
    task, classes = 'segmentation', [*names.values()]
    return Found(files.root, 'label maps', task, samples, classes, numbers)


def _key(path: Path) -> tuple[tuple[str, ...], bool]:
    """What an image and its label map share, and whether it is one."""
    key, labels = [], False
    for part in (*path.parent.parts, path.stem):
        found = OF_LABELS.match(part)
        labels = labels or bool(found)
        found = found or OF_IMAGES.match(part)
        key.append(found[1] if found else part)
    return tuple(filter(None, key)), labels


def _combine(
    red: int | np.ndarray, green: int | np.ndarray, blue: int | np.ndarray
) -> np.ndarray:
    """The value of a colour: a grey level, or COLOURED and more."""
    grey = (red == green) & (green == blue)
    return np.where(grey, red, COLOURED + (red << 16) + (green << 8) + blue)


def _read_values(path: Path) -> np.ndarray:
    """Read a label map, (H, W): grey levels, indices of a palette, colours."""
    try:
        with open_image(path) as image:
            if len(image.getbands()) > 1:
                image = image.convert('RGB')
            pixels = np.asarray(image).astype(np.int64)
    except ERRORS as error:
        raise ValueError(f'{path}: {error!s:.200}') from error
    return (
        pixels if pixels.ndim == 2 else _combine(*np.moveaxis(pixels, -1, 0))
    )


def read_labels(path: Path, values: dict[int, int]) -> np.ndarray:
    """Read a label map: (H, W), uint8; IGNORED for unknown values.

    ValueError if it cannot be read.
    """
    pixels = _read_values(path)
    found, where = np.unique(pixels, return_inverse=True)
    labels = [values.get(value, IGNORED) for value in found.tolist()]
    return np.array(labels, np.uint8)[where].reshape(pixels.shape)


def _find_values(samples: list[Sample], files: Files) -> list[int]:
    """Find the values that are classes."""
    seen: set[int] = set()
    for sample in samples[:: -(-len(samples) // MOST_READ) or 1]:
        try:
            seen.update(np.unique(_read_values(sample.label_map)).tolist())
        except ValueError as error:
            files.odd.add('file', sample.label_map, error)
            samples.remove(sample)
        if len(seen) > IGNORED:
            raise ValueError(
                f'the label maps up to {sample.label_map} have more than '
                f'{IGNORED} different values: save them as PNG, with one '
                'value for each class and no soft edges'
            )
    if len(seen) == 1:
        raise ValueError(
            f'all label maps have the value {_name(max(seen))} only: a model '
            'can learn two classes or more'
        )
    rest = sorted(seen - {IGNORED})
    if len(rest) > 1 and rest[-1] < max(DENSE, 2 * len(rest)) < IGNORED:
        return rest  # 255 is where nothing was labelled
    if len(seen) > SOFT and {0, IGNORED} <= seen and max(seen) == IGNORED:
        files.odd.add('soft', f'{len(seen)} values')
    return sorted(seen)


def _name_values(values: list[int], files: Files) -> dict[int, str]:
    """Name the values that are classes, also those of no label map."""
    names, last = files.names(), max(values, default=0)
    if last >= COLOURED:
        colours = _read_colours(files)
        return {
            value: colours.get(value, _name(value, True)) for value in values
        }
    if last == len(names) and 0 in values:
        names = ['background', *names]
    first = int(last == len(names))
    if last < len(names) + first:
        return dict(enumerate(names, first))
    if names and len(names) != len(values):
        files.odd.add('names', f'{len(names)} names, values up to {last}')
        names = []
    if not names and len(values) == 2 and values[0] == 0:
        names = ['background', 'foreground']
    return dict(zip(values, names or map(str, values), strict=True))


def _name(value: int, as_colour: bool = False) -> str:
    if value < COLOURED and not as_colour:
        return str(value)
    return '#{:02x}{:02x}{:02x}'.format(*to_colour(value))


def to_colour(value: int) -> tuple[int, int, int]:
    """The red, green and blue of a value, which may be a grey level."""
    if value < COLOURED:
        return value, value, value
    return value >> 16 & 255, value >> 8 & 255, value & 255


def _read_colours(files: Files) -> dict[int, str]:
    """Read tables of colours: value -> name."""
    return {
        int(_combine(*map(int, colour))): name.strip()
        for path in (*files.others['.txt'], *files.others['.csv'])
        if (files.root / path).stat().st_size <= MOST_BYTES
        for name, *colour in COLOUR.findall(files.text(path))
    }
