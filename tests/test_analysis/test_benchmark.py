import os
import re
import sys
from contextlib import ExitStack
from functools import partial
from runpy import run_path

import numpy as np
import pytest
import torch
from helpers import DEMOS, ROOT, SMALL_ARCH, TOOLS, call_tool, import_page
from mmengine.config import Config

from mmhatnet.analysis import benchmark
from mmhatnet.analysis.benchmark import (
    KEEP_FREED,
    PRODUCT,
    Case,
    Entry,
    compare,
    make_table,
    measure_cases,
)
from mmhatnet.analysis.complexity import measure_complexity
from mmhatnet.analysis.report import read_csv
from mmhatnet.analysis.timing import peak_memory, time_in_turns
from mmhatnet.apis.zoo import load_model_config

TOOL = TOOLS / 'analysis_tools' / 'benchmark.py'
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
    with ExitStack() as stack:
        peaks = benchmark._start_process({}, stack)(peak_of_temporaries)
    if None in peaks:
        pytest.skip('this system does not allow the measurement')
    assert all(60 < peak / 2**20 < 72 for peak in peaks)


@pytest.mark.slow
@pytest.mark.parametrize('train', [(), ('--train',)])
def test_tool(train, tmp_path):
    """A case is measured once; the forms of a model agree."""
    table = tmp_path / 'table.csv'
    args = TOOL, TINY, '--plain', '--with-cp', '--shape', 64, 96, *train
    options = '--rounds', 2, '--out', table
    output = call_tool(*args, *options, cwd=ROOT)
    rows = read_csv(table)
    forms = 'plain', 'eager', 'with_cp'
    assert [row['form'] for row in rows] == [*forms, 'eager']
    assert [row['model'] for row in rows] == [TINY] * 3 + [PRODUCT.model]
    cfg = load_model_config(TINY)
    cfg.model = cfg.model.backbone
    operations = measure_complexity(cfg, (64, 96)).operations
    for row in rows[:-1]:
        assert row['operations'] == operations * (3 if train else 1)
        assert len(row['seconds']) == 2
        assert row['start'] > 0
        assert f'| `{TINY}` | {row["form"]} |' in output
    before = table.read_bytes()
    assert output[-500:] == call_tool(*args, *options, cwd=ROOT)[-500:]
    assert table.read_bytes() == before


def test_what_is_measured_again(tmp_path, monkeypatch):
    """A case with other models, rounds or machine, and nothing else."""
    measured = []

    def measure_case(case, rounds):
        measured.append((case, rounds))
        common = dict(case=str(case), seconds=(1.0,) * rounds)
        common['machine'] = benchmark.describe_machine(case.device)
        return [e._asdict() | common for e in (*case.entries, PRODUCT)]

    monkeypatch.setattr(benchmark, '_measure_case', measure_case)
    entries = Entry('a', 'plain'), Entry('a')
    small, large = (Case(entries, (n, n)) for n in (64, 128))
    path = tmp_path / 'rows.csv'
    rows = measure_cases([small], path, 2)
    assert measure_cases([small], path, 2) == rows
    assert measured == [(small, 2)]
    # Another case is added.
    measure_cases([large], path, 2)
    assert list(measure_cases([], path)) == [str(small), str(large)]
    other = Case(entries[::-1], (64, 64))
    measure_cases([other, large], path, 2)
    measure_cases([other, large], path, 1)
    monkeypatch.setattr(benchmark, 'describe_machine', lambda _: 'other')
    rows = measure_cases([other], path, 1)
    assert measured[2:] == [(other, 2), (other, 1), (large, 1), (other, 1)]
    assert rows == measure_cases([], path)
    path.write_text('case,backbone\na,b\n')
    with pytest.raises(ValueError, match='rows.csv is not a table'):
        measure_cases([], path)


def test_process():
    """It has malloc's variables."""
    before = dict(os.environ)
    with ExitStack() as stack:
        run = benchmark._start_process(KEEP_FREED, stack)
        assert dict(os.environ) == before
        found = {name: run(os.getenv, name) for name in KEEP_FREED}
        assert found == KEEP_FREED


@pytest.mark.parametrize('task', DEMOS)
def test_whole_models(task):
    """They predict, and have more operations than their backbones."""
    entry = Entry(DEMOS[task], 'plain')
    whole = Case((entry,), (64, 96), whole_model=True)
    assert benchmark._build_step(entry, whole)() == ()
    assert not benchmark._build_model(entry, whole).backbone.fast
    part, all_of_it = (
        benchmark._start_row(entry, case)['operations']
        for case in (Case((entry,), (64, 96)), whole)
    )
    assert part < all_of_it


def test_unequal_forms_are_refused():
    features = {
        Entry('a', 'plain'): [np.zeros(2)],
        Entry('b'): [np.ones(2)],
        Entry('a'): [np.full(2, 1e-4)],
    }
    benchmark._check_features(features, 1e-3)
    with pytest.raises(AssertionError):
        benchmark._check_features(features, 1e-5)


