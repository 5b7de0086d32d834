"""Checks of a config's data sets, and of settings that must agree."""

import filecmp
import os
from collections.abc import Iterator, Sequence
from inspect import signature
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset

from ..datasets.inspection import (
    Inspection,
    build_dataset,
    inspect_dataset,
    is_local,
)

# Folder that the configs expect -> how to get the data set.
DATA_SOURCES = {
    'data/ade': 'unpack http://data.csail.mit.edu/places/ADEchallenge/'
    'ADEChallengeData2016.zip in data/ade',
    'data/coco': 'run: mim run mmdet download_dataset --dataset-name coco2017 '
    '--save-dir data/coco --unzip',
    'data/imagenet': 'get ILSVRC2012 from https://image-net.org/download, as '
    'a folder per class in data/imagenet/train and data/imagenet/val',
    'data/cifar10': 'run: python tools/dataset_converters/cifar10.py',
    'data/tree_crowns': 'run: pip download --no-deps deepforest==2.1.0; '
    'python tools/dataset_converters/tree_crowns.py deepforest-*.whl',
    'data/demo': 'run: python tools/dataset_converters/make_demo_data.py',
}
# Parts of models whose classes are not those of the data set.
OPEN_CLASSES = {'language_model', 'tracker'}
# Heads whose classes are not those of the objects.
OTHER_HEADS = ('backbone', 'rpn_head', 'semantic_head')
OTHER_TYPES = ('STDCHead',)
# Metrics that read the annotations again; others read other files.
READERS = ('CocoMetric', 'CocoPanopticMetric', 'CrowdHumanMetric')


class _Part(NamedTuple):
    """A data set of a split, which has read no files."""

    split: str
    cfg: ConfigDict
    dataset: BaseDataset


def check_data(cfg: Config, splits: Sequence[str]) -> list[str]:
    """Run the checks of the data sets that take only seconds, before a run.

    With ``check_data=False`` at the top of the config, it only looks for
    files.

    Args:
        cfg (Config): The config.
        splits (Sequence[str]): The splits to check: 'train', 'val' or 'test'.

    Returns:
        list[str]: Notes for the user.

    Raises:
        FileNotFoundError: If a file or folder is missing. The message tells
            where it is expected and how to get it.
        ValueError: If the files do not fit the data set, or two settings
            contradict each other.
    """
    parts, _ = _build_parts(cfg, splits)
    for part in parts:
        _check_places(part)
    if not cfg.get('check_data', True):
        return []
    problems = list(_find_disagreements(cfg, parts))
    for part in _without_copies(parts):
        problems += inspect_dataset(part.dataset, quick=True).problems
    if problems:
        raise ValueError(
            f'{problems[0]:.1000} (check_data=False in the config disables '
            'this check)'
        )
    return list(_find_shared_data(parts))


def inspect_data(
    cfg: Config, splits: Sequence[str], workers: int = 1
) -> dict[str, Inspection]:
    """Read all files of the data sets.

    Args:
        cfg (Config): The config of a model.
        splits (Sequence[str]): Of 'train', 'val' and 'test'.
        workers (int): Number of processes. Defaults to 1.

    Returns:
        dict[str, Inspection]: What was found, by the names of the data sets.
    """
    parts, errors = _build_parts(cfg, splits)
    found = {}
    for number, part in enumerate(_without_copies(parts), 1):
        name = f'{number}. {part.split}: {part.cfg.type}'
        try:
            _check_places(part)
            found[name] = inspect_dataset(part.dataset, workers=workers)
        except FileNotFoundError as error:
            found[name] = Inspection(problems=[str(error)])
    settings = Inspection(
        problems=errors + list(_find_disagreements(cfg, parts)),
        notes=list(_find_shared_data(parts)),
    )
    if settings.problems or settings.notes:
        found['settings'] = settings
    return found


def _build_parts(
    cfg: Config, splits: Sequence[str]
) -> tuple[list[_Part], list[str]]:
    """Build data sets, and get the errors of those that cannot be built."""
    parts, errors = [], []
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        for settings in iter_datasets(loader.get('dataset')):
            try:
                dataset = build_dataset(settings, cfg.get('default_scope'))
                parts.append(_Part(split, settings, dataset))
            except Exception as error:  # of any data set's own code
                errors.append(f'{split}_dataloader: {error!s:.300}')
    return parts, errors


def iter_datasets(dataset: ConfigDict | list | None) -> Iterator[ConfigDict]:
    """Iterate over the data sets inside wrappers such as ConcatDataset.

    Args:
        dataset (ConfigDict | list, optional): The config of a data set, or of
            several.

    Yields:
        ConfigDict: The config of a data set that reads files itself.
    """
    if isinstance(dataset, list):
        for part in dataset:
            yield from iter_datasets(part)
    elif dataset and ('dataset' in dataset or 'datasets' in dataset):
        yield from iter_datasets(dataset.get('dataset'))
        yield from iter_datasets(dataset.get('datasets'))
    elif dataset:
        yield dataset


def _without_copies(parts: Sequence[_Part]) -> list[_Part]:
    """Leave out data sets that an earlier split reads, too."""
    kept: list[_Part] = []
    for part in parts:
        if part.cfg not in [earlier.cfg for earlier in kept]:
            kept.append(part)
    return kept


