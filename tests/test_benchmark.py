import importlib.util
import multiprocessing
import re
import subprocess
import sys
from functools import partial

import pytest
import torch
from helpers import ROOT

from mmhatnet.analysis.complexity import measure_complexity
from mmhatnet.analysis.report import read_csv
from mmhatnet.analysis.timing import (
    describe_machine,
    peak_memory,
    time_in_turns,
)
from mmhatnet.config import read_config
from mmhatnet.models import HATNet

TOOL = ROOT / 'tools' / 'analysis_tools' / 'benchmark.py'


def test_interleaved():
    """All take turns, and the first turn does not count."""
    calls = []
    seconds = time_in_turns(
        dict(a=lambda: calls.append('a'), b=lambda: calls.append('b')), 3
    )
    assert calls == ['a', 'b'] * 4
    assert seconds.keys() == {'a', 'b'}
    assert all(len(each) == 3 for each in seconds.values())
    assert all(second >= 0 for each in seconds.values() for second in each)


def peak_of_temporaries(_):
    def step():
        for _ in range(3):
            torch.ones(64, 2**18)  # 64 MiB
            torch.ones(32, 2**18)

    return peak_memory(step)


@pytest.mark.skipif(sys.platform != 'linux', reason='measured by Linux')
def test_peak_memory():
    """Of what is freed in between, not of the sum, and again and again."""
    # Malloc keeps none of it where no large heap was left before.
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        peaks = pool.map(peak_of_temporaries, range(2))
    if None in peaks:
        pytest.skip('this system does not let it be measured')
    assert all(60 < peak / 2**20 < 72 for peak in peaks)


def test_machine():
    assert torch.__version__ in describe_machine()


