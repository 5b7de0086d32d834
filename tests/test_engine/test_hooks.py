import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ITERS, TOOLS, call_tool, recorded, run_tool
from mmengine.fileio import LocalBackend
from mmengine.structures import BaseDataElement

from mmhatnet.engine.hooks import (
    AtomicCheckpointHook,
    FiniteLossHook,
    PatientStoppingHook,
    _image_files,
)
from mmhatnet.engine.resuming import find_checkpoints, is_intact


@pytest.mark.slow
class TestKilledWhileSaving:
    """Of all files that are written, some intact one is always left."""

    OPTIONS = (
        'train_dataloader.batch_size=4',
        'train_cfg.val_interval=2',
        'default_hooks.checkpoint.max_keep_ckpts=1',
    )

    @pytest.mark.parametrize('put', range(2, 6))
    def test_resume(self, put, demo_folder, small_config, single_run):
        folder = demo_folder / f'killed_{put}'
        args = TOOLS / 'train.py', small_config, '--work-dir', folder
        run_tool(
            *(*args, '--cfg-options', *self.OPTIONS),
            cwd=demo_folder,
            code=-9,
            RECORD=str(folder / 'first'),
            KILL_PUT=str(put),
        )
        left = find_checkpoints(folder)
        assert left
        assert all(map(is_intact, left))
        call_tool(
            *(*args, '--resume', '--cfg-options', *self.OPTIONS),
            cwd=demo_folder,
            RECORD=str(folder / 'second'),
        )
        lines, expected = (
            {
                line['iter']: line['loss']
                for line in recorded(path)
                if 'iter' in line
            }
            for path in (folder / 'second', single_run)
        )
        assert list(lines)[-1] == ITERS - 1
        for i, loss in lines.items():
            assert loss == pytest.approx(expected[i], rel=1e-4)
        # The old ones and the parts have been deleted in the end.
        assert len(list(folder.glob('iter_*'))) == 1
        assert not list(folder.glob('.*.pth.*'))


def test_record_is_complete_before_deletion(tmp_path, monkeypatch):
    class Runner:
        work_dir = tmp_path

    def remove(self, path):
        deleted.append(path)
        assert record.read_text() == 'iter_2.pth'

    deleted, record = [], tmp_path / 'last_checkpoint'
    record.touch()  # what a kill leaves of mmengine's
    monkeypatch.setattr(LocalBackend, 'remove', remove)
    hook = AtomicCheckpointHook(by_epoch=True, interval=-1)
    hook.last_ckpt, hook._outdated = 'iter_2.pth', ['iter_1.pth']
    hook._delete_outdated(Runner)
    assert deleted == ['iter_1.pth']


@pytest.mark.parametrize(
    ('scores', 'stops'),
    [
        ([0.0] * 8 + [0.1, 0.2], False),  # nothing is found at first
        ([0.0] * 3 + [0.2] + [0.1] * 4, False),
        ([0.0] * 3 + [0.2] + [0.1] * 5, True),
    ],
)
def test_early_stopping_waits(scores, stops):
    hook = PatientStoppingHook('AP', rule='greater', min_delta=0.001)
    loop = SimpleNamespace(stop_training=False)
    logger = SimpleNamespace(info=print)
    for score in scores:
        runner = SimpleNamespace(train_loop=loop, logger=logger)
        hook.after_val_epoch(runner, {'AP': score})
    assert loop.stop_training == stops


class TestLossThatIsNotFinite:
    def test_batch_is_named(self, tmp_path):
        class Runner:
            work_dir = str(tmp_path)
            iter = 6

        (tmp_path / 'iter_4.pth').write_bytes(b'')
        sample = BaseDataElement(metainfo=dict(img_path='a/b.jpg'))
        batch = dict(inputs=[torch.ones(1)], data_samples=[sample, sample])
        hook = FiniteLossHook()
        hook.after_train_iter(Runner, 0, batch, dict(loss=torch.tensor(1.0)))
        hook.after_train_iter(Runner, 0, batch, dict())
        for loss in (math.nan, math.inf, -math.inf):
            with pytest.raises(
                ValueError, match=r'iteration 7.*a/b\.jpg.*iter_4\.pth'
            ):
                hook.after_train_iter(
                    Runner, 0, batch, dict(loss=torch.tensor(loss))
                )
        assert _image_files(dict(a=[np.ones(1), ('x',)])) == []

    @pytest.mark.slow
    def test_training_stops(self, demo_folder, small_config):
        args = (
            *(TOOLS / 'train.py', small_config, '--work-dir', 'nan'),
            *('--cfg-options', 'optim_wrapper.optimizer.lr=1e30'),
            'default_hooks.checkpoint.interval=1',
        )
        output = call_tool(*args, cwd=demo_folder, code=1, RECORD='nan')
        line = output.splitlines()[-1]
        assert 'the loss is nan in iteration' in line
        assert 'data/demo' in line
        call_tool(*args, 'check_loss=False', cwd=demo_folder, RECORD='nan2')
