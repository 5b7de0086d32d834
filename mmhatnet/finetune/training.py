"""Run a plan: time some steps, search the learning rate, train and resume."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from itertools import count
from math import inf, isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import numpy as np
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tqdm import tqdm

from ..engine.resuming import find_checkpoints
from ..engine.runner import build_runner, end_workers
from ..utils.config import read_config
from .plan import Plan
from .recipe import write_config

ELAPSED = 'finetune_seconds'  # in the state of a training
INTERRUPTED = 'interrupted'
TIMED = 10  # steps that are timed, of which the first third is not counted
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


class _TimeLimit(Hook):
    """Ends a trial in time, but not before a few steps."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.start = seconds, 0.0

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        now = time.monotonic()
        self.start = self.start or now
        if runner.iter >= FEW and now - self.start > self.seconds:
            runner.train_loop.stop_training = True


def try_steps(
    plan: Plan, data: dict, steps: int = TIMED, seconds: float = inf
) -> tuple[float, np.ndarray]:
    """Train a few steps in a folder that is deleted.

    Returns the seconds of a step, and the loss of each.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder, 'trial.py')
        write_config(plan, data, path)
        cfg = prepare(path)
        cfg.update(val_cfg=None, val_dataloader=None, val_evaluator=None)
        cfg.update(param_scheduler=[], custom_hooks=[])
        cfg.check_loss = False  # a rate of the search may be too high
        cfg.train_cfg.max_iters = steps
        cfg.default_hooks.checkpoint = None
        runner = build_runner(cfg, ('train',))
        runner.register_hook(_TimeLimit(seconds))
        runner.train()
        end_workers(runner)
    times, losses = (
        runner.message_hub.get_scalar(f'train/{name}').data[0]
        for name in ('time', 'loss')
    )
    return float(np.median(times[len(times) // 3 :])), losses


def search_lr(
    plan: Plan, seconds: float, losses: Callable[[Plan, int], np.ndarray]
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

    def __init__(self, title: str, seconds: float, terminal: TextIO) -> None:
        self.title, self.seconds, self.terminal = title, seconds, terminal
        self.reason = ''  # of an early end
        self.evaluated = -1  # iteration of the last evaluation

    def before_train(self, runner: Runner) -> None:
        """Show the line."""
        self.state = runner.message_hub.runtime_info  # also of earlier calls
        self.start = time.monotonic() - self.state.get(ELAPSED, 0.0)
        if 'best_score' in self.state:
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

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any, outputs: dict
    ) -> None:
        """Show the step, and end the training if it must."""
        elapsed = time.monotonic() - self.start
        runner.message_hub.update_info(ELAPSED, elapsed)
        if elapsed > self.seconds and not self.reason:
            self.reason = 'the time was over'
        if self.reason:
            runner.train_loop.stop_training = True
        text = f'loss {outputs["loss"].item():.3g}'
        if 'best_score' in self.state:
            text += f', {self.title} {self.state["best_score"]:.3g}'
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update()

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Note that it was evaluated."""
        self.evaluated = runner.iter

    def after_train(self, runner: Runner) -> None:
        """Evaluate the last weights, unless that was done."""
        if runner.iter < runner.max_iters and not self.reason:
            self.reason = 'the metric did not become better'
        new = self.evaluated < runner.iter - 1 and self.reason != INTERRUPTED
        if new or self.evaluated < 0:
            self.bar.set_description('evaluating')
            runner.val_loop.run()
        self.bar.close()


@contextmanager
def ending_on_interrupt(hook: ProgressHook) -> Iterator[None]:
    """End the training well at the first Ctrl-C, the program at the second."""
    program = os.getpid()

    def end(*_: Any) -> None:
        if os.getpid() != program:
            return  # one that loads data, which the program ends
        signal.signal(signal.SIGINT, before)
        hook.reason = INTERRUPTED
        print(
            '\nstopping; the best weights so far will be evaluated',
            file=hook.terminal,
            flush=True,
        )

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
    hook = ProgressHook(plan.about.title, seconds, terminal)
    with ending_on_interrupt(hook):
        runner = build_runner(cfg, ('train', 'val'))
        runner.register_hook(hook, 'LOW')
        runner.train()
    end_workers(runner)
    runner.work_dir_lock.close()
    return runner.iter, hook.reason
