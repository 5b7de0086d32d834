"""The rows of the paper, and the way from a config to a comparison."""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from helpers import ROOT, TOOLS, call_tool, import_page, run_tool
from mmengine.config import Config
from mmengine.config import utils as mmengine_utils

from mmhatnet.datasets import make_demo_data
from mmhatnet.engine.provenance import KEYS, precision_of, read_provenance
from mmhatnet.reproduction.experiments import (
    SETTINGS,
    TABLE_6,
    find_experiment,
    list_experiments,
)
from mmhatnet.reproduction.record import record_training
from mmhatnet.reproduction.result import (
    compare,
    draw_curves,
    measure_seconds,
    read_curve,
    read_metrics,
)
from mmhatnet.reproduction.run import (
    compare_configs,
    count_test_images,
    find_obstacles,
    last_checkpoint,
    reproduce,
)
from mmhatnet.reproduction.smoke import shrink

REPRODUCE = TOOLS / 'reproduce.py'
PAPER = ROOT.parent / 'shared' / 'reference' / 'paper.txt'
# The smallest row of each task.
SMALLEST = {
    'hatnet-tiny_8xb128_in1k': 'Top 1 Accuracy',
    'fpn_hatnet-tiny_8xb2-80k_ade20k-512x512': 'mIoU',
    'retinanet_hatnet-tiny_fpn_8xb2-1x_coco': 'box AP',
    'mask-rcnn_hatnet-tiny_fpn_8xb2-1x_coco': 'mask AP',
}


class TestExperiments:
    def test_all_rows(self):
        rows = list_experiments().values()
        tables = [row.table for row in rows]
        assert {name: tables.count(name) for name in set(tables)} == {
            'Table 2': 4,
            'Table 3': 4,
            'Table 4': 8,
            'Table 5': 8,
            'Table 6': 12,
            'Sec. 4.4': 3,
        }
        for row in rows:
            assert row.printed
            assert row.images > 10**6

    @pytest.mark.skipif(not PAPER.is_file(), reason='needs ../shared')
    def test_table_6_in_print(self):
        lines = [line.split('\t') for line in PAPER.read_text().splitlines()]
        for g1, g2, box, mask in SETTINGS:
            grids = [f'{{{", ".join(map(str, g))}}}' for g in (g1, g2)]
            (found,) = (x for x in lines if x[:2] == grids)
            assert (found[3], found[6]) == (str(box), str(mask))

    def test_table_6(self):
        trained = find_experiment('table6_g1-4-4-4_g2-16-8-4_trained')
        tested = find_experiment('table6_g1-4-4-4_g2-16-8-4_tested')
        for row in (trained, tested):
            assert row.config().model.backbone.grid_sizes == (4, 4, 4)
        assert not trained.trained_as
        assert tested.trained_as == TABLE_6
        default = find_experiment(TABLE_6)
        assert trained.operations < default.operations

    def test_unknown_row(self):
        with pytest.raises(ValueError, match='similar: .*hatnet-tiny_8xb128'):
            find_experiment('hatnet-tiny')


def test_comparison():
    found = compare(
        {'box AP': 45.2, 'mask AP': 41.6},
        {'coco/bbox_mAP': 0.4512, 'coco/segm_mAP': 0.408},
    )
    assert found['box AP'] == dict(
        printed=45.2, measured=45.12, difference=-0.08, spread=0.3, within=True
    )
    assert found['mask AP']['difference'] == -0.8
    assert not found['mask AP']['within']
    assert compare({'box AP': 45.2}, {})['box AP']['measured'] == 0
    with pytest.raises(KeyError):
        compare({'mIoU': 46.6}, {})


def test_obstacles_are_named_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = find_experiment(TABLE_6).config()
    cfg.model.backbone.init_cfg.checkpoint = str(tmp_path / 'no.pth')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    found = '; '.join(find_obstacles(cfg, 8, tmp_path, 10**15))
    assert 'no data at data/coco' in found
    assert 'the pretrained weights: no checkpoint at' in found
    assert re.search(r'the checkpoints need 60000000\.0 GB', found)
    assert '8 GPUs: this machine has 2' in found
    found = find_obstacles(cfg, 1, tmp_path, 10**15, train=False)
    assert len(found) == 1
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    found = '; '.join(find_obstacles(cfg, 8, tmp_path / 'new', 1))
    assert '8 GPUs: this machine has none' in found


