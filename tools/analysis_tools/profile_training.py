#!/usr/bin/env python
import argparse
import shlex
import sys
import tempfile
import time
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmhatnet.analysis.report import markdown_table
from mmhatnet.apis.zoo import load_model_config
from mmhatnet.engine.cli import (
    add_cfg_options,
    apply_options,
    one_line_errors,
    positive,
)
from mmhatnet.engine.provenance import describe_machine
from mmhatnet.engine.runner import train_steps
from mmhatnet.utils.atomic import write_text

PAGE = """# Where the time of training goes

Made by `{command}` on {machine}: means of {steps} steps of one process. \
*images* are those of the data set. *data* is the wait for data, *backbone* \
is forward and backward, and *head* is everything after the backbone, with \
the losses.

{table}
"""


class StepHook(Hook):
    """Time the parts of every training step, as on the page.

    The optimizer clips gradients, too; the rest is copies and logging.
    """

    # Other hooks run before it, and count as the rest.
    priority = 'VERY_LOW'

    def __init__(self, skip: int) -> None:
        self.skip = skip  # steps, while workers start and memory grows
        parts = 'data', 'backbone', 'head', 'optimizer', 'rest'
        self.seconds: dict[str, list[float]] = {part: [] for part in parts}
        self._at: dict[str, float] = {}

    def before_train(self, runner: Runner) -> None:
        backbone = runner.model.backbone
        self.device = next(runner.model.parameters()).device
        self.images = len(runner.train_dataloader.dataset)
        backbone.register_forward_pre_hook(lambda *_: self._mark('forward'))
        backbone.register_forward_hook(self._after_backbone)
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
        self._at[name] = time.perf_counter()

    def _after_backbone(self, module, args, outs) -> None:
        self._mark('features')
        # The backward pass of the backbone starts after the last of these.
        for out in outs:
            if out.requires_grad:
                out.register_hook(lambda _: self._mark('gradients'))

    def before_train_iter(self, *args, **kwargs) -> None:
        self._at['start'] = self._at['end']
        self._mark('loaded')

    def after_train_iter(self, *args, **kwargs) -> None:
        self._mark('end')
        at = self._at
        # A frozen backbone has no gradients.
        gradients = at.pop('gradients', at['update'])
        forward = at['features'] - at['forward']
        step = dict(
            data=at['loaded'] - at['start'],
            backbone=forward + at['update'] - gradients,
            head=gradients - at['features'],
            optimizer=at['updated'] - at['update'],
        )
        step['rest'] = at['end'] - at['start'] - sum(step.values())
        self.skip -= 1
        for part, seconds in step.items() if self.skip < 0 else ():
            self.seconds[part].append(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Train for some steps, and show the shares of the time '
        'for the wait for data, the backbone, the head, the optimizer and '
        'the rest. No checkpoint is saved.'
    )
    add = parser.add_argument
    add('configs', nargs='+', help='names of models or config files')
    add('--steps', type=positive, default=20, help='steps (default: 20)')
    add('--skip', type=positive, default=3, help='before them (default: 3)')
    add('--out', type=Path, metavar='PAGE.md', help='also write a page')
    add_cfg_options(parser)
    args = parser.parse_args()
    rows = []
    # One folder for all: mmengine's visualizer keeps the first one.
    with tempfile.TemporaryDirectory() as folder:
        for name in args.configs:
            cfg = load_model_config(name)
            apply_options(cfg, args)
            cfg.work_dir = folder
            found = StepHook(args.skip)
            train_steps(cfg, args.skip + args.steps, found)
            total = sum(map(sum, found.seconds.values()))
            row = {
                'config': f'`{Path(name).stem}`',
                'images': f'{found.images}',
                'step (s)': f'{total / args.steps:.3f}',
            }
            for part, seconds in found.seconds.items():
                row[part] = f'{sum(seconds) / total:.1%}'
            rows.append(row)
    page = PAGE.format(
        command=shlex.join(['python', *sys.argv]),
        machine=describe_machine(found.device),
        steps=args.steps,
        table=markdown_table(rows),
    )
    print(page)
    if args.out:
        write_text(args.out, page)


if __name__ == '__main__':
    with one_line_errors():
        main()
