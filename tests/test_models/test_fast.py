"""The operations of HATNet(fast=True) equal their plain twins."""

import inspect
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from helpers import (
    SMALL_ARCH,
    assert_features_close,
    assert_gradients_close,
    gradients,
    random_images,
)
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from mmhatnet.models import HATNet, fast, forms


def twins(**kwargs):
    """A fast and a plain model with the same weights."""
    model = HATNet(SMALL_ARCH, **kwargs)
    plain = HATNet(SMALL_ARCH, fast=False, **kwargs)
    plain.load_state_dict(model.state_dict())
    return model, plain


def not_fused(model):
    """Hooks make the MLPs call their layers one by one."""
    for name, module in model.named_modules():
        if name.endswith('fc1'):
            module.register_forward_hook(lambda *_: None)


class TestTwins:
    @pytest.mark.parametrize(
        'kwargs',
        [
            {},
            dict(act_cfg=dict(type='GELU')),
            dict(norm_cfg=dict(type='GN', num_groups=2)),
            dict(norm_cfg=dict(type='BN')),
            dict(out_norm_cfg=dict(type='GN', num_groups=1)),
        ],
    )
    def test_equal(self, kwargs):
        """Also with other layers than those of the paper."""
        model, plain = (model.double() for model in twins(**kwargs))
        x = random_images().double()
        assert_features_close(model(x), plain(x))
        assert_gradients_close(gradients(model, x), gradients(plain, x))

    def test_plain_uses_plain_layers(self):
        """The reference has nothing of what makes the other one fast."""
        _, plain = twins()
        for module in plain.modules():
            if isinstance(module, nn.Conv2d | nn.GroupNorm):
                assert type(module) in (nn.Conv2d, nn.GroupNorm)


def test_many_windows(monkeypatch):
    """CUDA's kernels take 65,535 at once; more of them are split."""
    spy = Mock(side_effect=F.scaled_dot_product_attention)
    monkeypatch.setattr(F, 'scaled_dot_product_attention', spy)
    model, plain = twins()
    x = random_images()
    with torch.no_grad():
        expected = plain(x)
        assert_features_close(model(x), expected, rtol=1e-4, atol=1e-5)
        whole = max(len(call.args[0]) for call in spy.call_args_list)
        spy.reset_mock()
        monkeypatch.setattr(fast, 'MAX_WINDOWS', 5)
        assert_features_close(model(x), expected, rtol=1e-4, atol=1e-5)
    most = max(len(call.args[0]) for call in spy.call_args_list)
    assert most == 5 < whole


def test_forms_name_operations():
    """A misspelt one would be passed over."""
    found = set()
    for form in forms.FORMS.values():
        for name, function in inspect.getmembers(form, inspect.isfunction):
            if 'equation' in inspect.signature(function).parameters:
                assert name in forms.OPERATIONS
                found.add(name)
    assert found == forms.OPERATIONS


