"""The images and videos that a command predicts for, and what it writes.

Like ``runtime``, it imports neither torch nor mm.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from glob import glob
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from ..runtime.images import decode
from ..runtime.results import Result, caption
from ..utils.atomic import check_folder, replacing, write_text
from . import records
from .records import recording, to_json
from .videos import VIDEOS, Video, is_video, is_webcam, writing

# What --format offers, of which the first is the default for videos, and the
# first two for images. Those of TOGETHER are one file for all images.
FORMATS = 'json', 'labels', 'coco', 'csv'
TOGETHER = {'coco', 'csv'}
# Format -> the kinds of models for which it is, if not all.
KINDS = dict(labels=['segmentation'], coco=['detection', 'instances'])
# What results add to a name: pictures, labels of pixels, and data.
SUFFIXES = (
    *('.png', '.mp4', '_labels', '_labels.png'),
    *records.SUFFIXES.values(),
)
IMAGES = '.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp'
SHOWN = IMAGES + VIDEOS


def find_images(places: Sequence[str]) -> list[Path]:
    """Find images and videos, without duplicates.

    Args:
        places (Sequence[str]): Files, folders (without their subfolders),
            patterns such as ``'data/*.jpg'``, and numbers of webcams.

    Raises:
        FileNotFoundError: If one of the places has no image.
    """
    found: list[Path] = []
    for place in places:
        path = Path(os.path.expanduser(place))  # also of an unknown user
        if path.is_file() or is_webcam(path):
            found.append(path)
            continue
        inside = (
            path.iterdir()
            if path.is_dir()
            else glob(str(path), recursive=True)
        )
        files = [each for each in sorted(map(Path, inside)) if each.is_file()]
        images = [each for each in files if each.suffix.lower() in SHOWN]
        if not images:
            raise FileNotFoundError(
                f'no image at {place}: give files, folders or patterns of '
                f'{", ".join(SHOWN)}'
            )
        if others := len(files) - len(images):
            print(f'{place}: other files left out: {others}', file=sys.stderr)
        found += images
    return list(dict.fromkeys(found))


def unique_names(paths: Sequence[Path], out_dir: Path) -> Iterator[str]:
    """Find a name for the results of each image: ``<stem>``, ``<stem>_2``, ...

    No result, which is name + SUFFIXES in ``out_dir``, has the name of an
    image or of another result.
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
    """Write the objects, or the likeliest or largest classes, in a line."""
    if 'objects' in result:
        counts = Counter(found['name'] for found in result['objects'])
        named = (f'{number} {name}' for name, number in counts.items())
        return ', '.join(named) or 'nothing'
    return ', '.join(map(caption, result['classes'][:3]))