def test_a_training_that_has_not_ended(tmp_path, monkeypatch):
    """It is not started in the folder of another."""
    monkeypatch.chdir(tmp_path)
    row = find_experiment(TABLE_6)
    with pytest.raises(ValueError, match='mine has no checkpoint of a') as e:
        reproduce(row, tmp_path / 'x', work_dir=tmp_path / 'mine')
    assert 'no data at data/coco' in str(e.value)
    assert not (tmp_path / 'x').exists()


def test_a_training_of_another_row(tmp_path):
    row = find_experiment('table6_g1-4-4-4_g2-16-8-4_trained')
    cfg = find_experiment(TABLE_6).config()
    cfg.optim_wrapper.optimizer.lr = 1.0
    cfg.model.backbone.init_cfg.checkpoint = 'mine.pth'
    cfg.dump(tmp_path / 'config.py')
    assert compare_configs(row.config(), tmp_path) == [
        'model.backbone.grid_sizes',
        'optim_wrapper.optimizer.lr',
    ]
    torch.save({}, tmp_path / 'epoch_12.pth')
    with pytest.raises(ValueError, match='is of another row.*grid_sizes'):
        reproduce(row, tmp_path / 'x', work_dir=tmp_path)


def test_a_copied_training(tmp_path):
    """Its checkpoints count, and not those of the original."""
    cfg = Config(dict(train_cfg=dict(max_epochs=12)))
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        torch.save({}, tmp_path / name / 'epoch_12.pth')
        record = tmp_path / name / 'last_checkpoint'
        record.write_text(str(tmp_path / 'a' / 'epoch_12.pth'))
    for name in ('a', 'b'):
        found = last_checkpoint(cfg, tmp_path / name)
        assert found == tmp_path / name / 'epoch_12.pth'


def test_time_and_curves_of_a_killed_training(tmp_path):
    for name, first, last in (
        ('20251231_235950', '2025/12/31 23:59:55', '2026/01/01 00:00:25'),
        ('20260101_010000', '2026/01/01 01:00:10', '2026/01/01 01:00:20'),
        ('part', '2026/01/01 01:00:10', '2026/01/01 01:00:20'),
    ):
        scalars = tmp_path / name / 'vis_data' / 'scalars.json'
        scalars.parent.mkdir(parents=True)
        scalars.write_text('{"loss": 1.5, "step": 1}\n{"loss": 1.')
        (tmp_path / name / f'{name}.log').write_text(
            f'{first} - mmengine - INFO - x\nx\n{last} - mmengine - INFO - x'
        )
    (tmp_path / 'part' / 'part.log').rename(tmp_path / 'part' / 'slurm.log')
    assert measure_seconds(tmp_path) == 40
    assert draw_curves(tmp_path)
    assert read_curve(tmp_path) == [dict(step=1, loss=1.5)]


def test_curve(tmp_path):
    """All validations and some losses, as they were after a resume."""
    for part, first in ('1', 1), ('2', 500):
        folder = tmp_path / part / 'vis_data'
        folder.mkdir(parents=True)
        lines = [
            dict(loss=float(part), lr=0.1, epoch=1, time=1.0, step=step)
            for step in range(first, first + 501)
        ]
        lines[0]['loss'] = float('nan')
        for step in 1, 2:
            lines.append({'mIoU': step, 'note': 'x', 'time': 1, 'step': step})
        text = '\n'.join(map(json.dumps, lines))
        (folder / 'scalars.json').write_text(text)
    curve = read_curve(tmp_path)
    assert curve[:2] == [dict(step=1, mIoU=1), dict(step=2, mIoU=2)]
    losses = curve[2:]
    assert 100 <= len(losses) <= 200
    assert losses[-1] == dict(step=1000, loss=2.0, lr=0.1, epoch=1)
    assert [x['step'] for x in losses] == sorted(x['step'] for x in losses)
    assert {x['loss'] for x in losses if 'loss' in x} == {1.0, 2.0}
    titles = [axis.get_title() for axis in draw_curves(tmp_path).axes]
    assert titles == ['loss', 'lr', 'mIoU']


