import sys

import pytest
import torch

from mmhatnet.benchmark import interleaved, machine, peak_memory


def test_interleaved():
    """All take turns, and the first turn does not count."""
    calls = []
    seconds = interleaved(
        dict(a=lambda: calls.append('a'), b=lambda: calls.append('b')), 3
    )
    assert calls == ['a', 'b'] * 4
    assert seconds.keys() == {'a', 'b'}
    assert all(len(each) == 3 for each in seconds.values())
    assert all(second >= 0 for each in seconds.values() for second in each)


@pytest.mark.skipif(sys.platform != 'linux', reason='measured by Linux')
def test_peak_memory():
    """Of what is freed in between, not of the sum, and again and again."""

    def step():
        for _ in range(3):
            torch.ones(64, 2**18)  # 64 MiB
            torch.ones(32, 2**18)

    for _ in range(2):
        peak = peak_memory(step)
        if peak is None:
            pytest.skip('this system does not let it be measured')
        assert 60 < peak / 2**20 < 72


def test_machine():
    assert torch.__version__ in machine()
