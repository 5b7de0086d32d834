"""Training and testing from a config, for every task, with or without a GPU.

``tools/train.py`` and ``tools/test.py`` are commands over this module.
"""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.dist import init_dist, is_distributed
from mmengine.registry import RUNNERS
from mmengine.runner import CheckpointLoader, Runner, find_latest_checkpoint

from .checks import MatchingKeysHook, check_data, iter_datasets, resume_intact
from .config import read_config as read_config  # a documented name
from .weights.files import read_checkpoint

# Launcher -> the variable from which mmengine takes the GPU of a process.
LOCAL_RANKS = dict(
    pytorch='LOCAL_RANK',
    slurm='SLURM_LOCALID',
    mpi='OMPI_COMM_WORLD_LOCAL_RANK',
)


def build_runner(cfg: Config, splits: tuple[str, ...]) -> Runner:
    """Build the runner of a config, with or without a GPU.

    Without a GPU, distributed processes communicate by gloo, SyncBN becomes
    BN and mixed precision becomes float32; the log notes each change.

    Args:
        cfg (Config): The config; changed in place.
        splits (tuple[str]): The splits that will run, of 'train', 'val' and
            'test'; their data sets must exist.

    Returns:
        Runner: A runner of mmengine, or of the config's ``runner_type``.

    Raises:
        FileNotFoundError: If a data set or checkpoint is missing.
        ValueError: If the checkpoint to resume from is damaged.
    """
    check_data(cfg, splits)
    notes = resume_intact(cfg)
    if get_device() == 'cpu':
        notes += adapt_to_cpu(cfg)
    build = RUNNERS.build if 'runner_type' in cfg else Runner.from_cfg
    runner = build(cfg)
    # Resuming needs mmengine's own objects, which its loaders unpickle.
    if not cfg.get('resume'):
        runner.load_checkpoint = _reading_safely()(runner.load_checkpoint)
    runner.register_hook(MatchingKeysHook())
    for note in notes:
        runner.logger.warning(note)
    return runner


@contextmanager
def _reading_safely() -> Iterator[None]:
    """Replace mmengine's loaders of files and URLs by ``read_checkpoint``.

    They fall back to unpickling, which runs code that a file may contain.
    """
    schemes = CheckpointLoader._schemes
    CheckpointLoader._schemes = dict(schemes)
    CheckpointLoader.register_scheme(
        ['', 'http://', 'https://'], read_checkpoint, force=True
    )
    try:
        yield
    finally:
        CheckpointLoader._schemes = schemes


def adapt_to_cpu(cfg: Config) -> list[str]:
    """Make a config run without a GPU.

    Args:
        cfg (Config): The config; changed in place. With a ``launcher``, the
            process group is started.

    Returns:
        list[str]: Notes for the user.
    """
    notes = []
    if cfg.get('launcher', 'none') != 'none' and not is_distributed():
        _start_gloo(cfg.launcher)
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
        # In a single process mmengine does this itself.
        if _replace_sync_bn(cfg.model):
            notes.append('no GPU: SyncBN became BN, statistics per process')
    wrapper = cfg.get('optim_wrapper') or {}
    if wrapper.get('type') == 'AmpOptimWrapper':
        wrapper.type = 'OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fp64'):
            wrapper.pop(key, None)
        notes.append('no GPU: training in float32, without mixed precision')
    return notes


def _start_gloo(launcher: str) -> None:
    """Start a process group on the CPU.

    mmengine selects a GPU for any backend; torch ignores a negative number.
    """
    name = LOCAL_RANKS[launcher]
    local_rank = os.environ.get(name, '0')
    os.environ[name] = '-1'
    try:
        init_dist(launcher, backend='gloo')
    finally:
        os.environ[name] = os.environ['LOCAL_RANK'] = local_rank


def stop_distributed() -> None:
    """End the process group after a run that succeeded.

    A thread of gloo that still runs when Python exits aborts the process. The
    group joins its threads when nothing refers to it, DDP included.
    """
    if is_distributed():
        torch.distributed.destroy_process_group()
        gc.collect()


def _replace_sync_bn(cfg: object) -> bool:
    """Turn each SyncBN in the config of a model into BN, if there is any."""
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
    """Resume from a checkpoint: ``--resume``.

    Args:
        cfg (Config): The config; changed in place.
        chosen (str): A checkpoint, or 'auto' for the last one in the
            work_dir; if there is none yet, the run starts from the beginning.
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
        ValueError: If the config has an optimizer wrapper of another type.
    """
    wrapper = cfg.optim_wrapper
    kind = wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ValueError(f'--amp does not support optim_wrapper.type={kind}')
    wrapper.type = 'AmpOptimWrapper'
    wrapper.setdefault('loss_scale', 'dynamic')


def enable_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate with the batch size: ``--auto-scale-lr``.

    Args:
        cfg (Config): The config; changed in place.

    Raises:
        ValueError: If the config lacks the batch size of its learning rate.
    """
    if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
        raise ValueError(
            '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) '
            'in the config: the batch size of its learning rate'
        )
    cfg.auto_scale_lr.enable = True


def enable_show(cfg: Config, show_dir: str) -> None:
    """Save pictures of predictions: ``--show-dir``.

    Args:
        cfg (Config): The config; changed in place.
        show_dir (str): The folder for the pictures.

    Raises:
        ValueError: If the config has no visualization hook.
    """
    if 'visualization' not in cfg.default_hooks:
        raise ValueError(
            '--show-dir needs default_hooks.visualization in the config'
        )
    hook = cfg.default_hooks.visualization
    # Each library has its own settings.
    if cfg.default_scope == 'mmpretrain':
        hook.update(enable=True, interval=1, out_dir=show_dir)
    elif cfg.default_scope == 'mmdet':
        # mmdet puts a relative folder inside the work_dir.
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
    for dataset in iter_datasets(cfg.test_dataloader.dataset):
        dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=deepcopy(cfg.model))


def enable_out(cfg: Config, out: str) -> None:
    """Save the predictions for mm's analysis tools: ``--out``.

    Args:
        cfg (Config): The config; changed in place.
        out (str): The file.

    Raises:
        ValueError: If the file is not named ``*.pkl``.
    """
    if not out.endswith(('.pkl', '.pickle')):
        raise ValueError(f'--out writes a .pkl file, not {out}')
    kind = 'DumpDetResults' if cfg.default_scope == 'mmdet' else 'DumpResults'
    metrics = cfg.test_evaluator
    if isinstance(metrics, dict):
        metrics = [metrics]
    cfg.test_evaluator = [*metrics, dict(type=kind, out_file_path=out)]
