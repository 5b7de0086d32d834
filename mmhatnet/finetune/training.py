"""Run a plan: time some steps, search the learning rate, train and resume."""

import signal
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from itertools import count
from math import inf, isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tqdm import tqdm

from ..engine.resuming import find_checkpoints
from ..engine.runner import build_runner
from ..utils.config import read_config
from .plan import Plan
from .recipe import make_config, write_config

ELAPSED = 'finetune_seconds'  # in the state of a training
INTERRUPTED = 'interrupted'
TIMED = 10  # steps that are timed, of which the first are not counted
FEW = 4  # that are timed in any case
FACTORS = 0.5, 1.0, 2.0  # of the learning rate, in its search
FEWEST, MOST = 20, 80  # steps of each rate in the search

_runs = count()


@contextmanager
def quietly(log: Path) -> Iterator[TextIO]:
    """Send what the libraries print to a file; yields the terminal."""
    log.parent.mkdir(parents=True, exist_ok=True)
    terminal = sys.stderr
    with (
        open(log, 'a', encoding='utf-8', errors='replace') as file,
        redirect_stdout(file),
        redirect_stderr(file),
    ):
        yield terminal


def _loss(outputs: dict | None) -> float:
    return float(torch.as_tensor((outputs or {}).get('loss', 0)).detach())


