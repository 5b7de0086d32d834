"""Gradients, frozen stages, dropout and norms of the backbone."""

import pytest
import torch
from helpers import (
    SMALL_ARCH,
    assert_features_close,
    gradients,
    random_images,
)
from mmcv.cnn import fuse_conv_bn
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmhatnet.models import HATNet

BN = dict(type='BN')


class TestTraining:
    @pytest.mark.parametrize(
        'kwargs',
        [
            {},
            dict(attn_types=('window',) * 3, grid_sizes=(1, 1, 1)),
            dict(dw_conv=False, out_indices=(0, 1)),
            dict(out_indices=(1, 2), out_norm_cfg=BN),
        ],
    )
    def test_every_parameter_gets_a_gradient(self, kwargs):
        for name, gradient in gradients(
            HATNet(SMALL_ARCH, **kwargs), random_images()
        ).items():
            assert gradient is not None, name
            assert gradient.isfinite().all(), name
            assert gradient.abs().sum() > 0, name

    @pytest.mark.parametrize('drop_rate', [0, 0.1])
    def test_checkpointed_gradients(self, drop_rate):
        """They are the same although the blocks are computed twice."""
        kwargs = dict(drop_rate=drop_rate, drop_path_rate=0.3)
        plain = HATNet(SMALL_ARCH, **kwargs)
        with_cp = HATNet(SMALL_ARCH, **kwargs, with_cp=True)
        with_cp.load_state_dict(plain.state_dict())
        x, found, calls = random_images(), [], []
        for model in plain, with_cp:
            fc1 = model.stages[1][0].mlp.fc1
            fc1.register_forward_hook(lambda *_: calls.append(1))
            torch.manual_seed(1)
            found.append(gradients(model, x))
        torch.testing.assert_close(*found)
        assert len(calls) == 3

    def test_drop_path_grows_linearly(self):
        model = HATNet(SMALL_ARCH, drop_path_rate=0.5)
        rates = [
            block.drop_path.drop_prob
            for stage in model.stages
            for block in stage
        ]
        assert rates == pytest.approx([0.5 * i / 5 for i in range(6)])

    def test_dropout(self, monkeypatch):
        """Both of an MLP act if it trains, as in Monte Carlo dropout."""
        model, forward = (
            HATNet(SMALL_ARCH, drop_rate=0.5),
            nn.Dropout2d.forward,
        )
        x, calls = random_images(), []

        def record(drop, x):  # a hook would keep the layers from being fused
            calls.append(drop.training)
            return forward(drop, x)

        monkeypatch.setattr(nn.Dropout2d, 'forward', record)
        model.eval()
        assert torch.equal(model(x)[0], model(x)[0])
        model.stages[0][0].mlp.drop.train()
        assert not torch.equal(model(x)[0], model(x)[0])
        assert sum(calls) == 4

    @pytest.mark.parametrize('frozen_stages', range(-1, 5))
    def test_frozen_stages(self, frozen_stages):
        model = HATNet(
            SMALL_ARCH, norm_cfg=BN, frozen_stages=frozen_stages
        ).train()
        parts = [(0, model.stem), *enumerate(model.stages, 1)]
        parts += enumerate(model.downsamples, 2)
        for i, module in parts:
            frozen = i <= frozen_stages
            assert module.training != frozen
            for parameter in module.parameters():
                assert parameter.requires_grad != frozen

    @pytest.mark.parametrize('norm_eval', [False, True])
    def test_norm_eval(self, norm_eval):
        model = HATNet(SMALL_ARCH, norm_cfg=BN, norm_eval=norm_eval).train()
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
        assert norms
        assert all(norm.training != norm_eval for norm in norms)
        assert model.stages[0].training

    def test_layer_depth(self):
        model = HATNet(SMALL_ARCH, out_norm_cfg=BN)
        for depth, *names in (
            (0, 'stem.0.weight'),
            (1, 'stages.0.0.attn.q.weight'),
            (2, 'stages.0.1.mlp.fc1.weight'),
            (3, 'downsamples.0.0.weight', 'stages.1.0.attn.qkv.bias'),
            (4, 'stages.1.1.attn.qkv.bias'),
            (5, 'downsamples.1.0.weight', 'stages.2.0.attn.qkv.bias'),
            (6, 'downsamples.2.1.weight', 'stages.3.0.attn.qkv.bias'),
            (7, 'out_norms.0.bias'),
        ):
            for name in names:
                assert model.get_layer_depth(name) == (depth, 8)
                args = f'backbone.{name}', 'backbone.'
                assert model.get_layer_depth(*args) == (depth, 8)
        assert model.get_layer_depth('head.fc.bias', 'backbone.') == (7, 8)


def test_fuse_conv_bn():
    """Every batch norm is fused with the convolution before it, or kept."""
    model = HATNet(SMALL_ARCH, norm_cfg=BN).train()
    x = random_images()
    model(x)  # statistics other than 0 and 1
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    model.eval()
    with torch.no_grad():
        expected = model(x)
        fused = fuse_conv_bn(model)
        assert any(isinstance(m, nn.Identity) for m in fused.modules())
        assert_features_close(fused(x), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('fast', [True, False])
@pytest.mark.parametrize(
    'layout', [torch.contiguous_format, torch.channels_last]
)
@pytest.mark.parametrize('frozen_stages', range(4))
def test_gradients_behind_frozen_stages(frozen_stages, layout, fast):
    """torch's group norm crashes if only its weight needs a gradient."""
    model = HATNet(SMALL_ARCH, frozen_stages=frozen_stages, fast=fast).train()
    x = random_images().contiguous(memory_format=layout)
    other = HATNet(SMALL_ARCH, fast=fast)
    other.load_state_dict(model.state_dict())
    found, expected = gradients(model, x), gradients(other, x)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(
                found[name], expected[name], rtol=1e-3, atol=1e-5
            )
