import importlib.util
import logging
import os
import re
import sys
from functools import partial

import numpy as np
import pytest
import torch
from helpers import DEMOS, ROOT, SMALL_ARCH, TOOLS, call_tool
from mmengine.config import Config
from mmengine.logging import MMLogger

from mmhatnet.analysis import forms, side_by_side
from mmhatnet.analysis.comparison import (
    compare_rows,
    comparison_page,
    comparison_table,
    format_ratios,
)
from mmhatnet.analysis.complexity import measure_complexity
from mmhatnet.analysis.forms import COPIED, COPY, PRODUCT, Case
from mmhatnet.analysis.report import read_csv
from mmhatnet.analysis.side_by_side import (
    KEEP_FREED,
    measure_cases,
    rows_by_case,
)
from mmhatnet.analysis.timing import (
    peak_memory,
    time_in_turns,
    time_once,
)
from mmhatnet.apis.zoo import load_model_config
from mmhatnet.engine.provenance import describe_machine
from mmhatnet.models import HATNet

TOOL = TOOLS / 'analysis_tools' / 'benchmark.py'
PAGE_TOOL = TOOLS / 'pages' / 'benchmark.py'
TINY = 'hatnet-tiny_8xb128_in1k'


def test_time_in_turns():
    """Every function has its turn, and the first turn does not count."""
    calls = []
    seconds = time_in_turns(
        dict(a=lambda: calls.append('a'), b=lambda: calls.append('b')), 3
    )
    assert calls == ['a', 'b'] * 4
    assert seconds.keys() == {'a', 'b'}
    assert all(len(each) == 3 for each in seconds.values())
    assert all(second >= 0 for each in seconds.values() for second in each)


def peak_of_temporaries():
    def step():
        for _ in range(3):
            torch.ones(64, 2**18)  # 64 MiB
            torch.ones(32, 2**18)

    return [peak_memory(step) for _ in range(2)]


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux tells it')
def test_peak_memory():
    """The peak of temporary tensors, not their sum, in every call."""
    with side_by_side._start_process({}) as worker:
        peaks = worker.submit(peak_of_temporaries).result()
    if None in peaks:
        pytest.skip('this system does not allow the measurement')
    assert all(60 < peak / 2**20 < 72 for peak in peaks)


def test_measurements_on_a_gpu(monkeypatch):
    """They wait for it, and read the memory that torch allocates."""
    calls = []
    for name, value in (
        ('synchronize', None),
        ('reset_peak_memory_stats', None),
        ('memory_allocated', 5),
        ('max_memory_allocated', 12),
    ):
        monkeypatch.setattr(
            torch.cuda,
            name,
            lambda device, name=name, value=value: calls.append(name) or value,
        )
    assert time_once(lambda: calls.append('step'), 'cuda') >= 0
    assert calls == ['synchronize', 'step', 'synchronize']
    calls.clear()
    assert peak_memory(lambda: calls.append('step'), 'cuda:0') == 7
    assert calls == [
        'synchronize',
        'reset_peak_memory_stats',
        'memory_allocated',
        'step',
        'synchronize',
        'max_memory_allocated',
    ]


def test_describe_machine():
    assert torch.__version__ in describe_machine()


