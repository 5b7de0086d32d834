"""The pages of docs/ are those that tools/pages makes of the stored data."""

import json
import re
from pathlib import Path

import pytest
from helpers import ROOT, TOOLS, call_tool, import_page

from mmhatnet.utils.config import read_config

EVIDENCE = TOOLS / 'pages' / 'evidence.py'


@pytest.mark.parametrize(
    ('tool', 'page'),
    [
        pytest.param(
            'benchmark', 'benchmark', marks=pytest.mark.default_stack
        ),
        pytest.param(
            'deployment', 'deployment_costs', marks=pytest.mark.default_stack
        ),
        ('dial', 'grids'),
        ('evidence', 'evidence'),
        ('finetune', 'custom_data'),
        ('gpu', 'gpu'),
        ('operators', 'operators'),
        ('paper_tables', 'paper_tables'),
        ('scaling_study', 'scaling'),
    ],
)
def test_page_is_current(tool, page, tmp_path, monkeypatch):
    # Files are written elsewhere, figures included.
    monkeypatch.setattr(
        'mmhatnet.utils.atomic.Path', lambda path: tmp_path / Path(path).name
    )
    call_tool(TOOLS / 'pages' / f'{tool}.py')
    found = (tmp_path / f'{page}.md').read_text()
    assert found == (ROOT / 'docs' / f'{page}.md').read_text()


def test_regions(tmp_path):
    common = import_page('common')
    page = tmp_path / 'page.md'
    text = 'a\n<!-- x -->\n{}\n<!-- end -->\nb\n<!-- y -->\n{}\n<!-- end -->\n'
    page.write_text(text.format('old', 'old').replace('old\n', '', 1))
    common.fill_page(page, dict(x=r'1\1', y='2\n2'))
    assert page.read_text() == text.format(r'1\1', '2\n2')
    with pytest.raises(ValueError, match='has no region <!-- z -->'):
        common.fill_page(page, dict(z=''))
    filled = common.fill_regions(page.read_text(), r'(\w)', lambda x: x * 3)
    assert filled == text.format('xxx', 'yyy')


def test_span():
    span = import_page('common').span
    assert span([2, 1.5]) == '1.5 to 2'
    assert span([-5.5, -5.50001]) == '-5.5'
    assert span([0.124, 3], '+.1f') == '+0.1 to +3.0'


MICRO = 'hatnet-micro-lr8e-3_1xb256-10e_cifar10'


def add_records(
    folder, group, config, values, metric='accuracy/top1', **others
):
    """Write records of trainings with the seeds 1, 2, ..."""
    for seed, value in enumerate(values, 1):
        record = dict(
            name=f'{config}-{seed}',
            config=config,
            seed=seed,
            parameters=2_480_000,
            operations=49_500_000,
            kept_memory=2**20,
            precision='float32',
            lr=4e-3,
            machine='2 CPU threads',
            processes=1,
            options={},
            curve=[
                {
                    'images': 1000 * k,
                    'seconds': 60 * k,
                    metric: value / 2 * k,
                }
                for k in (1, 2)
            ],
        )
        path = folder / f'{group}_{config}-{seed}.json'
        path.write_text(json.dumps(record | others))


def test_section_of_evidence(tmp_path):
    for config, *values in (
        (MICRO, 84.5, 85.0, 86.0),
        ('a', 84.0, 84.75, 85.5),
        ('b', 86.5, 84.5, 85.5),
        ('c', 90.0),
        ('d', 85.0, 86.0, 86.25),
    ):
        add_records(tmp_path, 'cifar10', config, values)
    evidence = import_page('evidence')
    text = evidence.make_section(tmp_path, 'cifar10')
    rows = {
        cells[1]: cells[5:-1]
        for cells in (
            [cell.strip() for cell in line.split('|')]
            for line in re.findall(r'^\| `.*$', text, re.M)
        )
    }
    assert rows['`a`'] == [
        *('2', '2 CPU threads', 'float32', '0.004', '1, 2, 3'),
        *('84, 84.75, 85.5', '84.75 ± 0.75'),
        '0.417 (0.25 to 0.5)',
    ]
    assert rows['`c`'][4:] == ['1', '90', '90', '-5.5 (-5.5)']
    for sentence in (
        f'The goal of 84 (accuracy/top1) in at most 60 CPU minutes for '
        f'`{MICRO}` is met with 3 seeds: 84.5 to 86 in at most 2 CPU '
        'minutes.',
        f'`a` against `{MICRO}`: behind in all 3 pairs, by 0.25 to 0.5.',
        f'`b` against `{MICRO}`: from 0.5 behind to 2 ahead in 3 pairs, which '
        'is inconclusive.',
        f'`c` against `{MICRO}`: fewer than three pairs of seeds, which '
        'is inconclusive.',
        f'`d` against `{MICRO}`: ahead in all 3 pairs, by 0.25 to 1.',
    ):
        assert f'- {sentence}\n' in text
    assert text.count('was not tried') == 1
    assert 'differ by' not in text
    assert (tmp_path / 'cifar10.png').stat().st_size > 1000
    assert not evidence.make_section(tmp_path, 'trees')


