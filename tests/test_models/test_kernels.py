"""Triton kernels, which a CPU interprets here, equal their equations."""

import math
from importlib import import_module
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from helpers import (
    INTERPRETED,
    SMALL_ARCH,
    TORCH,
    assert_features_close,
    assert_gradients_close,
    gradients,
    needs_interpreter,
    needs_triton,
    random_images,
    run_interpreted,
    run_tool,
)

from mmhatnet.models import GroupNorm1, HATNet, cuda
from mmhatnet.models.hatnet import MLP
from mmhatnet.models.kernels import choice, select_kernels
from mmhatnet.models.kernels.choice import CHECKS, TOLERANCES, largest_error

pytestmark = needs_triton

EPS = 1e-6
slow = pytest.mark.slow
each_kernel = pytest.mark.parametrize('name', ['norm', 'mlp', 'windows'])


def load(name):
    if name == 'mlp' and TORCH < (2, 7):
        pytest.skip('needs tuples in kernels')
    return import_module(f'mmhatnet.models.kernels.{name}')


def prepare(name, shape, *options, dtype=torch.float32):
    """The kernels, their equation, and the inputs of both."""
    kernels = load(name)
    if name == 'norm':  # of maps far from zero mean and unit deviation
        maps = [(5 + 3 * torch.randn(shape)).to(dtype)]
        weights = [*(1 + torch.randn(2, shape[1])).clone().unbind()]
        functions = (
            lambda *inputs: kernels.NormFunction.apply(*inputs, EPS),
            lambda x, *weights: F.group_norm(x, 1, *weights, EPS),
        )
    elif name == 'mlp':
        size = options or (3, 3)
        maps = [torch.randn(shape).to(dtype)]
        weights = [torch.randn(shape[1], 1, *size)]
        functions = kernels.silu_depthwise_silu, kernels.plain
    else:
        n, channels, *size = shape
        maps, weights = [torch.randn(n, 3 * channels, *size)], []
        *grid, residual = options or (1, 4, False, True)
        if residual:
            maps.append(torch.randn(shape))
        functions = [
            lambda qkv, x=None, f=f: f(qkv, x, *grid)
            for f in (kernels.window_attention, kernels.plain)
        ]
    maps = [x.contiguous(memory_format=torch.channels_last) for x in maps]
    return *functions, [x.requires_grad_() for x in (*maps, *weights)]


def errors(kernels, equation, inputs, make_grad=torch.randn):
    """Of result and gradients, each relative to its largest value."""
    exact = [x.detach().double().requires_grad_() for x in inputs]
    y, expected = kernels(*inputs), equation(*exact)
    assert y.is_contiguous(memory_format=torch.channels_last)
    grad = make_grad(y.shape).to(y)
    found = y, *torch.autograd.grad(y, inputs, grad)
    assert [x.dtype for x in found[1:]] == [x.dtype for x in inputs]
    slopes = torch.autograd.grad(expected, exact, grad.double())
    return [
        float((a - b).detach().abs().max() / b.detach().abs().max())
        for a, b in zip(found, (expected, *slopes), strict=True)
    ]


@pytest.mark.long
@pytest.mark.parametrize(
    'select', ['not slow', pytest.param('slow', marks=slow)]
)
def test_interpreted(select):
    run_interpreted(__file__, select)


@needs_interpreter
@pytest.mark.parametrize(
    'case',
    [
        ('norm', (1, 48, 1, 1)),
        ('norm', (2, 96, 3, 2)),
        ('norm', (1, 240, 7, 9)),  # four tiles, the last one partial
        ('norm', (2, 320, 5, 13)),
        ('norm', (5, 7, 3, 2)),
        ('norm', (1, 16, 67, 71)),  # parts of one tile each
        ('norm', (2, 64, 29, 31)),
        ('mlp', (1, 48, 1, 1), 3, 3),
        ('mlp', (1, 96, 2, 9), 3, 3),  # two blocks of channels, one partial
        ('mlp', (1, 240, 3, 1), 3, 3),
        ('mlp', (1, 320, 1, 2), 3, 3),
        ('mlp', (1, 40, 2, 3), 5, 5),
        ('mlp', (2, 24, 1, 2), 5, 5),
        *(
            ('windows', *case, residual)
            for residual in (False, True)
            for case in (
                ((2, 96, 14, 21), 2, 7, False),
                ((1, 48, 16, 8), 1, 8, False),
                ((1, 40, 17, 11), 2, 8, False),  # partial windows
                ((2, 48, 9, 13), 3, 4, True),
                ((1, 16, 10, 5), 1, 3, True),  # over one side's half
                ((1, 20, 3, 18), 1, 8, True),  # larger than one side
                ((1, 16, 5, 3), 2, 8, False),  # larger than both
                ((1, 16, 1, 1), 1, 7, False),
            )
        ),
    ],
)
def test_equal_their_equations(case):
    assert max(errors(*prepare(*case))) < 1e-5


