"""The initial weights."""

import pytest
from helpers import SMALL_ARCH
from mmengine.registry import DefaultScope
from torch import nn

from mmhatnet import get_model
from mmhatnet.models import HATNet
from mmhatnet.models.hatnet import MLP
from mmhatnet.models.initialization import BOUND, MLP_LAYERS, STD, FanOutInit

FAN_OUT = dict(type='mmhatnet.FanOutInit')


def is_drawn_by_fan_out(model):
    """Whether the weights of the MLPs are larger than the authors'."""
    mlps = [m for m in model.modules() if isinstance(m, MLP)]
    layers = [x for m in mlps for x in (m.fc1, m.dw_conv, m.fc2)]
    return all(layer.weight.std() > 1.5 * STD for layer in layers)


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
                assert weight.std().item() == pytest.approx(
                    (2 / fan_out) ** 0.5, rel=0.06
                )
            else:
                assert weight.abs().max() <= BOUND * std + 1e-9
                assert weight.std().item() == pytest.approx(
                    0.88 * std, rel=0.1
                )


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
