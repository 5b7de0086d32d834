"""Find errors in the files of a data set.

``tools/misc/check_dataset.py`` reads all of them. The checks that take no more
than seconds also run before every training.
"""

import json
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from mmengine.config import ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from PIL import Image, UnidentifiedImageError
from tqdm.contrib.concurrent import thread_map

from ..runtime.images import read_size, unreadable
from .coco import check_coco

IGNORED = 255  # label of ignored pixels
# A larger JSON, or more samples, take more than seconds to read.
QUICK_BYTES, QUICK_SAMPLES = 50_000_000, 20


@dataclass
class Inspection:
    """The number of images, and a line for each problem and each note.

    Problems stop or falsify a training; notes may be intended.
    """

    images: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def build_dataset(cfg: ConfigDict, scope: str | None) -> BaseDataset:
    """Build a data set of a library, which has no pipeline and no list yet."""
    lazy = dict(pipeline=[], lazy_init=True, serialize_data=False)
    with DATASETS.switch_scope_and_registry(scope) as registry:
        return registry.build(dict(cfg, **lazy))


def is_local(dataset: BaseDataset) -> bool:
    """Whether the files of a data set are in folders of this machine."""
    places = dataset.ann_file, *dataset.data_prefix.values()
    remote = any('://' in str(place) for place in places)
    return not remote and not getattr(dataset, 'backend_args', None)


def inspect_dataset(dataset: BaseDataset, quick: bool = False) -> Inspection:
    """Read the files of a data set.

    Args:
        dataset (BaseDataset): As from :func:`build_dataset`.
        quick (bool): Read only what takes seconds: 20 images with label maps,
            or with boxes in a JSON of up to 50 MB. Defaults to False.
    """
    found = Inspection()
    if not is_local(dataset):
        found.notes.append('its files are not local, and are not read')
    elif not quick or _is_quick(dataset):
        try:
            _read_list(dataset)
            _read_samples(dataset, quick, found)
        except Exception as error:  # of any data set's own code
            place = dataset.ann_file or dataset.data_prefix.get('img_path')
            kind = f'{type(error).__name__}: '.removeprefix('ValueError: ')
            found.problems.append(f'{place!s:.300}: {kind}{error!s:.500}')
    return found


def _is_coco(dataset: BaseDataset) -> bool:
    """Whether mmdet's CocoDataset reads its JSON; that of LVIS differs."""
    reader = type(dataset).load_data_list.__qualname__
    return reader == 'CocoDataset.load_data_list'


def _is_quick(dataset: BaseDataset) -> bool:
    """Whether its list of samples can be read in seconds."""
    if _is_coco(dataset):
        return os.path.getsize(dataset.ann_file) <= QUICK_BYTES
    return hasattr(dataset, 'reduce_zero_label')  # one of mmseg


def _read_list(dataset: BaseDataset) -> None:
    """Read the list of samples; ValueError if the classes do not fit."""
    if _is_coco(dataset):
        content = json.loads(Path(dataset.ann_file).read_bytes())
        check_coco(content, dataset.metainfo.get('classes') or ())
    dataset.full_init()
    if not len(dataset):  # mmengine's sampler would wait for one forever
        suffix = getattr(dataset, 'img_suffix', '')
        wanted = f'*{suffix} (img_suffix of the data set)' if suffix else ''
        raise ValueError(f'no images {wanted or "with labels"}')


def _read_samples(
    dataset: BaseDataset, quick: bool, found: Inspection
) -> None:
    """Read samples, and add what is wrong to what was found."""
    found.images = len(dataset)
    classes = dataset.metainfo.get('classes') or ()
    values = range(256 if hasattr(dataset, 'reduce_zero_label') else 0)
    labels = {value: _label_of(value, dataset) for value in values}
    read = partial(_read_sample, classes=len(classes), labels=labels)
    step = max(1, found.images // QUICK_SAMPLES) if quick else 1
    numbers = range(0, found.images, step)[: QUICK_SAMPLES if quick else None]
    samples = [dataset.get_data_info(number) for number in numbers]
    results = thread_map(read, samples, leave=False, disable=quick)
    found.problems += [problem for problem, _, _ in results if problem]
    seen = {value for _, inside, _ in results for value in inside}
    if seen == {0, IGNORED} and len(classes) > 1:
        found.problems.append(
            f'the label maps in {dataset.data_prefix["seg_map_path"]} have '
            'only the values 0 and 255, of which 255 is ignored: write '
            f'another value than 255 for {list(classes)[1]:.60}'
        )
    turned = [path for _, _, path in results if path]
    if turned:
        found.notes.append(
            f'{len(turned)} images are rotated when they are read, because of '
            'their EXIF orientation, but their label maps or boxes are not: '
            f'check whether they fit, for example those of {turned[0]:.200}'
        )


def _label_of(value: int, dataset: BaseDataset) -> int:
    """The label of a value in a label map, as in mmseg's LoadAnnotations."""
    if dataset.reduce_zero_label:
        value = IGNORED if value in (0, IGNORED) else value - 1
    value = (dataset.label_map or {}).get(value, value)
    return IGNORED if value == dataset.ignore_index else value


def _read_sample(
    info: dict, classes: int, labels: dict[int, int]
) -> tuple[str, set[int], str]:
    """Check the files of a sample.

    Get the problem, the values in the label map, and the image if it is
    rotated when it is read, but not its labels.
    """
    path, label_map = info.get('img_path'), info.get('seg_map_path')
    found = {*np.atleast_1d(info.get('gt_label', [])).tolist()}
    values, size, turned = set(), None, ''
    try:
        if isinstance(path, str):
            _check_readable(path)
            size, rotated = read_size(path)
            if rotated and (label_map or info.get('instances')):
                turned = path
            stated = info.get('width'), info.get('height')
            _compare(size, stated, 'the annotations say')
        if label_map and labels:
            path = label_map
            values = _read_values(path, size)
            found |= {labels[value] for value in values} - {IGNORED}
        wrong = sorted(found.difference(range(classes)))
        if wrong and classes:
            raise ValueError(
                f'labels {wrong!s:.60}, but there are {classes} classes'
            )
    except ValueError as error:
        return f'{path!s:.300}: {error!s:.300}', values, turned
    return '', values, turned


def _check_readable(path: str) -> None:
    if reason := unreadable(path):
        raise ValueError(reason)


def _compare(size: tuple | None, other: tuple | None, source: str) -> None:
    """Compare width and height in pixels, if both are known."""
    if size and other and None not in other and size != other:
        raise ValueError(
            f'{size[0]}x{size[1]} pixels, but {source} {other[0]}x{other[1]}'
        )


def _read_values(path: str, size: tuple | None) -> set[int]:
    """Get the values in the label map of an image."""
    _check_readable(path)
    try:
        image = Image.open(path)
    except UnidentifiedImageError:
        return set()  # another library may read it
    with image:
        if image.mode not in ('L', 'P', '1'):
            raise ValueError(
                'a label map has one channel of 8 bits, and this image has '
                f"Pillow's mode {image.mode}"
            )
        _compare(image.size, size, 'the image has')
        return {*np.unique(np.asarray(image, np.uint8)).tolist()}
