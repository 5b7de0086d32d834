"""The rows of the paper, and the way from a config to a comparison."""

import hashlib
import json
import re

import pytest
import torch
from helpers import ROOT, TOOLS, call_tool, run_tool
from mmengine.config import Config
from reproduction.experiments import (
    SETTINGS,
    TABLE_6,
    find_experiment,
    list_experiments,
)
from reproduction.logs import read_curve, read_metrics, read_seconds
from reproduction.record import record_training
from reproduction.result import compare
from reproduction.run import (
    check_training,
    find_obstacles,
    last_checkpoint,
    reproduce,
)

from mmhatnet.datasets import make_demo_data
from mmhatnet.engine.provenance import KEYS, read_provenance

REPRODUCE = TOOLS / 'reproduce.py'
PAPER = ROOT.parent / 'shared' / 'reference' / 'paper.txt'
TABLE_6_ROWS = [
    f'table6_g1-4-4-4_g2-16-8-4_{how}' for how in ('trained', 'tested')
]
# The smallest row of each task.
SMALLEST = {
    'hatnet-tiny_8xb128_in1k': 'Top 1 Accuracy',
    'fpn_hatnet-tiny_8xb2-80k_ade20k-512x512': 'mIoU',
    'retinanet_hatnet-tiny_fpn_8xb2-1x_coco': 'box AP',
    'mask-rcnn_hatnet-tiny_fpn_8xb2-1x_coco': 'mask AP',
}


def test_all_rows():
    rows = list_experiments().values()
    tables = [row.table for row in rows]
    names = *(f'Table {i}' for i in range(2, 7)), 'Sec. 4.4'
    assert [tables.count(name) for name in names] == [4, 4, 8, 8, 12, 3]
    assert all(row.printed for row in rows)
    trained, tested = map(find_experiment, TABLE_6_ROWS)
    assert trained.config().model.backbone.grid_sizes == (4, 4, 4)
    assert tested.config().model.backbone.grid_sizes == (4, 4, 4)
    assert (trained.trained_as, tested.trained_as) == ('', TABLE_6)


@pytest.mark.skipif(not PAPER.is_file(), reason='needs ../shared')
def test_table_6_in_print():
    lines = [line.split('\t') for line in PAPER.read_text().splitlines()]
    for g1, g2, box, mask in SETTINGS:
        grids = [f'{{{", ".join(map(str, g))}}}' for g in (g1, g2)]
        (found,) = (x for x in lines if x[:2] == grids)
        assert (found[3], found[6]) == (str(box), str(mask))


def test_comparison():
    found = compare(
        {'box AP': 45.2, 'mask AP': 41.6},
        {'coco/bbox_mAP': 0.4512, 'coco/segm_mAP': 0.408},
    )
    assert found['box AP'] == dict(
        printed=45.2, measured=45.12, difference=-0.08, spread=0.3, within=True
    )
    assert not found['mask AP']['within']
    assert compare({'box AP': 45.2}, {})['box AP']['measured'] == 0
    with pytest.raises(KeyError):
        compare({'mIoU': 46.6}, {})


def test_obstacles_are_named_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = find_experiment(TABLE_6).config()
    cfg.model.backbone.init_cfg.checkpoint = 'no.pth'
    for available, name in (2, '2'), (0, 'none'):
        monkeypatch.setattr(torch.cuda, 'device_count', lambda n=available: n)
        found = '; '.join(find_obstacles(cfg, 8, None, True))
        assert 'no data at data/coco' in found
        assert 'no checkpoint at no.pth' in found
        assert f'8 GPUs are needed, and this machine has {name}' in found
    assert len(find_obstacles(cfg, 8, None, False)) == 1  # on the CPU


def test_training_elsewhere(tmp_path, monkeypatch):
    """It has to be complete and of the same model; only then it counts."""
    monkeypatch.chdir(tmp_path)
    row, mine = find_experiment(TABLE_6), tmp_path / 'mine'
    with pytest.raises(ValueError, match='mine has no checkpoint of a') as e:
        reproduce(row, tmp_path / 'x', work_dir=mine)
    assert 'no data at data/coco' in str(e.value)
    mine.mkdir()
    torch.save({}, mine / 'epoch_12.pth')
    cfg = row.config()
    cfg.optim_wrapper.optimizer.lr = 1.0
    cfg.model.backbone.init_cfg.checkpoint = 'mine.pth'
    cfg.dump(mine / 'config.py')
    assert not check_training(row.config(), mine)
    # G1 and G2 do not show in the weights.
    other = find_experiment(TABLE_6_ROWS[0])
    with pytest.raises(ValueError, match='the model in .* is not that of the'):
        reproduce(other, tmp_path / 'x', work_dir=mine)
    assert not (tmp_path / 'x').exists()


