"""The checks for GPUs run on a CPU, so that they work when there is a GPU."""

import json
from functools import partial

import pytest
import torch
from helpers import TOOLS, run_tool

from mmhatnet.gpu_check import checks
from mmhatnet.gpu_check.__main__ import run_checks, write_report
from mmhatnet.models import HATNet

CPU = torch.device('cpu')


def verdicts(*names):
    return {v.name: v for v in run_checks(CPU, names)}


def test_what_needs_a_gpu_is_skipped():
    found = verdicts('CUDA graphs', 'no synchronisation')
    assert {v.verdict for v in found.values()} == {'skipped'}


@pytest.mark.parametrize(
    'name', ['versions', 'mmcv operators', 'resuming', 'memory']
)
def test_passes_on_the_cpu(name):
    assert verdicts(name)[name].verdict == 'passed'


@pytest.mark.slow
@pytest.mark.parametrize(
    'name', ['training step', 'fast and plain', 'distributed']
)
def test_long_check_passes_on_the_cpu(name):
    assert verdicts(name)[name].verdict == 'passed'


@pytest.mark.slow
def test_compile_passes_on_the_cpu(monkeypatch):
    """With a backend that only traces; Inductor takes minutes."""
    compile_ = partial(torch.compile, backend='aot_eager')
    monkeypatch.setattr(torch, 'compile', compile_)
    assert 'times as fast' in checks.check_compile(CPU)


class TestParity:
    def test_passes(self):
        found = checks.check_parity(CPU, ('tiny',), ((49, 65),))
        assert 'float32' in found

    def test_notices_a_wrong_backbone(self, monkeypatch):
        forward = HATNet.forward

        def wrong(self, x):
            return tuple(
                out * (1 + 1e-3 * self.fast) for out in forward(self, x)
            )

        monkeypatch.setattr(HATNet, 'forward', wrong)
        with pytest.raises(AssertionError, match='tiny .* float32: 1.0e-03'):
            checks.check_parity(CPU, ('tiny',), ((49, 65),))

    def test_notices_nan(self, monkeypatch):
        forward = HATNet.forward

        def wrong(self, x):
            return tuple(out / (not self.fast) for out in forward(self, x))

        monkeypatch.setattr(HATNet, 'forward', wrong)
        with pytest.raises(AssertionError, match='float32: (nan|inf)'):
            checks.check_parity(CPU, ('tiny',), ((49, 65),))


@pytest.mark.parametrize(
    ('command', 'driver'),
    [
        ('echo 570.1; echo 570.1', '570.1'),
        ('echo Failed; exit 9', 'unknown'),
        (None, 'unknown'),
    ],
)
def test_driver(command, driver, tmp_path, monkeypatch):
    monkeypatch.setenv(
        'PATH', f'{tmp_path}:/bin' if command else str(tmp_path)
    )
    if command:
        tool = tmp_path / 'nvidia-smi'
        tool.write_text(f'#!/bin/sh\n{command}\n')
        tool.chmod(0o755)
    assert checks._driver() == driver


def test_notices_a_lost_state_of_the_optimizer(monkeypatch):
    load, calls = torch.optim.AdamW.load_state_dict, []

    def lose(self, state):
        calls.append(state)
        if len(calls) == 3:  # the step on the device
            state = dict(state, state={})
        load(self, state)

    monkeypatch.setattr(torch.optim.AdamW, 'load_state_dict', lose)
    with pytest.raises(AssertionError, match='moved differently by'):
        checks.check_resuming(CPU)


def test_failure_is_reported(tmp_path, monkeypatch):
    def fails(device):
        raise RuntimeError('two\nlines')

    monkeypatch.setitem(checks.CHECKS, 'versions', fails)
    found = run_checks(CPU, ['versions'])
    write_report(found, CPU, tmp_path)
    (check,) = json.loads((tmp_path / 'report.json').read_text())['checks']
    assert check['verdict'] == 'failed'
    assert check['found'] == 'RuntimeError: two lines'
    assert 'two lines' in (tmp_path / 'report.md').read_text()


def test_command(tmp_path):
    command = TOOLS / 'gpu_check.sh', 'versions', '--device', 'cpu'
    assert 'torch' in run_tool(*command, '--out', tmp_path)
    assert (tmp_path / 'report.md').exists()