@pytest.mark.parametrize(
    ('start', 'end', 'text'),
    [
        (
            [30, 30, 30],
            [90, 90, 90],
            'by 8 to 10 (the reverse at 1,000 images).',
        ),
        ([30, 30, 41], [90, 90, 90], 'by 8 to 10.'),
        ([90, 90, 90], [80, 90, 90], 'which is inconclusive.'),
    ],
)
def test_order_that_changes(start, end, text, tmp_path):
    """The page says when it was the reverse, if all pairs agree."""
    add_records(tmp_path, 'cifar10', MICRO, [80, 81, 82])
    add_records(tmp_path, 'cifar10', 'a', [0, 0, 0])
    for seed, values in enumerate(zip(start, end, strict=True), 1):
        path = tmp_path / f'cifar10_a-{seed}.json'
        record = json.loads(path.read_text())
        for point, value in zip(record['curve'], values, strict=True):
            point['accuracy/top1'] = value
        path.write_text(json.dumps(record))
    # Another test, and one training that has none at the end of the others.
    add_records(tmp_path, 'cifar10', 'b', [9], curve=[point | {'images': 1}])
    page = import_page('evidence').make_section(tmp_path, 'cifar10')
    assert f'{text}\n' in page


def test_seeds_that_differ(tmp_path):
    """By more than 3 mIoU, which the page says."""
    for config, *values in ('a', 80, 83, 82), ('b', 80, 83.5, 82):
        add_records(tmp_path, 'ablation', config, values, metric='mIoU')
    text = import_page('evidence').make_section(tmp_path, 'ablation')
    sentence = (
        'Seeds of `b` differ by 3.5; above 3, a comparison is not reliable'
    )
    assert sentence in text
    assert text.count('differ by') == 1


def test_other_pairs(tmp_path):
    """Two configs are also compared with each other."""
    evidence = import_page('evidence')
    (config, base), *_ = evidence.GROUPS['fpn'].others
    add_records(tmp_path, 'fpn', config, [80, 82, 81], metric='mIoU')
    add_records(tmp_path, 'fpn', base, [82, 82.5, 84], metric='mIoU')
    text = evidence.make_section(tmp_path, 'fpn')
    verdict = 'behind in all 3 pairs, by 0.5 to 3'
    assert f'- `{config}` against `{base}`: {verdict}.\n' in text


def test_machines_of_a_training(tmp_path):
    """Those of all its starts, without the version of torch."""
    machines = '1 CPU thread, torch 2', '2 CPU threads, torch 2'
    starts = [dict(machine=x) for x in (*machines, machines[0])]
    add_records(tmp_path, 'cifar10', MICRO, [80], training=starts)
    text = import_page('evidence').make_section(tmp_path, 'cifar10')
    assert '| 1 CPU thread, 2 CPU threads | float32 |' in text


def test_other_tests_of_a_training(tmp_path):
    """They are sentences of their own, with their verdict."""
    tests = {'a': {'accuracy/top1': 83.5}, 'b': {'accuracy/top1': 84.0}}
    add_records(tmp_path, 'cifar10', MICRO, [80], tests=tests)
    text = import_page('evidence').make_section(tmp_path, 'cifar10')
    for how, value, verdict in (('a', '83.5', 'missed'), ('b', '84', 'met')):
        sentence = f'has {value}: the goal of 84 is {verdict}.'
        assert f'- Tested {how}, seed 1 {sentence}\n' in text


