"""Training and testing from a config, for every task, with or without a GPU.

``tools/train.py`` and ``tools/test.py`` are commands over this module.
"""

import argparse
import os
import re
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from traceback import walk_tb
from unittest import mock

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.device import get_device
from mmengine.dist import init_dist, is_distributed
from mmengine.hooks import Hook
from mmengine.hub import get_config
from mmengine.registry import RUNNERS
from mmengine.runner import CheckpointLoader, Runner, find_latest_checkpoint

from .checkpoint import is_official, read, unwrap

# Where the configs expect a data set -> how to get it.
DATA_SOURCES = {
    'data/ade': 'unpack http://data.csail.mit.edu/places/ADEchallenge/'
    'ADEChallengeData2016.zip in data/ade',
    'data/coco': 'run: mim run mmdet download_dataset --dataset-name coco2017 '
    '--save-dir data/coco --unzip',
    'data/imagenet': 'get ILSVRC2012 from https://image-net.org/download, as '
    'a folder per class in data/imagenet/train and data/imagenet/val',
    'data/demo': 'run: python tools/dataset_converters/make_demo_data.py',
}


def parser(description: str) -> argparse.ArgumentParser:
    """Make a parser with what training and testing have in common.

    Args:
        description (str): For ``--help``.

    Returns:
        ArgumentParser: To which a tool adds its own arguments.
    """
    result = argparse.ArgumentParser(description=description)
    result.add_argument('config', help='config file')
    result.add_argument(
        '--work-dir',
        help='folder for logs and checkpoints; default: work_dirs/<config>',
    )
    add_cfg_options(result)
    result.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes were started; dist_*.sh and slurm_*.sh set it',
    )
    # torch.distributed.launch passes it; torchrun sets LOCAL_RANK instead.
    result.add_argument(
        '--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS
    )
    return result


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add mm's ``--cfg-options``.

    Args:
        parser (ArgumentParser): Of a tool.
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='settings to override in the config, for example '
        'model.backbone.grid_sizes=8,8,8 (G1) '
        'model.backbone.ds_ratios=16,8,4 (G2); lists are a,b or "[a,b]", '
        'without blanks',
    )


def read_config(filename: str | os.PathLike) -> Config:
    """Read a config that may inherit ours as ``_base_ = 'mmhatnet::...'``.

    Args:
        filename (str | PathLike): The config file, or one of an installed
            library in the way of ``_base_``, such as
            'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'.

    Returns:
        Config: The config.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if '::' in str(filename):
        cfg = get_config(filename)
    elif Path(filename).is_file():
        cfg = Config.fromfile(filename)
    else:
        raise FileNotFoundError(f'no config at {filename}')
    _drop_scope(list(cfg.values()))
    return cfg


def _drop_scope(cfg: object) -> None:
    """Leave what comes from our configs to their default_scope.

    mmengine gives everything from 'mmhatnet::' the scope of mmhatnet, in whose
    registries there are no data sets or hooks of the libraries.
    """
    if isinstance(cfg, dict):
        if cfg.get('_scope_') == 'mmhatnet':
            del cfg['_scope_']
        cfg = cfg.values()
    elif not isinstance(cfg, list | tuple):
        return
    for part in cfg:
        _drop_scope(part)


def load_config(args: argparse.Namespace) -> Config:
    """Read the config that the arguments of :func:`parser` describe.

    Args:
        args (Namespace): The parsed arguments.

    Returns:
        Config: With ``launcher`` and ``work_dir`` set.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if args.local_rank is not None:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    cfg.launcher = args.launcher
    cfg.work_dir = (
        args.work_dir
        or cfg.get('work_dir')
        or os.path.join('work_dirs', Path(args.config).stem)
    )
    return cfg


def build_runner(cfg: Config, splits: tuple[str, ...]) -> Runner:
    """Build the runner of a config, on whatever device there is.

    Without a GPU the processes of a distributed run talk by gloo, SyncBN
    becomes BN and mixed precision float32, with a line in the log for each.

    Args:
        cfg (Config): The config; changed in place.
        splits (tuple[str]): Of 'train', 'val' and 'test', those that will
            run; their data sets have to exist.

    Returns:
        Runner: mmengine's, or what ``runner_type`` says.

    Raises:
        FileNotFoundError: If a data set or checkpoint is absent.
        ValueError: If the checkpoint to resume from is damaged.
    """
    check_data(cfg, splits)
    notes = resume_intact(cfg)
    if get_device() == 'cpu':
        notes += adapt_to_cpu(cfg)
    if not cfg.get('resume'):
        # mmengine's loaders fall back to unpickling whatever a file holds; to
        # resume, its own objects are needed.
        CheckpointLoader.register_scheme(
            ['', 'http://', 'https://'], read, force=True
        )
    build = RUNNERS.build if 'runner_type' in cfg else Runner.from_cfg
    runner = build(cfg)
    runner.register_hook(MatchingKeysHook())
    for note in notes:
        runner.logger.warning(note)
    return runner


