"""The whole command, on data that take seconds."""

import json
import runpy
import shutil
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import made_folders as made
import numpy as np
import pytest
import torch
from demo.explorer import Explorer
from helpers import TOOLS, call_tool, needs_export, run_tool, start_tool
from mmengine.config import Config
from PIL import Image

from mmhatnet.finetune import results, tuning
from mmhatnet.finetune.pictures import save_figure
from mmhatnet.finetune.plan import Plan
from mmhatnet.utils.config import read_config

TOOL = TOOLS / 'finetune.py'
FILES = (
    *('config.py', 'model.pth', 'predictions.png', 'result.json'),
    *('confusion.png', 'examples.png'),
)
# Task -> how data are made that are learned in seconds.
MAKERS = dict(
    classification=made.folders,
    segmentation=partial(made.label_maps, count=16),
    detection=partial(made.coco, count=16),
    instances=partial(made.coco, count=16, masks=True),
)


@pytest.fixture
def photos(tmp_path):
    return made.folders(tmp_path / 'my photos')


ARGUMENTS = (
    *('my photos', '--iters', 30, '--budget', '40s'),
    *('--cfg-options', 'optim_wrapper.clip_grad.max_norm=3.0'),
)


def finetune(*arguments, cwd, code=0):
    return call_tool(TOOL, *arguments, '--no-export', cwd=cwd, code=code)


def state_of(folder):
    return json.loads((folder / 'result.json').read_text())


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp('finetune')
    made.folders(folder / 'my photos')
    return folder, finetune(*ARGUMENTS, cwd=folder)


class TestClassification:
    """From a folder with a blank in its name to every file."""

    @pytest.fixture
    def work(self, done):
        return done[0] / 'work_dirs' / 'my photos'

    def test_files(self, work):
        for name in FILES:
            assert (work / name).stat().st_size > 500, name
        assert not [*work.glob('.*.*')]  # parts of files

    def test_screen(self, done):
        screen = done[1].rpartition('\n\n')[2].splitlines()
        assert len(screen) <= 15
        assert 'accuracy' in screen[0]
        assert 'commonest class' in screen[1]
        assert 'schedule: 30 steps' in done[1]

    def test_result(self, work):
        result = state_of(work)
        assert result['finished']
        assert result['steps'] == 30
        assert result['metric'] > result['baseline']
        assert sum(result['images'].values()) == 18
        assert all(map(Path.exists, map(Path, result['examples'])))

    def test_config_is_short_and_has_the_options(self, work):
        text = (work / 'config.py').read_text()
        assert text.count('\n') < 200
        assert 'mmhatnet::_base_' in text
        cfg = Config.fromfile(work / 'config.py')
        assert cfg.optim_wrapper.clip_grad.max_norm == 3.0
        assert cfg.train_cfg.max_iters == 30

    @pytest.mark.parametrize(('gain', 'better'), [(0, False), (90, True)])
    def test_grids(self, gain, better, work, tmp_path, monkeypatch):
        config = tmp_path / 'config.py'
        shutil.copy(work / 'config.py', config)
        plan = Plan(**json.loads((work / 'plan.json').read_text())['plan'])
        before, tried = [plan.grid_sizes, plan.ds_ratios], []

        def evaluate(runner, grids):
            tried.append(grids)
            return {plan.about.metric: 5 + gain * (grids[1][0] == 4)}

        monkeypatch.setattr(tuning, 'evaluate_grids', evaluate)
        said = tuning.tune_grids(plan, config, work / 'model.pth', 60)
        assert ('better by 90' in said) == better
        assert tried[0] == (*map(tuple, before),)
        backbone = read_config(config).model.backbone
        assert backbone.grid_sizes == tuple(plan.grid_sizes)
        assert backbone.ds_ratios == tuple(plan.ds_ratios)
        assert (plan.ds_ratios[0] == 4) == better
        if better:
            again = replace(plan, grid_sizes=before[0], ds_ratios=before[1])
            said = tuning.tune_grids(again, config, work / 'model.pth', 60)
            assert said == 'as an earlier call found them'
            assert again == plan

    def test_train_reads_the_config(self, done, work):
        output = call_tool(
            *(TOOLS / 'train.py', work / 'config.py', '--work-dir', 'again'),
            *('--cfg-options', 'train_cfg.max_iters=2'),
            cwd=done[0],
        )
        assert 'Iter(val)' in output

    def test_page_opens_the_result(self, work, tmp_path):
        open_result = runpy.run_path(str(TOOLS / 'demo_app.py'))['open_result']
        name, files, images = open_result(work)
        assert name == 'my photos'
        explorer = Explorer(*files)
        found, *_ = explorer.explore(images[0], *explorer.configured, 0)
        names = {x['name'] for x in found['classes']}
        assert names == {*made.COLOURS}
        with pytest.raises(ValueError, match='has no result'):
            open_result(tmp_path)

    def test_second_call_shows_the_result(self, done):
        output = finetune(*ARGUMENTS, cwd=done[0])
        assert 'is finished' in output
        assert output.endswith(done[1].rpartition('\n\n')[2])

    def test_other_options(self, done):
        output = finetune('my photos', '--lr', 1, cwd=done[0], code=1)
        assert (
            'was started with other settings (--budget, --lr, --iters'
            in output
        )

    def test_other_data(self, done, work):
        made.folders(done[0] / 'more', count=3)
        other = 'more', *ARGUMENTS[1:], '--work-dir', work
        output = finetune(*other, cwd=done[0], code=1)
        assert 'was started with other settings (data' in output


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['absent'], 'absent'),
        (['my photos', '--weights', 'absent.pth'], 'no checkpoint at'),
        (['my photos', '--work-dir', 'file'], 'has to be a folder'),
        (['my photos', '--work-dir', 'folder'], 'has other files'),
    ],
)
def test_one_line(arguments, message, photos):
    (photos.parent / 'file').touch()
    made.write(photos.parent / 'folder' / 'model.pth', 'mine')
    output = finetune(*arguments, cwd=photos.parent, code=1)
    assert message in output.splitlines()[-1]
    assert 'Traceback' not in output


