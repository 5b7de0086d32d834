"""The kernels of norms with one group equal torch's norm."""

import math
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from comparing_kernels import (
    assert_check_passes,
    assert_lean,
    assert_same_model,
    differentiated,
    largest_errors,
    precise,
)
from compile_kernels import compile_kernel, on_each_gpu, record_graphs
from helpers import (
    INTERPRETED,
    SMALL_ARCH,
    needs_interpreter,
    needs_triton,
    run_interpreted,
    run_tool,
)
from torch import nn

from mmhatnet.models import GroupNorm1, fast
from mmhatnet.models.kernels import choice, select_kernels
from mmhatnet.models.kernels.choice import TOLERANCES, largest_error

pytestmark = needs_triton

EPS = 1e-6


def make_inputs(shape, dtype=torch.float32):
    """Map, weight and bias, far from zero mean and unit deviation."""
    x = (5 + 3 * torch.randn(shape)).to(
        dtype, memory_format=torch.channels_last
    )
    weights = 1 + torch.randn(2, shape[1])
    return [each.requires_grad_() for each in (x, *weights.clone().unbind())]


def expected(inputs, grad):
    """The same by torch's norm in float64."""
    return differentiated(
        lambda x, *weights: F.group_norm(x, 1, *weights, EPS),
        precise(inputs),
        grad.double(),
    )


def test_interpreted():
    run_interpreted(__file__)