@pytest.mark.parametrize('row', SMALLEST)
def test_number_of_test_images(row, demo_folder, tmp_path, monkeypatch):
    """As a test of it counts them, also of images without objects."""
    monkeypatch.chdir(demo_folder)
    cfg = shrink(find_experiment(row).config())
    loader = cfg.test_dataloader
    loader.dataset.indices = [0]
    assert count_test_images(cfg) == 1
    del loader.dataset.indices
    images = len([*Path('data/demo/coco/val2017').iterdir()])
    if cfg.default_scope == 'mmpretrain':
        images = len([*Path('data/demo/imagenet/val').rglob('*.*')])
    if cfg.default_scope == 'mmdet':
        (path,) = Path('data/demo/coco/annotations').glob('*val*.json')
        content = json.loads(path.read_text())
        content['annotations'] = []
        empty = tmp_path / 'empty.json'
        empty.write_text(json.dumps(content))
        loader.dataset.ann_file = str(empty)
        loader.dataset.filter_cfg = dict(filter_empty_gt=True, min_size=999)
    assert count_test_images(cfg) == images
    both = [loader.dataset, loader.dataset]
    loader.dataset = dict(type='ConcatDataset', datasets=both)
    assert count_test_images(cfg) == 2 * images


def test_only_a_training_that_has_ended_counts(tmp_path):
    cfg = Config(dict(train_cfg=dict(max_epochs=12)))
    torch.save({}, tmp_path / 'epoch_9.pth')
    assert last_checkpoint(cfg, tmp_path) is None
    torch.save({}, tmp_path / 'epoch_12.pth')
    assert last_checkpoint(cfg, tmp_path) == tmp_path / 'epoch_12.pth'


def test_last_metrics(tmp_path):
    for time, value in (('20260101_000000', 1), ('20260102_000000', 2)):
        (tmp_path / time).mkdir()
        (tmp_path / time / f'{time}.json').write_text(
            # Two processes wrote at once.
            json.dumps(dict(mIoU=value, note='x')) + '{"mIoU": 3}'
        )
    assert read_metrics(tmp_path) == dict(mIoU=2)
    with pytest.raises(FileNotFoundError, match='no test in'):
        read_metrics(tmp_path / '20260101_000000')


@pytest.mark.parametrize('row', list_experiments())
def test_smoke_configs(row):
    """Every row can be shrunk, and its config written and read."""
    cfg = shrink(find_experiment(row).config())
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
    output = run_tool(
        *(REPRODUCE, row, '--smoke', '--gpus', 2),
        cwd=tmp_path,
        PYTHONPATH=str(ROOT),
        timeout=600,
    )
    assert f'{SMALLEST[row]}: ' in output
    folder = tmp_path / 'reproductions' / f'{row}_smoke'
    result = json.loads((folder / 'result.json').read_text())
    assert result['metrics'].keys() == find_experiment(row).printed.keys()
    assert (folder / result['published']).is_file()
    assert (folder / 'curves.png').is_file()
    assert result['seconds'] > 0
    checkpoint = folder / result['checkpoint']
    hashes = {
        key: hashlib.sha256(path.read_bytes()).hexdigest()
        for key, path in (
            ('config', folder / 'config.py'),
            ('checkpoint', checkpoint),
        )
    }
    assert result['sha256'] == dict(hashes, pretrained=None)
    assert result['test_images'] == 8
    (start,) = read_provenance(folder / 'train')
    assert result['training'] == [start]
    assert (start['step'], start['processes']) == (0, 2)
    for key in ('versions', 'commit', 'changes', 'machine'):
        assert result[key] == start[key]
    (validation,) = (x for x in result['curve'] if 'loss' not in x)
    assert result['all_metrics'].keys() == validation.keys() - {'step'}
    losses = [x['step'] for x in result['curve'] if 'loss' in x]
    assert losses == list(range(1, len(losses) + 1))
    if row != next(iter(SMALLEST)):
        return
    before = checkpoint.stat().st_mtime
    # A second call neither trains nor tests.
    output = run_tool(
        *(REPRODUCE, row, '--smoke', '--gpus', 1),
        cwd=tmp_path,
        PYTHONPATH=str(ROOT),
        timeout=600,
    )
    assert 'dist_t' not in output
    assert f'{SMALLEST[row]}: ' in output
    assert checkpoint.stat().st_mtime == before
    # A test alone knows nothing of a training.
    run_tool(
        *(REPRODUCE, row, '--smoke', '--gpus', 1, '--test-only', checkpoint),
        cwd=tmp_path,
        PYTHONPATH=str(ROOT),
        timeout=600,
    )
    folder = folder.with_name(f'{folder.name}_test-only')
    tested = json.loads((folder / 'result.json').read_text())
    assert tested['training'] == tested['curve'] == []
    assert tested['sha256']['checkpoint'] == hashes['checkpoint']
    assert tested['machine']


