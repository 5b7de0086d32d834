"""The kernels of an MLP equal SiLU, depthwise convolution and SiLU."""

from unittest.mock import Mock

import pytest
import torch
from comparing_kernels import (
    assert_check_passes,
    assert_lean,
    assert_same_model,
    differentiated,
    largest_errors,
    precise,
)
from compile_kernels import compile_kernel, on_each_gpu
from helpers import (
    INTERPRETED,
    SMALL_ARCH,
    TORCH,
    needs_interpreter,
    needs_triton,
    run_interpreted,
)

from mmhatnet.models.hatnet import MLP
from mmhatnet.models.kernels import select_kernels

CFG = dict(norm_cfg=dict(type='GN', num_groups=1), act_cfg=dict(type='SiLU'))
pytestmark = [
    needs_triton,
    pytest.mark.skipif(TORCH < (2, 7), reason='needs tuples in kernels'),
]


@pytest.fixture
def wide(kernels, monkeypatch):
    """Let a program compute all channels, which the interpreter is fast at."""
    monkeypatch.setattr(kernels, 'WIDTHS', {3: 512, 5: 512})


def test_interpreted():
    run_interpreted(__file__)


def make_inputs(shape, kernel_size=3, dtype=torch.float32):
    """Map and weight."""
    x = torch.randn(shape).to(dtype, memory_format=torch.channels_last)
    weight = torch.randn(shape[1], 1, kernel_size, kernel_size)
    return x.requires_grad_(), weight.requires_grad_()


