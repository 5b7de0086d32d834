"""Measure the parts of a training step.

``tools/analysis_tools/profile_training.py`` is a command over this module.
"""

import time

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..engine.runner import build_runner


class StepHook(Hook):
    """Time the parts of every training step.

    The parts are the wait for data, the backbone forward and backward, all
    layers after it with the losses, the optimizer with the clipping of
    gradients, and the rest, such as copies and logging.

    Args:
        skip (int): Number of steps that are not measured, while workers start
            and memory grows.

    Attributes:
        seconds (dict[str, list[float]]): Seconds of each part in each step.
        images (int): Number of images in the data set.
        device (torch.device): The device of the model.
    """

    # Other hooks run before it, and count as the rest.
    priority = 'VERY_LOW'

    def __init__(self, skip: int) -> None:
        self.skip = skip
        parts = 'data', 'backbone', 'head', 'optimizer', 'rest'
        self.seconds: dict[str, list[float]] = {part: [] for part in parts}
        self._times: dict[str, float] = {}

    def before_train(self, runner: Runner) -> None:
        """Prepare the model and the optimizer."""
        model = runner.model
        self.device = next(model.parameters()).device
        self.images = len(runner.train_dataloader.dataset)
        model.backbone.register_forward_pre_hook(
            lambda *_: self._mark('forward')
        )
        model.backbone.register_forward_hook(self._after_backbone)
        # torch.compile of torch 2.1 removes hooks of the optimizer itself.
        step = runner.optim_wrapper.step

        def timed_step(*args, **kwargs) -> None:
            self._mark('update')
            step(*args, **kwargs)
            self._mark('updated')

        runner.optim_wrapper.step = timed_step
        self._mark('end')

    def _mark(self, name: str) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        self._times[name] = time.perf_counter()

    def _after_backbone(self, module, args, outs) -> None:
        self._mark('features')
        # The backward pass of the backbone starts after the last of these.
        for out in outs:
            if out.requires_grad:
                out.register_hook(lambda _: self._mark('gradients'))

    def before_train_iter(self, *args, **kwargs) -> None:
        """Mark the end of the wait for data."""
        self._before = self._times['end']
        self._mark('loaded')

    def after_train_iter(self, *args, **kwargs) -> None:
        """Compute the parts of the step."""
        self._mark('end')
        if self.skip:
            self.skip -= 1
            return
        at = self._times
        # A frozen backbone has no gradients.
        gradients = at.pop('gradients', at['update'])
        backward = at['update'] - gradients
        step = dict(
            data=at['loaded'] - self._before,
            backbone=at['features'] - at['forward'] + backward,
            head=gradients - at['features'],
            optimizer=at['updated'] - at['update'],
        )
        step['rest'] = at['end'] - self._before - sum(step.values())
        for part, seconds in step.items():
            self.seconds[part].append(seconds)


def profile_training(cfg: Config, steps: int = 20, skip: int = 3) -> StepHook:
    """Train for some steps in this process, and measure their parts.

    There is no validation, and no checkpoint is saved.

    Args:
        cfg (Config): The config, with a ``work_dir`` for the logs; changed in
            place.
        steps (int): Number of steps to measure. Defaults to 20.
        skip (int): Number of steps before them. Defaults to 3.

    Returns:
        StepHook: The hook with the measured times.

    Raises:
        FileNotFoundError: If the data do not exist.
    """
    for key in cfg:
        if key.startswith(('val_', 'test_')) or key == 'param_scheduler':
            cfg[key] = None
    cfg.default_hooks.checkpoint = None
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=skip + steps)
    cfg.launcher, hook = 'none', StepHook(skip)
    runner = build_runner(cfg, ('train',))
    runner.register_hook(hook)
    runner.train()
    return hook
