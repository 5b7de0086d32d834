"""Checks before a run: the data, the checkpoint to resume, the keys."""

import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.runner import Runner, find_latest_checkpoint

from .weights.files import unwrap_state_dict
from .weights.official import is_official

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


def resume_intact(cfg: Config) -> list[str]:
    """Make sure that a run resumes from an intact checkpoint.

    A machine that crashes while it saves a checkpoint leaves a truncated
    file. If the last checkpoint is truncated, the previous one is used.

    Args:
        cfg (Config): The config; ``load_from`` may be changed.

    Returns:
        list[str]: Notes for the user.

    Raises:
        FileNotFoundError: If the checkpoint that the user chose is missing.
        ValueError: If it is damaged, or if no checkpoint is intact.
    """
    if not cfg.get('resume'):
        return []
    chosen = cfg.get('load_from')
    last = chosen or find_latest_checkpoint(cfg.work_dir)
    if last is None or '://' in last:
        return []
    if chosen and not Path(last).is_file():
        raise FileNotFoundError(f'no checkpoint at {last}')
    # torch.save writes a zip file, whose directory is at its end.
    if zipfile.is_zipfile(last):
        return []

    def step(path: Path) -> float:
        number = re.search(r'\d+$', path.stem)
        return int(number[0]) if number else float('inf')

    before = max(
        (
            path
            for path in Path(last).parent.glob('*_*.pth')
            if re.fullmatch(r'(iter|epoch)_\d+', path.stem)
            and step(path) < step(Path(last))
            and zipfile.is_zipfile(path)
        ),
        key=step,
        default=None,
    )
    if before is None:
        raise ValueError(
            f'{last} is damaged or missing, and there is no intact checkpoint '
            'before it'
        )
    if chosen:
        raise ValueError(
            f'{last} is damaged; the one before it is intact: '
            f'--resume {before}'
        )
    cfg.load_from = str(before)
    return [
        f'{last} is damaged or missing: resuming from the one before it, '
        f'{before}'
    ]


class MatchingKeysHook(Hook):
    """Reject a checkpoint that shares no key with the model.

    mmengine would only log its keys and go on with random weights.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the keys of the checkpoint and the model.

        Args:
            runner (Runner): The runner, with its model.
            checkpoint (dict): The content of the checkpoint.

        Raises:
            ValueError: If the model has none of the keys.
        """
        model = runner.model
        while hasattr(model, 'module'):  # DDP, test time augmentation
            model = model.module
        expected = model.state_dict()
        found = checkpoint.get('state_dict', checkpoint)
        # mmpretrain's classifiers let HATNet convert the authors' files.
        official = is_official(unwrap_state_dict(checkpoint))
        if any(key.removeprefix('module.') in expected for key in found) or (
            official and runner.cfg.get('default_scope') == 'mmpretrain'
        ):
            return
        remedy = (
            '. For the backbone of a segmentor or detector, use model.backbone'
            ".init_cfg=dict(type='Pretrained', checkpoint=...)"
        )
        raise ValueError(
            f'{runner.cfg.load_from} does not fit the model: it has '
            f'{", ".join(list(found)[:3])}..., and the model '
            f'{", ".join(list(expected)[:3])}...{remedy if official else ""}'
        )
