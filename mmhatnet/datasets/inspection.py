"""What is wrong with a data set.

``tools/misc/check_dataset.py`` is a command over this module. The checks that
take no more than seconds also run before every training.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.config import ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from ..runtime.images import CHANNELS, unreadable
from .coco import check_coco, find_odd_annotations, quote

IGNORED = 255  # label of pixels that are not learned
EXIF_ORIENTATION = 0x0112
# A larger JSON takes more than seconds to read.
QUICK_BYTES = 100_000_000
# So many label maps are read in seconds.
QUICK_MAPS = 20


@dataclass
class Inspection:
    """What was found in a data set.

    Attributes:
        images (int): Number of images.
        classes (dict[str, int]): Class -> number of its images, boxes or
            pixels.
        problems (list[str]): What stops or falsifies a training, a line each.
        notes (list[str]): What the library leaves out without a word.
    """

    images: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class _Sample(NamedTuple):
    """What was found in the files of a sample.

    Attributes:
        problems (list[str]): A line each.
        labels (Counter): How often it has each label.
        values (set[int]): The values in its label map.
        turned (str, optional): The image, if it is turned as it is read and
            its annotations are not, and no size shows it.
    """

    problems: list[str]
    labels: Counter[int]
    values: set[int]
    turned: str | None


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


def find_quick_problems(
    dataset: BaseDataset,
    labelled: bool = True,
    label_maps: bool = False,
    masks: bool = False,
) -> Iterator[str]:
    """Find problems in seconds, however large the data set is.

    Args:
        dataset (BaseDataset): As from :func:`build_dataset`.
        labelled (bool): The data set has labels. Defaults to True.
        label_maps (bool): Read some of the label maps, as mmseg reads them.
            Defaults to False.
        masks (bool): The pipeline loads the masks of objects. Defaults to
            False.

    Yields:
        str: What is wrong, and where.
    """
    prefix = dataset.data_prefix
    places = dataset.ann_file, *prefix.values()
    if any('://' in str(place) for place in places) or getattr(
        dataset, 'backend_args', None
    ):
        return  # not local files
    if _is_coco(dataset):
        if os.path.getsize(dataset.ann_file) <= QUICK_BYTES:
            try:
                _read_coco(dataset, labelled, masks)
            except ValueError as error:
                yield str(error)
    elif hasattr(dataset, 'img_suffix'):
        if not os.path.isfile(dataset.ann_file):
            yield from _find_no_files(
                prefix.get('img_path'), [dataset.img_suffix], 'img_suffix'
            )
        if labelled:
            yield from _find_no_files(
                prefix.get('seg_map_path'),
                [dataset.seg_map_suffix],
                'seg_map_suffix',
            )
            if label_maps:
                yield from _find_odd_label_maps(dataset)
    elif hasattr(dataset, 'extensions') and not dataset.ann_file:
        yield from _find_no_files(
            prefix.get('img_path'), dataset.extensions, 'extensions'
        )


def _find_odd_label_maps(dataset: BaseDataset) -> Iterator[str]:
    """Find wrong label maps among some that lie all over the list.

    More are read while they have only 0 and 255.
    """
    infos = dataset.load_data_list()
    classes = dataset.metainfo.get('classes') or ()
    mapping = _label_mapping(dataset)
    values: set[int] = set()
    step = max(1, len(infos) // (10 * QUICK_MAPS))
    for number, info in enumerate(infos[::step]):
        if number >= QUICK_MAPS and values != {0, IGNORED}:
            break
        keys = ('img_path', 'seg_map_path')[number >= QUICK_MAPS :]
        files = {key: info[key] for key in keys if key in info}
        sample = _read_sample(files, len(classes), mapping)
        yield from sample.problems
        values |= sample.values
    yield from _find_no_objects(dataset, values)


def _find_no_objects(dataset: BaseDataset, values: set[int]) -> Iterator[str]:
    """Find out that masks have 255 for an object, which is ignored."""
    classes: Sequence[str] = dataset.metainfo.get('classes') or ()
    mapping = _label_mapping(dataset)
    if values != {0, IGNORED} or mapping is None or len(classes) < 2:
        return
    if mapping[IGNORED] == IGNORED and 1 in mapping:
        learned = 'nothing' if mapping[0] == IGNORED else f'only {classes[0]}'
        yield (
            f'the label maps in {dataset.data_prefix["seg_map_path"]} have '
            f'only 0 and 255: 255 is ignored, so {learned:.60} is learned; '
            f'write {list(mapping).index(1)} for {classes[1]:.60}'
        )


def _is_coco(dataset: BaseDataset) -> bool:
    """Whether mmdet's CocoDataset reads it; LVIS and panoptic ones differ."""
    methods = 'load_data_list', 'parse_data_info'
    return all(
        getattr(dataset, name).__qualname__.startswith('CocoDataset.')
        for name in methods
    )