@needs_interpreter
class TestEach:
    @pytest.fixture(autouse=True)
    def _wide(self, monkeypatch):
        """Let a program of the MLP compute all channels, which is fast."""
        if TORCH >= (2, 7):
            monkeypatch.setattr(load('mlp'), 'WIDTHS', {3: 512, 5: 512})

    @pytest.mark.parametrize('channels_last', [False, True])
    @each_kernel
    def test_layouts(self, name, channels_last):
        """Neither map nor gradients have to be in channels_last."""
        *functions, (x, *others) = prepare(name, (2, 8, 3, 2))
        if not channels_last:
            x = x.detach().contiguous().requires_grad_()
        for make_grad in (
            torch.randn,
            lambda shape: torch.randn(2, 1, 3, 1).expand(shape),
            lambda shape: torch.randn(2, 8, 6, 4)[:, :, ::2, ::2],
        ):
            assert max(errors(*functions, [x, *others], make_grad)) < 1e-5

    @pytest.mark.parametrize('shape', [(0, 8, 4, 4), (2, 8, 0, 4)])
    @each_kernel
    def test_empty(self, name, shape):
        function, _, inputs = prepare(name, shape)
        y = function(*inputs)
        assert y.shape == shape
        y.sum().backward()
        for x in inputs:
            assert x.grad.shape == x.shape
            assert not x.grad.any()

    @pytest.mark.parametrize(
        ('dtype', 'weights_too'),
        [(torch.float16, False), (torch.bfloat16, True)],
    )
    @pytest.mark.parametrize('name', ['norm', 'mlp'])
    def test_half_precision(self, name, dtype, weights_too):
        """Computed in float32: rounding of the results is all."""
        *functions, (x, *weights) = prepare(name, (2, 24, 5, 7), dtype=dtype)
        if weights_too:
            weights = [w.detach().to(dtype).requires_grad_() for w in weights]
        y, x_grad, *others = errors(*functions, [x, *weights])
        rounding = torch.finfo(dtype).eps
        assert max(y, x_grad) < rounding
        assert max(others) < (rounding if weights_too else 1e-5)

    # The interpreter does not multiply bfloat16.
    @pytest.mark.parametrize(
        ('name', 'dtypes'),
        [
            ('norm', TOLERANCES),
            pytest.param('mlp', [torch.float32], marks=slow),
            ('windows', [torch.float32, torch.float16]),
        ],
    )
    def test_check(self, name, dtypes):
        """The comparison that users make on their GPU."""
        load(name)
        for dtype in dtypes:
            error = CHECKS[name](torch.device('cpu'), dtype)
            assert 0 < error < TOLERANCES[dtype]

    @each_kernel
    def test_memory(self, name):
        """Nothing large is kept but the inputs; no second derivative."""
        function, _, inputs = prepare(name, (2, 16, 16, 16))
        kept = []
        hooks = torch.autograd.graph.saved_tensors_hooks
        with hooks(lambda x: kept.append(x) or x, lambda x: x):
            y = function(*inputs)
        kept = {x.data_ptr() for x in kept if x.numel() > 256}
        assert kept <= {x.data_ptr() for x in inputs}
        with pytest.raises(RuntimeError, match='fast=False'):
            torch.autograd.grad(y.sum(), inputs, create_graph=True)

    @pytest.mark.parametrize(
        ('name', 'size', 'options'),
        [
            ('norm', (64, 64), {}),
            pytest.param('mlp', (32, 37), {}, marks=slow),
            # Some windows are partial or too large, some are the whole map.
            ('windows', (75, 101), dict(grid_sizes=(4, 3, 5))),
            pytest.param(
                *('windows', (75, 101)),
                dict(grid_sizes=(9, 3, 64), attn_types=['window'] * 3),
                marks=slow,
            ),
        ],
    )
    def test_model(self, name, size, options):
        """Features and gradients are those of the plain model."""
        load(name)
        arch = dict(SMALL_ARCH)
        if name == 'mlp':
            arch['depths'] = (1,) * 4
        model = HATNet(arch, **options)
        plain = HATNet(arch, fast=False, **options).double()
        plain.load_state_dict(model.state_dict())
        x = random_images(*size)[:1]
        with select_kernels(name):
            found, slopes = model(x), gradients(model, x)
        expected = [y.float() for y in plain(x.double())]
        assert_features_close(found, expected, rtol=1e-4, atol=1e-4)
        reference = gradients(plain, x.double())
        reference = {name: g.float() for name, g in reference.items()}
        assert_gradients_close(slopes, reference)


