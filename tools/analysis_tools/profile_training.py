#!/usr/bin/env python
"""Measures what the time of training goes to."""

import argparse
import shlex
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import mean

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmhatnet.analysis.report import markdown_table
from mmhatnet.analysis.timing import describe_machine
from mmhatnet.cli import add_cfg_options, one_line_errors
from mmhatnet.launch import build_runner
from mmhatnet.zoo import load_model_config

PARTS = ('data', 'backbone', 'head', 'optimizer', 'rest')


class EnoughError(Exception):
    """Ends a training that has been measured."""


class ShareHook(Hook):
    """Times the parts of every training step.

    They are waiting for data, the backbone forward and backward, all that is
    behind it with the losses, the optimizer, and the rest: moving of data,
    logging and the like.

    Args:
        steps (int): Steps to count, after which it raises EnoughError.
        skip (int): Steps that do not count, while workers start and memory
            grows.

    Attributes:
        seconds (dict[str, list[float]]): Of each part, in each step.
        busy (list[float]): Cores that the process kept busy in each step.
        images (int): Number of images that there are to train on.
    """

    # Other hooks count for the rest.
    priority = 'VERY_LOW'

    def __init__(self, steps: int, skip: int) -> None:
        self.steps, self.skip = steps, skip
        self.seconds = {part: [] for part in PARTS}
        self.busy = []

    def before_train(self, runner: Runner) -> None:
        """Be told of what happens within a step."""
        model = runner.model
        model = model.module if is_model_wrapper(model) else model
        self.device = next(model.parameters()).device
        self.images = len(runner.train_dataloader.dataset)
        model.backbone.register_forward_pre_hook(
            lambda *_: self.mark('forward')
        )
        model.backbone.register_forward_hook(self.after_backbone)
        optimizer = runner.optim_wrapper.optimizer
        optimizer.register_step_pre_hook(lambda *_: self.mark('update'))
        optimizer.register_step_post_hook(lambda *_: self.mark('updated'))
        self.times = {}
        self.mark('end')

    def mark(self, name: str) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        self.times[name] = time.perf_counter()

    def after_backbone(self, module, args, outs) -> None:
        self.mark('features')
        # Of the backward pass the backbone's is the last part.
        for out in outs:
            if out.requires_grad:
                out.register_hook(lambda _: self.mark('gradients'))

    def before_train_iter(self, *args, **kwargs) -> None:
        self.before = self.times['end']
        self.mark('loaded')
        self.cpu = time.process_time()

    def after_train_iter(self, *args, **kwargs) -> None:
        self.mark('end')
        if self.skip:
            self.skip -= 1
            return
        at = self.times
        # A frozen backbone has none.
        gradients = at.pop('gradients', at['update'])
        step = dict(
            data=at['loaded'] - self.before,
            backbone=at['features'] - at['forward'],
            head=gradients - at['features'],
            optimizer=at['updated'] - at['update'],
        )
        step['backbone'] += at['update'] - gradients
        step['rest'] = at['end'] - self.before - sum(step.values())
        for part, seconds in step.items():
            self.seconds[part].append(seconds)
        cpu = time.process_time() - self.cpu
        self.busy.append(cpu / (at['end'] - at['loaded']))
        if len(self.busy) == self.steps:
            raise EnoughError


def profile(cfg: Config, steps: int, skip: int) -> ShareHook:
    """Train for some steps, without validation or anything that is kept."""
    for key in cfg:
        if key.startswith(('val_', 'test_')) or key == 'param_scheduler':
            cfg[key] = None
    cfg.default_hooks.checkpoint = None
    cfg.launcher, hook = 'none', ShareHook(steps, skip)
    runner = build_runner(cfg, ('train',))
    runner.register_hook(hook)
    with suppress(EnoughError):
        runner.train()
    return hook


def row_of(name: str, hook: ShareHook) -> dict[str, str]:
    total = sum(map(sum, hook.seconds.values()))
    return {
        'config': f'`{name}`',
        'images': f'{hook.images}',
        'step (s)': f'{total / len(hook.busy):.3f}',
        **{
            part: f'{sum(seconds) / total:.1%}'
            for part, seconds in hook.seconds.items()
        },
        'busy cores': f'{mean(hook.busy):.1f}',
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Train for some steps, and tell how much of the time goes '
        'to waiting for data, the backbone, what is behind it, the optimizer '
        'and the rest. Nothing is kept of the training.'
    )
    parser.add_argument(
        'configs', nargs='+', help='names of models or config files'
    )
    parser.add_argument('--steps', type=int, default=20, help='(default: 20)')
    parser.add_argument(
        '--skip', type=int, default=3, help='steps before them (default: 3)'
    )
    parser.add_argument(
        '--out', type=Path, metavar='PAGE.md', help='write a page, too'
    )
    add_cfg_options(parser)
    args = parser.parse_args()
    rows = []
    # One for all: mmengine's visualizer stays with the first.
    with tempfile.TemporaryDirectory() as folder:
        for name in args.configs:
            cfg = load_model_config(name)
            cfg.merge_from_dict(args.cfg_options or {})
            cfg.work_dir = folder
            hook = profile(cfg, args.steps, args.skip)
            rows.append(row_of(Path(name).stem, hook))
    table = markdown_table(rows)
    print(table)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(
            '# What the time of training goes to\n\n'
            f'Made by `{shlex.join(["python", *sys.argv])}` on '
            f'{describe_machine(hook.device)}: means of {args.steps} steps of '
            'one process. *Images* are those of the data set, *data* is '
            'waiting for it, *backbone* forward and backward, *head* all '
            'that is behind it, with the losses.\n\n'
            f'{table}\n'
        )


if __name__ == '__main__':
    with one_line_errors():
        main()