@needs_interpreter
class TestKernels:
    @pytest.fixture
    def norm(self, kernels):
        return lambda *inputs: kernels.NormFunction.apply(*inputs, EPS)

    @pytest.mark.parametrize(
        'shape',
        [
            (1, 48, 1, 1),
            (2, 96, 3, 2),
            (1, 240, 7, 9),  # four tiles, the last one partial
            (2, 320, 5, 13),
            (5, 7, 3, 2),
            (1, 16, 67, 71),  # parts of one tile each
            (2, 64, 29, 31),
        ],
    )
    @pytest.mark.parametrize('dtype', TOLERANCES)
    def test_equals_group_norm(self, norm, shape, dtype):
        inputs = make_inputs(shape, dtype)
        grad = torch.randn(shape).to(dtype)
        found = differentiated(norm, inputs, grad)
        assert [x.dtype for x in found[:2]] == [dtype] * 2
        assert [x.dtype for x in found[2:]] == [torch.float32] * 2
        for each in found[:2]:
            assert each.is_contiguous(memory_format=torch.channels_last)
        errors = largest_errors(found, expected(inputs, grad))
        # Beyond float32, only results are rounded, to half an epsilon.
        exact = dtype == torch.float32
        limit = 1e-5 if exact else torch.finfo(dtype).eps
        assert max(errors[:2]) < limit
        assert max(errors[2:]) < 1e-5

    def test_long_parts(self, norm, kernels, monkeypatch):
        """A program goes through several tiles, the last ones partial."""
        monkeypatch.setattr(kernels, 'PROGRAMS', 4)
        for shape in (2, 48, 29, 31), (1, 320, 15, 17), (3, 16, 31, 29):
            inputs = make_inputs(shape)
            grad = torch.randn(shape)
            found = differentiated(norm, inputs, grad)
            errors = largest_errors(found, expected(inputs, grad))
            assert max(errors) < 1e-5

    @pytest.mark.parametrize('programs', [1, 4, 1024])
    def test_statistics_do_not_cancel(self, kernels, monkeypatch, programs):
        """The mean is 10,000 times the deviation, and half is far from it."""
        monkeypatch.setattr(kernels, 'PROGRAMS', programs)
        x = torch.randn(2, 16, 40, 33)
        x[0] += 1e4
        x[1, :, 20:] -= 1e3
        x = x.contiguous(memory_format=torch.channels_last)
        ones, zeros = torch.ones(16), torch.zeros(16)
        _, found = kernels.norm_forward(x, ones, zeros, 0.0)
        var, mean = torch.var_mean(x.double(), (1, 2, 3), correction=0)
        reference = torch.stack((mean, var.rsqrt()), 1)
        torch.testing.assert_close(
            found.double(), reference, rtol=1e-5, atol=0
        )

    @pytest.mark.parametrize('channels_last', [False, True])
    def test_any_layout(self, norm, channels_last):
        x, *weights = make_inputs((2, 24, 9, 7))
        if not channels_last:
            x = x.detach().contiguous().requires_grad_()
        inputs = x, *weights
        for grad in (
            torch.randn(2, 24, 9, 7),
            torch.randn(()).expand(2, 24, 9, 7),
            torch.randn(2, 1, 9, 1).expand(2, 24, 9, 7),
            torch.randn(9, 7, 24, 2).permute(3, 2, 0, 1),
            torch.randn(2, 24, 18, 14)[:, :, ::2, ::2],
        ):
            found = differentiated(norm, inputs, grad)
            assert max(largest_errors(found, expected(inputs, grad))) < 1e-5

    @pytest.mark.parametrize('shape', [(0, 8, 3, 3), (2, 8, 0, 3)])
    def test_empty(self, norm, shape):
        inputs = make_inputs(shape)
        y, *grads = differentiated(norm, inputs, torch.ones(shape))
        assert y.shape == shape
        assert grads[0].shape == shape
        assert not any(grad.any() for grad in grads[1:])

    def test_weights_in_half_precision(self, norm):
        inputs = make_inputs((2, 24, 9, 7), torch.bfloat16)
        inputs[1:] = [x.detach().bfloat16() for x in inputs[1:]]
        inputs = [x.requires_grad_() for x in inputs]
        grad = torch.randn(2, 24, 9, 7).bfloat16()
        found = differentiated(norm, inputs, grad)
        assert {x.dtype for x in found} == {torch.bfloat16}
        epsilon = torch.finfo(torch.bfloat16).eps
        assert max(largest_errors(found, expected(inputs, grad))) < epsilon

    def test_frozen_weights(self, norm):
        x, *weights = make_inputs((1, 8, 4, 4))
        y = norm(x, *(each.detach() for each in weights))
        grad = torch.randn(1, 8, 4, 4)
        reference = expected((x, *weights), grad)[1]
        found = torch.autograd.grad(y, x, grad)
        assert max(largest_errors(found, [reference])) < 1e-5

    def test_is_lean(self, norm):
        assert_lean(norm, make_inputs((2, 16, 32, 32)), limit=32)

    def test_wrong_number_of_channels(self, norm):
        """Else the kernels would read what follows in memory."""
        with pytest.raises(ValueError, match='8 channels instead of 4'):
            norm(torch.rand(1, 8, 2, 2), torch.ones(4), torch.ones(4))

    @pytest.mark.parametrize('dtype', TOLERANCES)
    def test_check(self, dtype):
        assert_check_passes('norm', dtype)

    def test_check_in_inference_mode(self):
        with torch.inference_mode():
            assert choice._works('norm', torch.device('cpu'), torch.float32)

    def test_layer(self, kernels, monkeypatch):
        """It uses them, also under autocast, unless they are left out."""
        norm, spy = GroupNorm1(8), Mock(side_effect=kernels.norm_forward)
        monkeypatch.setattr(kernels, 'norm_forward', spy)
        x = torch.randn(2, 8, 5, 4)
        with torch.autocast('cpu', torch.bfloat16):
            assert norm(x.bfloat16()).dtype == torch.bfloat16
        found = norm(x)
        dtypes = [call.args[0].dtype for call in spy.call_args_list]
        assert dtypes == [torch.bfloat16, torch.float32]
        with select_kernels('none'):
            torch.testing.assert_close(norm(x), found)
        assert spy.call_count == 2

    def test_functional_transforms(self):
        """Left to torch, also if only a weight is transformed."""
        norm, x = GroupNorm1(4), torch.randn(2, 4, 3, 2)
        for name in 'weight', 'bias':

            def compute(value, name=name):
                weights = {name: value}
                y = torch.func.functional_call(norm, weights, (x,))
                return y.sin().sum()

            value = getattr(norm, name).detach()
            found = torch.func.grad(compute)(value)
            leaf = value.clone().requires_grad_()
            (reference,) = torch.autograd.grad(compute(leaf), leaf)
            torch.testing.assert_close(found, reference)

    def test_whole_model(self):
        assert_same_model('norm', SMALL_ARCH, torch.randn(1, 3, 64, 64))