class TestResultsOfOthers:
    @pytest.fixture
    def result(self):
        row = find_experiment(TABLE_6)
        measured = {'coco/bbox_mAP': 0.4512, 'coco/segm_mAP': 0.4155}
        return dict(
            row=row.name,
            table='Table 4',
            model=row.model,
            options={},
            smoke=False,
            seconds=3600,
            metrics=compare(row.printed, measured),
            all_metrics=measured | {'coco/bbox_mAP_50': 0.6},
            test_images=5000,
            curve=[dict(step=1, loss=0.5), {'step': 1, **measured}],
            training=[dict.fromkeys(KEYS, 0)],
            sha256=dict(config='a' * 64, checkpoint='0' * 64, pretrained=None),
            commit='1',
            changes=None,
            machine='8 GPUs',
            versions={},
            gpus=8,
        )

    def store(self, result, folder, code=0):
        (folder / 'result.json').write_text(json.dumps(result))
        return call_tool(
            *(TOOLS / 'pages' / 'reproductions.py', folder / 'result.json'),
            *('--out', folder / 'stored'),
            code=code,
        )

    def test_stored(self, result, tmp_path):
        self.store(result, tmp_path)
        stored = tmp_path / 'stored' / f'{TABLE_6}.json'
        assert json.loads(stored.read_text()) == result

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            (dict(smoke=True), 'of a smoke test'),
            (dict(row='x'), "no row 'x'"),
            (dict(metrics={}), 'do not fit'),
            (dict(metrics=[1]), 'do not fit'),
            (dict(metrics={'box AP': dict(measured='1')}), 'do not fit'),
            (dict(model='hatnet-tiny'), "model is 'hatnet-tiny' and not"),
            (dict(options=dict(a=1)), "options is {'a': 1} and not"),
            (dict(machine=None), 'has no machine, or an odd one'),
            (dict(gpus='8'), 'has no gpus, or an odd one'),
            (dict(changes='1'), 'has no changes, or an odd one'),
            (dict(sha256={}), 'has no sha256, or an odd one'),
            (
                dict(sha256=dict(config=1, checkpoint=None, pretrained=None)),
                'has no sha256, or an odd one',
            ),
            (dict(test_images=0), 'has no test_images, or an odd one'),
            (dict(test_images=True), 'has no test_images, or an odd one'),
            (dict(training=[1]), 'has no training, or an odd one'),
            (
                dict(training=[dict(step=0)]),
                'has no training, or an odd one',
            ),
            (dict(curve=[1]), 'has no curve, or an odd one'),
            (dict(curve=[dict(loss=1)]), 'has no curve, or an odd one'),
            (
                dict(curve=[dict(step=1, loss='1')]),
                'has no curve, or an odd one',
            ),
            (
                dict(all_metrics=dict(a=float('nan'))),
                'has no all_metrics, or an odd one',
            ),
            (dict(all_metrics={'coco/bbox_mAP': 0.5}), 'do not fit'),
        ],
    )
    def test_refused(self, change, message, result, tmp_path):
        assert message in self.store({**result, **change}, tmp_path, code=1)
        del result['commit']
        assert 'has no commit' in self.store(result, tmp_path, code=1)

    @pytest.mark.parametrize(
        ('measured', 'message'),
        [
            (-1.0, 'do not fit'),
            (101.0, 'do not fit'),
            (float('inf'), 'has no all_metrics, or an odd one'),
        ],
    )
    def test_metrics_that_cannot_be(self, measured, message, result, tmp_path):
        row = find_experiment(TABLE_6)
        values = {
            'coco/bbox_mAP': measured / 100,
            'coco/segm_mAP': 0.4155,
        }
        result['metrics'] = compare(row.printed, values)
        result['all_metrics'] = values
        assert message in self.store(result, tmp_path, code=1)

    @pytest.mark.parametrize('content', ['3', '[1]', 'null', '{', ''])
    def test_no_result(self, content, tmp_path):
        (tmp_path / 'x.json').write_text(content)
        tool = TOOLS / 'pages' / 'reproductions.py'
        output = call_tool(tool, tmp_path / 'x.json', code=1)
        assert output.startswith('reproductions.py: error: ')
        assert len(output.splitlines()) == 1

    def test_in_the_zoo(self, result, tmp_path, monkeypatch):
        """Beside the number of the paper, never typed."""
        self.store(result, tmp_path)
        zoo = import_page('model_zoo')
        monkeypatch.setattr(zoo, 'RESULTS', tmp_path / 'stored')
        metafile = ROOT / 'configs' / 'mask_rcnn' / 'metafile.yml'
        content = yaml.safe_load(metafile.read_text())
        content['Models'] = [
            x for x in content['Models'] if x['Name'] == TABLE_6
        ]
        text = zoo.update(yaml.safe_dump(content))
        (tmp_path / 'metafile.yml').write_text(text)
        table = zoo.table(tmp_path / 'metafile.yml', '')
        assert 'box AP, measured' in table
        assert '| 45.2\\* | 45.12 |' in table
        (tmp_path / 'stored' / f'{TABLE_6}.json').unlink()
        assert '45.12' not in zoo.update(text)
        name = 'table6_g1-4-4-4_g2-16-8-4_tested'
        row = find_experiment(name)
        result.update(row=name, table=row.table, options=row.options)
        values = {'coco/bbox_mAP': 0.4499, 'coco/segm_mAP': 0.4155}
        result['metrics'] = compare(row.printed, values)
        result['all_metrics'] = values
        self.store(result, tmp_path)
        assert f'| {name} | 45.1\\*; 44.99 |' in zoo.settings()