def _needs_annotations(dataset: BaseDataset, labelled: bool) -> bool:
    """Whether COCO's JSON must have them; semi-supervised trainings have none.

    A data set that leaves out images without objects would be empty.
    """
    settings = dataset.filter_cfg or {}
    return labelled and (
        dataset.test_mode or settings.get('filter_empty_gt', False)
    )


def _find_no_files(
    folder: str | None, suffixes: Iterable[str], setting: str
) -> Iterator[str]:
    """Find out that a folder has no file with one of the suffixes."""
    if not folder:
        return
    suffixes = tuple(suffixes)
    others: Counter[str] = Counter()
    for _, _, names in os.walk(folder, followlinks=True):
        for name in names:
            if name.startswith('.'):
                continue  # mmengine leaves them out
            shown = name.lower() if setting == 'extensions' else name
            if shown.endswith(suffixes):
                return
            others[Path(name).suffix or 'without a suffix'] += 1
    there = ', '.join(f'{n} {kind}' for kind, n in others.most_common(3))
    yield (
        f'{folder} has no file *{" or *".join(sorted(suffixes))} ({setting} '
        f'of the data set), but {there or "nothing"}'
    )


def loads_masks(cfg: ConfigDict) -> bool:
    """Whether the pipeline of a data set loads the masks of objects."""
    steps = cfg.get('pipeline') or ()
    return any(isinstance(x, dict) and x.get('with_mask') for x in steps)


def _read_coco(dataset: BaseDataset, labelled: bool, masks: bool) -> dict:
    """Read a JSON that fits its data set; ValueError if it does not."""
    path = dataset.ann_file
    try:
        content = json.loads(Path(path).read_text('utf-8'))
        needed = _needs_annotations(dataset, labelled)
        check_coco(content, dataset.metainfo.get('classes', ()), needed)
    except json.JSONDecodeError as error:
        raise ValueError(f'{path}: no JSON: {error}') from None
    except (RecursionError, ValueError) as error:
        raise ValueError(f'{path}: {error}') from None
    folder = dataset.data_prefix.get('img') or ''
    some = content['images'][:: max(1, len(content['images']) // 1000)]
    for image in some:
        name = os.path.join(folder, image['file_name'])
        if not os.path.exists(name):
            raise ValueError(
                f'{path}: there is no {name:.300}, one of its images'
            )
    for annotation in (content.get('annotations') or ()) if masks else ():
        if not annotation.get('segmentation'):
            raise ValueError(
                f'{path}: annotation {annotation["id"]} has no segmentation, '
                'and the pipeline loads masks: set with_mask=False in its '
                'LoadAnnotations if the model needs none'
            )
    return content


def inspect_dataset(
    cfg: ConfigDict, scope: str | None, labelled: bool = True, workers: int = 0
) -> Inspection:
    """Read all files of a data set.

    Args:
        cfg (ConfigDict): The config of a data set, not of a wrapper.
        scope (str, optional): The library.
        labelled (bool): The data set has labels. Defaults to True.
        workers (int): Number of processes beside this one. Defaults to 0.

    Returns:
        Inspection: What was found.
    """
    found = Inspection()
    try:
        dataset = build_dataset(cfg, scope)
        if _is_coco(dataset):
            content = _read_coco(dataset, labelled, loads_masks(cfg))
            for severe, line in find_odd_annotations(content):
                lines = found.problems if severe else found.notes
                lines.append(f'{dataset.ann_file}: {line}')
        else:
            found.problems += find_quick_problems(dataset, labelled)
            if found.problems:
                return found
        dataset.full_init()
    except Exception as error:  # of any data set's own code
        found.problems.append(f'{type(error).__name__}: {error!s:.500}')
        return found
    samples = [dataset.get_data_info(i) for i in range(len(dataset))]
    found.images = len(samples)
    if not samples:
        found.problems.append('no images')
    classes = dataset.metainfo.get('classes') or ()
    total: Counter[int] = Counter()
    values: set[int] = set()
    turned = []
    read = partial(
        _read_sample,
        classes=len(classes),
        mapping=_label_mapping(dataset) if labelled else None,
    )
    for sample in _map(read, samples, workers):
        found.problems += sample.problems
        total.update(sample.labels)
        values |= sample.values
        turned += [sample.turned] if sample.turned else []
    if turned:
        found.notes.append(
            f'{len(turned)} images are turned as they are read, because of '
            'their EXIF orientation, and their label maps or boxes are not: '
            f'look whether they fit, such as those of {turned[0]:.200}'
        )
    if labelled:
        found.problems += _find_no_objects(dataset, values)
        _name_counts(total, classes, found)
        found.notes += _find_labels_without_image(dataset, samples)
    return found


def _map(function: Callable, items: Sequence, workers: int) -> Iterator:
    """Like map, in processes and with a progress bar."""
    bar = partial(tqdm, total=len(items), unit='file', leave=False)
    if not workers:
        yield from bar(map(function, items))
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from bar(pool.map(function, items, chunksize=16))


def _label_mapping(dataset: BaseDataset) -> np.ndarray | None:
    """Value in a label map -> label, as mmseg's LoadAnnotations has it."""
    if not hasattr(dataset, 'reduce_zero_label'):
        return None
    labels: np.ndarray = np.arange(IGNORED + 1)
    if dataset.reduce_zero_label:
        labels = np.where(np.isin(labels, (0, IGNORED)), IGNORED, labels - 1)
    chosen = dataset.label_map or {}
    labels = np.array([chosen.get(label, label) for label in labels])
    return np.where(labels == dataset.ignore_index, IGNORED, labels)


def _read_sample(
    info: dict, classes: int, mapping: np.ndarray | None
) -> _Sample:
    """Read the files of a sample."""
    problems = []
    values, turned = Counter[int](), None
    labels = [x['bbox_label'] for x in info.get('instances') or ()]
    labels += np.atleast_1d(info.get('gt_label', [])).tolist()
    counts = Counter(labels)
    path, size = info.get('img_path'), None
    if isinstance(path, str):
        reason = unreadable(path)
        size = None if reason else image_size(path)
        stated = info.get('width'), info.get('height')
        if size and None not in stated and size != stated:
            reason = (
                f'{size[0]}x{size[1]} pixels, but {stated[0]}x{stated[1]} in '
                'the annotations'
            )
        if reason:
            problems.append(f'{path!s:.300}: {reason:.300}')
        elif size and _is_turned_silently(path):
            turned = path
    if mapping is not None and info.get('seg_map_path'):
        path = info['seg_map_path']
        try:
            values = _count_values(path, size)
        except ValueError as error:
            problems.append(f'{path!s:.300}: {error!s:.300}')
        for value, count in values.items():
            if mapping[value] != IGNORED:
                counts[int(mapping[value])] += count
    elif not info.get('instances'):
        turned = None
    wrong = sorted(label for label in counts if not 0 <= label < classes)
    if wrong and classes:
        more = ', ...' if len(wrong) > 10 else ''
        problems.append(
            f'{path!s:.300}: labels {wrong[:10]}{more}, but there are '
            f'{classes} classes'
        )
    return _Sample(problems, counts, set(values), turned)


def _count_values(path: str, size: tuple[int, int] | None) -> Counter[int]:
    """Count the pixels of each value in a label map."""
    reason = unreadable(path)
    if reason:
        raise ValueError(reason)
    try:
        image = Image.open(path)
    except UnidentifiedImageError:
        return Counter()  # another library may read it
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
        values, counts = np.unique(
            np.asarray(image, np.uint8), return_counts=True
        )
    return Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))


