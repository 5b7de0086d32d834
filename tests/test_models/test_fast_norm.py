"""The fast norm equals that of torch."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from helpers import TORCH
from torch import nn

from mmhatnet.models import GroupNorm1, fast


class TestSingleGroupNorm:
    @pytest.fixture(params=['small maps', 'large maps'])
    def norm(self, request, monkeypatch):
        """A norm that takes the way of a GPU."""
        monkeypatch.setattr(
            fast.SingleGroupNorm, '_has_good_kernel', lambda *_: False
        )
        if request.param == 'large maps':
            monkeypatch.setattr(fast, 'LARGE', 1)
        norm = fast.build_norm(
            dict(type='GN', num_groups=1, eps=1e-3), 6, True
        )
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        return norm

    @staticmethod
    def maps(dtype=torch.double):
        x = 3 + 2 * torch.randn(2, 6, 5, 4, dtype=dtype)
        return x.to(memory_format=torch.channels_last)

    @pytest.mark.parametrize('channels_last', [True, False])
    def test_equals_group_norm(self, norm, channels_last):
        norm, x = norm.double(), self.maps()
        x = (x if channels_last else x.contiguous()).requires_grad_()
        inputs = x, norm.weight, norm.bias
        found, expected = norm(x), F.group_norm(x, 1, *inputs[1:], 1e-3)
        torch.testing.assert_close(found, expected)
        if channels_last:
            assert found.is_contiguous(memory_format=torch.channels_last)
        slope = torch.randn_like(x)
        slopes = (
            torch.autograd.grad(y, inputs, slope) for y in (found, expected)
        )
        torch.testing.assert_close(*slopes)
        with pytest.raises(RuntimeError, match='nn.GroupNorm'):
            torch.autograd.grad(norm(x).sum(), inputs, create_graph=True)

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    @pytest.mark.parametrize('autocast', [True, False])
    def test_half_precision(self, norm, dtype, autocast):
        """The dtype stays, the error is that of rounding, also far from 0."""
        x = (100 + self.maps()).to(dtype).requires_grad_()
        exact = x.detach().double().requires_grad_()
        if dtype == torch.float16 and TORCH < (2, 4):
            pytest.skip('torch lacks float16 on a CPU')
        weights = norm.weight, norm.bias
        expected = F.group_norm(exact, 1, *(w.double() for w in weights), 1e-3)
        if not autocast:
            norm = norm.to(dtype)
        with torch.autocast('cpu', dtype) if autocast else nullcontext():
            found = norm(x)
        assert found.dtype == dtype
        epsilon = torch.finfo(dtype).eps
        assert (found - expected).abs().max() < 4 * epsilon * 100
        weight = torch.randn_like(expected)
        (gradient,) = torch.autograd.grad(found, x, weight.to(dtype))
        (reference,) = torch.autograd.grad(expected, exact, weight)
        assert gradient.dtype == dtype
        cosine = F.cosine_similarity(
            gradient.double().flatten(), reference.flatten(), dim=0
        )
        assert cosine > 0.99

    def test_large_gradients_in_float16(self, norm):
        """The product of map and gradient would overflow."""
        if TORCH < (2, 4):
            pytest.skip('torch lacks float16 on a CPU')
        x = (1000 * torch.randn(2, 6, 5, 4)).half().requires_grad_()
        norm(x).backward(torch.full_like(x, 500))
        assert x.grad.isfinite().all()
        assert norm.weight.grad.isfinite().all()


@pytest.mark.parametrize('affine', [False, True])
@pytest.mark.parametrize('shape', [(2, 6), (2, 6, 5), (2, 6, 5, 4)])
def test_group_norm_1(affine, shape):
    """It stands in for torch's, whatever the shape is."""
    plain = nn.GroupNorm(1, 6, affine=affine)
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    norm = GroupNorm1(6, affine=affine)
    norm.load_state_dict(plain.state_dict())
    assert list(norm.state_dict()) == list(plain.state_dict())
    x = torch.randn(shape)
    torch.testing.assert_close(norm(x), plain(x))


@pytest.mark.parametrize(
    'norm_cfg',
    [
        dict(type='GN', num_groups=2),
        dict(type='GN', num_groups=1, affine=False),
        dict(type='BN'),
    ],
)
def test_other_norms_stay(norm_cfg):
    norm = fast.build_norm(norm_cfg, 6, True)
    assert not isinstance(norm, fast.SingleGroupNorm)
