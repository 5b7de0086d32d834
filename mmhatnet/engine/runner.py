"""Training and testing from a config, for every task, with or without a GPU.

``tools/train.py`` and ``tools/test.py`` are commands over this module.
"""

import ctypes
import gc
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.dist import init_dist, is_distributed
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import CheckpointLoader, Runner

from ..operators import NAME, describe_operators
from ..utils.config import iter_dicts, name_types
from ..utils.config import read_config as read_config  # an old name
from ..utils.device import computes_bfloat16
from ..weights.files import read_checkpoint, unwrap_state_dict
from .checks import check_data
from .hooks import FiniteLossHook, MatchingKeysHook, ResumeHook
from .provenance import ProvenanceHook
from .resuming import lock_work_dir, resume_intact

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
# Split -> settings without which mmengine does not run it.
NEEDED = dict(
    train=('train_dataloader', 'train_cfg', 'optim_wrapper'),
    test=('test_dataloader', 'test_cfg', 'test_evaluator'),
)
SYNC_BN = 'SyncBN', 'MMSyncBN', 'torch.nn.modules.batchnorm.SyncBatchNorm'
# Launcher -> the variables with the number of a process: among all, and on its
# machine, from which mmengine takes the GPU.
RANKS = dict(
    pytorch=('RANK', 'LOCAL_RANK'),
    slurm=('SLURM_PROCID', 'SLURM_LOCALID'),
    mpi=('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK'),
)


def build_runner(cfg: Config, splits: tuple[str, ...]) -> Runner:
    """Build the runner of a config, with or without a GPU.

    Without a GPU, distributed processes communicate by gloo, SyncBN becomes
    BN, and mixed precision becomes float32 unless it uses bfloat16 and the CPU
    has instructions for it; the log notes each change.

    Args:
        cfg (Config): The config; changed in place.
        splits (tuple[str]): The splits that will run, of 'train', 'val' and
            'test'; their data sets must exist.

    Returns:
        Runner: A runner of mmengine, or of the config's ``runner_type``.

    Raises:
        FileNotFoundError: If a data set or checkpoint is missing.
        ValueError: If the checkpoint to resume from is damaged, or the config
            lacks the data of a split.
    """
    if cfg.get('launcher') == 'pytorch':
        die_with_parent()
    if cfg.get('launcher', 'none') != 'none':
        # DDP copies gradients in any layout; sides of 1 have ambiguous ones.
        warnings.filterwarnings('ignore', 'Grad strides do not match')
    name_types(cfg)
    for key in [key for split in splits for key in NEEDED.get(split, ())]:
        if cfg.get(key) is None:
            raise ValueError(
                f'the config has no {key}, which this command needs'
            )
    notes = check_data(cfg, splits) + resume_intact(cfg)
    lock = None
    if 'train' in splits:
        rank, _ = RANKS.get(cfg.get('launcher'), ('', ''))
        if os.environ.get(rank, '0') == '0':
            # Before the runner makes a folder for its log.
            lock = lock_work_dir(cfg.work_dir)
        _guard_checkpoints(cfg)
        _move_pretrained(cfg)
    if get_device() == 'cpu':
        notes += adapt_to_cpu(cfg)
    build = RUNNERS.build if 'runner_type' in cfg else Runner.from_cfg
    runner = build(cfg)
    runner.work_dir_lock = lock  # held as long as the runner exists
    # Any module may load weights.
    for name in ('train', 'val', 'test', 'load_checkpoint'):
        setattr(runner, name, _reading_safely()(getattr(runner, name)))
    if cfg.get('resume'):
        runner.register_hook(ResumeHook())
    if 'train' in splits:
        runner.register_hook(ProvenanceHook(), 'VERY_LOW')
    runner.register_hook(MatchingKeysHook(strict='train' not in splits))
    if cfg.get('check_loss', True):
        runner.register_hook(FiniteLossHook())
    for note in notes:
        runner.logger.warning(note)
    if NAME in sys.modules:  # the model, or its data, need them
        runner.logger.info(f'operators of mmcv.ops: {describe_operators()}')
    return runner


def train_steps(cfg: Config, steps: int, hook: Hook) -> None:
    """Train for some steps to measure them, and save nothing.

    Args:
        cfg (Config): The config, whose ``work_dir`` gets a log; changed in
            place.
        steps (int): Number of steps.
        hook (Hook): What measures.
    """
    for key in cfg:
        if key.startswith(('val_', 'test_')) or key == 'param_scheduler':
            cfg[key] = None
    hooks = cfg.get('default_hooks') or {}
    cfg.default_hooks = dict(hooks, checkpoint=None)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=steps)
    cfg.update(launcher='none', load_from=None, resume=False)
    runner = build_runner(cfg, ('train',))
    runner.register_hook(hook)
    runner.train()


def _guard_checkpoints(cfg: Config) -> None:
    """Use our hook instead of mmengine's CheckpointHook."""
    cfg.default_hooks = cfg.get('default_hooks') or {}
    usual = 'CheckpointHook', 'mmengine.CheckpointHook'
    default = ConfigDict(type=usual[0])
    hook = cfg.default_hooks.setdefault('checkpoint', default)
    if hook and hook.type in usual:
        hook.type = 'mmhatnet.AtomicCheckpointHook'


