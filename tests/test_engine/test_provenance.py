"""What is recorded of a training when it starts and continues."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from helpers import TOOLS, call_tool
from mmengine.config import Config

from mmhatnet.engine.provenance import (
    FILE,
    _describe_code,
    describe_weights,
    precision_of,
    read_provenance,
)
from mmhatnet.utils.hashes import sha256_of

NOTHING = dict(commit=None, changes=None)


def git(folder, *arguments):
    command = 'git', '-c', 'user.name=x', '-c', 'user.email=x@x', *arguments
    found = subprocess.run(command, cwd=folder, capture_output=True)
    assert found.returncode == 0, found.stderr
    return found.stdout.decode().strip()


@pytest.fixture
def clone(tmp_path):
    folder = tmp_path / 'clone'
    for name in ('mmhatnet/a.py', 'configs/b.py', 'docs/c.md'):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text('1\n')
    git(folder, 'init', '--quiet')
    git(folder, 'add', '.')
    git(folder, 'commit', '--quiet', '--message', 'x')
    return folder


class TestCode:
    def test_clean(self, clone):
        commit = git(clone, 'rev-parse', 'HEAD')
        assert _describe_code(clone) == dict(commit=commit, changes=None)
        (clone / 'docs' / 'c.md').write_text('2\n')
        (clone / 'new.py').write_text('2\n')
        os.utime(clone / 'mmhatnet' / 'a.py', (1, 1))
        assert _describe_code(clone) == dict(commit=commit, changes=None)

    def test_changes(self, clone):
        """Each change has its own digest, which comes back with it."""
        code, new = clone / 'mmhatnet' / 'a.py', clone / 'configs' / 'new.py'
        odd = os.fsencode(clone) + b'/configs/\xff\n'

        def digest():
            return _describe_code(clone)['changes']

        found = []
        for text in ('2\n', '3\n', ''):
            code.write_text(text)
            found.append(digest())
        code.unlink()
        found.append(digest())
        git(clone, 'reset', '--hard')
        new.write_text('2\n')
        found.append(digest())
        new.unlink()
        git(clone, 'mv', 'configs/b.py', 'configs/c.py')
        found.append(digest())
        Path(os.fsdecode(odd)).write_text('2\n')
        found.append(digest())
        os.unlink(odd)
        git(clone, 'reset', '--hard')
        assert len({*found}) == len(found)
        code.write_text('2\n')
        assert digest() == found[0]

    def test_settings_of_git(self, clone, monkeypatch):
        """Neither those of a user nor those of git's own hooks count."""
        (clone / 'mmhatnet' / 'a.py').write_text('2\n')
        expected = _describe_code(clone)
        git(clone, 'config', 'color.ui', 'always')
        git(clone, 'config', 'diff.external', 'false')
        monkeypatch.setenv('GIT_DIR', '/nowhere')
        assert _describe_code(clone) == expected

    def test_a_repository_inside(self, clone):
        """It is one of the names."""
        git(clone.parent, 'clone', '--quiet', 'clone', 'clone/configs/x')
        assert len(_describe_code(clone)['changes']) == 64

    def test_no_clone(self, clone, tmp_path):
        assert _describe_code(tmp_path / 'absent') == NOTHING
        # A package that is installed inside another repository.
        assert _describe_code(clone / 'mmhatnet') == NOTHING
        (clone / '.git' / 'index').write_bytes(b'x')
        assert _describe_code(clone) == NOTHING

    @pytest.mark.parametrize('program', ['', '/bin/sleep 60 & wait'])
    def test_no_git(self, program, clone, tmp_path, monkeypatch):
        """Or one that hangs; nor does what it started keep us."""
        if program:
            (tmp_path / 'git').write_text(f'#!/bin/sh\n{program}\n')
            (tmp_path / 'git').chmod(0o755)
        monkeypatch.setenv('PATH', str(tmp_path))
        monkeypatch.setattr('mmhatnet.engine.provenance.MAX_SECONDS', 0.2)
        assert _describe_code(clone) == NOTHING


