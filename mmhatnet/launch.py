"""Training and testing from a config, for every task, with or without a GPU.

``tools/train.py`` and ``tools/test.py`` are commands over this module.
"""

import os
from copy import deepcopy
from unittest import mock

from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.dist import init_dist, is_distributed
from mmengine.registry import RUNNERS
from mmengine.runner import CheckpointLoader, Runner, find_latest_checkpoint

from .checks import MatchingKeysHook, check_data, iter_datasets, resume_intact
from .config import read_config as read_config  # a documented name
from .weights.files import read_checkpoint


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
            ['', 'http://', 'https://'], read_checkpoint, force=True
        )
    build = RUNNERS.build if 'runner_type' in cfg else Runner.from_cfg
    runner = build(cfg)
    runner.register_hook(MatchingKeysHook())
    for note in notes:
        runner.logger.warning(note)
    return runner


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
    for dataset in iter_datasets(cfg.test_dataloader.dataset):
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
