"""A hook that the trainings of the tests import by ``custom_imports``."""

import json
import os
import signal

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS


@HOOKS.register_module()
class RecordHook(Hook):
    """Write values of each rank to $RECORD; kill the process at $KILL_AT."""

    def write(self, runner, **values):
        folder = os.environ.get('RECORD', 'record')
        os.makedirs(folder, exist_ok=True)
        with open(f'{folder}/rank{runner.rank}.jsonl', 'a') as file:
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
        if str(runner.iter) == os.environ.get('KILL_AT'):
            os.kill(os.getpid(), signal.SIGKILL)