@pytest.mark.parametrize(
    ('location', 'name'),
    [
        ('/home/me/x.pth', 'x.pth'),
        ('file:///home/me/x.pth', 'x.pth'),
        ('https://me:secret@x.org/x.pth?token=1', 'https://x.org/x.pth'),
        ('hatnet://absent', 'hatnet://absent'),
    ],
)
def test_names_of_weights(location, name, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr('pooch.HTTPDownloader.__call__', raise_os_error)
    assert describe_weights(location) == dict(name=name, sha256=None)


def raise_os_error(*args):
    raise OSError('no network')


def test_precision():
    amp = dict(type='AmpOptimWrapper')
    for wrapper, precision in (
        (dict(type='OptimWrapper'), 'float32'),
        (dict(type='mmhatnet.BFloat16OptimWrapper'), 'bfloat16'),
        (amp | dict(dtype='bfloat16'), 'bfloat16'),
        (amp, 'float16'),
    ):
        assert precision_of(Config(dict(optim_wrapper=wrapper))) == precision


@pytest.mark.parametrize('content', ['', '{}', '[1]', '[{}]', '\xff', None])
def test_damaged(content, tmp_path):
    if content is not None:
        (tmp_path / FILE).write_text(content, 'latin-1')
    assert read_provenance(tmp_path) == []


class TestTraining:
    @pytest.fixture
    def train(self, demo_folder, small_config):
        def call(work_dir, *options, length=2, arguments=()):
            call_tool(
                *(TOOLS / 'train.py', small_config, '--work-dir', work_dir),
                *(
                    *arguments,
                    '--cfg-options',
                    f'train_cfg.max_iters={length}',
                ),
                *('train_cfg.val_interval=9', *options),
                cwd=demo_folder,
            )
            return read_provenance(work_dir)

        return call

    def test_starts(self, train, tmp_path):
        """A training that continues adds to it; a new one replaces it."""
        folder = tmp_path / 'a'
        (first,) = train(folder)
        expected = dict(step=0, seed=1, precision='float32', batch_size=2)
        expected |= dict(processes=1, config='small', weights=[])
        assert first.items() >= expected.items()
        assert first['lr'] > 0
        assert first['machine']
        resume = dict(length=4, arguments=['--resume'])
        found = train(folder, **resume)
        assert found[0] == first
        assert found[1]['step'] == 2
        assert found[1]['weights'] == [
            dict(name='iter_2.pth', sha256=sha256_of(folder / 'iter_2.pth'))
        ]
        assert found[1]['lr'] == first['lr']
        # It continues in another folder.
        moved = train(
            tmp_path / 'b',
            length=5,
            arguments=['--resume', folder / 'iter_4.pth'],
        )
        assert [start['step'] for start in moved] == [0, 2, 4]
        (again,) = train(folder, 'optim_wrapper.accumulative_counts=2')
        assert (again['step'], again['batch_size']) == (0, 4)
        text = (folder / FILE).read_text() + json.dumps(moved)
        assert str(tmp_path) not in text

    def test_sampler_and_weights(self, train, tmp_path):
        # A loader with a sampler, as in the configs of COCO.
        sampler = 'train_dataloader.batch_sampler'
        (start,) = train(
            tmp_path / 'a',
            f'{sampler}.type=torch.utils.data.BatchSampler',
            f'{sampler}.drop_last=True',
        )
        assert start['batch_size'] == 2
        source = tmp_path / 'a' / 'iter_2.pth'
        (start,) = train(
            tmp_path / 'b',
            'model.backbone.init_cfg.type=Pretrained',
            f'model.backbone.init_cfg.checkpoint={source}',
            'model.backbone.init_cfg.prefix=backbone.',
        )
        expected = dict(name='iter_2.pth', sha256=sha256_of(source))
        assert start['weights'] == [expected]
