"""A hook that the trainings of the tests import by ``custom_imports``.

Importing it with ``$KILL_PUT=N`` also kills the process when it has written
half of the N-th file that mmengine stores.
"""

import json
import os
import signal

from mmengine.fileio import LocalBackend
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
            loss=outputs['loss'].item(),
            lr=runner.optim_wrapper.get_lr()['lr'][0],
        )
        if str(runner.iter) == os.environ.get('KILL_AT'):
            os.kill(os.getpid(), signal.SIGKILL)


class KillingPut:
    """A counting replacement of ``LocalBackend.put``."""

    count = 0
    put = LocalBackend.put

    def __call__(self, backend, obj, filepath):
        self.count += 1
        if str(self.count) == os.environ['KILL_PUT']:
            with open(filepath, 'wb') as file:
                file.write(obj[: len(obj) // 2])
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        KillingPut.put(backend, obj, filepath)


if 'KILL_PUT' in os.environ:
    killing_put = KillingPut()
    LocalBackend.put = lambda *args: killing_put(*args)