def predict_all(
    load: Callable[[], tuple[Callable[..., tuple], dict]],
    places: Sequence[str],
    out_dir: Path,
    overwrite: bool = False,
    formats: Collection[str] = (),
) -> str | None:
    """Predict for images and videos and save the results, with a progress bar.

    What was predicted before Ctrl-C or an error is saved.

    Args:
        load (Callable): Loads the model, once the images are found; returns a
            function that predicts like :meth:`OnnxModel.predict`, and
            ``kind`` and ``classes`` as in :attr:`OnnxModel.metadata`.
        places (Sequence[str]): As for :func:`find_images`.
        out_dir (Path): The folder for the results; created if absent.
        overwrite (bool): Replace results that exist. Defaults to False.
        formats (Collection[str]): Some of ``FORMATS``. Defaults to (), JSON,
            and label maps of images.

    Returns:
        str, optional: How many files were skipped, if any.

    Raises:
        FileExistsError: If a result exists and must not be replaced.
        OSError: If a place has no image, or ``out_dir`` is a file.
        ValueError: If the model has no output for one of the formats.
    """
    paths = find_images(places)
    # The last name is that of the files for all images.
    *names, last = unique_names([*paths, Path('predictions')], out_dir)
    together = TOGETHER.intersection(formats)
    targets = [f'{name}{suffix}' for name in names for suffix in SUFFIXES]
    targets += [f'{last}{records.SUFFIXES[each]}' for each in together]
    found = [each for each in targets if (out_dir / each).exists()]
    if found and not overwrite:
        raise FileExistsError(
            f'{out_dir / found[0]} exists: choose another --out-dir, or give '
            '--overwrite'
        )
    check_folder(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    predict, metadata = load()
    for name in KINDS.keys() & formats:
        if metadata['kind'] not in KINDS[name]:
            raise ValueError(
                f'--format {name} is for {" or ".join(KINDS[name])}, not for '
                f'{metadata["kind"]}'
            )
    skipped = 0
    progress = _progress(paths, 'file')
    say = getattr(progress, 'write', print)
    with recording('image', out_dir / last, metadata, together) as images:
        for path, name in zip(progress, names, strict=True):
            # With escapes for control characters and invalid text.
            text = str(path)
            shown = text if text.isprintable() else repr(text)[1:-1]
            try:
                if is_video(path):
                    args = path, out_dir / name, metadata, formats
                    say(f'{shown}: {_predict_video(predict, *args)}')
                    continue
                prediction = predict(path)
                to_json(prediction[0])
            except Exception as error:  # what libraries raise for odd images
                reason = f'{type(error).__name__}: {error}'
                if type(error) is ValueError:  # ours, for the most part
                    reason = str(error).removeprefix(f'{path}: ')
                say(f'{shown}: skipped: {reason}', file=sys.stderr)
                skipped += 1
                continue
            _save_image(path, prediction, out_dir / name, formats)
            if together:
                # OpenCV may not read it.
                shape = getattr(decode(path), 'shape', (0, 0))
                images.append((text, shape, prediction[0]))
            say(f'{shown}: {summarize(prediction[0])}')
    count = len(paths) - skipped
    print(f'{count} result{"s" * (count != 1)} in {out_dir}')
    if skipped:
        return f'{skipped} of {len(paths)} files were skipped'
    return None


def _predict_video(
    predict: Callable[..., tuple],
    path: Path,
    target: Path,
    metadata: dict,
    formats: Collection[str],
) -> str:
    """Predict for the frames of a video; return how many there were."""
    video, folder = Video(path), Path(f'{target}_labels')
    for old in folder.glob('*.png'):  # of a longer video
        old.unlink()
    with (
        writing(Path(f'{target}.mp4'), video) as write,
        recording('frame', target, metadata, formats or FORMATS[:1]) as frames,
    ):
        for frame in _progress(video, 'frame', video.frames):
            result, picture, labels = predict(frame)
            to_json(result)
            write(picture, frame)
            if 'labels' in formats:
                painted = _paint(labels, result['classes'])
                _save(folder / f'{len(frames):06}.png', painted)
            frames.append((len(frames), frame.shape, result))
    if not frames:
        raise ValueError('no frame of it can be read')
    return f'{len(frames)} of {video.frames or len(frames)} frames'


def _save_image(
    path: Path, prediction: Result, target: Path, formats: Collection[str]
) -> None:
    result, picture, labels = prediction
    formats = formats or FORMATS[:2]
    if picture is not None:
        _save(f'{target}.png', Image.fromarray(picture))
    if labels is not None and 'labels' in formats:
        _save(f'{target}_labels.png', _paint(labels, result['classes']))
    if 'json' in formats:
        content = dict(image=str(path), **result)
        write_text(f'{target}.json', to_json(content))


def _paint(labels: np.ndarray, classes: Sequence[dict]) -> Image.Image:
    """Make an image of labels, with the colours of the classes."""
    image = Image.fromarray(labels)
    if labels.dtype == np.uint8:
        palette = np.zeros((256, 3), np.uint8)
        for found in classes:
            palette[found['label']] = found['color']
        image.putpalette(palette.tobytes())
    return image


def _save(path: str | Path, image: Image.Image) -> None:
    with replacing(path) as part:
        image.save(part, 'PNG')


def _progress(
    items: Iterable, unit: str, total: int | None = None
) -> Iterable:
    try:
        from tqdm import tqdm
    except ImportError:  # not where exported files run
        return items
    return tqdm(items, unit=unit, total=total, leave=unit == 'file')
