"""Hooks of mmengine that guard a run."""

import warnings
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import (
    CheckpointHook,
    EarlyStoppingHook,
    Hook,
    ParamSchedulerHook,
)
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmengine.structures import BaseDataElement

from ..registry import HOOKS
from ..utils.atomic import replacing, write_text
from ..weights.files import unwrap_state_dict
from ..weights.loading import check_finite, check_state_dict, to_mm
from ..weights.official import BACKBONE, strip_prefix
from .resuming import find_checkpoints


class AtomicBackend(LocalBackend):
    """The local file system, with files that are complete or absent."""

    def put(self, obj: bytes, filepath: str) -> None:
        """Write a file, as mmengine's."""
        with replacing(filepath) as part:
            super().put(obj, part)


register_backend('atomic', AtomicBackend, force=True)


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """mmengine's hook, which leaves an intact checkpoint when it is killed.

    mmengine's own rewrites files in place, and deletes the old ones before the
    new one is there.
    """

    file_backend: Any  # mmengine's before_train sets it

    def before_train(self, runner: Runner) -> None:
        """Replace the local file system by an atomic one."""
        super().before_train(runner)
        self._outdated: list[str] = []
        if type(self.file_backend) is LocalBackend:
            self.backend_args = dict(backend='atomic')
            self.file_backend = AtomicBackend()
            self.file_backend.remove = self._outdated.append
            if runner.rank == 0:
                # Incomplete files that a killed run has left.
                for part in Path(self.out_dir).glob('.*.pth.*'):
                    part.unlink()

    def _save_checkpoint(self, runner: Runner) -> None:
        super()._save_checkpoint(runner)
        self._delete_outdated(runner)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        super()._save_best_checkpoint(runner, metrics)
        self._delete_outdated(runner)

    def _delete_outdated(self, runner: Runner) -> None:
        if self._outdated and self.last_ckpt:
            # mmengine has rewritten this file in place.
            record = Path(runner.work_dir, 'last_checkpoint')
            write_text(record, self.last_ckpt)
        best = getattr(self, 'best_ckpt_path_dict', {}).values()
        used = {self.last_ckpt, getattr(self, 'best_ckpt_path', None), *best}
        while self._outdated:
            path = self._outdated.pop()
            if path not in used:
                LocalBackend().remove(path)