def test_only_a_training_that_has_ended_counts(tmp_path):
    """Also in a copied folder, which names those of its original."""
    cfg = Config(dict(train_cfg=dict(max_epochs=12)))
    first, copied = tmp_path / 'a', tmp_path / 'b'
    for folder in (first, copied):
        folder.mkdir()
        torch.save({}, folder / 'epoch_9.pth')
        record = folder / 'last_checkpoint'
        record.write_text(str(first / 'epoch_12.pth'))
    assert last_checkpoint(cfg, first) is None
    torch.save({}, first / 'epoch_12.pth')
    assert last_checkpoint(cfg, first) == first / 'epoch_12.pth'
    assert last_checkpoint(cfg, copied) is None
    torch.save({}, copied / 'epoch_12.pth')
    assert last_checkpoint(cfg, copied) == copied / 'epoch_12.pth'
    (copied / 'epoch_12.pth').write_bytes(b'damaged')
    assert last_checkpoint(cfg, copied) is None


def test_curve(tmp_path):
    """All validations and some losses, as they were after a resume."""
    for part, first in ('1', 1), ('2', 400):
        folder = tmp_path / part / 'vis_data'
        folder.mkdir(parents=True)
        lines = [
            dict(loss=float(part), lr=0.1, epoch=1, time=0.5, step=step)
            for step in range(first, first + 501)
        ]
        lines[0]['loss'] = float('nan')
        for step in 1, 2:
            lines.append({'mIoU': step, 'note': 'x', 'time': 1, 'step': step})
        text = '\n'.join(map(json.dumps, lines))
        # A kill left a part of a line.
        (folder / 'scalars.json').write_text(text + '\n{"loss": 1.')
    assert read_seconds(tmp_path) == 450
    curve = read_curve(tmp_path)
    assert curve[:2] == [dict(step=1, mIoU=1), dict(step=2, mIoU=2)]
    losses = curve[2:]
    assert 100 <= len(losses) <= 200
    assert losses[-1] == dict(step=900, loss=2.0, lr=0.1, epoch=1)
    assert [x['step'] for x in losses] == sorted(x['step'] for x in losses)
    assert {x['loss'] for x in losses if x['step'] < 400} == {1.0}
    assert {x['loss'] for x in losses if x['step'] > 400} == {2.0}


def test_last_metrics(tmp_path):
    for name, value in ('1', 1), ('2', 2):
        (tmp_path / name).mkdir()
        # Two processes wrote at once.
        text = json.dumps(dict(mIoU=value, note='x', time=3)) + '{"mIoU": 3}'
        (tmp_path / name / 'x.json').write_text(text)
    assert read_metrics(tmp_path) == dict(mIoU=2)


@pytest.mark.default_stack
@pytest.mark.parametrize('row', list_experiments())
def test_smoke_configs(row):
    """Every row can be shrunk, and its config written and read."""
    cfg = find_experiment(row).config(smoke=True)
    text = cfg.pretty_text
    assert Config.fromstring(text, '.py').to_dict() == cfg.to_dict()
    assert 'data/demo' in text


