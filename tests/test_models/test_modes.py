"""HATNet under what torch offers around a module."""

import copy
import pickle
import weakref
from functools import partial
from unittest import mock

import pytest
import torch
from functorch.compile import make_boxed_func
from helpers import (
    SMALL_ARCH,
    assert_features_close,
    assert_gradients_close,
    gradients,
    random_images,
)
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call

from mmhatnet.models import HATNet
from mmhatnet.models.compiling import (
    capture_cuda_graph,
    compile_blocks,
    has_static_value,
)
from mmhatnet.models.hatnet import HMHSA, MHSA, MLP, HATNetBlock, attention

GN = dict(type='GN', num_groups=1)


class TestDtypes:
    def test_training_with_bfloat16(self):
        model, x = HATNet(SMALL_ARCH), random_images()
        expected = gradients(model, x)
        with torch.autocast('cpu', torch.bfloat16):
            found = gradients(model, x)
        for name, gradient in found.items():
            cosine = torch.cosine_similarity(
                gradient.flatten(), expected[name].flatten(), dim=0
            )
            assert cosine > 0.98, name

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    def test_half_precision(self, dtype):
        """A whole model in half precision, as for inference."""
        model, x = HATNet(SMALL_ARCH).eval(), random_images()
        with torch.no_grad():
            expected = model(x)
            try:
                found = model.to(dtype)(x.to(dtype))
            except RuntimeError as error:  # before torch 2.2
                pytest.skip(f'no kernels of this torch on a CPU: {error}')
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == dtype
            assert (a - b).abs().mean() < 0.03 * b.std()


class TestInputs:
    @pytest.mark.parametrize('fast', [True, False])
    @pytest.mark.parametrize('layout', ['contiguous', 'channels_last', 'part'])
    def test_memory_format_is_kept(self, layout, fast):
        """Heads of mm view features; a part of an image has neither."""
        x, model = random_images(75, 101), HATNet(SMALL_ARCH, fast=fast)
        memory_format = torch.contiguous_format
        if layout == 'channels_last':
            memory_format = torch.channels_last
            model.to(memory_format=memory_format)
        elif layout == 'part':
            x = random_images(75, 120)[..., :101]
        for feature in model(x.to(memory_format=memory_format)):
            assert feature.is_contiguous(memory_format=memory_format)

    @pytest.mark.parametrize('attn_type', ['h-mhsa', 'window'])
    def test_channels_last_inside(self, attn_type):
        """Every block maps channels_last memory to the same."""
        model = HATNet(SMALL_ARCH, attn_types=(attn_type,) * 3).eval()
        seen = []

        def record(module, args, out):
            for x in (args[0], out):
                seen.append(x.is_contiguous(memory_format=torch.channels_last))

        for module in model.modules():
            if isinstance(module, HATNetBlock | MHSA | MLP):
                module.register_forward_hook(record)
        with torch.no_grad():
            model(random_images())
        assert len(seen) == 36
        assert all(seen)

    @pytest.mark.parametrize('fast', [True, False])
    @pytest.mark.parametrize('attn_type', ['h-mhsa', 'window'])
    def test_zero_and_one(self, fast, attn_type):
        model = HATNet(SMALL_ARCH, fast=fast, attn_types=(attn_type,) * 3)
        x = random_images()
        expected = model(x)
        one = [feature[:1] for feature in expected]
        assert_features_close(model(x[:1]), one, rtol=1e-4, atol=1e-5)
        none = model(x[:0])
        assert [f.shape for f in none] == [f[:0].shape for f in expected]