class _Recorder(Hook):
    """Records the times and the losses of steps, and stops in time."""

    def __init__(self, seconds: float = inf) -> None:
        self.seconds = seconds
        self.times: list[float] = []
        self.losses: list[float] = []

    def after_train_iter(self, runner, outputs=None, **_):
        self.losses.append(_loss(outputs))
        self.times.append(time.monotonic())
        late = self.times[-1] - self.times[0] > self.seconds
        if late and len(self.times) > FEW:
            runner.train_loop.stop_training = True

    @property
    def step(self) -> float:
        """Seconds of a step, without those that start the workers."""
        gaps = np.diff(self.times)
        return float(np.median(gaps[len(gaps) // 3 :])) if len(gaps) else inf


def try_steps(
    plan: Plan,
    data: dict,
    args: Namespace,
    steps: int = TIMED,
    seconds: float = inf,
) -> _Recorder:
    """Train a few steps, in a folder that is deleted; times and losses.

    ``args`` has the ``--cfg-options``, which may change the time of a step.
    """
    recorder = _Recorder(seconds)
    with TemporaryDirectory() as folder:
        path = Path(folder, 'trial.py')
        write_config(make_config(plan, data), path, args)
        cfg = prepare(path)
        cfg.update(val_cfg=None, val_dataloader=None, val_evaluator=None)
        cfg.update(param_scheduler=[], custom_hooks=[])
        cfg.check_loss = False  # a rate of the search may be too high
        cfg.train_cfg.max_iters = steps
        cfg.default_hooks.checkpoint = None
        runner = build_runner(cfg, ('train',))
        runner.register_hook(recorder)
        runner.train()
        runner.train_dataloader._iterator = None  # ends its workers
    return recorder


def search_lr(
    plan: Plan, seconds: float, losses: Callable[[Plan, int], list[float]]
) -> Plan:
    """Try half, once and twice the learning rate, if there is time.

    ``losses`` trains a plan for some steps and returns the loss of each. The
    rate after which the loss is the lowest is chosen.
    """
    steps = min(MOST, int(seconds / plan.step / len(FACTORS)))
    if steps < FEWEST:
        return plan
    tried = {}
    for factor in FACTORS:
        rate = float(f'{plan.lr * factor:.2g}')
        found = losses(replace(plan, lr=rate, iters=steps), steps)
        loss = float(np.mean(found[-(steps // 3) :]))
        tried[rate] = loss if isfinite(loss) else inf
    best = min(tried, key=lambda rate: tried[rate])
    shown = ', '.join(f'{lr:.2g} {loss:.2f}' for lr, loss in tried.items())
    plan = replace(plan, lr=best)
    plan.reasons['learning rate'] = (
        f'{best:.2g}, with the lowest loss after {steps} steps ({shown})'
    )
    return plan


class ProgressHook(Hook):
    """Shows a line with the metric and the time left, and ends in time."""

    def __init__(self, plan: Plan, seconds: float, terminal: TextIO) -> None:
        self.metric, self.name = plan.about.metric, plan.about.title
        self.seconds, self.terminal = seconds, terminal
        self.best: float | None = None
        self.reason = ''  # of an early end
        self.evaluated = -1  # iteration of the last evaluation

    def before_train(self, runner: Runner) -> None:
        """Show the line."""
        state = runner.message_hub.runtime_info  # also of earlier calls
        self.start = time.monotonic() - state.get(ELAPSED, 0.0)
        self.best = state.get('best_score')
        if self.best is not None:
            self.evaluated = runner.iter
        self.bar = tqdm(
            desc='training',
            total=runner.max_iters,
            initial=runner.iter,
            file=self.terminal,
            mininterval=0.5 if self.terminal.isatty() else 20,
            dynamic_ncols=True,
            unit='step',
        )

    def after_train_iter(self, runner, outputs=None, **_):
        """Show the step, and end the training if it must."""
        elapsed = time.monotonic() - self.start
        runner.message_hub.update_info(ELAPSED, elapsed)
        if elapsed > self.seconds and not self.reason:
            self.reason = 'the time was over'
        if self.reason:
            runner.train_loop.stop_training = True
        best = '' if self.best is None else f', {self.name} {self.best:.3g}'
        text = f'loss {_loss(outputs):.3g}{best}'
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update()

    def after_val_epoch(self, runner, metrics=None):
        """Note the metric."""
        self.evaluated = runner.iter
        value = (metrics or {}).get(self.metric, self.best)
        self.best = value if self.best is None else max(value, self.best)

    def after_train(self, runner: Runner) -> None:
        """Evaluate the last weights, unless that was done."""
        if runner.iter < runner.max_iters and not self.reason:
            self.reason = 'the metric did not become better'
        new = self.evaluated < runner.iter - 1 and self.reason != INTERRUPTED
        if new or self.best is None:
            self.bar.set_description('evaluating')
            runner.val_loop.run()
        self.bar.close()


@contextmanager
def ending_on_interrupt(hook: ProgressHook) -> Iterator[None]:
    """End the training well at the first Ctrl-C, the program at the second."""

    def end(*_) -> None:
        # Processes that load data inherit this and ignore the signal.
        signal.signal(signal.SIGINT, before)
        hook.reason = INTERRUPTED
        print('\nending with the best so far', file=hook.terminal, flush=True)

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def train(
    plan: Plan, path: Path, seconds: float, terminal: TextIO
) -> tuple[int, str]:
    """Train by a config, and resume what an earlier call has left.

    Args:
        plan (Plan): The plan.
        path (Path): The config.
        seconds (float): Time of the training, with that of earlier calls.
        terminal (TextIO): Where progress is shown.

    Returns:
        tuple[int, str]: The steps, and why they ended early, or ''.
    """
    cfg = prepare(path)
    cfg.resume = bool(find_checkpoints(cfg.work_dir))
    hook = ProgressHook(plan, seconds, terminal)
    with ending_on_interrupt(hook):
        runner = build_runner(cfg, ('train', 'val'))
        runner.register_hook(hook, 'LOW')
        runner.train()
    runner.work_dir_lock.close()
    return runner.iter, hook.reason


def prepare(path: Path, folder: str = 'training') -> Config:
    """Read a config for one of several runs in this process.

    Its work_dir is a folder beside the config, since mmengine writes the
    complete config, of the same name, into it.
    """
    cfg = read_config(path)
    name = f'{folder}_{next(_runs)}'  # mmengine keeps one log for each name
    cfg.update(work_dir=str(path.parent / folder), experiment_name=name)
    cfg.visualizer.name = name
    return cfg
