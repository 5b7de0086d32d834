"""Find errors in the files of a data set.

``tools/misc/check_dataset.py`` reads all of them. The checks that take no more
than seconds also run before every training.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from mmengine.config import ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from PIL import Image, UnidentifiedImageError
from tqdm.contrib.concurrent import process_map

from ..runtime.images import CHANNELS, unreadable
from .coco import check_coco

IGNORED = 255  # label of ignored pixels
EXIF_ORIENTATION = 0x0112
# A larger JSON takes more than seconds to read.
QUICK_BYTES = 100_000_000
# The number of label maps that can be read in seconds.
QUICK_MAPS = 20


@dataclass
class Inspection:
    """What was found in a data set.

    Attributes:
        images (int): Number of images.
        problems (list[str]): Errors that stop or falsify a training, one line
            each.
        notes (list[str]): Findings that may be intended, one line each.
    """

    images: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class _Sample:
    """What was found in an image and its label map."""

    problems: list[str] = field(default_factory=list)
    values: set[int] = field(default_factory=set)  # in the label map
    turned: str = ''  # the image, if reading rotates it alone


def build_dataset(cfg: ConfigDict, scope: str | None) -> BaseDataset:
    """Build a data set, without a pipeline and without reading its files.

    Args:
        cfg (ConfigDict): The config of a data set, not of a wrapper.
        scope (str, optional): The library.

    Returns:
        BaseDataset: The data set; ``full_init`` reads its list of samples.
    """
    lazy = dict(pipeline=[], lazy_init=True, serialize_data=False)
    with DATASETS.switch_scope_and_registry(scope) as registry:
        return registry.build(dict(cfg, **lazy))


def is_local(dataset: BaseDataset) -> bool:
    """Whether the files of a data set are in folders of this machine."""
    places = dataset.ann_file, *dataset.data_prefix.values()
    remote = any('://' in str(place) for place in places)
    return not remote and not getattr(dataset, 'backend_args', None)


def inspect_dataset(
    dataset: BaseDataset, quick: bool = False, workers: int = 1
) -> Inspection:
    """Read the files of a data set.

    Args:
        dataset (BaseDataset): As from :func:`build_dataset`.
        quick (bool): Read only what takes seconds, however many files there
            are: a JSON of up to 100 MB, and some of the label maps. Defaults
            to False.
        workers (int): Number of processes. Defaults to 1.

    Returns:
        Inspection: What was found.
    """
    found = Inspection()
    if not is_local(dataset):
        found.notes.append('its files are not local, and are not read')
        return found
    has_maps = hasattr(dataset, 'reduce_zero_label')  # those of mmseg
    try:
        if _is_coco(dataset):
            _check_json(dataset, quick)
        if quick and not has_maps:
            return found  # the list of images may be long
        dataset.full_init()
        samples = [dataset.get_data_info(i) for i in range(len(dataset))]
    except Exception as error:  # of any data set's own code
        kind = '' if isinstance(error, ValueError) else type(error).__name__
        found.problems.append(f'{kind and kind + ": "}{error!s:.500}')
        return found
    found.images = len(samples)
    if not samples:  # mmengine's sampler would wait for a sample forever
        suffix = getattr(dataset, 'img_suffix', '')
        named = f' *{suffix} (img_suffix of the data set)' if suffix else ''
        folder = dataset.data_prefix.get('img_path') or dataset.data_prefix
        found.problems.append(f'no images{named} in {folder}')
    classes: Sequence[str] = dataset.metainfo.get('classes') or ()
    mapping = _map_labels(dataset) if has_maps else None
    read = partial(_read_sample, classes=len(classes), mapping=mapping)
    if quick:
        step = max(1, len(samples) // QUICK_MAPS)
        results = [read(each) for each in samples[::step][:QUICK_MAPS]]
    else:
        results = process_map(
            read, samples, max_workers=workers, chunksize=16, leave=False
        )
    found.problems += [line for each in results for line in each.problems]
    values = set().union(*(each.values for each in results))
    if values == {0, IGNORED} and len(classes) > 1:
        found.problems.append(
            f'the label maps in {dataset.data_prefix["seg_map_path"]} have '
            'only the values 0 and 255, of which 255 is ignored: write '
            f'another value than 255 for {classes[1]:.60}'
        )
    turned = [each.turned for each in results if each.turned]
    if turned:
        found.notes.append(
            f'{len(turned)} images are rotated when they are read, because of '
            'their EXIF orientation, but their label maps or boxes are not: '
            f'check whether they fit, for example those of {turned[0]:.200}'
        )
    return found


def _is_coco(dataset: BaseDataset) -> bool:
    """Whether mmdet's CocoDataset reads it; LVIS and panoptic ones differ."""
    methods = 'load_data_list', 'parse_data_info'
    return all(
        getattr(dataset, name).__qualname__.startswith('CocoDataset.')
        for name in methods
    )


