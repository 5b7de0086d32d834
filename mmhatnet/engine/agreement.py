"""Settings of a config that must name the same thing."""

import filecmp
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.registry import METRICS

from ..datasets.inspection import IGNORED

# Metrics that read the annotations again; others read other files.
READERS = {'CocoMetric', 'CocoPanopticMetric', 'CrowdHumanMetric'}
# Parts of models whose classes are not those of the data set.
OPEN_CLASSES = {'language_model', 'tracker'}


class Part(NamedTuple):
    """A data set of a config.

    Attributes:
        split (str): 'train', 'val' or 'test'.
        cfg (ConfigDict): Its config.
        dataset (BaseDataset): The data set, which has read no files.
    """

    split: str
    cfg: ConfigDict
    dataset: BaseDataset


def find_disagreements(cfg: Config, parts: Sequence[Part]) -> Iterator[str]:
    """Find settings that contradict each other.

    Args:
        cfg (Config): The config of a model.
        parts (Sequence[Part]): The data sets of the splits that will be used.

    Yields:
        str: A problem.
    """
    if not OPEN_CLASSES & cfg.model.keys():
        yield from _compare_splits(parts)
    for split in dict.fromkeys(part.split for part in parts):
        mine = [part for part in parts if part.split == split]
        name = f'{split}_evaluator'
        for metric in _iter_metrics(cfg.get(name)):
            if len(mine) == 1 and split != 'train':
                yield from _compare_files(cfg, metric, mine[0])
            yield from _compare_classes(metric, name, mine)
            if 'segm' in _listed(metric.get('metric')) and (
                'mask' not in str(cfg.model)
            ):
                yield f'{name} measures segm, and the model makes no masks'
    if cfg.get('default_scope') == 'mmseg':
        yield from _compare_ignored(cfg, parts)


def find_shared_data(parts: Sequence[Part]) -> Iterator[str]:
    """Find data with which a model is trained and evaluated.

    Args:
        parts (Sequence[Part]): The data sets.

    Yields:
        str: A note.
    """
    trained = set()
    for split, settings, dataset in parts:
        images = _images(dataset)
        place = dataset.ann_file or images
        # These choose a part of the files.
        chosen = [str(settings.get(key)) for key in ('split', 'indices')]
        key = (*map(os.path.realpath, (dataset.ann_file, images)), *chosen)
        if split == 'train':
            trained.add(key)
        elif place and key in trained:
            yield (
                f'{split}_dataloader reads {place}, with which the model is '
                'trained: its results say nothing about other images'
            )


def class_names(dataset: BaseDataset) -> list[str]:
    """Get the names of the classes, which may be those of folders.

    Args:
        dataset (BaseDataset): A data set, which need not have read its files.

    Returns:
        list[str]: The names in their order; empty if it has none.
    """
    classes = dataset.metainfo.get('classes') or ()
    folders = getattr(dataset, 'with_label', False) and not dataset.ann_file
    if not classes and folders and os.path.isdir(dataset.img_prefix):
        found = os.scandir(dataset.img_prefix)
        classes = sorted(each.name for each in found if each.is_dir())
    return list(classes)


def iter_transforms(pipeline: object) -> Iterator[dict]:
    """Iterate over transforms, also over those inside others.

    Args:
        pipeline (object): The config of a pipeline.

    Yields:
        dict: The config of a transform.
    """
    if isinstance(pipeline, dict):
        if 'type' in pipeline:
            yield pipeline
        pipeline = list(pipeline.values())
    if isinstance(pipeline, list | tuple):
        for each in pipeline:
            yield from iter_transforms(each)


def _images(dataset: BaseDataset) -> str:
    """The folder of the images; '' if there is none."""
    prefix = dataset.data_prefix
    return prefix.get('img_path') or prefix.get('img') or ''


def _compare_splits(parts: Sequence[Part]) -> Iterator[str]:
    """Compare what the data sets of all splits must have in common."""
    named = [(part, class_names(part.dataset)) for part in parts]
    named = [(part, names) for part, names in named if names]
    for part, names in named[1:]:
        first, expected = named[0]
        for number, pair in enumerate(zip_longest(expected, names)):
            if pair[0] != pair[1]:
                shown = [f"'{x:.60}'" if x else 'none' for x in pair]
                yield (
                    f'class {number} is {shown[0]} in '
                    f'{first.split}_dataloader, and {shown[1]} in '
                    f'{part.split}_dataloader'
                )
                break
    reduced = [
        (part.split, part.dataset.reduce_zero_label)
        for part in parts
        if hasattr(part.dataset, 'reduce_zero_label')
    ]
    for split, value in reduced[1:]:
        if value != reduced[0][1]:
            yield (
                f'reduce_zero_label is {reduced[0][1]} in '
                f'{reduced[0][0]}_dataloader, and {value} in '
                f'{split}_dataloader'
            )


