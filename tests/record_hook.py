"""A hook for the runs of test_launch.py, which are processes of their own."""

import json
import os
import signal

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS


@HOOKS.register_module()
class RecordHook(Hook):
    """Write what every rank saw, and die as by kill -9 where asked."""

    def __init__(self, folder, kill_at=None):
        self.folder, self.kill_at = folder, kill_at

    def write(self, runner, **values):
        os.makedirs(self.folder, exist_ok=True)
        with open(f'{self.folder}/rank{runner.rank}.jsonl', 'a') as file:
            file.write(json.dumps(values) + '\n')

    def before_run(self, runner):
        model = runner.model
        model = model.module if is_model_wrapper(model) else model
        attn = model.backbone.stages[1][0].attn
        self.write(runner, grids=[attn.grid_size, attn.ds_ratio])

    before_test = before_run

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        self.write(
            runner,
            iter=runner.iter,
            loss=float(outputs['loss']),
            lr=runner.optim_wrapper.get_lr()['lr'][0],
        )
        if runner.iter == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