def _move_pretrained(cfg: Config) -> None:
    """Let our hook load, and check, a checkpoint that a whole model names.

    mmengine would only log that no key of them matches.
    """
    model = cfg.model
    backbone = model.get('backbone') or {}
    old = model.get('pretrained')  # mm's key before init_cfg
    if old and str(backbone.get('type')).endswith('HATNet'):
        del model['pretrained']
        whole = cfg.get('default_scope') == 'mmpretrain'
        (model if whole else backbone)['init_cfg'] = ConfigDict(
            type='Pretrained', checkpoint=old
        )
    init_cfg = model.get('init_cfg')
    if isinstance(init_cfg, list | tuple) and len(init_cfg) == 1:
        (init_cfg,) = init_cfg
    if (
        isinstance(init_cfg, dict)
        and 'checkpoint' in init_cfg
        and str(init_cfg.get('type')).endswith('Pretrained')
        and not init_cfg.get('prefix')
        and not cfg.get('load_from')
        and not cfg.get('resume')
    ):
        cfg.load_from = init_cfg['checkpoint']
        del model['init_cfg']


def _read_in_mm_layout(filename: str, map_location: str) -> dict:
    """Read a checkpoint; all hooks find its weights in ``state_dict``."""
    content = read_checkpoint(filename, map_location)
    if 'state_dict' in content:
        return content
    return dict(state_dict=unwrap_state_dict(content))


@contextmanager
def _reading_safely() -> Iterator[None]:
    """Replace mmengine's loaders of files and URLs by ``read_checkpoint``.

    They fall back to unpickling, which runs code that a file may contain.
    """
    schemes = CheckpointLoader._schemes
    CheckpointLoader._schemes = dict(schemes)
    CheckpointLoader.register_scheme(
        ['', 'http://', 'https://'], _read_in_mm_layout, force=True
    )
    try:
        yield
    finally:
        CheckpointLoader._schemes = schemes


def end_workers(runner: Runner) -> None:
    """End the processes that load data, after a run.

    Those that are left to the collector of garbage take 5 seconds, in which
    Ctrl-C can be lost.
    """
    for name in ('train', 'val', 'test'):
        loop = getattr(runner, f'_{name}_loop')  # a config before it runs
        loader = getattr(loop, 'dataloader', None)
        iterator: Any = getattr(loader, '_iterator', None)
        if hasattr(iterator, '_shutdown_workers'):
            iterator._shutdown_workers()


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
        wrapper = dict(
            type='MMDistributedDataParallel',
            device_ids=None,  # the default is the number of a GPU
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
        cfg.setdefault('model_wrapper_cfg', wrapper)
        # In a single process mmengine does this itself.
        parts = [x for x in iter_dicts(cfg.model) if x.get('type') in SYNC_BN]
        for part in parts:
            part['type'] = 'BN'
        if parts:
            notes.append('no GPU: SyncBN became BN, statistics per process')
    wrapper = cfg.get('optim_wrapper') or {}
    if wrapper.get('type') == 'AmpOptimWrapper':
        dtype = str(wrapper.get('dtype'))
        for key in ('dtype', 'loss_scale', 'use_fp64'):
            wrapper.pop(key, None)
        if 'bfloat16' in dtype and computes_bfloat16():
            wrapper['type'] = 'mmhatnet.BFloat16OptimWrapper'
        else:
            wrapper['type'] = 'OptimWrapper'
            notes.append(
                'no GPU: training in float32; for mixed precision, a CPU '
                'needs optim_wrapper.dtype=bfloat16 and instructions for it'
            )
    return notes


def _start_gloo(launcher: str) -> None:
    """Start a process group on the CPU.

    mmengine selects a GPU for any backend; torch ignores a negative number.
    """
    _, name = RANKS[launcher]
    local_rank = os.environ.get(name, '0')
    os.environ[name] = '-1'
    try:
        init_dist(launcher, backend='gloo')
    finally:
        os.environ[name] = os.environ['LOCAL_RANK'] = local_rank


def die_with_parent(sent: signal.Signals = signal.SIGKILL) -> None:
    """Make Linux send this process a signal when its parent dies.

    Otherwise it would continue to train beside the run that resumes it.
    """
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, sent)


def stop_distributed() -> None:
    """End the process group after a run that succeeded.

    A thread of gloo that still runs when Python exits aborts the process. The
    group joins its threads when nothing refers to it, DDP included.
    """
    if is_distributed():
        torch.distributed.destroy_process_group()
        gc.collect()


def lacks_bfloat16(cfg: Config) -> bool:
    """Whether a model needs operators that mmcv compiles without bfloat16.

    Detectors and Mask2Former need them, unless torchvision's replace mmcv's.
    """
    detects = cfg.get('default_scope') == 'mmdet'
    needed = detects or 'MSDeformAttn' in str(cfg.get('model'))
    return needed and describe_operators() != 'torchvision'