class TestTransforms:
    """torch.func, by plain forms, and derivatives beyond the first."""

    # Few values, so that a derivative by the image is cheap.
    shape = (1, 3, 37, 45)

    @pytest.fixture
    def model(self):
        return HATNet(SMALL_ARCH).double()

    @staticmethod
    def loss(model, x):
        return sum(feature.square().mean() for feature in model(x))

    def loss_of_weights(self, model, weights, x):
        return self.loss(partial(functional_call, model, weights), x)

    def test_forward_mode(self, model):
        x, direction = torch.randn(2, *self.shape, dtype=torch.double)
        loss = partial(self.loss, model)
        found = torch.func.jvp(loss, (x,), (direction,))[1:]
        with forward_ad.dual_level(), torch.no_grad():
            dual = forward_ad.make_dual(x, direction)
            found += forward_ad.unpack_dual(loss(dual))[1:]
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(x), x)
        for each in found:
            torch.testing.assert_close(each, (gradient * direction).sum())

    def test_gradients_of_every_sample(self, model):
        x = torch.randn(3, 1, *self.shape[1:], dtype=torch.double)
        weights = {name: p.detach() for name, p in model.named_parameters()}
        slope = torch.func.grad(partial(self.loss_of_weights, model))
        found = torch.func.vmap(slope, in_dims=(None, 0))(weights, x)
        for i, sample in enumerate(x):
            each = {name: value[i] for name, value in found.items()}
            assert_gradients_close(each, gradients(model, sample))

    @pytest.mark.parametrize('part', ['fc1', 'dw_conv', 'qkv', 'norm', 'q'])
    def test_gradient_of_a_few_weights(self, model, part):
        """The map is plain before them, and transformed behind."""
        x = torch.randn(self.shape, dtype=torch.double)
        weights = {
            name: value
            for name, value in model.named_parameters()
            if name.endswith(f'.{part}.weight')
        }
        loss = partial(self.loss_of_weights, model)
        found = torch.func.grad(loss)(weights, x)
        expected = gradients(model, x)
        assert_gradients_close(found, {name: expected[name] for name in found})

    @pytest.mark.parametrize('fast', [True, False])
    def test_second_derivative(self, fast):
        """That of the gradient's norm, as penalties on gradients need."""
        model = HATNet(SMALL_ARCH, fast=fast).double()
        x, direction = torch.randn(2, *self.shape, dtype=torch.double)

        def slope(x):
            loss = self.loss(model, x.requires_grad_())
            (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
            return gradient.square().sum()

        for act in (torch.nn.SiLU(), torch.nn.GELU()) if fast else ():
            model.stages[3][0].mlp.act = act
            with pytest.raises(RuntimeError, match='^only HATNet.fast=False'):
                slope(x)
        if fast:
            return
        (found,) = torch.autograd.grad(slope(x), x)
        step = 1e-4 * direction
        change = slope(x.detach() + step) - slope(x.detach() - step)
        torch.testing.assert_close(
            (found * direction).sum(), change / 2e-4, rtol=1e-5, atol=1e-9
        )


class TestBuilding:
    @pytest.mark.parametrize('train', [False, True])
    @pytest.mark.parametrize('mode', ['meta', 'fake'])
    def test_without_values(self, mode, train):
        with FakeTensorMode() if mode == 'fake' else torch.device('meta'):
            model = HATNet(SMALL_ARCH, drop_path_rate=0.1).train(train)
            features = model(torch.empty(2, 3, 75, 101))
            if train:
                sum(feature.mean() for feature in features).backward()
        assert features[1].shape == (2, 16, 10, 13)

    @torch.no_grad()
    def test_pickle_and_deepcopy(self):
        model, x = HATNet(SMALL_ARCH).eval(), random_images()
        for copied in copy.deepcopy(model), pickle.loads(pickle.dumps(model)):
            assert_features_close(copied(x), model(x))
            copied.set_grids(grid_sizes=(2, 2, 2))
        assert model.stages[0][0].attn.grid_size == 8


def recording(graphs):
    """A backend of torch.compile that keeps the graphs it runs."""

    def compiler(graph, _):
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    return aot_autograd(fw_compiler=compiler, bw_compiler=compiler)


class TestGraphs:
    @pytest.mark.parametrize('attn_type', ['h-mhsa', 'window'])
    @pytest.mark.parametrize('fast', [True, False])
    def test_trace(self, attn_type, fast):
        """A graph of one size is right for all others."""
        model = HATNet(SMALL_ARCH, attn_types=[attn_type] * 3, fast=fast)
        example = random_images(64, 64)
        traced = torch.jit.trace(model.eval(), example, check_trace=False)
        for shape in ((64, 64), (75, 101), (33, 250), (224, 160)):
            x = random_images(*shape)[:1]
            with torch.no_grad():
                found = traced(x)
                assert_features_close(found, model(x), rtol=1e-4, atol=1e-4)

    def test_compile_without_graph_breaks(self):
        arch = SMALL_ARCH | dict(depths=(1,) * 4)
        model, x = HATNet(arch).eval(), random_images()
        compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
        with torch.no_grad():
            assert_features_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize('layout', ['contiguous', 'channels last'])
    def test_fused_attention_in_any_layout(self, layout):
        """A graph has no softmax of its own, whatever a norm returns."""
        attn, graphs = MHSA(32, 2, norm_cfg=GN).eval(), []
        q, k, v = torch.randn(3, 2, 2, 16, 49).transpose(-2, -1)
        if layout == 'channels last':
            q, k, v = (x.contiguous() for x in (q, k, v))
        options = dict(backend=recording(graphs), fullgraph=True)
        compiled = torch.compile(attn.attend, dynamic=False, **options)
        with torch.no_grad():
            found, expected = compiled(q, k, v), attention(q, k, v)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        (graph,) = graphs
        assert 'scaled_dot_product' in graph.code
        assert 'softmax' not in graph.code

    def test_cuda_graph(self, monkeypatch):
        """Three steps before it is recorded, then only replays."""
        cuda, events = mock.MagicMock(), []
        monkeypatch.setattr(torch, 'cuda', cuda)
        graph = cuda.graph.return_value
        graph.__enter__.side_effect = lambda *_: events.append('record')

        class Step:
            def __call__(self):
                events.append('step')
                return len(events)

        step = Step()
        kept = weakref.ref(step)
        replay = capture_cuda_graph(step, 'cuda:1')
        cuda.device.assert_called_once_with('cuda:1')
        assert events == ['step'] * 3 + ['record', 'step']
        assert replay() == replay() == len(events)
        assert cuda.CUDAGraph().replay.call_count == 2
        del step
        assert kept()  # the graph reads its tensors

    @pytest.mark.skipif(
        has_static_value is None,
        reason='torch 2.1 makes a graph of every block',
    )
    def test_compile_blocks(self):
        """The blocks of a stage share graphs, also with drop path."""
        graphs = []
        arch, x = {**SMALL_ARCH, 'depths': (3,) * 4}, random_images()
        model = HATNet(arch, drop_path_rate=0.1)
        torch.manual_seed(0)
        expected = model(x)
        torch.compiler.reset()
        compile_blocks(model, backend=recording(graphs), fullgraph=True)
        torch.manual_seed(0)
        assert_features_close(model(x), expected, rtol=1e-4, atol=1e-4)
        assert len(graphs) <= 8

    @pytest.mark.slow
    @pytest.mark.default_stack
    @pytest.mark.skipif(has_static_value is None, reason='needs torch 2.8')
    @pytest.mark.parametrize('ds_ratio', [4, None])
    def test_train_with_inductor(self, ds_ratio):
        """A second size, which G1 and G2 do not divide."""
        attn = MHSA(32, 4, norm_cfg=GN)
        if ds_ratio:
            attn = HMHSA(32, 4, 8, ds_ratio, norm_cfg=GN)
        compiled = torch.compile(attn, fullgraph=True, dynamic=True)
        for size in ((24, 32), (27, 30)):
            x = torch.randn(2, 32, *size, requires_grad=True)
            weight = torch.randn_like(x)
            found, expected = (
                torch.autograd.grad(each(x), x, weight)
                for each in (compiled, attn)
            )
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)

    @pytest.mark.slow
    @pytest.mark.skipif(
        has_static_value is None,
        reason='torch < 2.8 compiles for every way that G1 divides a map',
    )
    @pytest.mark.parametrize('train', [False, True])
    def test_compile_for_any_size(self, train):
        """One graph, whether or not G1 and G2 divide the maps."""
        graphs = []
        # Maps so large that torch does not look at how small they are.
        dims = dict(embed_dims=(32, 64, 128, 256), depths=(1,) * 4)
        model = HATNet({**SMALL_ARCH, **dims})
        options = dict(fullgraph=True, dynamic=True)
        compiled = torch.compile(model, backend=recording(graphs), **options)
        for size in ((352, 480), (512, 512), (320, 321), (333, 500)):
            x = torch.rand(1, 3, *size)
            if train:
                expected = gradients(model, x)
                model.zero_grad()
                sum(out.square().mean() for out in compiled(x)).backward()
                found = {k: p.grad for k, p in model.named_parameters()}
                assert_gradients_close(found, expected)
                continue
            with torch.no_grad():
                found, expected = compiled(x), model(x)
                assert_features_close(found, expected, rtol=1e-4, atol=1e-4)
        assert len(graphs) == 1 + train