@needs_interpreter
class TestNorm:
    def test_long_parts(self, monkeypatch):
        """A program goes through several tiles, the last ones partial."""
        monkeypatch.setattr(load('norm'), 'PROGRAMS', 4)
        for shape in (2, 48, 29, 31), (1, 320, 15, 17), (3, 16, 31, 29):
            assert max(errors(*prepare('norm', shape))) < 1e-5

    @pytest.mark.parametrize('programs', [1, 4, 1024])
    def test_statistics_do_not_cancel(self, monkeypatch, programs):
        """The mean is 10,000 times the deviation, and half is far from it."""
        kernels = load('norm')
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

    def test_check_in_inference_mode(self):
        with torch.inference_mode():
            assert choice._works('norm', torch.device('cpu'), torch.float32)

    @pytest.mark.parametrize(
        ('found', 'reason'),
        [
            (dict(side_effect=RuntimeError('no driver\nmore')), 'no driver'),
            (dict(return_value=0.5), r'differ from torch by 5\.0e-01'),
            (dict(return_value=float('nan')), 'differ from torch by nan'),
        ],
    )
    def test_fallback(self, found, reason, monkeypatch):
        """Kernels that fail or differ on a GPU are left out."""

        class OnGPU(torch.Tensor):
            is_cuda = True

        load('norm')
        check = Mock(**found)
        monkeypatch.setitem(CHECKS, 'norm', check)
        monkeypatch.setattr(choice, 'INTERPRETED', False)
        monkeypatch.setattr(choice, '_computes_nothing', lambda _: False)
        monkeypatch.setattr(choice, '_results', {})
        norm, x = GroupNorm1(8), torch.randn(2, 8, 5, 4)
        with pytest.warns(UserWarning, match=reason):
            y = norm(x.as_subclass(OnGPU))
        assert not choice.kernels_apply('norm', x.as_subclass(OnGPU))
        assert check.call_count == 1
        torch.testing.assert_close(y.as_subclass(torch.Tensor), norm(x))

    def test_wrong_number_of_channels(self):
        """Else the kernels would read what follows in memory."""
        norm, *_ = prepare('norm', (1, 4, 2, 2))
        with pytest.raises(ValueError, match='8 channels instead of 4'):
            norm(torch.rand(1, 8, 2, 2), torch.ones(4), torch.ones(4))

    def test_layer(self, monkeypatch):
        """It uses them, also under autocast, unless they are left out."""
        kernels, norm = load('norm'), GroupNorm1(8).requires_grad_(False)
        spy = Mock(side_effect=kernels.norm_forward)
        monkeypatch.setattr(kernels, 'norm_forward', spy)
        x = torch.randn(2, 8, 5, 4, requires_grad=True)
        with torch.autocast('cpu', torch.bfloat16):
            assert norm(x.bfloat16()).dtype == torch.bfloat16
        found = norm(x)
        dtypes = [call.args[0].dtype for call in spy.call_args_list]
        assert dtypes == [torch.bfloat16, torch.float32]
        with select_kernels('none'):
            expected = norm(x)
        assert spy.call_count == 2
        torch.testing.assert_close(found, expected)
        ys = found, expected
        slopes = [torch.autograd.grad(y.sin().sum(), x) for y in ys]
        torch.testing.assert_close(*slopes)

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


@needs_interpreter
class TestMLP:
    @pytest.mark.parametrize('size', [3, 5])
    def test_long_maps(self, size, monkeypatch):
        """Several strips, and several tiles of a program."""
        monkeypatch.setattr(load('mlp'), 'ROWS', 4)
        monkeypatch.setattr(load('mlp'), 'PROGRAMS', 2)
        case = prepare('mlp', (1, 8, 7, 5), size, size)
        assert max(errors(*case)) < 2e-6

    def test_extreme_values(self):
        """SiLU is 0 far below 0, and x far above; nothing is NaN."""
        *functions, (x, weight) = prepare('mlp', (1, 8, 3, 5))
        x = (1e4 * x).detach().requires_grad_()
        assert max(errors(*functions, [x, weight])) < 2e-6

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
    def test_layer(self, change, used, monkeypatch):
        """They are used for the paper's MLP; the result is the same."""
        kernels = load('mlp')
        spy = Mock(side_effect=kernels.silu_depthwise_silu)
        monkeypatch.setattr(kernels, 'silu_depthwise_silu', spy)
        cfg = dict(kernel_size=3, act_cfg=dict(type='SiLU')) | change
        mlp = MLP(8, 2, norm_cfg=dict(type='GN', num_groups=1), **cfg)
        x, outs = torch.rand(1, 8, 3, 4), []
        for names in 'mlp', 'none':
            torch.manual_seed(0)
            with select_kernels(names):
                outs.append(mlp(x))
        assert spy.call_count == used
        torch.testing.assert_close(*outs, rtol=1e-4, atol=1e-5)


@needs_interpreter
class TestWindows:
    def test_sum_has_the_wider_dtype(self):
        function, _, (qkv, x) = prepare('windows', (1, 16, 4, 4))
        half = qkv.detach().half().requires_grad_()
        y = function(half, x)
        assert y.dtype == torch.float32
        y.sum().backward()
        assert (half.grad.dtype, x.grad.dtype) == (half.dtype, x.dtype)

    def test_layer(self, monkeypatch):
        """It uses them where a window fits, and then makes no mask."""
        kernels = load('windows')
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