class TestMLP:
    @pytest.mark.parametrize('grad', [False, True])
    @pytest.mark.parametrize('chunk', [1, 2**14, 2**15, 2**19])
    @pytest.mark.parametrize(
        'kwargs', [{}, dict(dw_conv=False), dict(kernel_sizes=(5, 3, 5, 3))]
    )
    def test_in_chunks(self, chunk, kwargs, grad, monkeypatch):
        """Chunks of rows or images give the same as all at once."""
        monkeypatch.setattr(fast, 'CHUNK', chunk)
        arch = {**SMALL_ARCH, 'kernel_sizes': (3,) * 4}
        arch |= {key: kwargs[key] for key in kwargs if key in arch}
        model = HATNet(arch, dw_conv=kwargs.get('dw_conv', True))
        x, calls = random_images(), set()
        compute = fast.silu_conv

        def record(x, conv, padding):
            calls.add((len(x), tuple(x.shape[2:])))
            return compute(x, conv, padding)

        monkeypatch.setattr(fast, 'silu_conv', record)
        with torch.set_grad_enabled(grad):
            found = model(x)
        # The maps of the first stage are 19x26, those of the last one 3x4.
        assert ((2, (3, 4)) in calls) == (chunk > 1)
        assert ((2, (19, 26)) in calls) == (chunk == 2**19)
        assert ((1, (19, 26)) in calls) == (chunk == 2**15)
        chunked = gradients(model, x)
        calls.clear()
        not_fused(model)
        assert_features_close(found, model(x), rtol=1e-4, atol=1e-5)
        assert_gradients_close(chunked, gradients(model, x))
        assert not calls

    def test_activations_are_not_kept(self):
        """Of the hidden maps, two instead of four wait for backward."""
        mlp = HATNet(SMALL_ARCH).stages[0][0].mlp
        x = torch.rand(2, mlp.fc1.in_channels, 6, 5)
        shape = mlp.fc1(x).shape
        hooks, found = torch.autograd.graph.saved_tensors_hooks, []
        for _ in range(2):
            kept = []
            with hooks(lambda x, to=kept: to.append(x) or x, lambda x: x):
                mlp(x)
            found.append({y.data_ptr() for y in kept if y.shape == shape})
            not_fused(mlp)
        assert list(map(len, found)) == [2, 4]

    def test_dropout_drops_whole_channels(self, monkeypatch):
        """It does not drop channels of a chunk."""
        monkeypatch.setattr(fast, 'CHUNK', 1)
        model, x = HATNet(SMALL_ARCH, drop_rate=0.5), random_images()
        torch.manual_seed(1)
        found = model(x)
        not_fused(model)
        torch.manual_seed(1)
        assert_features_close(found, model(x))


class Twice(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def replace_class(mlp, name):
    getattr(mlp, name).__class__ = Twice


def replace_forward(mlp, name):
    conv = getattr(mlp, name)
    forward = conv.forward
    conv.forward = lambda x: 2 * forward(x)


def hook(mlp, name):
    getattr(mlp, name).register_forward_hook(lambda *args: 2 * args[-1])


def replace_dw_conv(mlp, **options):
    hidden = mlp.fc1.out_channels
    options = dict(groups=hidden, bias=False) | options
    mlp.dw_conv = nn.Conv2d(hidden, hidden, 3, **options)


def add_bias(mlp):
    """It would turn the zeros around a map into something else."""
    mlp.fc1.bias = nn.Parameter(torch.ones(mlp.fc1.out_channels))


def remove(mlp):
    mlp.dw_conv = None


class TestHooksAndReplacedLayers:
    """They are called although the fast way needs only their weights."""

    def test_global_hook(self):
        """It sees each layer once, with whole maps."""
        model, seen = HATNet(SMALL_ARCH).eval(), []
        handle = register_module_forward_hook(
            lambda module, args, out: seen.append(module)
        )
        try:
            with torch.no_grad():
                model(random_images())
        finally:
            handle.remove()
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Conv2d | nn.GroupNorm | nn.SiLU):
                assert seen.count(layer) == 1 + name.endswith('mlp.act'), name

    @pytest.mark.parametrize(
        ('change', 'options'),
        [
            *(
                (change, dict(name=name))
                for change in (replace_class, replace_forward, hook)
                for name in ('fc1', 'dw_conv')
            ),
            (add_bias, {}),
            (remove, {}),
            (replace_dw_conv, dict(padding=2, dilation=2)),
            (replace_dw_conv, dict(padding=1, padding_mode='reflect')),
            (replace_dw_conv, dict(padding='same')),
            (replace_dw_conv, dict(padding=1, bias=True)),
        ],
    )
    @torch.no_grad()
    def test_mlp(self, change, options, monkeypatch):
        monkeypatch.setattr(fast, 'CHUNK', 1)
        mlp = HATNet(SMALL_ARCH).eval().stages[0][0].mlp
        x = torch.rand(1, mlp.fc1.in_channels, 6, 5)
        before = mlp(x)
        change(mlp, **options)
        hidden = mlp.act(mlp.fc1(mlp.norm1(x)))
        if mlp.dw_conv is not None:
            hidden = mlp.act(mlp.dw_conv(hidden))
        expected = mlp.norm2(mlp.fc2(hidden))
        torch.testing.assert_close(mlp(x), expected)
        assert not torch.equal(expected, before)