class TestTool:
    def test_missing_data(self, tmp_path):
        output = call_tool(
            *(REPRODUCE, 'hatnet-tiny_8xb128_in1k', '--test-only', 'x.pth'),
            cwd=tmp_path,
            code=1,
        )
        assert 'reproduce.py: error: no data at data/imagenet' in output
        assert 'no checkpoint at x.pth' in output

    def test_list(self, tmp_path, monkeypatch):
        read, load = Counter(), mmengine_utils.load

        def count(path):
            read[str(path)] += 1
            return load(path)

        monkeypatch.setattr(mmengine_utils, 'load', count)
        name = 'fpn_hatnet-tiny_8xb2-80k_ade20k-512x512'
        folder = tmp_path / 'reproductions' / name
        (folder / 'train').mkdir(parents=True)
        torch.save({}, folder / 'train' / 'iter_4.pth')
        (folder / 'result.json').write_text('{corrupt')
        output = call_tool(REPRODUCE, '--list', cwd=tmp_path)
        (row,) = (x for x in output.splitlines() if f'| {name} |' in x)
        assert f'| configs/sem_fpn/{name}.py | 8, 8, 8 | 16, 8, 4 |' in row
        assert '| mIoU 43.6 | no | checkpoint | 1.3 | 0.13 |' in row
        assert output.count('| Table 6 |') == 12
        assert 'reading the configs' in output
        assert max(read.values()) == 1  # else it takes a minute

    def test_no_slurm(self, tmp_path, monkeypatch):
        monkeypatch.setenv('PATH', '')
        name = 'fpn_hatnet-tiny_8xb2-80k_ade20k-512x512'
        args = REPRODUCE, name, '--slurm', 'gpu'
        output = call_tool(*args, cwd=tmp_path, code=1)
        assert 'there is no Slurm here' in output

    def test_two_sources(self):
        args = REPRODUCE, 'x', '--from', 'a', '--test-only', 'b'
        assert 'not allowed with argument --from' in call_tool(*args, code=2)

    def test_unknown_row(self):
        output = call_tool(REPRODUCE, 'zzz', code=1)
        assert output == "reproduce.py: error: no row 'zzz' (see --list)\n"

    def test_nothing_to_do(self):
        assert 'give a row' in call_tool(REPRODUCE, code=2)