class MatchingKeysHook(Hook):
    """Refuse a checkpoint of which nothing fits the model.

    mmengine would only log all of its keys.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the keys.

        Args:
            runner (Runner): The runner, with its model.
            checkpoint (dict): What was read.

        Raises:
            ValueError: If the model has none of the keys.
        """
        model = runner.model
        while hasattr(model, 'module'):  # DDP, test time augmentation
            model = model.module
        expected = model.state_dict()
        found = checkpoint.get('state_dict', checkpoint)
        # mmpretrain's classifiers let HATNet convert the authors' files.
        official = is_official(unwrap(checkpoint))
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


def check_data(cfg: Config, splits: tuple[str, ...]) -> None:
    """Look for the files and folders of the data sets, before anything else.

    Args:
        cfg (Config): The config.
        splits (tuple[str]): Of 'train', 'val' and 'test'.

    Raises:
        FileNotFoundError: If one is absent. The message says where to put it
            and what prepares it.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        for dataset in _datasets(loader.get('dataset')):
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


def _datasets(dataset: ConfigDict | list | None) -> Iterator[ConfigDict]:
    """The data sets inside of wrappers, such as ConcatDataset."""
    if isinstance(dataset, list):
        for part in dataset:
            yield from _datasets(part)
    elif dataset:
        if 'dataset' in dataset or 'datasets' in dataset:
            yield from _datasets(dataset.get('dataset'))
            yield from _datasets(dataset.get('datasets'))
        else:
            yield dataset


def resume_intact(cfg: Config) -> list[str]:
    """See that a run which is to be resumed has an intact checkpoint.

    A machine that goes down while it writes leaves a truncated file. Where
    the last checkpoint is such a file, the one before is taken.

    Args:
        cfg (Config): The config; ``load_from`` may be changed.

    Returns:
        list[str]: What to tell the user.

    Raises:
        FileNotFoundError: If the checkpoint that the user chose is absent.
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
    # What torch.save writes is a zip file, whose directory is at its end.
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
            f'{last} is damaged or gone, and there is no intact checkpoint '
            'before it'
        )
    if chosen:
        raise ValueError(
            f'{last} is damaged; the one before it is intact: '
            f'--resume {before}'
        )
    cfg.load_from = str(before)
    return [
        f'{last} is damaged or gone: resuming from the one before it, {before}'
    ]


def adapt_to_cpu(cfg: Config) -> list[str]:
    """Make a config run without a GPU.

    Args:
        cfg (Config): The config; changed in place.

    Returns:
        list[str]: What to tell the user.
    """
    notes = []
    if cfg.get('launcher', 'none') != 'none' and not is_distributed():
        # mmengine chooses a GPU for the process, whatever the backend.
        with mock.patch('torch.cuda.set_device'):
            init_dist(cfg.launcher, backend='gloo')
        cfg.setdefault(
            'model_wrapper_cfg',
            dict(
                type='MMDistributedDataParallel',
                # The default is the number of a GPU.
                device_ids=None,
                broadcast_buffers=False,
                find_unused_parameters=cfg.get(
                    'find_unused_parameters', False
                ),
            ),
        )
        # Alone, mmengine does this by itself.
        if _replace_sync_bn(cfg.model):
            notes.append('no GPU: SyncBN became BN, statistics per process')
    wrapper = cfg.get('optim_wrapper') or {}
    if wrapper.get('type') == 'AmpOptimWrapper':
        wrapper.type = 'OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fp64'):
            wrapper.pop(key, None)
        notes.append('no GPU: training in float32, without mixed precision')
    return notes