def _check_json(dataset: BaseDataset, quick: bool) -> None:
    """Check a JSON; ValueError if it does not fit its data set."""
    path, folder = dataset.ann_file, dataset.data_prefix.get('img') or ''
    if quick and os.path.getsize(path) > QUICK_BYTES:
        return
    # Tests and semi-supervised trainings can do without annotations.
    labelled = (dataset.filter_cfg or {}).get('filter_empty_gt', False)
    try:
        content = json.loads(Path(path).read_bytes())
        check_coco(content, dataset.metainfo.get('classes', ()), labelled)
        images = content['images']
        for image in images[:: max(1, len(images) // 1000)]:
            name = os.path.join(folder, image['file_name'])
            if not os.path.exists(name):
                raise ValueError(f'there is no {name:.300}, one of its images')
    except (RecursionError, TypeError, ValueError) as error:
        raise ValueError(f'{path}: {error!s:.800}') from error


def _map_labels(dataset: BaseDataset) -> np.ndarray:
    """Value in a label map -> label, as in mmseg's LoadAnnotations."""
    labels: np.ndarray = np.arange(IGNORED + 1)
    if dataset.reduce_zero_label:
        labels = np.where(np.isin(labels, (0, IGNORED)), IGNORED, labels - 1)
    chosen = dataset.label_map or {}
    labels = np.array([chosen.get(label, label) for label in labels])
    return np.where(labels == dataset.ignore_index, IGNORED, labels)


def _read_sample(
    info: dict, classes: int, mapping: np.ndarray | None
) -> _Sample:
    """Read the image and the label map of a sample, and check the labels."""
    found, size, turned = _Sample(), None, False
    image, label_map = info.get('img_path'), info.get('seg_map_path')
    labels = set(np.atleast_1d(info.get('gt_label', [])).tolist())
    path = image
    try:
        if isinstance(image, str):
            size, turned = _check_image(image, info)
        if label_map and mapping is not None:
            path = label_map
            found.values = _read_values(label_map, size)
            labels |= set(mapping[list(found.values)].tolist()) - {IGNORED}
        wrong = sorted(labels - set(range(classes)))
        if wrong and classes:
            raise ValueError(
                f'labels {wrong!s:.60}, but there are {classes} classes'
            )
    except ValueError as error:
        found.problems.append(f'{path!s:.300}: {error!s:.300}')
    if turned and (label_map or info.get('instances')):
        found.turned = str(image)
    return found


def _check_image(path: str, info: dict) -> tuple[tuple | None, bool]:
    """Check an image; get its size, and whether it is rotated."""
    reason = unreadable(path)
    if reason:
        raise ValueError(reason)
    size, turned = read_size(path)
    stated = info.get('width'), info.get('height')
    if size and None not in stated and size != stated:
        raise ValueError(
            f'{size[0]}x{size[1]} pixels, but {stated[0]}x{stated[1]} in the '
            'annotations'
        )
    return size, turned


def _read_values(path: str, size: tuple[int, int] | None) -> set[int]:
    """Get the values in the label map of an image."""
    reason = unreadable(path)
    if reason:
        raise ValueError(reason)
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
        if size and image.size != size:
            raise ValueError(
                f'{image.width}x{image.height} pixels, but the image has '
                f'{size[0]}x{size[1]}'
            )
        return set(np.unique(np.asarray(image, np.uint8)).tolist())


def read_size(
    path: str | os.PathLike,
) -> tuple[tuple[int, int] | None, bool]:
    """Get the size of an image as the libraries see it.

    They rotate it as its EXIF data say, but not its annotations.

    Args:
        path (str | PathLike): The file.

    Returns:
        tuple[tuple[int, int] | None, bool]: Width and height in pixels (None
        for files that may have any number of channels), and whether it is
        rotated in a way that its size does not show.
    """
    if Path(path).suffix.lower() in CHANNELS:
        return None, False  # Pillow takes channels for pages
    with Image.open(path) as image:
        # PNG's own method would decode the image.
        exif = Image.Image.getexif(image)
        orientation = exif.get(EXIF_ORIENTATION, 1)
        width, height = image.size
    if orientation in range(5, 9):  # these exchange width and height
        return (height, width), width == height
    return (width, height), orientation in range(2, 5)