@pytest.fixture(scope='module')
def pages():
    """The module of the page maker."""
    spec = importlib.util.spec_from_file_location('benchmark_page', PAGE_TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize('train', [(), ('--train',)])
def test_tool(train, tmp_path):
    """A case is measured once; the forms of a backbone agree."""
    page = tmp_path / 'page.md'
    forms = [f'plain:{TINY}', TINY, f'channels_last:with_cp:{TINY}']
    args = (TOOL, *forms, '--shape', 64, 96, '--rounds', 2, *train)
    call_tool(*args, '--out', page, cwd=ROOT)
    rows = read_csv(page.with_suffix('.csv'))
    assert [row['backbone'] for row in rows] == [*forms, PRODUCT]
    cfg = load_model_config(TINY)
    cfg.model = cfg.model.backbone
    times = 3 if train else 1
    operations = times * measure_complexity(cfg, (64, 96)).operations
    for row in rows[:-1]:
        assert row['operations'] == operations
        assert len(row['seconds']) == 2
    content = page.read_text()
    for form in forms:
        assert f'| `{form}` |' in content
    call_tool(*args, '--out', page, cwd=ROOT)
    assert read_csv(page.with_suffix('.csv')) == rows
    assert page.read_text() == content


def test_what_is_measured_again(tmp_path, monkeypatch):
    """A case with other backbones, rounds or machine, and nothing else."""
    measured = []

    def measure_case(case, device, rounds):
        measured.append((case, rounds))
        return [
            dict(
                case=str(case),
                backbone=backbone,
                seconds=(1.0,) * rounds,
                machine=side_by_side.describe_machine(device),
            )
            for backbone in (*case.backbones, PRODUCT)
        ]

    monkeypatch.setattr(side_by_side, 'measure_case', measure_case)
    small, large = (Case(('a', 'b'), (n, n), 1) for n in (64, 128))
    path = tmp_path / 'rows.csv'
    rows = measure_cases([small], path, rounds=2)
    assert measure_cases([small], path, rounds=2) == rows
    assert measured == [(small, 2)]
    # Another case is added.
    measure_cases([large], path, rounds=2)
    assert list(rows_by_case(path)) == [str(small), str(large)]
    other = Case(('b', 'a'), (64, 64), 1)
    measure_cases([other, large], path, rounds=2)
    measure_cases([other, large], path, rounds=1)
    monkeypatch.setattr(side_by_side, 'describe_machine', lambda _: 'other')
    rows = measure_cases([other], path, rounds=1)
    assert measured[2:] == [(other, 2), (other, 1), (large, 1), (other, 1)]
    assert rows[str(other)][0]['machine'] == 'other'
    assert rows == rows_by_case(path)


def log_level():
    return MMLogger.get_current_instance().level


def test_log_of_a_process():
    """A page has a few lines, mm's log one for each weight."""
    before = log_level()
    with side_by_side._start_process({}) as worker:
        assert worker.submit(log_level).result() == logging.WARNING
    assert log_level() == before != logging.WARNING


def test_allocator_of_a_process():
    """malloc's variables are set in the process that is measured alone."""
    before = dict(os.environ)
    with side_by_side._start_process(KEEP_FREED) as worker:
        futures = [worker.submit(os.getenv, name) for name in KEEP_FREED]
        assert dict(os.environ) == before
        assert [f.result() for f in futures] == list(KEEP_FREED.values())


@pytest.mark.parametrize('shape', [(64, 96), (75, 101)])
@pytest.mark.parametrize('out_norm_cfg', [None, dict(type='GN', num_groups=1)])
def test_plain_form(shape, out_norm_cfg):
    """It computes the same in all stages, if windows are cut or not."""
    assert forms.read_form(f'plain:{TINY}').fast is False
    model = HATNet('tiny', out_norm_cfg=out_norm_cfg).eval()
    plain = HATNet('tiny', out_norm_cfg=out_norm_cfg, fast=False).eval()
    plain.load_state_dict(model.state_dict())
    x = torch.rand(2, 3, *shape)
    with torch.no_grad():
        for a, b in zip(plain(x), model(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('task', DEMOS)
@pytest.mark.parametrize('plain', ['', 'plain:'])
def test_whole_models(task, plain):
    """They predict, and have more operations than their backbones."""
    name, case = DEMOS[task], Case((), (64, 96), 1)
    backbone = f'model:{plain}{name}'
    forms.check_form(backbone, case, 'cpu')
    assert forms.build_step(backbone, case, 'cpu')() == ()
    assert forms.read_form(backbone).backbone.get('fast', True) != bool(plain)
    whole, part = (
        forms.count_operations(subject, (64, 96)).operations
        for subject in (forms.subject_of(backbone), name)
    )
    assert whole > part


def test_copy_as_a_reference(monkeypatch):
    """On a GPU, which is simulated, a copy tells the rate of its memory."""
    monkeypatch.setattr(forms, 'find_device', torch.device)
    monkeypatch.setattr(forms, 'COPIED', 8)
    builds = forms.references('cuda')
    assert list(builds) == [PRODUCT, COPY]
    assert builds[COPY](None, 'cpu')().tolist() == [0] * 8
    rows = [
        dict(backbone=name, seconds=(0.5,), machine='A', operations=n, batch=1)
        for name, n in ((TINY, 4), (PRODUCT, 8), (COPY, 0))
    ]
    page = comparison_page({'inference': rows}, 'command')
    assert f'A copy reached {4e-9 * COPIED:.0f} GB/s.' in page
    assert page.count('\n| `') == 1


def test_unequal_forms_are_refused():
    features = {'plain:a': [np.zeros(2)], 'a': [np.ones(2)]}
    with pytest.raises(AssertionError):
        side_by_side._check_forms(features, 1e-3)


def test_compiled_with_constant_weights(tmp_path, monkeypatch):
    """The image is the only input of the graph."""
    inputs = []

    def backend(graph, examples):
        inputs.append(len(examples))
        return graph

    monkeypatch.setattr(
        torch, 'compile', partial(torch.compile, backend=backend)
    )
    name, case = str(tmp_path / 'small.py'), Case((), (64, 96), 1)
    backbone = dict(type='mmhatnet.HATNet', arch=SMALL_ARCH)
    Config(dict(model=dict(backbone=backbone))).dump(name)
    step = forms.build_step(f'compile:{name}', case, 'cpu')
    torch.testing.assert_close(step(), forms.build_step(name, case, 'cpu')())
    assert inputs == [1]


@pytest.mark.slow
def test_time_of_compiling(tmp_path, monkeypatch):
    """It stands in the row and in a column of its own."""
    monkeypatch.setattr(side_by_side, 'COMPILED', {'with_cp'})
    page, form = tmp_path / 'page.md', f'with_cp:{TINY}'
    args = (TOOL, TINY, form, '--shape', 32, 32, '--rounds', 1)
    call_tool(*args, '--out', page, cwd=ROOT)
    rows = read_csv(page.with_suffix('.csv'))
    assert [row['backbone'] for row in rows if 'start' in row] == [form]
    assert rows[1]['start'] > 0
    assert '| start (s) |' in page.read_text()


def test_goals_of_measured_backbones(pages):
    """A case of the suite may have been measured with other backbones."""
    case, (goal, *_) = next(iter(pages.SUITE.items()))
    rows = [
        dict(backbone=name, seconds=(1, 2, 3), operations=operations)
        for name, operations in (
            (PRODUCT, 12),
            (goal.backbone, 3),
            (goal.base, 2),
        )
    ]
    (cell,) = pages.check_goals({str(case): rows})
    assert (cell['measured'], cell['met']) == ('1.00', 'no')
    assert cell['limit'] == '4.00'
    assert not pages.check_goals({str(case): rows[:2]})


@pytest.mark.parametrize(
    ('seconds', 'measured', 'met', 'sentence'),
    [
        ((4.0, 4.1, 4.4), '2.05 (2.00 to 2.20)', 'yes', '0 of 1 goals are'),
        (
            (3.74, 4.1, 4.4),
            '2.05 (1.87 to 2.20)',
            'in 2 of 3 rounds',
            '1 of 1 goals are missed, 1 of them in some rounds only',
        ),
        (
            (3.74, 3.8, 3.9),
            '1.90 (1.87 to 1.95)',
            'no',
            '1 of 1 goals are missed, 0 of them in some rounds only',
        ),
    ],
)
def test_goals_are_met_in_every_round(
    seconds, measured, met, sentence, pages, monkeypatch
):
    """A median above the goal is not enough."""
    case = Case(('plain:a', 'a'), (64, 96), 1)
    goals = [pages.Goal('speed', 'a', 'plain:a', 2.0)]
    monkeypatch.setattr(pages, 'SUITE', {case: goals})
    rows = [
        dict(
            backbone=name,
            seconds=times,
            operations=operations,
            machine='A',
            batch=1,
        )
        for name, times, operations in (
            ('plain:a', seconds, 6),
            ('a', (2, 2, 2), 6),
            (PRODUCT, (1, 1, 1), 6),
        )
    ]
    (cell,) = pages.check_goals({str(case): rows})
    assert (cell['measured'], cell['met']) == (measured, met)
    low, middle, high = (f'{second:.2f}' for second in seconds)
    assert cell['limit'] == f'{middle} ({low} to {high})'
    page = pages.make_page({str(case): rows})
    assert sentence in page
    assert f'| {measured} |' in comparison_table(rows)
    assert comparison_table(rows) in page


def test_goals_of_memory(pages, monkeypatch):
    """They have one number, and it may be the bound."""
    case = Case(('plain:a', 'a'), (64, 96), 1)
    goals = [pages.Goal('memory', 'a', 'plain:a', x) for x in (0.25, 0.2)]
    monkeypatch.setattr(pages, 'SUITE', {case: goals})
    rows = [dict(backbone='plain:a', memory=4), dict(backbone='a', memory=1)]
    cells = pages.check_goals({str(case): rows})
    assert [cell['met'] for cell in cells] == ['yes', 'no']
    assert cells[0]['measured'] == '0.25'


def test_goals_are_about_the_backbones_of_their_case(pages):
    for case, goals in pages.SUITE.items():
        for goal in goals:
            assert {goal.backbone, goal.base} <= set(case.backbones)
    assert len({str(case) for case in pages.SUITE}) == len(pages.SUITE)


def test_compare_rows():
    """Each round has its ratio."""
    rows = [
        dict(backbone='a', seconds=(2, 30, 8), operations=6, memory=4),
        dict(backbone='b', seconds=(1, 10, 2), operations=8, memory=1),
    ]
    assert compare_rows(rows, 'b', 'a', 'speed') == [2, 3, 4]
    assert compare_rows(rows, 'b', 'a', 'memory') == [0.25]
    shares = compare_rows(rows, 'b', 'a', 'share')
    assert shares == pytest.approx([8 / 3, 4, 16 / 3])
    assert format_ratios([2, 4, 3]) == '3.00 (2.00 to 4.00)'
    assert format_ratios([0.75, 0.5], '.0%') == '62% (50% to 75%)'
    assert format_ratios([1, 1]) == '1.00'


def test_accuracy_of_a_metafile(pages):
    assert pages.accuracy('hatnet-small_8xb128_in1k') == 82.6
    assert pages.accuracy('my_config.py') is None
    pytest.importorskip('mmpretrain', reason='mmpretrain is not installed')
    assert pages.accuracy(pages.CONVNEXT) == 82.14


def test_accuracy_in_the_figure(pages):
    """Backbones without a known accuracy are left out."""
    rows = [
        dict(backbone=name, seconds=(0.5, 0.25, 1), batch=2)
        for name in (TINY, f'plain:{TINY}', 'my_config.py')
    ]
    (axis,) = pages.plot_accuracy('title', rows).axes
    points = [tuple(line.get_xydata()[0]) for line in axis.lines]
    assert points == [(250, 79.8)] * 2
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == [TINY, f'plain:{TINY}']


def test_page_is_current(pages):
    """It is made from the table beside it, which has all goals."""
    page = ROOT / 'docs' / 'benchmark.md'
    rows = rows_by_case(page.with_suffix('.csv'))
    assert list(rows) == [str(case) for case in pages.SUITE]
    assert page.read_text() == pages.make_page(rows)


@pytest.mark.parametrize(
    ('args', 'code', 'message'),
    [
        (('no-such-model',), 1, "no model 'no-such-model'"),
        (('plain:mmdet::pvt/retinanet_pvt-t_fpn_1x_coco.py',), 1, 'HATNet'),
        ((f'cuda_graph:{TINY}',), 1, 'is for inference on a GPU'),
        ((f'model:{TINY}', '--train'), 1, 'model: is for inference'),
        ((TINY, '--out', 'page.csv'), 2, '.md file'),
        ((TINY, '--device', 'gpu'), 1, "no device 'gpu': choose cpu, cuda"),
        ((TINY, '--device', 'cuda'), 1, "no device 'cuda': torch finds no"),
    ],
)
def test_wrong_arguments(args, code, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    if 'mmdet' in args[0]:
        pytest.importorskip('mmdet', reason='mmdet is not installed')
    output = call_tool(TOOL, *args, code=code)
    assert message in output.strip().splitlines()[-1]


def test_profile_of_training(tmp_path):
    """The parts are all of the time."""
    config, page = tmp_path / 'tiny.py', tmp_path / 'page.md'
    pytest.importorskip('mmpretrain', reason='mmpretrain is not installed')
    pytest.importorskip('skimage', reason='the demo data need scikit-image')
    from mmhatnet.datasets import make_demo_data

    make_demo_data(tmp_path / 'data' / 'demo', 6, 2, (96, 96))
    name = 'demo/hatnet-tiny_2xb16-6e_demo.py'
    config.write_text(f"""
_base_ = 'mmhatnet::{name}'
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root='{tmp_path}/data/demo/imagenet/train'),
)
""")
    tool = TOOL.with_name('profile_training.py')
    call_tool(tool, config, '--steps', 2, '--skip', 1, '--out', page)
    row = next(
        line for line in page.read_text().splitlines() if '`tiny`' in line
    )
    shares = [float(share) for share in re.findall(r'([\d.]+)%', row)]
    assert len(shares) == 5
    assert abs(sum(shares) - 100) < 0.3