@needs_interpreter
class TestKernels:
    def errors(self, kernels, inputs, grad=None):
        grad = torch.randn_like(inputs[0]) if grad is None else grad
        found = differentiated(kernels.silu_depthwise_silu, inputs, grad)
        reference = precise(inputs)
        expected = differentiated(kernels.plain, reference, grad.double())
        assert found[0].is_contiguous(memory_format=torch.channels_last)
        assert [x.dtype for x in found[1:]] == [x.dtype for x in inputs]
        return largest_errors(found, expected)

    @pytest.mark.parametrize(
        ('shape', 'kernel_size'),
        [
            ((1, 48, 1, 1), 3),
            ((1, 96, 2, 9), 3),  # two blocks of channels, one partial
            ((1, 240, 3, 1), 3),
            ((1, 320, 1, 2), 3),
            ((1, 40, 2, 3), 5),
            ((2, 24, 1, 2), 5),
        ],
    )
    def test_equals_torch(self, kernels, shape, kernel_size):
        errors = self.errors(kernels, make_inputs(shape, kernel_size))
        assert max(errors) < 2e-6

    @pytest.mark.parametrize('kernel_size', [3, 5])
    def test_long_maps(self, kernels, kernel_size, monkeypatch):
        """Several strips, and several tiles of a program."""
        monkeypatch.setattr(kernels, 'ROWS', 4)
        monkeypatch.setattr(kernels, 'PROGRAMS', 2)
        inputs = make_inputs((1, 8, 7, 5), kernel_size)
        assert max(self.errors(kernels, inputs)) < 2e-6

    def test_few_programs(self, kernels, monkeypatch):
        """A small map is cut into more strips, down to FEW_ROWS."""
        for height, strips in (8, 1), (9, 2), (64, 8), (300, 38):
            x = torch.empty(1, 8, height, 1)
            (*_, found, _, rows), tiles, *_ = kernels._tile(x, 3)
            assert found == tiles == strips
            assert rows * strips >= height
        many = torch.empty(1, 1, 1, 1).expand(4096, 64, 130, 7)
        (*_, strips, across, rows), tiles, *_ = kernels._tile(many, 3)
        assert (strips, across, rows) == (3, 2, 44)
        assert tiles == 4096 * 3 * 2

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize('weight_too', [False, True])
    def test_half(self, kernels, dtype, weight_too):
        """Computed in float32: rounding of the results is all."""
        x, weight = make_inputs((1, 24, 3, 5), dtype=dtype)
        if weight_too:
            weight = weight.detach().to(dtype).requires_grad_()
        *errors, last = self.errors(kernels, (x, weight))
        rounding = torch.finfo(dtype).eps
        assert max(errors) < rounding
        assert last < (rounding if weight_too else 2e-6)

    def test_layouts(self, kernels, wide):
        """Neither map nor gradients have to be in channels_last."""
        shape = 2, 8, 1, 3
        x, weight = make_inputs(shape)
        for grad in torch.randn(()).expand(shape), torch.randn(shape):
            assert max(self.errors(kernels, (x, weight), grad)) < 2e-6
        x = x.detach().contiguous().requires_grad_()
        assert max(self.errors(kernels, (x, weight))) < 2e-6

    @pytest.mark.parametrize(
        'shape', [(0, 8, 4, 4), (2, 8, 0, 4), (2, 8, 4, 0)]
    )
    def test_empty(self, kernels, shape):
        inputs = make_inputs(shape)
        grad = torch.zeros(shape)
        y, *grads = differentiated(kernels.silu_depthwise_silu, inputs, grad)
        assert y.shape == grads[0].shape == shape
        assert not grads[1].any()

    def test_extreme_values(self, kernels, wide):
        """SiLU is 0 far below 0, and x far above; nothing is NaN."""
        x, weight = make_inputs((1, 8, 3, 5))
        x = (1e4 * x).detach().requires_grad_()
        assert max(self.errors(kernels, (x, weight))) < 2e-6

    def test_check(self, wide):
        assert_check_passes('mlp')

    def test_is_lean(self, kernels, wide):
        assert_lean(kernels.silu_depthwise_silu, make_inputs((1, 8, 3, 5)))

    def test_whole_model(self, wide):
        arch = dict(SMALL_ARCH, depths=(1, 1, 1, 1))
        assert_same_model('mlp', arch, torch.randn(1, 3, 32, 37))

    @pytest.mark.parametrize(
        ('change', 'used'),
        [
            ({}, True),
            (dict(kernel_size=5), True),
            (dict(kernel_size=7), False),  # not enough registers
            (dict(dw_conv=False), False),
            (dict(drop_rate=0.5), False),
            (dict(act_cfg=dict(type='ReLU')), False),
            (dict(fast=False), False),
        ],
    )
    def test_layer(self, kernels, wide, change, used, monkeypatch):
        """They are used for the paper's MLP; the result is the same."""
        spy = Mock(side_effect=kernels.silu_depthwise_silu)
        monkeypatch.setattr(kernels, 'silu_depthwise_silu', spy)
        mlp = MLP(8, 2, **{**CFG, 'kernel_size': 3, **change})
        x = torch.rand(1, 8, 3, 4)
        with select_kernels('mlp'):
            torch.manual_seed(0)
            found = mlp(x)
        assert spy.called == used
        with select_kernels('none'):
            torch.manual_seed(0)
            torch.testing.assert_close(found, mlp(x), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(INTERPRETED, reason='not compiled')
class TestCompiledKernels:
    @on_each_gpu
    @pytest.mark.parametrize('dtype', ['*bf16:16', '*fp32:16'])
    @pytest.mark.parametrize(
        ('kernel_size', 'forward', 'backward'), [(3, 64, 168), (5, 64, 254)]
    )
    def test_resources(
        self, kernels, capability, dtype, kernel_size, forward, backward
    ):
        """No spills; 32, 12 and 8 warps on a multiprocessor."""
        arguments = {
            **dict.fromkeys(['x', 'y', 'grad', 'out'], dtype),
            **dict.fromkeys(['weight', 'sums'], '*fp32:16'),
            'C': 'i32:16',
            'K': kernel_size,
            'COLUMNS': kernels.COLUMNS,
            'WIDTH': kernels.WIDTHS[kernel_size],
        }
        for kernel, budget in (
            (kernels.forward_kernel, forward),
            (kernels.backward_kernel, backward),
        ):
            used = compile_kernel(
                kernel,
                capability,
                1,
                **{n: arguments.get(n, 'i32') for n in kernel.arg_names},
            )
            assert used['spilled'] == used['shared'] == 0
            assert used['registers'] <= budget