def wait_for(pattern, folder, process, seconds=120):
    end = time.monotonic() + seconds
    while not [*folder.glob(pattern)]:
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize('sent', [signal.SIGKILL, signal.SIGINT])
def test_same_command_continues(sent, photos):
    folder = photos.parent
    arguments = (
        *(TOOL, photos, '--iters', 40, '--budget', '100s', '--no-export'),
        *('--work-dir', 'work'),
        *('--cfg-options', 'default_hooks.checkpoint.interval=5'),
    )
    process = start_tool(*arguments, cwd=folder, start_new_session=True)
    wait_for('work/training/iter_*.pth', folder, process)
    process.send_signal(sent)
    process.communicate(timeout=120)
    work = folder / 'work'
    if sent == signal.SIGINT:
        assert process.returncode == 0
        first = state_of(work)
        assert not first['finished']
        assert 5 <= first['steps'] < 40
        assert (work / 'predictions.png').exists()
    else:
        assert not (work / 'result.json').exists()
    run_tool(*arguments, cwd=folder)
    assert 'resumed epoch' in (work / 'finetune.log').read_text()
    assert state_of(work)['finished']


@pytest.mark.slow
@needs_export
@pytest.mark.parametrize('task', MAKERS)
def test_every_task(task, tmp_path):
    """The exported file finds what the model finds, in a process without mm.

    These data are learned in seconds, so the metric is above the baseline.
    """
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    MAKERS[task](tmp_path / 'data')
    iters = dict(classification=30, segmentation=40).get(task, 60)
    call_tool(
        *(TOOL, 'data', '--iters', iters, '--budget', '5m'),
        *('--size', 64) * (task != 'classification'),
        cwd=tmp_path,
    )
    work = tmp_path / 'work_dirs' / 'data'
    result = state_of(work)
    assert result['metric'] > result['baseline']
    assert (work / result['chart']).stat().st_size > 500
    assert not result['export']
    output = call_tool(
        *(TOOLS / 'infer.py', work / 'model.onnx', result['examples'][0]),
        *('--out-dir', tmp_path / 'out'),
        cwd=tmp_path,
    )
    assert '1 result in' in output


class TestConfusion:
    def test_counts(self):
        confusion = results.Confusion(3)
        truth, found = [0, 0, 1, 2, 255], [0, 1, 1, 0, 0]
        confusion.count(torch.tensor(truth), torch.tensor(found))
        assert confusion.counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]

    @pytest.mark.parametrize(
        ('task', 'expected'), [('classification', 75), ('segmentation', 37.5)]
    )
    def test_constant_answer(self, task, expected):
        counts = np.array([[2, 4, 0], [2, 0, 0], [0, 0, 0]])
        assert results.constant_answer(task, counts) == expected

    @pytest.mark.parametrize('classes', [1, 3, 25, 200])
    def test_picture(self, classes, tmp_path):
        counts = np.eye(classes, dtype=int)
        figure = results.draw_confusion(counts, list(map(str, range(classes))))
        save_figure(figure, tmp_path / 'confusion.png')
        assert Image.open(tmp_path / 'confusion.png').width > 200


@pytest.mark.parametrize('found', [True, False])
def test_curves(found, tmp_path):
    pytest.importorskip('pycocotools')
    objects = made.coco(tmp_path)['annotations']
    if found:
        text = json.dumps([dict(x, score=0.9) for x in objects])
        made.write(tmp_path / 'found.json', text)
    files = str(tmp_path / 'annotations.json'), tmp_path / 'found.json'
    axes = results.draw_curves(*files, 'bbox').axes[0]
    labels = [line.get_label() for line in axes.lines]
    assert labels == ['cat (AP50 1.00)', 'dog (AP50 1.00)'] * found
    assert ('nothing' in axes.get_title()) != found
