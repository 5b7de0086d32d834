"""The kernels of window attention equal Eqs. (6) to (9)."""

from unittest.mock import Mock

import pytest
import torch
from comparing_kernels import (
    assert_check_passes,
    assert_lean,
    assert_same_model,
    largest_errors,
    precise,
)
from compile_kernels import compile_kernel, on_each_gpu
from helpers import (
    INTERPRETED,
    SMALL_ARCH,
    needs_interpreter,
    needs_triton,
    random_images,
    run_interpreted,
)

from mmhatnet.models import HATNet, cuda
from mmhatnet.models.kernels import select_kernels

pytestmark = needs_triton


def test_interpreted():
    run_interpreted(__file__)


@needs_interpreter
class TestKernels:
    @pytest.mark.parametrize('residual', [False, True])
    @pytest.mark.parametrize(
        ('shape', 'heads', 'grid'),
        [
            ((2, 96, 14, 21), 2, (7, False)),
            ((1, 48, 16, 8), 1, (8, False)),
            ((1, 40, 17, 11), 2, (8, False)),  # partial windows
            ((2, 48, 9, 13), 3, (4, True)),
            ((1, 16, 10, 5), 1, (3, True)),  # larger than one side's half
            ((1, 20, 3, 18), 1, (8, True)),  # larger than one side
            ((1, 16, 5, 3), 2, (8, False)),  # larger than both
            ((1, 16, 1, 1), 1, (7, False)),
            ((0, 16, 4, 4), 1, (2, False)),
        ],
    )
    def test_equals_equations(self, kernels, shape, heads, grid, residual):
        n, channels, h, w = shape
        qkv = torch.randn(n, 3 * channels, h, w, requires_grad=True)
        x = torch.randn(shape, requires_grad=True) if residual else None
        inputs = [qkv, x] if residual else [qkv]
        found = kernels.window_attention(qkv, x, heads, *grid)
        assert found.is_contiguous(memory_format=torch.channels_last)
        exact = precise(inputs)
        args = exact if residual else (*exact, None)
        expected = kernels.plain(*args, heads, *grid)
        assert found.shape == expected.shape
        for grad in (
            torch.randn(shape),
            torch.randn(()).expand(shape),
            torch.randn(n, h, w, channels).permute(0, 3, 1, 2),
        ):
            slopes = torch.autograd.grad(
                found, inputs, grad, retain_graph=True
            )
            reference = torch.autograd.grad(
                expected, exact, grad.double(), retain_graph=True
            )
            for a, b in zip(slopes, reference, strict=True):
                torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)
        if n:
            assert max(largest_errors([found], [expected])) < 1e-6

    # The interpreter does not multiply bfloat16.
    @pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
    def test_check(self, dtype):
        assert_check_passes('windows', dtype)

    def test_sum_has_the_wider_dtype(self, kernels):
        qkv = torch.randn(1, 48, 4, 4).half().requires_grad_()
        x = torch.randn(1, 16, 4, 4, requires_grad=True)
        found = kernels.window_attention(qkv, x, 1, 4)
        assert found.dtype == torch.float32
        found.sum().backward()
        assert (qkv.grad.dtype, x.grad.dtype) == (torch.float16, torch.float32)

    def test_is_lean(self, kernels):
        qkv = torch.randn(1, 48, 8, 8, requires_grad=True)
        assert_lean(lambda x: kernels.window_attention(x, None, 1, 4), [qkv])

    @pytest.mark.parametrize('attn_type', ['h-mhsa', 'window'])
    @pytest.mark.parametrize('grids', [(4, 3, 5), (9, 3, 64)])
    def test_whole_model(self, attn_type, grids):
        """Some windows are partial or too large, some are the whole map."""
        kwargs = dict(grid_sizes=grids, attn_types=(attn_type,) * 3)
        assert_same_model('windows', SMALL_ARCH, random_images(), **kwargs)

    def test_layer(self, kernels, monkeypatch):
        """It uses them where a window fits, and then makes no mask."""
        spy = Mock(side_effect=kernels.window_attention)
        monkeypatch.setattr(kernels, 'window_attention', spy)
        model = HATNet(SMALL_ARCH, grid_sizes=(9, 3, 5)).eval()
        with torch.no_grad():
            with select_kernels('windows'):
                model(random_images())
            used = [call.args[3] for call in spy.call_args_list]
            with select_kernels('none'):
                model(random_images())
        # Windows of 9x9 tokens do not fit.
        assert len(used) == spy.call_count
        assert {*used} == {3, 5}
        x = torch.rand(1, 32, 10, 10)
        attn = model.stages[1][0].attn
        assert cuda.window_mask(attn, pytest.fail, x) is None


@pytest.mark.skipif(INTERPRETED, reason='not compiled')
class TestCompiledKernels:
    @on_each_gpu
    @pytest.mark.parametrize(('side', 'head_dim'), [(8, 48), (7, 64)])
    def test_resources(self, kernels, capability, side, head_dim):
        """No spills; 4 programs on a multiprocessor, 2 on an A100."""
        constants = dict(SIDE_Y=side, SIDE_X=side, L=64, D=head_dim, DP=64)
        for kernel in kernels.attend_kernel, kernels.gradient_kernel:
            arguments = {
                name: 'i32'
                if name in kernels.PLACE
                else constants.get(name, '*bf16:16')
                for name in kernel.arg_names
            }
            arguments['scale'] = 'fp32'
            if 'RESIDUAL' in arguments:
                arguments['RESIDUAL'] = True
            used = compile_kernel(kernel, capability, 4, **arguments)
            assert used['spilled'] == 0
            assert used['registers'] <= (224 if capability == 80 else 128)
            assert used['wide'] >= 2