def test_search(tmp_path):
    """What was changed, and the best learning rate, if there are several."""
    length = {'train_cfg.max_epochs': 2, 'param_scheduler': []}
    for name, value, lr, options in (
        ('a', 60.5, 4e-3, {}),
        ('b', 62.5, 8e-3, {'optim_wrapper.optimizer.lr': 8e-3}),
        ('c', 63.5, 4e-3, {'model.backbone.init_cfg': None}),
        ('d', 64.5, 1e-3, {'optim_wrapper.optimizer.type': 'AdamW'}),
    ):
        add_records(
            *(tmp_path, f'search_{name}', MICRO, [value]),
            lr=lr,
            options=options | length,
        )
    text = import_page('evidence').make_section(tmp_path, 'search')
    assert re.findall(rf'^\| (`{MICRO}.*) \|$', text, re.M) == [
        f'`{MICRO}` | {row}'
        for row in (
            ' | 0.004 | 60.5',
            ' | 0.008 | 62.5',
            '`backbone.init_cfg=None` | 0.004 | 63.5',
            '`optimizer.type=AdamW` | 0.001 | 64.5',
        )
    ]
    best = f'of 2 learning rates of `{MICRO}` is 0.008, the largest of them'
    assert text.endswith(f'- The best {best}.')


def test_training_that_the_evidence_refuses(tmp_path, monkeypatch):
    absent = tmp_path / 'absent'
    for arguments, error in (
        (('x', 'y'), "no group 'x'"),
        (('fpn', tmp_path), 'no training in'),
    ):
        assert error in call_tool(EVIDENCE, '--add', *arguments, code=1)
    evidence = import_page('evidence')
    curve = [{'images': 8, 'seconds': 9.0, 'accuracy/top1': 1.0}]
    record = dict(
        name='a',
        config=MICRO,
        curve=curve,
        machine='1 CPU thread',
        batch_size=4,
    )
    monkeypatch.setattr(evidence, 'time_steps', lambda _: 3.0)
    machine = '1 CPU thread, torch 0'
    monkeypatch.setattr(evidence, 'describe_machine', lambda: machine)
    monkeypatch.setattr(evidence, 'record_training', lambda *x: dict(record))
    assert evidence.find_config(evidence.QUICKSTART).parent.name == 'demo'
    with pytest.raises(FileNotFoundError, match='no config absent in'):
        evidence.find_config('absent')
    config = evidence.find_config(MICRO)
    cfg = read_config(config)
    cfg.optim_wrapper.optimizer.lr *= 2
    cfg.train_cfg.val_interval = 3  # changes nothing
    cfg.dump(tmp_path / config.name)
    with pytest.raises(
        ValueError, match=r'other settings .*: optim_wra\S*lr$'
    ):
        evidence.add_training(absent, 'cifar10', tmp_path)
    assert not absent.exists()
    evidence.add_training(absent, 'search', tmp_path)
    stored = json.loads((absent / 'search_a.json').read_text())
    assert stored['options'] == {'optim_wrapper.optimizer.lr': 1.6e-2}
    assert stored['curve'][0]['seconds'] == 6.0  # two steps of 3 seconds
    monkeypatch.setattr(evidence, 'describe_machine', lambda: '1 CPU with X')
    with pytest.raises(ValueError, match='where it ran, on 1 CPU thread'):
        evidence.add_training(absent, 'search', tmp_path)
    record.update(curve=[{'mIoU': 1.0}])
    with pytest.raises(ValueError, match='has no last accuracy/top1'):
        evidence.add_training(absent, 'search', tmp_path)


def test_seeds_of_the_dial(tmp_path, monkeypatch):
    """All arms have the same, else they could not be compared."""
    dial = import_page('dial')
    row = dict(G2=[8, 4, 2], factor=1.0, metric=50.0)
    record = json.dumps(dict(arm='both drawn', seed=0, rows=[row]))
    (tmp_path / 'shapes_both-drawn-0.json').write_text(record)
    monkeypatch.setattr(dial, 'FOLDER', tmp_path)
    with pytest.raises(ValueError, match='all arms of shapes with the same'):
        dial.read_results('shapes')


def test_data_of_others_that_are_not_known():
    finetune = TOOLS / 'pages' / 'finetune.py'
    error = call_tool(finetune, '--run', 'digits', 'nope', code=2)
    assert "invalid choice: 'nope'" in error


def test_times_of_a_gpu():
    """Times and those of kernels are on the page, else that there are none."""
    gpu = import_page('gpu')
    eager, *_ = gpu.show_limits(
        [
            dict(case='a', model='b', form='eager', seconds=(0.5,), batch=2)
            | dict(operations=2e9, kernels=0.25, machine='c')
        ]
    ).splitlines()[::-1]
    assert eager == '| `b` | eager | 250 | 1.00 | 1.0 | 125 |'
    assert 'Not measured' in gpu.show_limits([])
    inference, training, *dense = gpu.timed_cases()
    assert (training.batch, training.train, training.amp) == (
        *(64, True, 'bfloat16'),
    )
    # The plain form of ours, and each of four models in three forms.
    assert [len(case.entries) for case in dense] == [13, 13]
    assert inference.device == 'cuda'