def _iter_metrics(evaluator: object) -> Iterator[dict]:
    """Iterate over the metrics of an evaluator."""
    if isinstance(evaluator, list | tuple):
        for part in evaluator:
            yield from _iter_metrics(part)
    elif isinstance(evaluator, dict):
        if 'metrics' in evaluator:
            yield from _iter_metrics(evaluator['metrics'])
        else:
            yield evaluator


def _listed(value: Any) -> Iterable:
    return value if isinstance(value, list | tuple) else [value]


def _compare_files(cfg: Config, metric: dict, part: Part) -> Iterator[str]:
    """Compare the files that a metric and its data set read."""
    kind = metric.get('type')
    if isinstance(kind, str):
        with METRICS.switch_scope_and_registry(
            cfg.get('default_scope')
        ) as registry:
            kind = registry.get(kind)
    if not READERS & {each.__name__ for each in getattr(kind, '__mro__', ())}:
        return
    dataset = part.dataset
    for found, expected in (
        (metric.get('ann_file'), dataset.ann_file),
        (metric.get('seg_prefix'), dataset.data_prefix.get('seg')),
    ):
        if found and expected and not _is_same(found, expected):
            yield (
                f'{part.split}_evaluator reads {found}, and '
                f'{part.split}_dataloader {expected}'
            )


def _is_same(first: str, second: str) -> bool:
    """Whether two names stand for one file or folder, or for equal files."""
    remote = ['://' in name for name in (first, second)]
    if any(remote):
        return first == second or not all(remote)
    if os.path.realpath(first) == os.path.realpath(second):
        return True
    files = os.path.isfile(first) and os.path.isfile(second)
    return files and filecmp.cmp(first, second, shallow=False)


def _compare_classes(
    metric: dict, name: str, parts: Sequence[Part]
) -> Iterator[str]:
    """Compare the numbers of classes in a metric and in its data sets."""
    counts = {len(class_names(part.dataset)) for part in parts} - {0}
    if len(counts) != 1:
        return
    (count,) = counts
    for key, wrong in (
        ('num_classes', lambda number: number != count),
        ('topk', lambda number: number > count),
    ):
        for number in _listed(metric.get(key)):
            if isinstance(number, int) and wrong(number):
                yield (
                    f'{name}.{key} is {number}, and the data set has {count} '
                    'classes'
                )


def _compare_ignored(cfg: Config, parts: Sequence[Part]) -> Iterator[str]:
    """Compare the label that is not learned, in all places that name it."""
    model = cfg.model.get('module', cfg.model)  # of test-time augmentation
    heads = [
        (f'model.{key}', head.get('ignore_index', IGNORED))
        for key in ('decode_head', 'auxiliary_head')
        for head in _listed(model.get(key) or [])
    ]
    expected = next((label for _, label in heads), None)
    if expected is None:  # it is a loss that ignores no label
        return
    found = heads[1:]
    size = model.get('data_preprocessor') or {}
    found.append(('model.data_preprocessor', size.get('seg_pad_val', IGNORED)))
    for split, settings, _ in parts:
        loader = f'{split}_dataloader'
        if 'ignore_index' in settings:
            found.append((loader, settings['ignore_index']))
        found += [
            (f'{loader} ({transform["type"]})', transform[key])
            for transform in iter_transforms(settings.get('pipeline'))
            for key in ('ignore_index', 'seg_pad_val')
            if key in transform
        ]
        name = f'{split}_evaluator'
        found += [
            (name, metric.get('ignore_index', IGNORED))
            for metric in _iter_metrics(cfg.get(name))
            if str(metric.get('type')).endswith('IoUMetric')
        ]
    for name, label in dict.fromkeys(found):
        if label not in (expected, None):
            yield (
                f'the label that is ignored is {expected} in {heads[0][0]}, '
                f'and {label} in {name}'
            )
