"""Images with label maps, pictures that have a class for each pixel."""

import re
from collections import Counter
from pathlib import Path

import numpy as np

from ...runtime.images import open_image
from ..samples import IGNORED, Reading, Sample
from .files import ERRORS, Files, split_of

# Folders and names of images and of label maps.
OF_LABELS = re.compile(
    r'^(.*?)[-_. ]?(masks?|labels?|label_?maps?|annotations?|annots?|gt|'
    r'ground_?truth|segmentation(class|_?masks?|s)?|seg|(gtFine_)?labelIds)$',
    re.IGNORECASE,
)
OF_IMAGES = re.compile(
    r'^(.*?)[-_. ]?(jpegimages|images?|imgs?|pictures?|photos?|rgb|'
    r'leftImg8bit)$',
    re.IGNORECASE,
)
# A line of a table of colours: the name is before or after.
COLOUR = re.compile(
    r'^\s*(?P<name>[^,;:\t]*[^\W\d][^,;:\t]*?)[\s,;:]+'
    r'(\d+)[\s,;]+(\d+)[\s,;]+(\d+)\b|'
    r'^\s*(\d+)[\s,;]+(\d+)[\s,;]+(\d+)[\s,;:]+(?P<last>[^\W\d].*?)\s*$'
)
MOST_READ = 1000  # label maps that tell the classes
COLOURED = 1 << 24  # added to the values of pixels that are not grey
MOST_BYTES = 100_000  # of a table of colours
LOSSY = {'.jpg', '.jpeg', '.jpe'}
DENSE = 64  # classes have smaller numbers where 255 is not one of them


def read_label_maps(files: Files) -> Reading | None:
    """Pair images with the label maps that have the same name.

    Args:
        files (Files): The files.

    Returns:
        Reading, optional: The images; None without label maps.

    Raises:
        ValueError: If their values are not those of classes.
    """
    images: dict[tuple, Path] = {}
    maps: dict[tuple, Path] = {}
    double: list[Path] = []
    others = [p for p in files.others['.gif'] if _key(p)[1]]
    for path in (*files.images, *others):
        key, labels = _key(path)
        place = maps if labels else images
        if place.setdefault(key, path) != path:
            double.append(path)
    _match_names(images, maps)
    pairs = {image: maps[key] for key, image in images.items() if key in maps}
    if not pairs:
        return None
    for path in double:
        files.odd.add('images or label maps of the same name, left out', path)
    for key in images.keys() - maps.keys():
        files.odd.add('images without label map, left out', images[key])
    for key in maps.keys() - images.keys():
        files.odd.add('label maps without image, left out', maps[key])
    samples = []
    for image, label_map in pairs.items():
        size, own = files.size(image), _size(files, label_map)
        if size and own and size != own:
            files.odd.add(
                'label maps that have another size than their image, left out',
                f'{label_map}, {own[0]}x{own[1]} and not {size[0]}x{size[1]}',
            )
        elif size and own:
            samples.append(
                Sample(
                    files.root / image,
                    label_map=files.root / label_map,
                    size=size,
                    split=split_of(*image.parent.parts),
                )
            )
    values, classes = _find_classes(samples, files) if samples else ({}, [])
    return Reading('label maps', 'segmentation', classes, samples, values)


def _key(path: Path) -> tuple[tuple[str, ...], bool]:
    """What an image and its label map share, and whether it is one."""
    key, labels = [], False
    for part in (*path.parent.parts, path.stem):
        found = OF_LABELS.match(part)
        labels = labels or bool(found)
        found = found or OF_IMAGES.match(part)
        key.append(found[1] if found else part)
    return tuple(filter(None, key)), labels


def _match_names(images: dict[tuple, Path], maps: dict[tuple, Path]) -> None:
    """Pair those whose folders differ by their names, if these are unique."""
    counts = Counter(key[-1:] for key in maps)
    ours = Counter(key[-1:] for key in images)
    keys = {key[-1:]: key for key in images if key not in maps}
    for key in maps.keys() - images.keys():
        name = key[-1:]
        other = keys.get(name, key)  # of the classes helmet and mask, as long
        if len(other) < len(key) and counts[name] == ours[name] == 1:
            maps[other] = maps.pop(key)


def _size(files: Files, path: Path) -> tuple[int, int] | None:
    try:
        with open_image(files.root / path) as image:
            return image.size
    except ERRORS as error:
        files.odd.add(
            'label maps that cannot be read, left out',
            f'{path} ({error!s:.100})',
        )
        return None