@HOOKS.register_module()
class PatientStoppingHook(EarlyStoppingHook):
    """mmengine's early stopping, which waits until something is learned.

    The AP of a detector is 0 for a while before it rises.
    """

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        """Count evaluations without progress, and stop the training.

        Args:
            runner (Runner): The runner.
            metrics (dict): The metrics; one of at most ``min_delta`` does not
                count.
        """
        if metrics.get(self.monitor, 0.0) > self.min_delta:
            super().after_val_epoch(runner, metrics)


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop before a loss or weights that are not finite are saved."""

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Raise ValueError if the loss is not finite, and name the images."""
        loss = torch.as_tensor((outputs or {}).get('loss', 0)).detach()
        wrong = (~loss.isfinite()).float()
        all_reduce(wrong, 'max')  # no rank may save a checkpoint
        if not wrong:
            return
        if loss.isfinite():
            raise ValueError('the loss of another process is not finite')
        files = ', '.join(_image_files(data_batch)) or 'unknown'
        last = next(iter(find_checkpoints(runner.work_dir)), 'none')
        raise ValueError(
            f'the loss is {loss.item()} in iteration {runner.iter + 1}; its '
            f'images: {files}; the last checkpoint: {last}. A smaller '
            'learning rate, clip_grad or float32 may help; check_loss=False '
            'in the config disables this check'
        )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Raise ValueError if a weight to be saved is not finite."""
        source = f'the model after iteration {runner.iter + 1}'
        check_finite(unwrap_state_dict(checkpoint), source)


def _image_files(batch: object) -> list[str]:
    """The image files of a batch, wherever they are in it."""
    if isinstance(batch, BaseDataElement):
        path = batch.get('img_path')
        return [path] if isinstance(path, str) else []
    if isinstance(batch, dict):
        batch = list(batch.values())
    if not isinstance(batch, list | tuple):
        return []
    return [file for part in batch for file in _image_files(part)]


class ResumeHook(Hook):
    """Resume at the right place when the length of an epoch has changed.

    mmengine records the epoch that was running, the complete ones, and the
    length of the training. It restores iterations: with epochs of another
    length, these would end the schedule too early or too late.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check a checkpoint before the runner resumes it, and adapt it.

        Raises ValueError if it is not of a training, or batches of an epoch
        would be repeated.
        """
        source = runner.cfg.load_from
        meta, record = checkpoint.get('meta'), checkpoint.get('message_hub')
        if not (
            isinstance(meta, dict)
            and isinstance(record, dict)
            and {'epoch', 'iter'} <= meta.keys()
        ):
            raise ValueError(
                f'{source} has no state of a training and cannot be '
                'resumed: use load_from in the config'
            )
        # mmengine would run it, to look for the number of GPUs.
        meta.pop('config', None)
        for done, unit in (('epoch', 'max_epochs'), ('iter', 'max_iters')):
            last = (runner.cfg.get('train_cfg') or {}).get(unit)
            if last and meta[done] >= last:
                runner.logger.warning(
                    f'{source} was saved at {done} {meta[done]} of {last}, so '
                    f'nothing is left: set a larger train_cfg.{unit}'
                )
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            return
        info = record.get('runtime_info', {})
        if meta['epoch'] <= info.get('epoch', -1):
            raise ValueError(
                f'{source} was saved inside epoch {meta["epoch"] + 1}, in '
                f'iteration {meta["iter"]}, and would repeat batches: resume '
                'from one that was saved after an epoch, as by_epoch=True does'
            )
        # FlexibleRunner counts one too many when it has found a best one.
        last = info.get('epoch', meta['epoch']) + 1
        meta['epoch'] = min(meta['epoch'], last)
        before = info.get('max_iters', 0) / info.get('max_epochs', 1)
        batches = len(runner.train_dataloader)
        if before not in (0, batches):
            runner.logger.warning(
                f'{source} had {before:.0f} batches per epoch, and now there '
                f'are {batches}: learning rate and schedule continue after '
                f'epoch {meta["epoch"]} as in the config'
            )
            self._move(runner, checkpoint, meta['epoch'], batches)

    def _move(
        self, runner: Runner, checkpoint: dict, epochs: int, batches: int
    ) -> None:
        """Adapt the schedule in a checkpoint to epochs of another length."""
        checkpoint['meta']['iter'] = epochs * batches
        if not isinstance(runner.param_schedulers, list) or any(
            getattr(scheduler, 'need_val_args', False)
            for scheduler in runner.param_schedulers
        ):
            return  # it is not a function of the time alone
        schedule = ParamSchedulerHook()
        with warnings.catch_warnings():
            # The optimizer has made no step yet.
            warnings.filterwarnings('ignore', 'Detected call of `scheduler')
            for _ in range(epochs):
                for batch in range(batches):
                    schedule.after_train_iter(runner, batch)
                schedule.after_train_epoch(runner)
        if 'optimizer' not in checkpoint:
            return  # mmengine keeps the ones of the runner
        checkpoint['param_schedulers'] = [
            scheduler.state_dict() for scheduler in runner.param_schedulers
        ]
        state = checkpoint['optimizer']
        # Of several groups, mmengine keeps the settings without factors, too.
        groups = [*state['param_groups'], state.get('base_param_settings')]
        current = runner.optim_wrapper.param_groups
        for old, new in zip(groups, current, strict=False):
            old.update({k: v for k, v in new.items() if k != 'params'})


class MatchingKeysHook(Hook):
    """Refuse a checkpoint that does not fit the model.

    mmengine would only log its keys and continue with random weights.

    Args:
        strict (bool): All keys must match, as a test needs; a training may
            start with a random head.
    """

    def __init__(self, strict: bool) -> None:
        self.strict = strict

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Raise ValueError if keys do not fit, or a value is not finite."""
        source, model = runner.cfg.load_from, runner.model
        while hasattr(model, 'module'):  # DDP, test time augmentation
            model = model.module
        expected = model.state_dict()
        found, official = to_mm(checkpoint)
        if official and runner.cfg.get('default_scope') != 'mmpretrain':
            # Only mmpretrain's classifiers let HATNet convert these files.
            raise ValueError(
                f"{source} does not fit the model: it has the authors' names. "
                'For the backbone of a segmentor or detector, use '
                "model.backbone.init_cfg=dict(type='Pretrained', "
                'checkpoint=...)'
            )
        if not found.keys() & expected.keys():
            raise ValueError(
                f'{source} does not fit the model: it has '
                f'{", ".join(list(found)[:3])}..., and the model '
                f'{", ".join(list(expected)[:3])}...'
            )
        check_finite(found, source)
        if not self.strict:
            # A training may not start with a randomly initialized backbone.
            backbone = getattr(model, 'backbone', None)
            optional = getattr(backbone, 'is_optional', lambda _: False)
            expected = {
                BACKBONE + key: value
                for key, value in strip_prefix(expected, BACKBONE).items()
                if BACKBONE + key in found or not optional(key)
            }
            found = {key: found[key] for key in expected if key in found}
        check_state_dict(found, expected, source)