def test_compiled_with_constant_weights(tmp_path, monkeypatch):
    """The image is the only input of the graph."""
    inputs = []

    def backend(graph, examples):
        inputs.append(len(examples))
        return graph

    monkeypatch.setattr(
        torch, 'compile', partial(torch.compile, backend=backend)
    )
    name = str(tmp_path / 'small.py')
    backbone = dict(type='mmhatnet.HATNet', arch=SMALL_ARCH)
    Config(dict(model=dict(backbone=backbone))).dump(name)
    entries = Entry(name), Entry(name, 'compile')
    case = Case(entries, (64, 96))
    eager, compiled = (benchmark._build_step(e, case)() for e in entries)
    torch.testing.assert_close(compiled, eager)
    assert inputs == [1]


def test_table():
    """Each round has its ratio to the first row."""
    common = dict(batch=2, machine='A')
    rows = [
        dict(model='a', form='plain', seconds=(2, 30, 8), operations=6),
        dict(model='x::b/c.py', form='eager', seconds=(1, 10, 2), start=3.2),
        dict(model=PRODUCT.model, form='eager', seconds=(1, 1, 1)),
    ]
    rows[0] |= dict(memory=4 * 2**20, **common)
    rows[1] |= dict(memory=2**20, operations=8, rest=0.25, **common)
    rows[2] |= dict(operations=4)
    a, b = Entry('a', 'plain'), Entry('x::b/c.py')
    assert compare(rows, b, a, 'speed') == '3.00 (2.00 to 4.00)'
    assert compare(rows, b, a, 'rate') == '4.00 (2.67 to 5.33)'
    assert compare(rows, b, a, 'memory') == '0.25'
    assert compare(rows, a, a, 'speed') == '1.00'
    assert compare(rows, PRODUCT, a, 'memory') == ''
    titles, _, first, second = make_table(rows).splitlines()
    assert titles.endswith('memory (MiB) | memory | start (s) | rest |')
    assert first.endswith('| 4 | 1.00 |  |  |')
    assert second.startswith('| `c` | eager | 2.000 | 1.00 | 3.00 (2.00 to')
    assert second.endswith('| 1.00 (0.20 to 2.00) | 1 | 0.25 | 3 | 25% |')


def test_forms_of_models(tmp_path):
    """Other backbones have those that need no HATNet."""
    other = str(tmp_path / 'other.py')
    backbone = dict(type='mmpretrain.ResNet', depth=18)
    Config(dict(model=dict(backbone=backbone))).dump(other)
    forms = ['eager', 'compile', 'plain']
    assert run_path(TOOL)['list_entries']([TINY, other], forms) == (
        Entry(TINY, 'plain'),
        Entry(TINY),
        Entry(TINY, 'compile'),
        Entry(other),
        Entry(other, 'compile'),
    )


def test_accuracy():
    """Models without a known accuracy are not in the figure."""
    pages = import_page('benchmark')
    assert pages.accuracy('hatnet-small_8xb128_in1k') == 82.6
    rows = [
        dict(model=model, form='eager', seconds=(0.5, 0.25, 1), batch=2)
        for model in (TINY, 'my_config.py')
    ]
    (axis,) = pages.plot_accuracy('title', rows).axes
    (line,) = axis.lines
    assert line.get_xydata().tolist() == [[250, 79.8]]
    assert line.get_label() == f'{TINY}, eager'
    pytest.importorskip('mmpretrain', reason='mmpretrain is not installed')
    assert pages.accuracy(pages.CLASSIFIERS[1].model) == 82.14


@pytest.mark.parametrize(
    ('args', 'code', 'message'),
    [
        (('no-such-model',), 1, "no model 'no-such-model'"),
        (
            ('mmdet::pvt/retinanet_pvt-t_fpn_1x_coco.py', '--plain'),
            1,
            'no model is a HATNet, so none has the form plain',
        ),
        ((TINY, '--cuda-graph'), 2, 'is for inference on a GPU'),
        ((TINY, '--whole-model', '--train'), 2, 'is for inference, alone or'),
        ((TINY, '--whole-model', '--compile'), 2, 'alone or with --plain'),
        ((TINY, '--out', 'page.md'), 2, '.csv file'),
        ((TINY, '--device', 'gpu'), 1, "no device 'gpu': choose cpu, cuda"),
        ((TINY, '--device', 'cuda'), 1, "no device 'cuda': torch finds no"),
    ],
)
def test_wrong_arguments(args, code, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    if 'mmdet' in args[0]:
        pytest.importorskip('mmdet', reason='mmdet is not installed')
    output = call_tool(TOOL, *args, code=code)
    assert message in output.strip().splitlines()[-1]


def test_profile_of_training(demo_folder, tmp_path):
    """The parts are all of the time."""
    config, page = tmp_path / 'tiny.py', tmp_path / 'page.md'
    name = 'demo/hatnet-tiny_2xb16-6e_demo.py'
    config.write_text(f"""
_base_ = 'mmhatnet::{name}'
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root='{demo_folder}/data/demo/imagenet/train'),
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
