import os
import signal
import time

import pytest
import torch
from helpers import TOOLS, start_tool
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop

from mmhatnet import launch
from mmhatnet.resuming import (
    find_checkpoints,
    is_intact,
    lock_work_dir,
    resume_intact,
)

LOCK = """
import sys, time
from mmhatnet.resuming import lock_work_dir
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
    launch.enable_resume(cfg, str(chosen))
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
        (work_dir / 'last_checkpoint').unlink()
        assert names(find_checkpoints(work_dir)) == expected

    def test_in_another_folder(self, work_dir, tmp_path_factory):
        other = tmp_path_factory.mktemp('other')
        (other / 'last_checkpoint').write_text(str(work_dir / 'iter_9.pth'))
        assert resume(other)[0].load_from == str(work_dir / 'iter_9.pth')

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


def test_checkpoint_inside_an_epoch():
    """Its batches would be repeated."""
    loop = object.__new__(EpochBasedTrainLoop)

    class Runner:
        cfg = Config(dict(resume=True, load_from='iter_6.pth'))
        train_loop = loop
        train_dataloader = range(4)

        def load_checkpoint(self, **meta):
            return dict(meta=meta) if meta else dict(a=torch.ones(1))

    runner = Runner()
    checkpoint = launch._load_checkpoint(runner, epoch=2, iter=8, config='x')
    assert checkpoint['meta'] == dict(epoch=2, iter=8)
    launch._load_checkpoint(runner, epoch=3, iter=6)  # of larger batches
    with pytest.raises(ValueError, match='iteration 6 of epochs of 4'):
        launch._load_checkpoint(runner, epoch=1, iter=6)
    with pytest.raises(ValueError, match='is not of a training'):
        launch._load_checkpoint(runner)