@pytest.mark.slow
@pytest.mark.default_stack
@pytest.mark.parametrize('row', SMALLEST)
def test_smoke(row, tmp_path):
    """Train, test and compare, in two processes; then only test."""
    pytest.importorskip('skimage', reason='the demo data need scikit-image')
    make_demo_data(tmp_path / 'data' / 'demo', 8, 8, size=(64, 64))

    def run(*arguments):
        command = REPRODUCE, row, '--smoke', *arguments
        path = str(ROOT)
        return run_tool(*command, cwd=tmp_path, PYTHONPATH=path, timeout=600)

    assert f'{SMALLEST[row]}: ' in run('--gpus', 2)
    folder = tmp_path / 'reproductions' / f'{row}_smoke'
    result = json.loads((folder / 'result.json').read_text())
    checkpoint = folder / result['checkpoint']
    config, checkpoint_hash = (
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder / 'config.py', checkpoint)
    )
    assert result['sha256'] == dict(
        config=config, checkpoint=checkpoint_hash, pretrained=None
    )
    assert result['test_images'] == 8
    assert result['seconds'] > 0
    (start,) = read_provenance(folder / 'train')
    assert result['training'] == [start]
    assert (start['step'], start['processes']) == (0, 2)
    (validation,) = (x for x in result['curve'] if 'loss' not in x)
    assert result['all_metrics'].keys() == validation.keys() - {'step'}
    losses = [x['step'] for x in result['curve'] if 'loss' in x]
    assert losses == list(range(1, len(losses) + 1))
    if row != next(iter(SMALLEST)):
        return
    # A second call neither trains nor tests.
    assert 'dist_t' not in run('--gpus', 1)
    # Of a training that has ended, only the test is left.
    output = run('--gpus', 1, '--from', folder / 'train', '--folder', 'other')
    assert 'dist_train' not in output
    other = tmp_path / 'other' / folder.name / 'result.json'
    assert json.loads(other.read_text())['training'] == [start]
    # A test alone knows nothing of a training.
    run('--gpus', 1, '--test-only', checkpoint)
    folder = folder.with_name(f'{folder.name}_test-only')
    tested = json.loads((folder / 'result.json').read_text())
    assert tested['training'] == tested['curve'] == []
    assert tested['sha256']['checkpoint'] == checkpoint_hash
    assert tested['machine']


@pytest.mark.parametrize(
    ('arguments', 'code', 'message'),
    [
        (('--list',), 0, ' | mIoU 43.6 | 80000 iterations | 16 | ADE20K |'),
        ((), 2, 'give a row'),
        (('hatnet-tiny',), 1, 'similar: hatnet-tiny_8xb128_in1k'),
    ],
)
def test_arguments(arguments, code, message, tmp_path):
    output = call_tool(REPRODUCE, *arguments, code=code, cwd=tmp_path)
    assert message in output


@pytest.mark.default_stack
@pytest.mark.parametrize(
    'command',
    [
        ('-m', 'mmhatnet', 'reproduce', 'zzz'),
        (TOOLS / 'pages' / 'model_zoo.py', '--add', __file__),
    ],
)
def test_finds_its_package(command, tmp_path):
    """As a tool of the installed package, and for a page."""
    output = run_tool(*command, cwd=tmp_path, code=1, PYTHONPATH=str(ROOT))
    assert re.fullmatch(r'(reproduce|model_zoo)\.py: error: .*\n', output)


def test_record_of_a_training(tmp_path):
    """The curve, with the images seen; only if it has a start and an end."""
    cfg = find_experiment('hatnet-tiny_8xb128_in1k').config()
    cfg.train_cfg.max_epochs = 2
    cfg.dump(tmp_path / 'config.py')
    folder = tmp_path / '1' / 'vis_data'
    folder.mkdir(parents=True)
    log = '11/26 08:00:00 - mmengine - INFO - Epoch(train)  [1][ 50/100]  lr'
    (tmp_path / '1' / '1.log').write_text(log)
    start = dict.fromkeys(KEYS) | dict(precision='float16', step=0)
    start.update(processes=2, batch_size=256, weights=[{'name': 'a.pth'}])
    later, end = start | dict(step=50), {'accuracy/top1': 20.0, 'step': 2}

    loss = dict(loss=1.0, step=50, time=1.5)
    first = {'accuracy/top1': 10.0, 'time': 1.0, 'step': 1}

    def record(starts, *lines):
        text = '\n'.join(map(json.dumps, lines))
        (folder / 'scalars.json').write_text(text)
        (tmp_path / 'provenance.json').write_text(json.dumps(starts))
        return record_training(tmp_path, (64, 64))

    for starts, lines, message in (
        ([], [loss], 'has no provenance.json: train it with this version'),
        ([later], [loss], 'has no start of the training'),
        ([start, later], [loss, first], 'no validation after 2 of its'),
        ([start, later], [first, end], 'has no logged iteration'),
    ):
        with pytest.raises(ValueError, match=message):
            record(starts, *lines)
    found = record([start, later], loss, first, end)
    assert (found['precision'], found['starts']) == ('float16', 2)
    assert found['weights'] == start['weights']
    assert 'training' not in found
    assert found['parameters'] == 12_650_152  # as in the metafile
    assert found['kept_memory'] > 2**20
    for x, point in enumerate(found['curve'], 1):
        expected = dict(images=2 * 12_800 * x, seconds=150.0 * x)
        assert point == {**expected, 'accuracy/top1': 10.0 * x}
