"""The images that a command predicts for, and the files of its results.

Like ``runtime``, it imports neither torch nor mm.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from glob import glob
from itertools import chain, count
from pathlib import Path

import numpy as np
from PIL import Image

from ..runtime.results import caption
from ..utils.atomic import check_folder, replacing

# Suffixes of results: the picture, the data, the labels of pixels.
SUFFIXES = ('.png', '.json', '_labels.png')
EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')


def find_images(places: Sequence[str]) -> list[Path]:
    """Find the images in files, folders and patterns.

    Args:
        places (Sequence[str]): Files, folders (without their subfolders) and
            patterns such as ``'data/*.jpg'``.

    Returns:
        list[Path]: The files in the order of ``places``, without duplicates.

    Raises:
        FileNotFoundError: If one of the places has no image.
    """
    return list(dict.fromkeys(chain.from_iterable(map(_find, places))))


def _find(place: str) -> list[Path]:
    path = Path(os.path.expanduser(place))  # also of an unknown user
    if path.is_file():
        return [path]
    inside = (
        path.iterdir() if path.is_dir() else glob(str(path), recursive=True)
    )
    files = [file for file in sorted(map(Path, inside)) if file.is_file()]
    images = [file for file in files if file.suffix.lower() in EXTENSIONS]
    if not images:
        raise FileNotFoundError(
            f'no image at {place}: give files, folders or patterns of '
            f'{", ".join(EXTENSIONS)}'
        )
    others = set(files).difference(images)
    if others:
        kinds = Counter(file.suffix or 'without a suffix' for file in others)
        named = ', '.join(f'{n} {kind}' for kind, n in kinds.most_common(4))
        print(
            f'{place}: {len(others)} files are left out ({named}): to use '
            'one of them, give its name',
            file=sys.stderr,
        )
    return images


def unique_names(paths: Sequence[Path], out_dir: Path) -> Iterator[str]:
    """Find a name for the results of each image.

    Args:
        paths (Sequence[Path]): The images.
        out_dir (Path): The folder for the results, name + SUFFIXES.

    Yields:
        str: ``<stem>``, or ``<stem>_2`` and so on if a result would have the
        name of an image or of another result.
    """
    taken = {path.resolve() for path in paths}
    for path in paths:
        for number in count(1):
            # Names have up to 255 bytes, and results longer suffixes.
            stem = os.fsdecode(os.fsencode(path.stem)[:200])
            name = stem + (f'_{number}' if number > 1 else '')
            targets = {
                (out_dir / f'{name}{suffix}').resolve() for suffix in SUFFIXES
            }
            if targets.isdisjoint(taken):
                break
        taken |= targets
        yield name


def summarize(result: dict) -> str:
    """Summarize a result in a line.

    Args:
        result (dict): As from :meth:`OnnxModel.predict`.

    Returns:
        str: The objects, or the three likeliest or largest classes.
    """
    if 'objects' in result:
        names = [found['name'] for found in result['objects']]
        counts = [
            f'{names.count(name)} {name}' for name in dict.fromkeys(names)
        ]
        return ', '.join(counts) or 'nothing'
    return ', '.join(map(caption, result['classes'][:3]))


def predict_all(
    load: Callable[[], Callable[[Path], tuple]],
    places: Sequence[str],
    out_dir: Path,
    overwrite: bool = False,
) -> str | None:
    """Predict for images and save the results, with a progress display.

    Args:
        load (Callable): Loads the model, once the images are found; returns a
            function that predicts for a file like :meth:`OnnxModel.predict`.
        places (Sequence[str]): As for :func:`find_images`.
        out_dir (Path): The folder for the results; created if absent.
        overwrite (bool): Replace results that exist. Defaults to False.

    Returns:
        str, optional: How many images were skipped, if any.

    Raises:
        FileExistsError: If a result exists and must not be replaced.
        FileNotFoundError: If a place has no image.
        NotADirectoryError: If ``out_dir`` is a file.
    """
    paths = find_images(places)
    names = list(unique_names(paths, out_dir))
    targets = (out_dir / f'{n}{suffix}' for n in names for suffix in SUFFIXES)
    existing = next((target for target in targets if target.exists()), None)
    if existing and not overwrite:
        raise FileExistsError(
            f'{existing} exists: choose another --out-dir, or give --overwrite'
        )
    check_folder(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    predict = load()
    skipped = 0
    progress = _progress(paths)
    say = getattr(progress, 'write', print)
    for path, name in zip(progress, names, strict=True):
        try:
            result, picture, labels = predict(path)
            text = to_json(dict(image=str(path), **result))
        except Exception as error:  # what libraries raise for odd images
            reason = f'{type(error).__name__}: {error}'
            if type(error) is ValueError:  # ours, for the most part
                reason = str(error).removeprefix(f'{path}: ')
            say(f'{_printable(path)}: skipped: {reason}', file=sys.stderr)
            skipped += 1
            continue
        target = out_dir / name
        if picture is not None:
            _save(f'{target}.png', Image.fromarray(picture))
        if labels is not None:
            _save(f'{target}_labels.png', _paint(labels, result['classes']))
        with replacing(f'{target}.json') as part:
            part.write_text(text, 'utf-8')
        say(f'{_printable(path)}: {summarize(result)}')
    count = len(paths) - skipped
    print(f'{count} result{"s" * (count != 1)} in {out_dir}')
    if skipped:
        return f'{skipped} of {len(paths)} images were skipped'
    return None


def _printable(path: Path) -> str:
    """Write a name with escapes for control characters and invalid text."""
    text = str(path)
    return text if text.isprintable() else repr(text)[1:-1]


def to_json(result: dict) -> str:
    """Write a result as JSON.

    Args:
        result (dict): As from :meth:`OnnxModel.predict`.

    Returns:
        str: The JSON.

    Raises:
        ValueError: If a number is NaN or infinite, as from damaged weights.
    """
    try:
        return json.dumps(result, indent=1, allow_nan=False)
    except ValueError as error:
        raise ValueError(
            'the model gives NaN or infinity: are its weights damaged, or of '
            'another model?'
        ) from error


def _paint(labels: np.ndarray, classes: Sequence[dict]) -> Image.Image:
    """Make an image of labels, with the colours of the classes."""
    image = Image.fromarray(labels)
    if labels.dtype == np.uint8:
        palette = np.zeros((256, 3), np.uint8)
        for found in classes:
            palette[found['label']] = found['color']
        image.putpalette(palette.tobytes())
    return image


def _save(path: str, image: Image.Image) -> None:
    with replacing(path) as part:
        image.save(part, 'PNG')


def _progress(paths: Sequence[Path]) -> Iterable[Path]:
    try:
        from tqdm import tqdm
    except ImportError:  # not where exported files run
        return paths
    return tqdm(paths, unit='image')
