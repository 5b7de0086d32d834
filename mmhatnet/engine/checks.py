"""Checks of a config's data sets, and of settings that must agree."""

import os
from collections.abc import Iterator, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

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
    'data/demo-1200': 'run: python tools/dataset_converters/make_demo_data.py '
    '--num-train 1200 --num-val 300 --out data/demo-1200',
}
# Heads of the libraries' models whose classes are those of the data set.
HEADS = (
    *('head', 'decode_head', 'auxiliary_head'),
    *('roi_head', 'bbox_head', 'mask_head'),
)
# A split, the config of one of its data sets, and this, without its files.
Part = tuple[str, ConfigDict, BaseDataset]


def check_data(cfg: Config, splits: Sequence[str]) -> list[str]:
    """Run the checks of the data sets that take only seconds, before a run.

    With ``check_data=False`` in the config, it only looks for files.

    Args:
        cfg (Config): The config.
        splits (Sequence[str]): Of 'train', 'val' and 'test'.

    Returns:
        list[str]: Notes for the user.

    Raises:
        FileNotFoundError: If a file or folder is missing; how to get it.
        ValueError: If files or settings do not fit each other.
    """
    for part in _build_parts(cfg, splits)[0]:
        _check_places(*part)
    if not cfg.get('check_data', True):
        return []
    found = inspect_data(cfg, splits, quick=True).values()
    problems = [line for each in found for line in each.problems]
    if problems:
        raise ValueError(
            f'{problems[0]:.1000} (check_data=False in the config disables '
            'this check)'
        )
    return [line for each in found for line in each.notes]


def inspect_data(
    cfg: Config, splits: Sequence[str], quick: bool = False
) -> dict[str, Inspection]:
    """Check the settings and the files of the data sets.

    Args:
        cfg (Config): The config of a model.
        splits (Sequence[str]): Of 'train', 'val' and 'test'.
        quick (bool): As for :func:`inspect_dataset`. Defaults to False.

    Returns:
        dict[str, Inspection]: What was found, by the names of the data sets.
    """
    parts, errors = _build_parts(cfg, splits)
    found: dict[str, Inspection] = {}
    for number, (split, settings, dataset) in enumerate(parts):
        if settings in [earlier for _, earlier, _ in parts[:number]]:
            continue
        name = f'{len(found) + 1}. {split}: {settings.type}'
        try:
            _check_places(split, settings, dataset)
            found[name] = inspect_dataset(dataset, quick)
        except FileNotFoundError as error:
            found[name] = Inspection(problems=[str(error)])
    # A training itself raises the errors of data sets that it cannot build.
    problems = [*_find_disagreements(cfg, parts), *([] if quick else errors)]
    found['settings'] = Inspection(0, problems, [*_find_notes(parts)])
    return found


def _build_parts(
    cfg: Config, splits: Sequence[str]
) -> tuple[list[Part], list[str]]:
    """Build data sets, and get the errors of those that cannot be built."""
    parts, errors = [], []
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        for settings in iter_datasets(loader.get('dataset')):
            try:
                dataset = build_dataset(settings, cfg.get('default_scope'))
                parts.append((split, settings, dataset))
            except Exception as error:  # of any data set's own code
                errors.append(f'{split}_dataloader: {error!s:.300}')
    return parts, errors


def iter_datasets(dataset: ConfigDict | list | None) -> Iterator[ConfigDict]:
    """Iterate over configs of data sets inside wrappers like ConcatDataset."""
    if isinstance(dataset, list):
        for part in dataset:
            yield from iter_datasets(part)
    elif dataset and ('dataset' in dataset or 'datasets' in dataset):
        yield from iter_datasets(dataset.get('dataset'))
        yield from iter_datasets(dataset.get('datasets'))
    elif dataset:
        yield dataset


def _check_places(
    split: str, settings: ConfigDict, dataset: BaseDataset
) -> None:
    """Check that the files and folders of a data set exist."""
    # mmpretrain downloads some data sets itself, such as CIFAR-10.
    downloads = 'download' in signature(type(dataset)).parameters
    if not is_local(dataset) or downloads and settings.get('download', True):
        return
    root = dataset.data_root or ''
    remedy = f' (data_root of {split}_dataloader.dataset)'
    for folder, source in DATA_SOURCES.items():
        if Path(root).is_relative_to(folder):
            remedy = f': {source}'
    for place in root, dataset.ann_file, *dataset.data_prefix.values():
        if place and not os.path.exists(place):
            raise FileNotFoundError(f'no data at {place}{remedy}')


def _find_disagreements(cfg: Config, parts: Sequence[Part]) -> Iterator[str]:
    """Compare the classes of the heads of a model and of all data sets."""
    if 'language_model' in cfg.model:
        return  # the words are its classes
    heads = dict(_class_counts(cfg.model, 'model'))
    first: dict[int, tuple[str, str]] = {}
    for split, _, dataset in parts:
        classes = _class_names(dataset)
        counts = {len(dataset.metainfo.get('thing_classes', ())), len(classes)}
        for head, number in heads.items() if classes else ():
            if number not in counts:
                yield (
                    f'{head} is {number}, and the data set of '
                    f'{split}_dataloader has {len(classes)} classes'
                )
        for number, name in enumerate(classes):
            where, expected = first.setdefault(number, (split, name))
            if name != expected:
                yield (
                    f'class {number} is {expected!r:.60} in '
                    f'{where}_dataloader, and {name!r:.60} in '
                    f'{split}_dataloader'
                )
                break


def _class_counts(cfg: Any, name: str) -> Iterator[tuple[str, int]]:
    """Iterate over ``num_classes`` of the heads in a model's config."""
    if isinstance(cfg, list):
        cfg = dict(enumerate(cfg))
    if not isinstance(cfg, dict) or cfg.get('type') == 'STDCHead':
        return  # STDC's head of details has classes of its own: edges, others
    for key, part in cfg.items():
        if key == 'num_classes' and isinstance(part, int):
            yield f'{name}.{key}', part
        elif key in HEADS or isinstance(key, int):
            yield from _class_counts(part, f'{name}.{key}')


def _class_names(dataset: BaseDataset) -> list[str]:
    """Get the names of the classes, which may be those of folders."""
    classes = dataset.metainfo.get('classes') or ()
    folders = getattr(dataset, 'with_label', False) and not dataset.ann_file
    if not classes and folders and os.path.isdir(dataset.img_prefix):
        found = os.scandir(dataset.img_prefix)
        classes = sorted(each.name for each in found if each.is_dir())
    return list(classes)


def _find_notes(parts: Sequence[Part]) -> Iterator[str]:
    """Find data with which a model is trained and evaluated."""
    trained = []
    for split, settings, dataset in parts:
        read = [dataset.data_root, dataset.ann_file, dataset.data_prefix]
        # These choose a part of the files.
        read += [settings.get('split'), settings.get('indices')]
        if split == 'train':
            trained.append(read)
        elif read in trained and any(read[:2]):
            yield (
                f'{split}_dataloader reads {read[1] or read[0]}, with which '
                'the model is trained: the results say nothing about other '
                'images'
            )