def _name_counts(
    total: Counter, classes: Sequence[str], found: Inspection
) -> None:
    found.classes = {name: total[label] for label, name in enumerate(classes)}
    absent = [name for name, count in found.classes.items() if not count]
    if absent:
        found.notes.append(f'no sample of the classes {quote(absent)}')


def _find_labels_without_image(
    dataset: BaseDataset, samples: Sequence[dict]
) -> Iterator[str]:
    folder = dataset.data_prefix.get('seg_map_path')
    if not folder or os.path.isfile(dataset.ann_file):
        return
    used = {Path(info['seg_map_path']) for info in samples}
    for path in sorted(Path(folder).rglob(f'*{dataset.seg_map_suffix}')):
        if path not in used:
            yield f'{path}: a label map without an image'


def _is_turned_silently(path: str | os.PathLike) -> bool:
    """Whether an image is turned as it is read, and keeps its size."""
    with Image.open(path) as image:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
        # Those from 5 on exchange width and height.
        end = 9 if image.width == image.height else 5
        return orientation in range(2, end)


def image_size(path: str | os.PathLike) -> tuple[int, int] | None:
    """Get the size of an image as the libraries see it.

    Args:
        path (str | PathLike): The file.

    Returns:
        tuple[int, int], optional: Width and height in pixels, after the
        rotation that its EXIF data ask for; None for files of any channels.
    """
    if Path(path).suffix.lower() in CHANNELS:
        return None  # Pillow takes channels for pages
    with Image.open(path) as image:
        rotated = image.getexif().get(EXIF_ORIENTATION, 1) >= 5
        return image.size[::-1] if rotated else image.size
