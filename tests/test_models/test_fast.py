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

from mmhatnet.models import (
    HATNet,
    derivatives,
    fast,
    forms,
    hatnet,
    windows,
)


def twins(**kwargs):
    """A fast and a plain model with the same weights."""
    model = HATNet(SMALL_ARCH, **kwargs)
    plain = HATNet(SMALL_ARCH, fast=False, **kwargs)
    plain.load_state_dict(model.state_dict())
    return model, plain


def not_fused(model):
    """Hooks make the MLPs call their layers one by one."""
    for name, module in model.named_modules():
        if name.endswith('mlp.fc1'):
            module.register_forward_hook(lambda *_: None)


class TestTwins:
    @pytest.mark.parametrize(
        'kwargs',
        [
            {},
            dict(attn_types=('window',) * 3),
            dict(dw_conv=False),
            dict(act_cfg=dict(type='GELU')),
            dict(norm_cfg=dict(type='GN', num_groups=2)),
            dict(norm_cfg=dict(type='BN')),
            dict(out_norm_cfg=dict(type='GN', num_groups=1)),
        ],
    )
    @pytest.mark.parametrize('size', [(64, 96), (75, 101)])
    def test_equal(self, kwargs, size):
        model, plain = (model.double() for model in twins(**kwargs))
        x = random_images(*size).double()
        assert_features_close(model(x), plain(x))
        assert_gradients_close(gradients(model, x), gradients(plain, x))

    def test_plain_uses_plain_layers(self):
        """The reference has nothing of what makes the other one fast."""
        _, plain = twins()
        assert {
            type(module)
            for module in plain.modules()
            if isinstance(module, nn.Conv2d | nn.GroupNorm)
        } == {nn.Conv2d, nn.GroupNorm}


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_pointwise_conv(dtype):
    conv = fast.build_pointwise(4, 6, fast=True).to(dtype)
    x = torch.rand(2, 4, 3, 5).to(dtype, memory_format=torch.channels_last)
    expected = F.conv2d(x, conv.weight, conv.bias)
    torch.testing.assert_close(conv(x), expected)
    assert conv(x).is_contiguous(memory_format=torch.channels_last)


class TestAttention:
    def test_heads_are_split_without_copies(self):
        """Their gradients, laid out by tokens, are joined with one copy."""
        x = torch.rand(2, 24, 3, 5).to(memory_format=torch.channels_last)
        parts = hatnet.split_heads(x.requires_grad_(), 3, 2)
        for part in parts:
            assert part.shape == (2, 2, 15, 4)
            assert part.data_ptr() - x.data_ptr() < x[0, :, 0, 0].nbytes
        grads = [torch.rand(2, 15, 2, 4).transpose(1, 2) for _ in parts]
        (grad,) = torch.autograd.grad(parts, x, grads)
        assert grad.is_contiguous(memory_format=torch.channels_last)

    @pytest.mark.parametrize('size', [(64, 64), (101, 77)])
    def test_half_precision_training(self, size):
        """On a CPU by explicit products, whose derivative is faster."""
        model, plain = twins()
        x = random_images(*size)
        found = []
        for each in (model, plain):
            with torch.autocast('cpu', torch.bfloat16):
                outs = each(x)
            loss = sum(out.float().square().mean() for out in outs)
            weights = [b.attn.qkv.weight for s in each.stages for b in s]
            found.append(torch.autograd.grad(loss, weights))
        for fast_grad, plain_grad in zip(*found, strict=True):
            difference = (fast_grad - plain_grad).norm() / plain_grad.norm()
            assert difference < 0.1

    def test_many_windows(self, monkeypatch):
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

    def test_masks_are_made_once_per_stage(self, monkeypatch):
        arch = {**SMALL_ARCH, 'depths': (2, 3, 2, 2)}
        for kwargs, per_stage in ({}, 1), (dict(attn_types=['window'] * 3), 2):
            model = HATNet(arch, **kwargs).eval()
            spy = Mock(side_effect=windows.window_mask)
            monkeypatch.setattr(hatnet, 'window_mask', spy)
            with torch.no_grad():
                model(random_images())
            sizes = [call.args[0].shape[2:] for call in spy.call_args_list]
            # These maps have partial windows.
            for size in ((19, 26), (10, 13)):
                assert sizes.count(size) == per_stage


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

    @pytest.mark.parametrize('groups', [1, 4])
    def test_gradients_of_silu_conv(self, groups):
        cfg = dict(padding=(0, 1), groups=groups, bias=False)
        conv = nn.Conv2d(4, 4, 3, **cfg).double()
        x = torch.randn(2, 4, 5, 4, dtype=torch.double, requires_grad=True)
        args = conv.padding, groups
        function = derivatives.SiLUConv
        expected = conv(F.silu(x))
        torch.testing.assert_close(
            function.apply(x, conv.weight, *args), expected
        )
        inputs = x, conv.weight, *args
        assert torch.autograd.gradcheck(function.apply, inputs)

    def test_activations_are_not_kept(self):
        """Of the hidden maps, two instead of four wait for backward."""
        mlp = HATNet(SMALL_ARCH).stages[0][0].mlp
        x = torch.rand(2, mlp.fc1.in_channels, 6, 5)
        hidden = x.numel() // mlp.fc1.in_channels * mlp.fc1.out_channels
        kept = set()

        def pack(tensor):
            if tensor.numel() == hidden:
                kept.add(tensor.data_ptr())
            return tensor

        def count():
            kept.clear()
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                out = mlp(x)
            out.sum().backward()
            return len(kept)

        assert count() == 2
        mlp.fc1.register_forward_hook(lambda *_: None)
        assert count() == 4

    def test_dropout_drops_whole_channels(self, monkeypatch):
        """It does not drop channels of a chunk."""
        monkeypatch.setattr(fast, 'CHUNK', 1)
        model, x = HATNet(SMALL_ARCH, drop_rate=0.5), random_images()
        torch.manual_seed(1)
        found = model(x)
        not_fused(model)
        torch.manual_seed(1)
        assert_features_close(found, model(x))


