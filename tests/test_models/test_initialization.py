"""The initial weights, and the signal that they let through."""

import importlib
from functools import partial
from itertools import chain, repeat

import pytest
import torch
from helpers import ROOT, SMALL_ARCH
from mmengine.registry import DefaultScope
from torch import nn

from mmhatnet import get_model
from mmhatnet.models import HATNet
from mmhatnet.models.archs import ARCHS
from mmhatnet.models.hatnet import MLP
from mmhatnet.models.initialization import (
    BOUND,
    MLP_LAYERS,
    STD,
    TRUNCATED_STD,
    FanOutInit,
)

FAN_OUT = dict(type='mmhatnet.FanOutInit')


@torch.no_grad()
def signals(model):
    """Standard deviations behind the layers of all MLPs, of normal maps."""
    found = []
    for mlp in model.modules():
        if isinstance(mlp, MLP):
            x = torch.randn(1, mlp.fc1.in_channels, 16, 16)
            found.append([])
            for name in MLP_LAYERS:
                x = getattr(mlp, name)(x)
                found[-1].append(x.std())
                x = mlp.act(x)
    return torch.tensor(found)


def is_drawn_by_fan_out(model):
    return signals(model)[:, 2].min() > 0.5


@pytest.mark.parametrize('arch', [name for name in ARCHS if len(name) > 1])
def test_signal_in_mlps(arch):
    """With the authors' weights, the activations are linear at the start."""
    torch.manual_seed(0)
    found = signals(HATNet(arch, init_cfg=FAN_OUT))
    settings = zip(
        ARCHS[arch]['expansions'], ARCHS[arch]['depths'], strict=True
    )
    expansions = chain(*(repeat(e, depth) for e, depth in settings))
    # C inputs of variance 1, with weights of variance 2 / (E * C)
    expected = torch.tensor([(2 / e) ** 0.5 for e in expansions])
    torch.testing.assert_close(found[:, 0], expected, rtol=0.05, atol=0)
    assert 0.33 < found[:, 1].min() < found[:, 1].max() < 0.57
    assert 0.7 < found[:, 2].min() < found[:, 2].max() < 0.93
    assert signals(HATNet(arch))[:, 1:].max() < 0.02


@pytest.mark.parametrize('init_cfg', [None, FAN_OUT])
def test_distributions(init_cfg):
    """In the constructor and in mmengine's initialization."""
    model = HATNet('tiny', init_cfg=init_cfg)
    for initialize in (lambda: None, model.init_weights):
        initialize()
        for name, layer in model.named_modules():
            if not isinstance(layer, nn.Conv2d):
                continue
            weight, std = layer.weight, STD
            assert layer.bias is None or not layer.bias.any()
            if init_cfg and name.endswith(MLP_LAYERS):
                area = weight[0, 0].numel()
                fan_out = area * layer.out_channels / layer.groups
                std = (2 / fan_out) ** 0.5 / TRUNCATED_STD
            assert weight.abs().max() <= BOUND * std + 1e-9
            found = weight.std().item() / std
            assert found == pytest.approx(TRUNCATED_STD, rel=0.1)


@pytest.mark.parametrize(
    'init_cfg', [FAN_OUT, dict(type=FanOutInit), [FAN_OUT]]
)
def test_ways_to_ask(init_cfg):
    model = HATNet(SMALL_ARCH, init_cfg=init_cfg)
    assert is_drawn_by_fan_out(model)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model.init_weights()
    assert is_drawn_by_fan_out(model)
    assert not is_drawn_by_fan_out(HATNet(SMALL_ARCH))


def test_of_a_model():
    """The configs from scratch have it, those of the paper have not."""
    assert is_drawn_by_fan_out(get_model('hatnet-tiny_2xb16-6e_demo'))
    paper = get_model('hatnet-tiny_8xb128_in1k')
    assert not is_drawn_by_fan_out(paper)
    assert is_drawn_by_fan_out(
        get_model('hatnet-tiny_8xb128_in1k', backbone=dict(init_cfg=FAN_OUT))
    )


@pytest.mark.parametrize('name', ['hatnet', 'hatnet_tiny', 'timm', 'hub'])
def test_argument_of_the_hubs(name):
    if name == 'timm':
        timm = pytest.importorskip('timm')
        importlib.import_module('mmhatnet.apis.timm_models')
        make = partial(timm.create_model, 'hatnet_tiny')
    elif name == 'hub':
        pytest.importorskip('huggingface_hub')
        make = importlib.import_module('mmhatnet.apis.hub').HubHATNet
        make = partial(make, 'tiny')
    else:
        make = partial(torch.hub.load, str(ROOT), name, source='local')
    assert is_drawn_by_fan_out(make(init_cfg=FAN_OUT))
    assert not is_drawn_by_fan_out(make())
