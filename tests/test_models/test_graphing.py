"""CUDA graphs of a training step, on fake CUDA tensors."""

from unittest.mock import Mock

import pytest
import torch
from helpers import SMALL_ARCH
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmhatnet.models import HATNet
from mmhatnet.models.graphing import graph_training

pytestmark = pytest.mark.skipif(
    not hasattr(torch, 'get_autocast_dtype'),
    reason='fake CUDA tensors need a driver before torch 2.4',
)


@pytest.fixture
def recorded(monkeypatch):
    """What torch is asked to record."""
    calls = []

    def record(module, args, **kwargs):
        calls.append((module, args, kwargs, torch.is_autocast_cache_enabled()))
        return lambda x: ['graph', *module(x)]

    monkeypatch.setattr(torch.cuda, 'make_graphed_callables', record)
    return calls


@pytest.fixture
def model():
    with FakeTensorMode(), torch.device('cuda'):
        model = HATNet(SMALL_ARCH).train()
        graph_training(model)
        yield model


def images(n=4, size=64):
    return torch.empty(n, 3, size, size, device='cuda')


def accumulate(model):
    """Keep the gradients of a batch."""
    weight = next(model.parameters())
    weight.grad = torch.empty_like(weight)


def test_one_setting_is_recorded(recorded, model):
    torch.no_grad()(model)(images())
    assert not recorded
    for _ in range(2):
        assert model(images())[0] == 'graph'
    ((module, (example,), options, caches),) = recorded
    assert example.shape == (4, 3, 64, 64)
    assert not example.requires_grad
    assert options['num_warmup_iters'] >= 11
    assert not caches
    # All weights get gradients from the graph.
    assert {*module.parameters()} == {*model.parameters()}


@pytest.mark.parametrize(
    'change',
    [
        lambda model: images(n=3),
        lambda model: images(size=96),
        lambda model: images().to(memory_format=torch.channels_last),
        lambda model: model.set_grids((4, 4, 4)) or images(),
        lambda model: model.set_grids(ds_ratios=(4, 2, 1)) or images(),
        lambda model: images().requires_grad_(),
        lambda model: model.eval() and images(),
        lambda model: accumulate(model) or images(),
    ],
)
def test_everything_else_runs_as_before(change, recorded, model):
    model(images())
    assert model(change(model))[0] != 'graph'
    assert len(recorded) == 1


def test_a_failure_is_a_warning(model, monkeypatch):
    fail = Mock(side_effect=RuntimeError('no memory\nlong traceback'))
    monkeypatch.setattr(torch.cuda, 'make_graphed_callables', fail)
    with pytest.warns(UserWarning, match='graphs are not used: no memory$'):
        assert len(model(images())) == 4


def test_nothing_changes_on_a_cpu(recorded):
    module, x = nn.Conv2d(3, 3, 1), torch.rand(1, 3, 2, 2)
    expected = module(x)
    graph_training(module)
    assert torch.equal(module(x), expected)
    assert list(module.state_dict()) == ['weight', 'bias']
    assert not recorded
