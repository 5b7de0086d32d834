"""Checks of the data before a run."""

import os
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config, ConfigDict

# Folder that the configs expect -> how to get the data set.
DATA_SOURCES = {
    'data/ade': 'unpack http://data.csail.mit.edu/places/ADEchallenge/'
    'ADEChallengeData2016.zip in data/ade',
    'data/coco': 'run: mim run mmdet download_dataset --dataset-name coco2017 '
    '--save-dir data/coco --unzip',
    'data/imagenet': 'get ILSVRC2012 from https://image-net.org/download, as '
    'a folder per class in data/imagenet/train and data/imagenet/val',
    'data/demo': 'run: python tools/dataset_converters/make_demo_data.py',
}


def check_data(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check that the files and folders of the data sets exist.

    Args:
        cfg (Config): The config.
        splits (tuple[str]): The splits to check: 'train', 'val' or 'test'.

    Raises:
        FileNotFoundError: If one is missing. The message tells where it is
            expected and how to get it.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        for dataset in iter_datasets(loader.get('dataset')):
            root = dataset.get('data_root') or ''
            prefix = dataset.get('data_prefix') or {}
            if isinstance(prefix, str):
                prefix = dict(img_path=prefix)
            parts = [dataset.get('ann_file') or '', *prefix.values()]
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
