import os
import re
import sys
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from helpers import ROOT, TOOLS, call_tool, import_page
from mmengine.config import Config

from mmhatnet.analysis import benchmark
from mmhatnet.analysis.benchmark import RETURN_FREED, Entry, make_table
from mmhatnet.analysis.complexity import measure_complexity
from mmhatnet.analysis.report import read_csv, write_csv
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
    assert {name: len(each) for name, each in seconds.items()} == dict(
        a=3, b=3
    )


def peak_of_temporaries():
    def step():
        for _ in range(3):
            torch.ones(64, 2**18)  # 64 MiB
            torch.ones(32, 2**18)

    return [peak_memory(step) for _ in range(2)]


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux tells it')
def test_process():
    """It has malloc's variables, and measures the peak, not the sum."""
    before = dict(os.environ)
    with ExitStack() as stack:
        run = benchmark._start_process(stack, **RETURN_FREED)
        assert dict(os.environ) == before
        assert run(os.getenv, 'GLIBC_TUNABLES') in RETURN_FREED.values()
        peaks = run(peak_of_temporaries)
    if None not in peaks:  # else this system does not allow the measurement
        assert all(60 < peak / 2**20 < 72 for peak in peaks)


@pytest.mark.slow
@pytest.mark.parametrize('train', [(), ('--train',)])
def test_tool(train, tmp_path):
    """All forms of a model are measured; a table keeps other cases."""
    table = tmp_path / 'table.csv'
    write_csv(table, [dict(case='other')])
    args = '--plain', '--with-cp', '--shape', 64, 96, '--rounds', 2, *train
    output = call_tool(TOOL, TINY, *args, '--out', table, cwd=ROOT)
    other, *rows = read_csv(table)
    assert other == dict(case='other')
    assert [row['form'] for row in rows] == ['plain', 'eager', 'with_cp']
    cfg = load_model_config(TINY)
    cfg.model = cfg.model.backbone
    operations = measure_complexity(cfg, (64, 96)).operations
    for row in rows:
        assert row['operations'] == operations * (3 if train else 1)
        assert len(row['seconds']) == 2
        assert row['start'] > 0
        assert f'| `{TINY}` | {row["form"]} |' in output


def test_unequal_forms_are_refused():
    features = {
        Entry('a', 'plain'): [np.zeros(2)],
        Entry('b'): [np.ones(2)],
        Entry('a'): [np.full(2, 1e-4)],
    }
    benchmark._check_features(features, 1e-3)
    with pytest.raises(AssertionError):
        benchmark._check_features(features, 1e-5)


def test_table():
    """Each round has its ratio to the first eager model."""
    mib = 2**20
    rows = [
        dict(model='a', form='plain', seconds=(2, 30, 8), memory=4 * mib),
        dict(model='x::b/c.py', form='eager', seconds=(1, 10, 2), memory=mib),
        dict(model='a', form='compile', seconds=(1, 20, 1), start=3.2),
    ]
    rows = [row | dict(batch=2, operations=6e9) for row in rows]
    assert make_table(rows).splitlines()[2:] == [
        '| `a` | plain | 4000 | 0.33 (0.25 to 0.50) | 3.0 | 4 | 4.00 |  |',
        '| `c` | eager | 1000 | 1.00 | 3.0 | 1 | 1.00 |  |',
        '| `a` | compile | 500 | 1.00 (0.50 to 2.00) | 3.0 |  |  | 3 |',
    ]


def test_forms_of_models(tmp_path, monkeypatch):
    """Other backbones have those that need no HATNet."""
    other = str(tmp_path / 'other.py')
    backbone = dict(type='mmpretrain.ResNet', depth=18)
    Config(dict(model=dict(backbone=backbone))).dump(other)
    cases = []
    monkeypatch.setattr(
        benchmark, 'measure', lambda case, rounds: cases.append(case) or rows
    )
    rows = [
        dict(model=TINY, form='eager', seconds=(1,), batch=1, operations=1)
    ]
    call_tool(TOOL, TINY, other, '--compile', '--plain')
    assert [tuple(entry) for entry in cases[0].entries] == [
        *((TINY, form) for form in ('plain', 'eager', 'compile')),
        *((other, form) for form in ('eager', 'compile')),
    ]
    assert 'no model is a HATNet' in call_tool(TOOL, other, '--plain', code=1)


def test_accuracy():
    """Models without a known accuracy are not in the figure."""
    pages = import_page('benchmark')
    rows = [
        dict(model=model, form='eager', seconds=(0.5, 0.25, 1), batch=2)
        for model in (TINY, 'my_config.py')
    ]
    (axis,) = pages.plot_accuracy('title', rows).axes
    (line,) = axis.lines
    assert line.get_xydata().tolist() == [[250, 79.8]]
    assert line.get_label() == f'{TINY}, eager'


@pytest.mark.parametrize(
    ('args', 'code', 'message'),
    [
        (('no-such-model',), 1, "no model 'no-such-model'"),
        ((TINY, '--cuda-graph'), 2, 'needs --device cuda'),
        ((TINY, '--out', 'page.md'), 2, '.csv file'),
        ((TINY, '--device', 'gpu'), 1, "no device 'gpu': choose cpu, cuda"),
        ((TINY, '--device', 'cuda'), 1, "no device 'cuda': torch finds no"),
    ],
)
def test_wrong_arguments(args, code, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
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