def _check_places(part: _Part) -> None:
    """Check that the files and folders of a data set exist."""
    dataset = part.dataset
    # mmpretrain downloads some data sets itself, such as CIFAR-10.
    downloads = 'download' in signature(type(dataset)).parameters
    if not is_local(dataset) or downloads and part.cfg.get('download', True):
        return
    root = dataset.data_root or ''
    for place in root, dataset.ann_file, *dataset.data_prefix.values():
        if place and not os.path.exists(place):
            remedy = next(
                (
                    f': {source}'
                    for folder, source in DATA_SOURCES.items()
                    if Path(root).is_relative_to(folder)
                ),
                f' (data_root of {part.split}_dataloader.dataset)',
            )
            raise FileNotFoundError(f'no data at {place}{remedy}')


def _find_disagreements(cfg: Config, parts: Sequence[_Part]) -> Iterator[str]:
    """Find settings that contradict each other."""
    if not OPEN_CLASSES & cfg.model.keys():
        yield from _compare_heads(cfg, parts)
        yield from _compare_splits(parts)
    yield from _compare_files(cfg, parts)


def _compare_heads(cfg: Config, parts: Sequence[_Part]) -> Iterator[str]:
    """Compare the classes of the data sets and the heads of a model."""
    counts = list(_iter_class_counts(cfg.model, 'model'))
    for split, _, dataset in parts:
        classes = _class_names(dataset)
        things = dataset.metainfo.get('thing_classes') or classes
        for name, number in counts if classes else ():
            if number not in (len(classes), len(things)):
                yield (
                    f'{name} is {number}, and the data set of '
                    f'{split}_dataloader has {len(classes)} classes'
                )


def _iter_class_counts(cfg: object, name: str) -> Iterator[tuple[str, int]]:
    """Iterate over ``num_classes`` of the heads in a model's config."""
    if isinstance(cfg, list | tuple):
        for number, part in enumerate(cfg):
            yield from _iter_class_counts(part, f'{name}[{number}]')
    if not isinstance(cfg, dict) or cfg.get('type') in OTHER_TYPES:
        return
    for key, value in cfg.items():
        if key == 'num_classes' and isinstance(value, int):
            yield f'{name}.{key}', value
        elif key not in OTHER_HEADS:
            yield from _iter_class_counts(value, f'{name}.{key}')


def _class_names(dataset: BaseDataset) -> list[str]:
    """Get the names of the classes, which may be those of folders."""
    classes = dataset.metainfo.get('classes') or ()
    folders = getattr(dataset, 'with_label', False) and not dataset.ann_file
    if not classes and folders and os.path.isdir(dataset.img_prefix):
        found = os.scandir(dataset.img_prefix)
        classes = sorted(each.name for each in found if each.is_dir())
    return list(classes)


def _compare_splits(parts: Sequence[_Part]) -> Iterator[str]:
    """Compare what the data sets of all splits must have in common."""
    first: dict[str, tuple[str, object]] = {}
    for split, _, dataset in parts:
        values: dict[str, object] = {
            f'class {number}': name
            for number, name in enumerate(_class_names(dataset))
        }
        if hasattr(dataset, 'reduce_zero_label'):
            values['reduce_zero_label'] = dataset.reduce_zero_label
        for key, value in values.items():
            where, expected = first.setdefault(key, (split, value))
            if value != expected:
                yield (
                    f'{key} is {expected!r:.60} in {where}_dataloader, and '
                    f'{value!r:.60} in {split}_dataloader'
                )
                break


def _compare_files(cfg: Config, parts: Sequence[_Part]) -> Iterator[str]:
    """Compare the annotations that a data set and its metric read."""
    splits = [part.split for part in parts]
    for split, _, dataset in parts:
        if split == 'train' or splits.count(split) > 1:
            continue  # a metric may read joined files
        metrics = cfg.get(f'{split}_evaluator') or []
        for metric in metrics if isinstance(metrics, list) else [metrics]:
            found = metric.get('ann_file') or dataset.ann_file
            reads = str(metric.get('type')).endswith(READERS)
            if reads and _differ(found, dataset.ann_file):
                yield (
                    f'{split}_evaluator reads {found}, and '
                    f'{split}_dataloader {dataset.ann_file}'
                )


def _differ(first: str, second: str) -> bool:
    """Whether two names stand for files with different contents."""
    return (
        os.path.isfile(first)
        and os.path.isfile(second)
        and not os.path.samefile(first, second)
        and not filecmp.cmp(first, second, shallow=False)
    )


def _find_shared_data(parts: Sequence[_Part]) -> Iterator[str]:
    """Find data with which a model is trained and evaluated."""
    trained = set()
    for split, settings, dataset in parts:
        prefix = dataset.data_prefix
        images = prefix.get('img_path') or prefix.get('img') or ''
        place = dataset.ann_file or images
        # These settings choose a part of the files.
        chosen = [str(settings.get(key)) for key in ('split', 'indices')]
        key = (*map(os.path.realpath, (dataset.ann_file, images)), *chosen)
        if split == 'train':
            trained.add(key)
        elif place and key in trained:
            yield (
                f'{split}_dataloader reads {place}, with which the model is '
                'trained: the results say nothing about other images'
            )