def run_tool(*args):
    return subprocess.run(
        [sys.executable, *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('benchmark_tool', TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for its dataclass
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('train', [(), ('--train',)])
def test_tool(train, tmp_path):
    """Measured once; the forms of a backbone give the same."""
    tiny, page = 'hatnet-tiny_8xb128_in1k', tmp_path / 'page.md'
    forms = [f'plain:{tiny}', tiny, f'channels_last:with_cp:{tiny}']
    args = (*forms, '--shape', '64', '96', '--rounds', '2', *train)
    result = run_tool(TOOL, *args, '--out', page)
    assert result.returncode == 0, result.stderr
    rows = read_csv(page.with_suffix('.csv'))
    assert [row['backbone'] for row in rows] == [*forms, 'matrix product']
    cfg = read_config(ROOT / 'configs' / 'hatnet' / f'{tiny}.py')
    cfg.model = cfg.model.backbone
    operations = measure_complexity(cfg, (64, 96)).operations * (
        3 if train else 1
    )
    for row in rows[:-1]:
        assert row['operations'] == operations
        assert len(row['seconds']) == 2
    content = page.read_text()
    for form in forms:
        assert f'| `{form}` |' in content
    # The forms have one accuracy.
    assert not page.with_suffix('.png').exists()
    again = run_tool(TOOL, *args, '--out', page)
    assert again.returncode == 0, again.stderr
    assert read_csv(page.with_suffix('.csv')) == rows
    assert page.read_text() == content
    if not train:
        other = run_tool(TOOL, *args, '--out', page, '--rounds', '1')
        assert other.returncode == 0, other.stderr
        rows = read_csv(page.with_suffix('.csv'))
        assert [len(row['seconds']) for row in rows] == [1] * 4


@pytest.mark.parametrize('shape', [(64, 96), (75, 101)])
@pytest.mark.parametrize('out_norm_cfg', [None, dict(type='GN', num_groups=1)])
def test_plain_formulation(shape, out_norm_cfg, tool):
    """Of all stages, at windows that do and do not divide the map."""
    model = HATNet('tiny', out_norm_cfg=out_norm_cfg).eval()
    x = torch.rand(2, 3, *shape)
    with torch.no_grad():
        plain = tool.PlainHATNet(model)(x)
        for a, b in zip(plain, model(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_unequal_forms_are_refused(tool):
    with pytest.raises(AssertionError):
        tool.check(
            {
                'plain:a': lambda: (torch.zeros(2),),
                'a': lambda: (torch.ones(2),),
            }
        )


def test_compiled_with_constant_weights(tool, monkeypatch):
    """The image is the only input of the graph."""
    inputs = []

    def backend(graph, examples):
        inputs.append(len(examples))
        return graph

    monkeypatch.setattr(
        torch, 'compile', partial(torch.compile, backend=backend)
    )
    case = tool.Case((), (64, 96), 1)
    torch.compiler.reset()  # or it compiles for any size, after other tests
    with tool.inductor.patch(freezing=False):  # and as it was afterwards
        step = tool.build_step(f'compile:{tool.TINY}', case, 'cpu')
        torch.testing.assert_close(
            step(), tool.build_step(tool.TINY, case, 'cpu')()
        )
    torch.compiler.reset()  # or the next one compiles for any size
    assert inputs == [1]


def test_aims_of_what_was_measured(tool):
    """A case of the suite with other backbones, too."""
    case, (aim, *_) = next(iter(tool.SUITE.items()))
    rows = [dict(backbone=name, seconds=(1, 2)) for name in aim[:2]]
    (cell,) = tool.aims({str(case): rows})
    assert (cell['measured'], cell['met']) == ('1.00', 'no')
    assert not tool.aims({str(case): rows[:1]})


def test_compare(tool):
    """Ratios of a round, of which the median counts."""
    rows = [
        dict(backbone='a', seconds=(2, 30, 8), operations=6, memory=4),
        dict(backbone='b', seconds=(1, 10, 2), operations=8, memory=1),
    ]
    assert tool.compare(rows, 'b', 'a', 'speed') == 3
    assert tool.compare(rows, 'b', 'a', 'memory') == 0.25
    assert tool.compare(rows, 'b', 'a', 'share') == (8 / 2) / (6 / 8)


def test_accuracy_of_a_metafile(tool):
    assert tool.accuracy('hatnet-small_8xb128_in1k') == 82.6
    assert tool.accuracy('my_config.py') is None
    pytest.importorskip('mmpretrain', reason='mmpretrain is not installed')
    assert tool.accuracy(tool.PEERS[1]) == 82.14


def test_page_is_what_the_tool_makes(tool):
    """Of the table beside it, which covers all that is aimed at."""
    page = ROOT / 'docs' / 'benchmark.md'
    rows = tool.by_case(read_csv(page.with_suffix('.csv')))
    assert list(rows) == [str(case) for case in tool.SUITE]
    command = (
        'python tools/analysis_tools/benchmark.py --out docs/benchmark.md'
    )
    assert page.read_text() == tool.page(rows, 'benchmark.png', command)


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (('no-such-model',), "no model 'no-such-model'"),
        (('plain:hatnet-small-no-dwconv_8xb64-100e_in1k',), 'depthwise'),
        (('plain:mmdet::pvt/retinanet_pvt-t_fpn_1x_coco.py',), 'HATNet'),
        (('--out', 'page.csv'), '.md file'),
    ],
)
def test_wrong_arguments(args, message):
    if 'mmdet' in args[0]:
        pytest.importorskip('mmdet', reason='mmdet is not installed')
    result = run_tool(TOOL, *args)
    assert result.returncode
    assert message in result.stderr.strip().splitlines()[-1]


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
    dataset=dict(data_root='{tmp_path}/data/demo/imagenet/train'),
)
""")
    tool = TOOL.with_name('profile_training.py')
    args = (config, '--steps', '2', '--skip', '1', '--out', page)
    result = run_tool(tool, *args)
    assert result.returncode == 0, result.stderr
    row = next(
        line for line in page.read_text().splitlines() if '`tiny`' in line
    )
    shares = [float(share) for share in re.findall(r'([\d.]+)%', row)]
    assert len(shares) == 5
    assert abs(sum(shares) - 100) < 0.3
