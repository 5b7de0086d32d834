from argparse import ArgumentTypeError
from runpy import run_path

import pytest
import torch
from helpers import DEMOS, TOOLS, call_tool

from mmhatnet.analysis import sweep
from mmhatnet.analysis.complexity import measure_complexity
from mmhatnet.analysis.report import read_csv
from mmhatnet.analysis.sweep import main_metric, metrics_of, sweep_grids
from mmhatnet.apis.zoo import load_model_config
from mmhatnet.engine.cli import ds_ratios, grid_sizes
from mmhatnet.models.archs import complete_grids
from mmhatnet.utils.config import read_config

TOOL = TOOLS / 'analysis_tools' / 'sweep_grids.py'
SWEEP = run_path(TOOL)
CLASSIFIER = DEMOS['Image Classification']
# The first one is the configured setting.
GRIDS = [((8, 7, 7), (8, 4, 2)), ((4, 4, 2), (8, 4, 2))]
SHAPE = (64, 64)


def test_costs_alone(tmp_path):
    cfg = load_model_config(CLASSIFIER)
    grids = [((4, 4, 2), None)]
    rows = sweep_grids(cfg, grids, [SHAPE, (96, 64)], tmp_path, rounds=1)
    assert [(r['G1'], r['G2'], r['configured']) for r in rows] == [
        (*GRIDS[0], True),
        (*GRIDS[0], True),
        (*GRIDS[1], False),
        (*GRIDS[1], False),
    ]
    assert read_csv(tmp_path / 'grids.csv') == rows
    for row in rows:
        cfg = load_model_config(CLASSIFIER)
        cfg.model.backbone.update(grid_sizes=row['G1'], ds_ratios=row['G2'])
        expected = measure_complexity(cfg, (row['height'], row['width']))
        assert row['operations'] == expected.operations
        assert row['latency'] > 0
        ratios = [row[f'latency_ratio{x}'] for x in ('_min', '', '_max')]
        assert ratios == sorted(ratios)
        assert (set(ratios) == {1}) == row['configured']
    assert main_metric(cfg, rows) is None
    cfg.default_hooks = None
    assert main_metric(cfg, rows) is None
    assert '## 96x64' in SWEEP['sweep_tables'](rows, None)


