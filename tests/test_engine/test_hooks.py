import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ITERS, TOOLS, call_tool, recorded, run_tool
from mmengine.config import Config
from mmengine.fileio import LocalBackend
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement
from torch import nn

from mmhatnet.engine.hooks import (
    AtomicCheckpointHook,
    FiniteLossHook,
    MatchingKeysHook,
    PatientStoppingHook,
    _image_files,
)
from mmhatnet.engine.resuming import find_checkpoints, is_intact
from mmhatnet.utils.config import read_config


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


class TestForeignCheckpoint:
    """A file that shares no key with the model is an error."""

    def last_line(self, config, checkpoint, folder):
        output = call_tool(
            TOOLS / 'test.py', config, checkpoint, cwd=folder, code=1
        )
        return output.splitlines()[-1]

    def test_official_in_a_segmentor(
        self, demo_folder, small_config, official_file
    ):
        file = official_file()
        line = self.last_line(small_config, file, demo_folder)
        assert f'error: {file} does not fit' in line
        assert 'init_cfg' in line

    @pytest.fixture
    def weights(self, small_config):
        cfg = read_config(small_config)
        init_default_scope('mmseg')
        return MODELS.build(cfg.model).state_dict()

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            (lambda w: w.pop('decode_head.conv_seg.bias'), 'missing: decode'),
            (
                lambda w: w['decode_head.conv_seg.bias'].fill_(torch.nan),
                'conv_seg.bias has values that are not finite',
            ),
            (
                lambda w: (w.clear(), w.update(conv1=torch.ones(1))),
                'does not fit the model: it has conv1.*backbone.stem',
            ),
        ],
    )
    def test_tests_are_strict(
        self, change, message, weights, demo_folder, small_config
    ):
        """One key that differs would give wrong metrics."""
        change(weights)
        torch.save(dict(state_dict=weights), demo_folder / 'changed.pth')
        line = self.last_line(small_config, 'changed.pth', demo_folder)
        assert re.search(message, line)

    def test_trainings_may_change_the_head(self, weights):
        """But not the backbone."""
        runner = SimpleNamespace(
            model=nn.Module(), cfg=Config(dict(load_from='file'))
        )
        runner.model.state_dict = lambda: weights
        checkpoint = dict(state_dict=dict(weights))
        head = checkpoint['state_dict']
        head['decode_head.conv_seg.bias'] = torch.ones(9)
        hook = MatchingKeysHook(strict=False)
        hook.after_load_checkpoint(runner, checkpoint)
        with pytest.raises(ValueError, match='wrong shape'):
            MatchingKeysHook(strict=True).after_load_checkpoint(
                runner, checkpoint
            )
        del head['backbone.stages.0.1.attn.qkv.weight']
        with pytest.raises(ValueError, match=r'missing: backbone\.stages'):
            hook.after_load_checkpoint(runner, checkpoint)