class TestGroupNorm1:
    @pytest.mark.parametrize('affine', [False, True])
    @pytest.mark.parametrize('shape', [(2, 6), (2, 6, 5), (2, 6, 5, 4)])
    def test_stands_in_for_group_norm(self, affine, shape):
        plain = nn.GroupNorm(1, 6, affine=affine)
        for parameter in plain.parameters():
            nn.init.normal_(parameter)
        norm = GroupNorm1(6, affine=affine)
        norm.load_state_dict(plain.state_dict())
        assert list(norm.state_dict()) == list(plain.state_dict())
        x = torch.randn(shape)
        torch.testing.assert_close(norm(x), plain(x))


@pytest.mark.skipif(INTERPRETED, reason='not compiled')
class TestCompiledKernels:
    @on_each_gpu
    @pytest.mark.parametrize(
        ('dtype', 'budget'),
        [
            ('*bf16:16', 80),
            pytest.param('*fp32:16', 104, marks=pytest.mark.slow),
        ],
    )
    def test_resources(self, kernels, capability, dtype, budget):
        """No spills, few registers, and loads of 16 bytes."""
        arguments = {
            **dict(size='i32:16', C='i32:16', eps='fp32'),
            **dict.fromkeys(['rows', 'parts', 'tiles', 'length'], 'i32'),
            **dict.fromkeys(['x', 'grad', 'y', 'out'], dtype),
            'TILE': kernels.TILE,
            'WIDTH': 64,
            'ROWS': kernels.TILE // 64,
            'PARTS': kernels.PARTS,
        }
        for kernel in (
            kernels.moments_kernel,
            kernels.normalize_kernel,
            kernels.sums_kernel,
            kernels.gradient_kernel,
        ):
            used = compile_kernel(
                kernel,
                capability,
                kernels.WARPS,
                **{n: arguments.get(n, '*fp32:16') for n in kernel.arg_names},
            )
            assert used['spilled'] == 0
            assert used['registers'] <= budget
            assert used['wide'] >= 2

    @pytest.mark.parametrize('dynamic', [False, True])
    def test_in_graphs(self, dynamic, monkeypatch, caplog):
        """Without breaks or copies, and torch sees what the kernels write."""
        monkeypatch.setattr(fast, 'kernels_apply', lambda *_: True)
        norm = GroupNorm1(48)
        x = torch.randn(2, 48, 20, 17).to(memory_format=torch.channels_last)
        x.requires_grad_()
        graphs = record_graphs(norm, monkeypatch, x, dynamic=dynamic)
        assert len(graphs) == 2
        for graph in graphs:
            assert graph['triton_kernel_wrapper_functional'] == 2
            assert not graph['aten.native_group_norm.default']
        assert not graphs[0]['aten.clone.default']
        assert 'identify_mutated_tensors' not in caplog.text


@pytest.mark.parametrize('place', [0, 1])
def test_kernels_that_give_nan_differ(place):
    """In the result or in a gradient, whatever the other errors are."""

    def spoilt(x, y):
        out = [x + y, (x + y) + 0 * y.sqrt()]
        return out[1] if place else out[0] * float('nan')

    x, y = torch.ones(2), torch.tensor([0.0, 1])
    assert math.isnan(largest_error(spoilt, torch.add, x, y))


@pytest.mark.skipif(INTERPRETED, reason='imported')
def test_not_imported_on_a_cpu():
    """Its import would take each user 0.1 seconds."""
    run_tool(
        '-c',
        'import sys, torch; from mmhatnet.models import HATNet; '
        'HATNet("tiny")(torch.rand(1, 3, 64, 64)); '
        'assert "triton" not in sys.modules',
        TRITON_INTERPRET='0',
    )