def test_continues_after_a_stop(tmp_path, monkeypatch):
    cfg = load_model_config(CLASSIFIER)
    calls = []
    costs = sweep._costs

    def stop_at_second(*args):
        calls.append(args[2])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return costs(*args)

    monkeypatch.setattr(sweep, '_costs', stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        sweep_grids(cfg, GRIDS, [SHAPE], tmp_path, rounds=1)
    first = read_csv(tmp_path / 'grids.csv')
    assert len(first) == 1
    rows = sweep_grids(cfg, GRIDS, [SHAPE], tmp_path, rounds=1)
    assert calls == [GRIDS[0], GRIDS[1], GRIDS[1]]
    assert rows[:1] == first
    # Another shape is added.
    sweep_grids(cfg, GRIDS, [SHAPE, (96, 64)], tmp_path, rounds=1)
    assert calls[3:] == GRIDS
    monkeypatch.setattr(sweep, 'describe_machine', lambda _: 'an abacus')
    with pytest.raises(ValueError, match='times of another machine, '):
        sweep_grids(cfg, GRIDS, [SHAPE], tmp_path, rounds=1)
    cfg.model.head.num_classes += 1
    with pytest.raises(ValueError, match='another config or checkpoint'):
        sweep_grids(cfg, GRIDS, [SHAPE], tmp_path, rounds=1)


def test_wrong_arguments(tmp_path):
    cfg = load_model_config(CLASSIFIER)
    with pytest.raises(ValueError, match=r'ds_ratios \(G2\)'):
        sweep_grids(cfg, [((8, 8, 8), (8, 4))], [SHAPE], tmp_path)
    cfg = load_model_config('mmpretrain::resnet/resnet18_8xb32_in1k.py')
    with pytest.raises(ValueError, match='is a ResNet'):
        sweep_grids(cfg, [], [SHAPE], tmp_path)
    assert not (tmp_path / 'grids.csv').exists()


def test_settings_in_full():
    backbone = sweep.build_hatnet(load_model_config(CLASSIFIER))
    g1, g2 = GRIDS[0]
    grids = [(None, None), (g1, 'auto'), ((4, 4, 2), None), (None, g2)]
    auto = ('auto',) * 3
    found = complete_grids(backbone, grids)
    assert found == [(g1, g2), (g1, auto), ((4, 4, 2), g2)]
    assert (backbone.grid_sizes, backbone.ds_ratios) == (g1, g2)
    assert ds_ratios('auto') == 'auto'
    for text in ('auto', '8,8', '8,8,0', '8,8,x'):
        with pytest.raises(ArgumentTypeError, match='is not like 8,8,8'):
            grid_sizes(text)


def test_fingerprint_is_of_the_content(tmp_path):
    cfg = load_model_config(CLASSIFIER)
    paths = [tmp_path / name for name in ('a.pth', 'b.pth', 'c.pth')]
    for path, content in zip(paths, 'xxy', strict=True):
        path.write_text(content)
    a, b, c = (sweep.read_rows('absent', cfg, str(p))[1] for p in paths)
    assert a == b != c
    # The folder of the logs changes nothing.
    cfg.work_dir = 'elsewhere'
    assert sweep.read_rows('absent', cfg, str(paths[0]))[1] == a
    with pytest.raises(FileNotFoundError, match='no checkpoint at'):
        sweep.read_rows('absent', cfg, 'absent.pth')
    (tmp_path / 'x.csv').write_text('a,b\n1,2\n')
    with pytest.raises(ValueError, match='another config or checkpoint'):
        sweep.read_rows(tmp_path / 'x.csv', cfg, '')


def test_pareto_front():
    points = [(1, 1), (2, 3), (3, 2), (2, 2), (4, 3), (5, 4), (1, 0.5)]
    assert SWEEP['pareto_front'](points) == [0, 1, 5]


def make_row(g1, g2, height=64, latency=0.1, ratio=1.0, **others):
    """A row of grids.csv for images of 64 columns."""
    row = dict(G1=g1, G2=g2, height=height, width=64, latency=latency)
    return row | dict(latency_ratio=ratio, **others)


@pytest.mark.parametrize('metric', ['mIoU', None])
def test_plot(metric):
    rows = [
        make_row(
            *(g1, g2),
            ratio=1.0 + g1[0] / 10,
            configured=g2 == (8, 4, 2),
            operations=1e9 * g2[0],
            mIoU=60.0 + g1[0],
        )
        for g1 in ((8, 8, 8), (4, 4, 4))
        for g2 in ((8, 4, 2), (16, 8, 4))
    ]
    figure = SWEEP['plot_sweep'](rows, metric)
    # Memory is absent, as on systems where it cannot be measured.
    assert len(figure.axes) == (2 if metric else 1)
    for axis in figure.axes:
        drawn = [
            tuple(line.get_xydata()[0])
            for line in axis.lines
            if len(line.get_xydata()) == 1
        ]
        assert len(drawn) >= len(rows) + 2  # and rings
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [
        'G2 8, 4, 2',
        'G2 16, 8, 4',
        'G1 8, 8, 8',
        'G1 4, 4, 4',
        'configured',
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('task', 'metric'),
    [
        ('Image Classification', 'accuracy/top1'),
        ('Semantic Segmentation', 'mIoU'),
    ],
)
def test_tool(task, metric, trained, demo_folder, tmp_path):
    name = DEMOS[task]
    call_tool(
        *(TOOL, name, trained(name), '--g1', '4,4,2', '--shape', *SHAPE),
        *('--rounds', 1, '--out-dir', tmp_path),
        cwd=demo_folder,
    )
    rows = read_csv(tmp_path / 'grids.csv')
    assert [row['G1'] for row in rows][1:] == [(4, 4, 2)]
    assert main_metric(load_model_config(name), rows) == metric
    assert metric in (tmp_path / 'grids.md').read_text()
    assert (tmp_path / 'grids.png').stat().st_size > 10_000


@pytest.mark.slow
def test_evaluates_with_the_grids(trained, demo_folder, tmp_path, monkeypatch):
    """Pooling to a single token changes the metrics of random weights."""
    monkeypatch.chdir(demo_folder)
    name = DEMOS['Semantic Segmentation']
    cfg = load_model_config(name)
    cfg.work_dir = str(tmp_path / 'logs')
    setting = ((2, 2, 2), (64, 64, 64))
    rows = sweep_grids(cfg, [setting], [SHAPE], tmp_path, trained(name), 1)
    found = metrics_of(rows[1])
    assert found != metrics_of(rows[0])
    cfg.model.backbone.update(grid_sizes=setting[0], ds_ratios=setting[1])
    rows = sweep_grids(cfg, [], [SHAPE], tmp_path / 'again', trained(name), 1)
    assert metrics_of(rows[0]) == pytest.approx(found)
    assert torch.isfinite(torch.tensor(list(found.values()))).any()


class TestBudget:
    ROWS = [
        dict(latency=latency, memory=memory * 2**20)
        for latency, memory in ((0.5, 10), (0.3, 20), (0.2, 20), (0.1, 40))
    ]

    def test_settings(self):
        backbone = sweep.build_hatnet(load_model_config(CLASSIFIER))
        assert SWEEP['nearby_grids'](backbone)[:4] == [
            ((4, 4, 4), (4, 2, 1)),
            ((4, 4, 4), (8, 4, 2)),
            ((4, 4, 4), (16, 8, 4)),
            ((8, 7, 7), (4, 2, 1)),
        ]
        backbone.set_grids(ds_ratios='auto')
        found = [g2 for _, g2 in SWEEP['nearby_grids'](backbone)]
        assert found == [('auto',) * 3] * 3

    @pytest.mark.parametrize(
        ('budget', 'kept'),
        [
            ({}, [0, 1, 2, 3]),
            (dict(latency=300), [1, 2, 3]),
            (dict(memory=40, latency=150), [3]),
            (dict(memory=10), [0]),
            (dict(latency=99), 'at most 99 ms; the lowest is 100 ms'),
            (
                dict(memory=10, latency=400),
                'at most 10 MiB; the lowest is 20 MiB',
            ),
        ],
    )
    def test_choice(self, budget, kept):
        within = SWEEP['within_budget']
        if isinstance(kept, list):
            assert within(self.ROWS, **budget) == [self.ROWS[i] for i in kept]
            return
        with pytest.raises(ValueError, match=kept):
            within(self.ROWS, **budget)

    def test_memory_that_cannot_be_measured(self):
        with pytest.raises(ValueError, match='cannot be measured'):
            SWEEP['within_budget']([dict(latency=1)], memory=1)

    def test_comparable_rows(self):
        """The machine was three times slower during the second row."""
        rows = [
            make_row(*GRIDS[0]),
            make_row(*GRIDS[1], latency=0.24, ratio=0.8),
            make_row((2, 2, 2), (8, 4, 2)),
            make_row(*GRIDS[0], height=96, latency=0.2),
        ]
        found = SWEEP['comparable_rows'](rows, GRIDS, SHAPE)
        assert [(row['G1'], row['G2']) for row in found] == GRIDS
        assert [row['latency'] for row in found] == pytest.approx([0.2, 0.16])

    @pytest.mark.slow
    def test_tool(self, trained, demo_folder, tmp_path):
        changes = (
            'model.backbone.drop_path_rate=0.3',
            'test_dataloader.dataset.pipeline.0.imdecode_backend=pillow',
        )

        def run(*options, checkpoint=None, shape=SHAPE, code=0):
            return call_tool(
                *(TOOL, CLASSIFIER, checkpoint or trained(CLASSIFIER)),
                *('--shape', *shape, '--rounds', 1, '--out-dir', tmp_path),
                *('--cfg-options', *changes, '--latency-ms', *options),
                code=code,
                cwd=demo_folder,
            )

        assert str(tmp_path / 'tuned.py') in run(10**6)
        rows = read_csv(tmp_path / 'grids.csv')
        assert len(rows) == 9
        top1 = {(row['G1'], row['G2']): row['accuracy/top1'] for row in rows}
        tuned = read_config(tmp_path / 'tuned.py')
        pipeline = tuned.test_dataloader.dataset.pipeline
        assert pipeline[0].imdecode_backend == 'pillow'
        assert len(pipeline) > 1
        backbone = tuned.model.backbone
        chosen = backbone.grid_sizes, backbone.ds_ratios
        assert backbone.drop_path_rate == 0.3
        assert top1[chosen] == max(top1.values())
        # Nothing is evaluated for a budget that nothing can meet.
        (tmp_path / 'grids.csv').unlink()
        text = run(1e-6, '--g2', '16,8,4', shape=(96, 96), code=1)
        assert 'no setting has a latency of at most 1e-06 ms' in text
        assert len(read_csv(tmp_path / 'costs' / 'grids.csv')) == 9 + 2
        text = run(1, checkpoint='absent.pth', code=1)
        assert 'no checkpoint at absent.pth' in text
        for budget in ('0', 'nan'):
            assert 'must be positive numbers' in run(budget, code=2)
        text = call_tool(TOOL, CLASSIFIER, '--memory-mb', 9, code=2)
        assert 'a budget needs a checkpoint and one --shape' in text
