import functools
import os
import signal
import time
from runpy import run_path

import pytest
import torch
from helpers import SMALL_ARCH, TOOLS, call_tool, recorded, start_tool
from mmengine.config import Config

from mmhatnet.engine.resuming import (
    find_checkpoints,
    is_intact,
    lock_work_dir,
    resume_intact,
)

LOCK = """
import sys, time
from mmhatnet.engine.resuming import lock_work_dir
lock = lock_work_dir(sys.argv[1])
print('locked', flush=True)
time.sleep(60)
"""


@pytest.fixture
def work_dir(tmp_path):
    for name in ('iter_2', 'iter_10', 'iter_9', 'best_mIoU_iter_9', 'mine'):
        torch.save(dict(a=torch.ones(100)), tmp_path / f'{name}.pth')
    return tmp_path


def damage(path):
    """Flip a bit of a tensor; the end of the file stays as it is."""
    content = bytearray(path.read_bytes())
    content[content.index(torch.ones(9).numpy().tobytes())] ^= 1
    path.write_bytes(content)


def resume(work_dir, chosen='auto'):
    cfg = Config(dict(resume=False, load_from='x', work_dir=str(work_dir)))
    run_path(TOOLS / 'train.py')['enable_resume'](cfg, str(chosen))
    return cfg, resume_intact(cfg)


def names(paths):
    return [path.stem for path in paths]


class TestWhichCheckpoint:
    def test_the_latest(self, work_dir):
        """By the names, whatever the record of mmengine says."""
        expected = ['iter_10', 'iter_9', 'iter_2', 'best_mIoU_iter_9']
        for record in ('', 'moved/iter_9.pth', f'{work_dir}/iter_2.pth'):
            (work_dir / 'last_checkpoint').write_text(record)
            assert names(find_checkpoints(work_dir)) == expected
            cfg, notes = resume(work_dir)
            assert cfg.load_from == str(work_dir / 'iter_10.pth')
            assert cfg.resume
            assert not notes
        (work_dir / 'last_checkpoint').write_bytes(b'\xff\xfe')
        assert names(find_checkpoints(work_dir)) == expected
        other = work_dir / 'other'  # which records a file elsewhere
        other.mkdir()
        (other / 'last_checkpoint').write_text(f'{work_dir}/iter_9.pth')
        assert names(find_checkpoints(other)) == ['iter_9']

    def test_damaged(self, work_dir):
        assert is_intact(work_dir / 'iter_10.pth')
        damage(work_dir / 'iter_10.pth')
        assert not is_intact(work_dir / 'iter_10.pth')
        cfg, (note,) = resume(work_dir)
        assert cfg.load_from == str(work_dir / 'iter_9.pth')
        assert 'iter_10.pth; resuming from' in note
        assert 'iter_9.pth' in note
        for name in ('iter_9', 'iter_2'):
            (work_dir / f'{name}.pth').write_bytes(b'')
        cfg, notes = resume(work_dir)
        assert cfg.load_from == str(work_dir / 'best_mIoU_iter_9.pth')
        assert 'has no optimizer' in notes[1]
        damage(work_dir / 'best_mIoU_iter_9.pth')
        with pytest.raises(ValueError, match='no checkpoint is intact.*iter_'):
            resume(work_dir)

    def test_chosen(self, work_dir):
        path = work_dir / 'mine.pth'
        assert resume(work_dir, path)[0].load_from == str(path)
        damage(path)
        with pytest.raises(ValueError, match=r'mine.*--resume .*iter_10\.'):
            resume(work_dir, path)
        with pytest.raises(FileNotFoundError, match='iter_3'):
            resume(work_dir, work_dir / 'iter_3.pth')

    def test_none_yet(self, tmp_path):
        cfg, notes = resume(tmp_path)
        assert (cfg.resume, cfg.load_from, notes) == (False, 'x', [])


class TestLock:
    def test_two_processes(self, tmp_path):
        """A folder belongs to one process, until it dies."""
        folder = tmp_path / 'work_dir'
        process = start_tool('-c', LOCK, folder)
        assert process.stdout.readline() == 'locked\n'
        with pytest.raises(ValueError, match=f'by process {process.pid} on'):
            lock_work_dir(folder)
        process.kill()
        process.wait()
        lock_work_dir(folder)
        lock_work_dir(folder)  # the same process

    @pytest.mark.slow
    def test_launcher_is_killed(self, demo_folder, small_config):
        """Its processes die with it, so that the run can be resumed."""
        options = small_config, 2, '--work-dir', 'orphans', '--cfg-options'
        process = start_tool(
            *(TOOLS / 'dist_train.sh', *options, 'train_cfg.max_iters=100000'),
            cwd=demo_folder,
            RECORD='orphans',
        )
        record = demo_folder / 'orphans' / 'rank1.jsonl'
        for _ in range(600):
            if record.exists() and len(record.read_text()) > 200:
                break
            time.sleep(0.1)
        holder = (demo_folder / 'orphans' / '.lock').read_text().split()[1]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        for _ in range(100):
            if not os.path.exists(f'/proc/{holder}'):
                break
            time.sleep(0.1)
        else:
            pytest.fail('the process trains without its launcher')
        lock_work_dir(demo_folder / 'orphans')