def replace_class(conv):
    class Twice(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    conv.__class__ = Twice


def replace_forward(conv):
    forward = conv.forward
    conv.forward = lambda x: 2 * forward(x)


def hook(conv):
    conv.register_forward_hook(lambda *args: 2 * args[-1])


class TestHooksAndReplacedLayers:
    """They are called although the fast way needs only their weights."""

    @pytest.fixture
    def model(self):
        return HATNet(SMALL_ARCH).eval()

    @staticmethod
    def expected(mlp, x):
        with torch.no_grad():
            hidden = mlp.act(mlp.fc1(mlp.norm1(x)))
            if mlp.dw_conv is not None:
                hidden = mlp.act(mlp.dw_conv(hidden))
            return mlp.norm2(mlp.fc2(hidden))

    def test_global_hook(self, model):
        """It sees each layer once, with whole maps."""
        seen = []
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

    @pytest.mark.parametrize('change', [replace_class, replace_forward, hook])
    @pytest.mark.parametrize('name', ['fc1', 'dw_conv'])
    def test_replaced(self, model, change, name):
        mlp = model.stages[3][0].mlp
        x = torch.rand(1, mlp.fc1.in_channels, 4, 4)
        before = mlp(x)
        change(getattr(mlp, name))
        with torch.no_grad():
            torch.testing.assert_close(mlp(x), self.expected(mlp, x))
            assert not torch.allclose(mlp(x), before)

    def test_bias_before(self, model, monkeypatch):
        """It would turn the zeros around a map into something else."""
        monkeypatch.setattr(fast, 'CHUNK', 1)
        mlp = model.stages[0][0].mlp
        x = torch.rand(1, mlp.fc1.in_channels, 4, 4)
        mlp.fc1 = nn.Conv2d(mlp.fc1.in_channels, mlp.fc1.out_channels, 1)
        torch.testing.assert_close(mlp(x), self.expected(mlp, x))

    @pytest.mark.parametrize(
        'options',
        [
            dict(padding=2, dilation=2),
            dict(padding=1, padding_mode='reflect'),
            dict(padding='same'),
            dict(padding=1, bias=True),
            None,
        ],
    )
    def test_other_convolution(self, options, model, monkeypatch):
        """Chunks are only right for the one of the paper."""
        monkeypatch.setattr(fast, 'CHUNK', 1)
        mlp = model.stages[0][0].mlp
        hidden = mlp.fc1.out_channels
        mlp.dw_conv = None
        if options:
            options = dict(groups=hidden, bias=False) | options
            mlp.dw_conv = nn.Conv2d(hidden, hidden, 3, **options)
        x = torch.rand(1, mlp.fc1.in_channels, 6, 5)
        with torch.no_grad():
            torch.testing.assert_close(mlp(x), self.expected(mlp, x))