def test_record_of_a_training(tmp_path):
    """The curve over its resumed parts, with the images seen."""
    cfg = find_experiment('hatnet-tiny_8xb128_in1k').config()
    cfg.train_cfg.max_epochs = 4
    work_dir = tmp_path / 'mine'
    for part, epochs in (('1', (1, 2)), ('2', (2, 3))):
        folder = work_dir / part
        (folder / 'vis_data').mkdir(parents=True)
        (folder / f'{part}.log').write_text(
            '11/26 08:00:00 - mmengine - INFO - Epoch(train)  [1][ 50/100]  lr'
        )
        lines = [dict(loss=1.0, step=50, time=1.5)] + [
            {'accuracy/top1': 10.0 * x, 'time': 1.0, 'step': x} for x in epochs
        ]
        text = '\n'.join(map(json.dumps, lines))
        (folder / 'vis_data' / 'scalars.json').write_text(text)
    with pytest.raises(FileNotFoundError, match='no training in'):
        record_training(work_dir, (64, 64))
    cfg.dump(work_dir / 'config.py')
    message = 'mine has no provenance.json: train it with this version'
    with pytest.raises(ValueError, match=message):
        record_training(work_dir, (64, 64))
    start = dict(
        started='2026-01-01T00:00:00+00:00',
        step=50,
        seed=3,
        precision='float16',
        processes=2,
        batch_size=256,
        lr=0.1,
        config='config',
        config_sha256='0' * 64,
        weights=[],
        versions={},
        commit='1',
        changes=None,
        machine='a',
    )
    provenance = work_dir / 'provenance.json'
    provenance.write_text(json.dumps([start]))
    with pytest.raises(ValueError, match='mine has no start of the training'):
        record_training(work_dir, (64, 64))
    starts = [start | dict(step=0), start]
    provenance.write_text(json.dumps(starts))
    with pytest.raises(ValueError, match='no validation after 4 of its'):
        record_training(work_dir, (64, 64))
    cfg.train_cfg.max_epochs = 3
    cfg.dump(work_dir / 'config.py')
    record = record_training(work_dir, (64, 64))
    assert record['name'] == 'mine'
    assert record['seed'] == 3
    assert record['precision'] == 'float16'
    assert (record['commit'], record['machine']) == ('1', 'a')
    assert (record['batch_size'], record['lr']) == (256, 0.1)
    assert record['starts'] == 2
    assert 'training' not in record
    assert record['parameters'] == 12_650_152  # as in the metafile
    assert record['kept_memory'] > 2**20
    assert record['curve'] == [
        {
            'images': 2 * 12_800 * x,
            'seconds': 150.0 * x,
            'accuracy/top1': 10.0 * x,
        }
        for x in (1, 2, 3)
    ]
    starts[1]['changes'] = 'f' * 64
    provenance.write_text(json.dumps(starts))
    record = record_training(work_dir, (64, 64))
    assert record['training'] == starts
    assert record['changes'] is None


@pytest.mark.parametrize(
    ('wrapper', 'precision'),
    [
        (dict(type='OptimWrapper'), 'float32'),
        (dict(type='mmhatnet.BFloat16OptimWrapper'), 'bfloat16'),
        (dict(type='AmpOptimWrapper', dtype='bfloat16'), 'bfloat16'),
        (dict(type='AmpOptimWrapper'), 'float16'),
    ],
)
def test_precision(wrapper, precision):
    assert precision_of(Config(dict(optim_wrapper=wrapper))) == precision