EPOCHS = """
_base_ = 'mmhatnet::demo/hatnet-tiny_2xb16-6e_demo.py'
custom_imports = dict(imports=['record_hook'])
custom_hooks = [dict(type='RecordHook')]
model = dict(backbone=dict(arch=dict(_delete_=True, **{arch})), head={head})
loader = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(dataset=dict(indices=24), **loader)
val_dataloader = dict(dataset=dict(indices=4), **loader)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=3)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=5, by_epoch=False),
    dict(type='StepLR', step_size=2, gamma=0.5),
    dict(type='CosineAnnealingLR', T_max=3, convert_to_iter_based=True),
]
# One of another learning rate, so that there are two groups.
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1)))
)
auto_scale_lr = dict(enable=True, base_batch_size=12)
default_hooks = dict(checkpoint=dict(interval=1, save_best=None))
"""


@pytest.fixture(scope='module')
def train(demo_folder):
    config = demo_folder / 'epochs.py'
    head = dict(in_channels=SMALL_ARCH['embed_dims'][-1])
    config.write_text(EPOCHS.format(arch=SMALL_ARCH, head=head))

    def train(name, batch_size, *options, resume=(), code=0):
        folder = demo_folder / name
        output = call_tool(
            *(TOOLS / 'train.py', config, '--work-dir', folder, *resume),
            *('--cfg-options', f'train_dataloader.{batch_size=}'),
            *options,
            cwd=demo_folder,
            code=code,
            RECORD=str(folder),
        )
        return folder, output

    return train


@pytest.fixture(scope='module')
def first(train):
    """Function that trains one epoch, which is the best, with a runner."""

    @functools.cache
    def run(runner):
        folder, _ = train(
            f'first_{runner}',
            12,
            f'runner_type={runner}',
            'train_cfg.max_epochs=1',
            'default_hooks.checkpoint.save_best=auto',
        )
        return folder / 'epoch_1.pth'

    return run


class TestAnotherBatchSize:
    """A run of 1 epoch of 2 batches continues with epochs of 6 or 1."""

    @pytest.mark.parametrize(
        ('batch_size', 'runner'), [(4, 'FlexibleRunner'), (24, 'Runner')]
    )
    def test_schedule(self, batch_size, runner, train, first):
        """As that of a run with these batches from the beginning."""
        name = f'{batch_size}_{runner}'
        options = (f'runner_type={runner}',)
        expected, _ = train(f'whole_{name}', batch_size, *options)
        folder, output = train(
            f'changed_{name}',
            batch_size,
            *options,
            resume=('--resume', first(runner)),
        )
        batches = 24 // batch_size
        assert f'2 batches per epoch, and now there are {batches}:' in output
        found, rates = (
            {
                line['iter']: line['lr']
                for line in recorded(path)
                if line.get('iter', -1) >= batches
            }
            for path in (folder, expected)
        )
        assert len(rates) == 2 * batches
        assert found == pytest.approx(rates, rel=1e-5)
        meta = torch.load(folder / 'epoch_3.pth', weights_only=False)['meta']
        assert (meta['epoch'], meta['iter']) == (3, 3 * batches)

    def test_nothing_is_left(self, train, first):
        path = first('Runner')
        _, output = train(
            'end', 12, 'train_cfg.max_epochs=1', resume=('--resume', path)
        )
        assert (
            f'{path} was saved at epoch 1 of 1, so nothing is left' in output
        )

    def test_inside_an_epoch(self, train):
        """Its batches would be repeated, of which the last is the worst."""
        folder, _ = train(
            'inside',
            12,
            'train_cfg.max_epochs=1',
            'default_hooks.checkpoint.by_epoch=False',
        )
        for number in (1, 2):
            path = folder / f'iter_{number}.pth'
            _, output = train('in', 12, resume=('--resume', path), code=1)
            *_, line = output.splitlines()
            assert line.startswith('train.py: error: ')
            assert f'inside epoch 1, in iteration {number}, and' in line

    def test_of_no_training(self, train, first, tmp_path):
        path = tmp_path / 'weights.pth'
        content = torch.load(first('Runner'), weights_only=False)
        for key in ('message_hub', 'meta'):
            del content[key]
            torch.save(content, path)
            _, output = train('no', 12, resume=('--resume', path), code=1)
            assert 'has no state of a training' in output.splitlines()[-1]