def read_values(path: Path) -> np.ndarray:
    """Read the values in a label map.

    Args:
        path (Path): The file.

    Returns:
        ndarray: (H, W), the grey levels, indices of the palette, or
        COLOURED + 65536 R + 256 G + B where a pixel is not grey. JPEG has
        only the values 0 and 255.

    Raises:
        ValueError: If it cannot be read.
    """
    try:
        with open_image(path) as image:
            if path.suffix.lower() in LOSSY:
                image = image.convert('L').point(lambda v: 255 * (v > 127))
            elif len(image.getbands()) > 1:
                image = image.convert('RGB')
            pixels = np.asarray(image).astype(np.int64)
    except ERRORS as error:
        raise ValueError(f'{path}: {error!s:.200}') from error
    if pixels.ndim == 2:
        return pixels
    red, green, blue = np.moveaxis(pixels, -1, 0)
    grey = (red == green) & (green == blue)
    return np.where(grey, red, COLOURED + (red << 16) + (green << 8) + blue)


def read_labels(path: Path, values: dict[int, int]) -> np.ndarray:
    """Read a label map.

    Args:
        path (Path): The file.
        values (dict[int, int]): Its values, as from :func:`read_values` ->
            label.

    Returns:
        ndarray: (H, W), uint8; IGNORED for other values.

    Raises:
        ValueError: If it cannot be read.
    """
    pixels = read_values(path)
    found, where = np.unique(pixels, return_inverse=True)
    labels = [values.get(value, IGNORED) for value in found.tolist()]
    return np.array(labels, np.uint8)[where].reshape(pixels.shape)


def _find_classes(
    samples: list[Sample], files: Files
) -> tuple[dict[int, int], list[str]]:
    """Find the values that are classes, and their names."""
    step = -(-len(samples) // MOST_READ) or 1
    seen: Counter = Counter()
    for sample in samples[::step]:
        assert sample.label_map is not None
        try:
            seen.update(np.unique(read_values(sample.label_map)).tolist())
        except ValueError as error:
            files.odd.add('label maps that cannot be read, left out', error)
            samples.remove(sample)
        if len(seen) > IGNORED:
            raise ValueError(
                f'{sample.label_map} and others have more than {IGNORED} '
                'different values: a label map has one value for each class'
            )
    values = sorted(seen)
    if len(values) == 1:
        raise ValueError(
            f'all label maps have the value {_name(values[0])} only: a model '
            'can learn two classes or more'
        )
    if any(s.label_map and s.label_map.suffix in LOSSY for s in samples):
        files.odd.add(
            'JPEG changes the values of label maps, so dark and light are '
            'the two classes; PNG keeps them',
            samples[0].label_map,
        )
    colours = _read_colours(files)
    if any(value >= COLOURED for value in values):
        names = [colours.get(value, _name(value)) for value in values]
        return {value: label for label, value in enumerate(values)}, names
    rest = [value for value in values if value != IGNORED]
    if len(rest) > 1 and rest[-1] < max(DENSE, 2 * len(rest)) < IGNORED:
        values = rest  # 255 is where nothing was labelled
    return _name_values(values, files)


def _name_values(
    values: list[int], files: Files
) -> tuple[dict[int, int], list[str]]:
    names = files.names()
    last = values[-1]
    if last < len(names):
        return {value: value for value in range(len(names))}, names
    if last == len(names) and 0 in values:
        names = ['background', *names]
        return {value: value for value in range(len(names))}, names
    numbers = {value: label for label, value in enumerate(values)}
    if last == len(names):
        return {value: value - 1 for value in range(1, last + 1)}, names
    if len(names) == len(values):
        return numbers, names
    if names:
        files.odd.add(
            'classes.txt does not fit the values of the label maps, so '
            'numbers are used',
            f'{len(names)} names, {len(values)} values up to {last}',
        )
    if len(values) == 2 and values[0] == 0:
        return numbers, ['background', 'foreground']
    return numbers, [str(value) for value in values]


def _name(value: int) -> str:
    if value < COLOURED:
        return str(value)
    return f'#{value - COLOURED:06x}'


def _read_colours(files: Files) -> dict[int, str]:
    """Read a table of colours: value -> name."""
    found = {}
    for path in (*files.others['.txt'], *files.others['.csv']):
        if (files.root / path).stat().st_size > MOST_BYTES:
            continue
        for line in files.text(path).splitlines()[:IGNORED]:
            match = COLOUR.match(line)
            if match:
                numbers = [int(x) for x in match.groups() if _is_level(x)]
                red, green, blue = (numbers + [0, 0, 0])[:3]
                name = match['name'] or match['last']
                value = COLOURED + (red << 16) + (green << 8) + blue
                found[red if red == green == blue else value] = name.strip()
    return found


def _is_level(text: str | None) -> bool:
    return bool(text) and str(text).isdecimal()
