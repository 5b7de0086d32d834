"""Checks of the data sets of a config before a run."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from inspect import signature
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, TRANSFORMS

from ..datasets.inspection import (
    Inspection,
    build_dataset,
    find_quick_problems,
    inspect_dataset,
    loads_masks,
)
from .agreement import (
    OPEN_CLASSES,
    Part,
    class_names,
    find_disagreements,
    find_shared_data,
    iter_transforms,
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
# Heads of other classes than those of the objects.
OTHER_HEADS = ('backbone', 'rpn_head', 'semantic_head')
OTHER_TYPES = ('STDCHead',)
# Libraries whose transforms read label maps and leave the labels alone.
LIBRARIES = {'mmcv', 'mmengine', 'mmseg', 'mmhatnet'}


def check_data(cfg: Config, splits: tuple[str, ...]) -> list[str]:
    """Check the data sets before a run, as far as it takes seconds.

    ``check_data=False`` at the top of the config only looks for the files.

    Args:
        cfg (Config): The config.
        splits (tuple[str]): The splits to check: 'train', 'val' or 'test'.

    Returns:
        list[str]: Notes for the user.

    Raises:
        FileNotFoundError: If a file or folder is missing. The message tells
            where it is expected and how to get it.
        ValueError: If the files do not fit the data set, the model or the
            evaluator does not fit its classes, or two settings contradict
            each other.
    """
    checked = cfg.get('check_data', True)
    for split, dataset in iter_splits(cfg, splits):
        if not downloads(dataset, cfg.get('default_scope')):
            _check_places(dataset, split)
        if checked:
            for problem in find_problems(cfg, dataset, split):
                raise ValueError(
                    f'{problem:.1000} ({split}_dataloader; check_data=False '
                    'in the config goes on)'
                )
    if not checked:
        return []
    parts = build_parts(cfg, splits)
    for problem in find_disagreements(cfg, parts):
        raise ValueError(
            f'{problem:.1000} (check_data=False in the config goes on)'
        )
    return list(find_shared_data(parts))


def build_parts(cfg: Config, splits: tuple[str, ...]) -> list[Part]:
    """Build the data sets of a config, as far as they can be built.

    Args:
        cfg (Config): The config.
        splits (tuple[str]): Of 'train', 'val' and 'test'.

    Returns:
        list[Part]: The data sets of each split, also those of several splits.
    """
    parts = []
    for split in splits:
        for _, dataset in iter_splits(cfg, [split]):
            with suppress(Exception):  # the run will show it
                built = build_dataset(dataset, cfg.get('default_scope'))
                parts.append(Part(split, dataset, built))
    return parts


def iter_splits(
    cfg: Config, splits: Iterable[str]
) -> Iterator[tuple[str, ConfigDict]]:
    """Iterate over the data sets of a config, without wrappers.

    Args:
        cfg (Config): The config.
        splits (Iterable[str]): Of 'train', 'val' and 'test'.

    Yields:
        tuple[str, ConfigDict]: The split and the config of a data set. A data
        set that several splits use comes once.
    """
    seen = []
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        for dataset in iter_datasets(loader.get('dataset')):
            if dataset not in seen:
                seen.append(dataset)
                yield split, dataset


def downloads(dataset: ConfigDict, scope: str | None) -> bool:
    """Whether mmpretrain downloads a data set itself, such as CIFAR-10.

    Args:
        dataset (ConfigDict): The config of the data set.
        scope (str, optional): The library.

    Returns:
        bool: False also if the config sets ``download=False``.
    """
    kind = dataset.type
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(scope) as registry:
            kind = registry.get(kind)
    parameters = signature(kind).parameters if kind else {}
    return 'download' in parameters and dataset.get('download', True)


def find_problems(
    cfg: Config, dataset: ConfigDict, split: str
) -> Iterator[str]:
    """Find quickly what is wrong with a data set, or what does not fit it.

    Args:
        cfg (Config): The config of a model.
        dataset (ConfigDict): The config of one of its data sets.
        split (str): 'train', 'val' or 'test'; the last may have no labels.

    Yields:
        str: A problem.
    """
    try:
        built = build_dataset(dataset, cfg.get('default_scope'))
    except Exception:
        return  # the run will show the error of the class
    yield from _find_misfits(cfg, built, dataset)
    yield from find_quick_problems(
        built,
        split != 'test',
        _reads_label_maps(cfg, dataset),
        loads_masks(dataset),
    )


def _find_misfits(
    cfg: Config, built: BaseDataset, dataset: ConfigDict
) -> Iterator[str]:
    """Find what does not fit a data set: its own pipeline, or the heads."""
    yield from _compare_classes(cfg, built)
    for transform in iter_transforms(dataset.get('pipeline')):
        reduce = transform.get('reduce_zero_label')
        expected = getattr(built, 'reduce_zero_label', reduce)
        if reduce not in (None, expected):
            yield (
                f'reduce_zero_label is {expected} in the data set, and '
                f'{reduce} in {transform["type"]} of its pipeline'
            )


def _reads_label_maps(cfg: Config, dataset: ConfigDict) -> bool:
    """Whether mmseg reads the label maps, and no other transform."""
    kinds = []
    for transform in iter_transforms(dataset.get('pipeline')):
        kind = transform['type']
        if isinstance(kind, str):
            with TRANSFORMS.switch_scope_and_registry(
                cfg.get('default_scope')
            ) as registry:
                kind = registry.get(kind)
        kinds.append((kind.__module__.partition('.')[0], kind.__name__))
    known = all(library in LIBRARIES for library, _ in kinds)
    return known and ('mmseg', 'LoadAnnotations') in kinds


def inspect_data(
    cfg: Config, splits: tuple[str, ...], workers: int = 0
) -> dict[str, Inspection]:
    """Read all files of the data sets.

    Args:
        cfg (Config): The config of a model.
        splits (tuple[str]): Of 'train', 'val' and 'test'.
        workers (int): Number of processes beside this one. Defaults to 0.

    Returns:
        dict[str, Inspection]: What was found, by the names of the data sets.
    """
    found = {}
    scope = cfg.get('default_scope')
    for number, (split, dataset) in enumerate(iter_splits(cfg, splits), 1):
        name = f'{number}. {split}: {dataset.type}'
        try:
            if not downloads(dataset, scope):
                _check_places(dataset, split)
        except FileNotFoundError as error:
            found[name] = Inspection(problems=[str(error)])
            continue
        found[name] = inspect_dataset(dataset, scope, split != 'test', workers)
        with suppress(Exception):  # it is among the problems
            built = build_dataset(dataset, scope)
            found[name].problems += _find_misfits(cfg, built, dataset)
    parts = build_parts(cfg, splits)
    settings = Inspection(
        problems=list(find_disagreements(cfg, parts)),
        notes=list(find_shared_data(parts)),
    )
    if settings.problems or settings.notes:
        found['settings'] = settings
    return found


def _compare_classes(cfg: Config, dataset: BaseDataset) -> Iterator[str]:
    """Compare the classes of a data set and the heads of a model."""
    classes = class_names(dataset)
    if OPEN_CLASSES & cfg.model.keys() or not classes:
        return
    things = dataset.metainfo.get('thing_classes') or classes
    keys = ['model']
    if (cfg.model.get('train_cfg') or {}).get('augments'):
        keys.append('data_preprocessor')  # it mixes labels
    for key in keys:
        for name, number in _iter_class_counts(cfg.get(key), key):
            if number not in (len(classes), len(things)):
                yield (
                    f'{name} is {number}, and the data set has {len(classes)} '
                    'classes'
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


def _check_places(dataset: ConfigDict, split: str) -> None:
    """Check that the files and folders of a data set exist."""
    if dataset.get('backend_args'):
        return  # not local files
    root = dataset.get('data_root') or ''
    prefix = dataset.get('data_prefix') or {}
    if isinstance(prefix, str):
        prefix = dict(img_path=prefix)
    parts = [
        dataset.get('ann_file') or '',
        *(p or '' for p in prefix.values()),
    ]
    for part in [root, *(os.path.join(root, p) for p in parts)]:
        if part and '://' not in part and not os.path.exists(part):
            remedy = next(
                (
                    f': {source}'
                    for folder, source in DATA_SOURCES.items()
                    if Path(root).is_relative_to(folder)
                ),
                f' (data_root of {split}_dataloader.dataset)',
            )
            raise FileNotFoundError(f'no data at {part}{remedy}')


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
    elif dataset:
        if 'dataset' in dataset or 'datasets' in dataset:
            yield from iter_datasets(dataset.get('dataset'))
            yield from iter_datasets(dataset.get('datasets'))
        else:
            yield dataset