def _replace_sync_bn(cfg: object) -> bool:
    """Turn SyncBN into BN everywhere in a config of a model."""
    if isinstance(cfg, list | tuple):
        # A sum, since any() would stop at the first.
        return sum(map(_replace_sync_bn, cfg)) > 0
    if not isinstance(cfg, dict):
        return False
    found = cfg.get('type') in ('SyncBN', 'MMSyncBN')
    if found:
        cfg['type'] = 'BN'
    return _replace_sync_bn(list(cfg.values())) or found


def enable_resume(cfg: Config, chosen: str) -> None:
    """Go on from a checkpoint: ``--resume``.

    Args:
        cfg (Config): The config; changed in place.
        chosen (str): A checkpoint, or 'auto' for the last one in the work_dir;
            where there is none yet, the run starts as without.
    """
    if chosen != 'auto':
        cfg.update(resume=True, load_from=chosen)
    elif find_latest_checkpoint(cfg.work_dir):
        cfg.update(resume=True, load_from=None)


def enable_amp(cfg: Config) -> None:
    """Train in mixed precision: ``--amp``.

    Args:
        cfg (Config): The config; changed in place.

    Raises:
        ValueError: If the config has an optimizer wrapper of another kind.
    """
    wrapper = cfg.optim_wrapper
    kind = wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ValueError(f'--amp does not go with optim_wrapper.type={kind}')
    wrapper.type = 'AmpOptimWrapper'
    wrapper.setdefault('loss_scale', 'dynamic')


def enable_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate with the batch size: ``--auto-scale-lr``.

    Args:
        cfg (Config): The config; changed in place.

    Raises:
        ValueError: If it does not say what batch size its rate is for.
    """
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise ValueError(
            '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) '
            'in the config: the batch size that its learning rate is for'
        )
    cfg.auto_scale_lr.enable = True


def enable_show(cfg: Config, show_dir: str) -> None:
    """Save pictures of predictions beside the truth: ``--show-dir``.

    Args:
        cfg (Config): The config; changed in place.
        show_dir (str): Where to save them.

    Raises:
        ValueError: If the config has no visualization hook.
    """
    if 'visualization' not in cfg.default_hooks:
        raise ValueError(
            '--show-dir needs default_hooks.visualization in the config'
        )
    hook = cfg.default_hooks.visualization
    # Three libraries, three ways.
    if cfg.default_scope == 'mmpretrain':
        hook.update(enable=True, interval=1, out_dir=show_dir)
    elif cfg.default_scope == 'mmdet':
        # A relative folder would be made inside of the work_dir.
        hook.update(draw=True, test_out_dir=os.path.abspath(show_dir))
    else:
        hook.update(draw=True, interval=1)
        cfg.visualizer.save_dir = show_dir


def enable_tta(cfg: Config) -> None:
    """Test with augmentation: ``--tta``.

    Args:
        cfg (Config): The config; changed in place.

    Raises:
        ValueError: If the config has no ``tta_model`` and ``tta_pipeline``.
    """
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise ValueError(
            '--tta needs tta_model and tta_pipeline in the config'
        )
    for dataset in _datasets(cfg.test_dataloader.dataset):
        dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=deepcopy(cfg.model))


def enable_out(cfg: Config, out: str) -> None:
    """Save the predictions in a file, for mm's analysis tools: ``--out``.

    Args:
        cfg (Config): The config; changed in place.
        out (str): The file.

    Raises:
        ValueError: If it is not named ``*.pkl``.
    """
    if not out.endswith(('.pkl', '.pickle')):
        raise ValueError(f'--out writes a .pkl file, not {out}')
    kind = 'DumpDetResults' if cfg.default_scope == 'mmdet' else 'DumpResults'
    metrics = cfg.test_evaluator
    if isinstance(metrics, dict):
        metrics = [metrics]
    cfg.test_evaluator = [*metrics, dict(type=kind, out_file_path=out)]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Show the errors that mmhatnet itself raises without a traceback.

    Those of a user's own code, or of a library, keep theirs.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        origin: BaseException | None = error
        # mmengine's registries raise the error of a class again.
        while origin and not _is_ours(origin):
            origin = origin.__context__
        if not origin:
            raise
        rank = os.environ.get('RANK', '0')
        where = f' (rank {rank})' if rank != '0' else ''
        sys.exit(f'{Path(sys.argv[0]).name}{where}: error: {origin}')


def _is_ours(error: BaseException) -> bool:
    *_, (frame, _) = walk_tb(error.__traceback__)
    return Path(frame.f_code.co_filename).is_relative_to(Path(__file__).parent)
