import copy
import os
import pickle
import platform
import subprocess
import sys
import textwrap

import pytest
import torch
from helpers import SMALL_ARCH, golden_image
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmhatnet.models import HATNet, hatnet

BN = dict(type='BN')


def images(*size):
    return torch.randn(2, 3, *(size or (75, 101)))


def shapes(features):
    return [tuple(feature.shape) for feature in features]


def assert_features_close(found, expected, **tolerances):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **tolerances)


def gradients(model, x):
    model.zero_grad()
    sum(feature.square().mean() for feature in model(x)).backward()
    return {
        name: parameter.grad for name, parameter in model.named_parameters()
    }


def assert_gradients_close(found, expected):
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-6)


def not_in_chunks(model):
    """Hooks have the MLPs call their layers."""
    for name, module in model.named_modules():
        if name.endswith('mlp.fc1'):
            module.register_forward_hook(lambda *_: None)


class TestArguments:
    @pytest.mark.parametrize(
        ('kwargs', 'message'),
        [
            (dict(arch='huge'), "'t', 'tiny', 's', 'small'"),
            (dict(arch=dict(embed_dims=(8,) * 4)), 'head_dim'),
            (dict(arch={**SMALL_ARCH, 'depths': (1, 1)}), 'depths'),
            (dict(arch={**SMALL_ARCH, 'depths': 2}), 'depths'),
            (dict(arch={**SMALL_ARCH, 'expansions': (0, 1, 1, 1)}), 'expan'),
            (dict(arch={**SMALL_ARCH, 'head_dim': 5}), 'head_dim=5'),
            (dict(arch={**SMALL_ARCH, 'head_dim': 0}), 'head_dim=0'),
            (dict(arch={**SMALL_ARCH, 'kernel_sizes': (4,) * 4}), 'odd'),
            (dict(grid_sizes=(8, 0, 8)), r'grid_sizes \(G1\).*three positive'),
            (dict(grid_sizes=(8, 8)), r'grid_sizes \(G1\).*three positive'),
            (dict(grid_sizes=8), r'grid_sizes \(G1\).*three positive'),
            (dict(grid_sizes=(8, 8, 8.0)), 'three positive integers'),
            (dict(ds_ratios=(8, -4, 2)), r'ds_ratios \(G2\).*three positive'),
            (dict(ds_ratios='842'), r'ds_ratios \(G2\).*three positive'),
            (dict(out_indices=(0, 4)), 'from 0 to 3'),
            (dict(out_indices=()), 'from 0 to 3'),
            (dict(out_indices=(2, 1)), 'increasing'),
            (dict(attn_types=('h-mhsa', 'swin', 'window')), "'window'"),
            (dict(attn_types='window'), 'three times'),
            (dict(frozen_stages=5), 'frozen_stages'),
            (dict(frozen_stages=3, out_indices=(0, 1)), 'up to 2'),
        ],
    )
    def test_illegal(self, kwargs, message):
        with pytest.raises(ValueError, match=message):
            HATNet(**{'arch': SMALL_ARCH, **kwargs})

    @pytest.mark.parametrize('size', [(31, 64), (64, 31)])
    def test_image_too_small(self, size):
        with pytest.raises(ValueError, match=f'32x32.*{size[0]}x{size[1]}'):
            HATNet(SMALL_ARCH)(images(*size))

    @pytest.mark.parametrize('name', HATNet.arch_zoo)
    def test_arch_names(self, name):
        with torch.device('meta'):
            model = HATNet(name.upper())
        assert model.embed_dims == HATNet.arch_zoo[name]['embed_dims']

    def test_in_channels(self):
        features = HATNet(SMALL_ARCH, in_channels=5)(torch.rand(1, 5, 64, 64))
        assert features[0].shape == (1, 8, 16, 16)


class TestGrids:
    def test_defaults_are_for_dense_prediction(self):
        model = HATNet(SMALL_ARCH)
        assert model.grid_sizes == (8, 8, 8)
        assert model.ds_ratios == (16, 8, 4)

    @pytest.mark.parametrize('attn_type', ['h-mhsa', 'window'])
    def test_set_grids(self, attn_type):
        attn_types = (attn_type,) * 3
        model = HATNet(SMALL_ARCH, attn_types=attn_types)
        before = copy.deepcopy(model.state_dict())
        x = images()
        default = model(x)
        model.set_grids(grid_sizes=[5, 3, 2])
        model.set_grids(ds_ratios=(3, 2, 1))
        other = HATNet(
            SMALL_ARCH, 3, (5, 3, 2), (3, 2, 1), attn_types=attn_types
        )
        other.load_state_dict(before)
        assert_features_close(model(x), other(x), rtol=0, atol=0)
        assert not torch.allclose(model(x)[0], default[0])
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name])

    def test_nothing_changes_on_an_error(self):
        model = HATNet(SMALL_ARCH)
        with pytest.raises(ValueError, match='G2'):
            model.set_grids((4, 4, 4), (0, 1, 1))
        assert model.grid_sizes == (8, 8, 8)
        assert model.stages[0][0].attn.grid_size == 8


class TestOutputs:
    def test_features(self):
        features = HATNet('tiny')(torch.rand(1, 3, 511, 333))
        assert shapes(features) == [
            (1, 48, 128, 84),
            (1, 96, 64, 42),
            (1, 240, 32, 21),
            (1, 384, 16, 11),
        ]

    @pytest.mark.parametrize(
        ('out_indices', 'stages'),
        [
            (3, (3,)),
            (-1, (3,)),
            ((0, 2), (0, 2)),
            ((1,), (1,)),
            ([1, -1], (1, 3)),
        ],
    )
    def test_out_indices(self, out_indices, stages):
        full = HATNet(SMALL_ARCH)
        part = HATNet(SMALL_ARCH, out_indices=out_indices)
        part.load_state_dict(full.state_dict(), strict=False)
        x = images()
        expected = full(x)
        assert_features_close(part(x), [expected[i] for i in stages])

    def test_output_norms(self):
        plain = HATNet(SMALL_ARCH, out_indices=(1, 3))
        model = HATNet(SMALL_ARCH, out_indices=(1, 3), out_norm_cfg=BN).eval()
        model.load_state_dict(plain.state_dict(), strict=False)
        assert set(model.out_norms) == {'1', '3'}
        nn.init.constant_(model.out_norms['3'].bias, 7.0)
        x = images()
        found, expected = model(x), plain(x)
        torch.testing.assert_close(found[1], model.out_norms['3'](expected[1]))
        assert not torch.allclose(found[1], expected[1])

    @pytest.mark.parametrize('attn_type', ['h-mhsa', 'window'])
    def test_sdpa_equals_explicit_products(self, attn_type):
        attn_types = (attn_type,) * 3
        fused = HATNet(SMALL_ARCH, attn_types=attn_types).double()
        explicit = HATNet(SMALL_ARCH, attn_types=attn_types, sdpa=False)
        explicit.double().load_state_dict(fused.state_dict())
        x = images().double()
        assert_features_close(fused(x), explicit(x))

    @pytest.mark.parametrize(
        ('kwargs', 'activation'),
        [({}, nn.SiLU), (dict(act_cfg=dict(type='GELU')), nn.GELU)],
    )
    def test_activation(self, kwargs, activation):
        model = HATNet(SMALL_ARCH, **kwargs)
        found = {
            type(module)
            for name, module in model.named_modules()
            if name.endswith('.act') or name == 'stem.2'
        }
        assert found == {activation}

    def test_without_depthwise_convolutions(self):
        model = HATNet(SMALL_ARCH, dw_conv=False)
        grouped = [
            module
            for module in model.modules()
            if isinstance(module, nn.Conv2d) and module.groups > 1
        ]
        assert not grouped
        assert shapes(model(images())) == shapes(HATNet(SMALL_ARCH)(images()))

    def test_window_attention_per_stage(self):
        model = HATNet(SMALL_ARCH, attn_types=('window', 'h-mhsa', 'window'))
        hierarchical = [
            hasattr(stage[0].attn, 'ds_ratio') for stage in model.stages
        ]
        assert hierarchical == [False, True, False, False]
        assert [block.attn.shifted for block in model.stages[0]] == [
            False,
            True,
        ]


class TestTraining:
    @pytest.mark.parametrize(
        'kwargs',
        [
            {},
            dict(attn_types=('window',) * 3),
            dict(attn_types=('window',) * 3, grid_sizes=(1, 1, 1)),
            dict(dw_conv=False),
            dict(out_indices=(0, 1)),
            dict(out_indices=(1, 2), out_norm_cfg=BN),
        ],
    )
    def test_every_parameter_gets_a_gradient(self, kwargs):
        for name, gradient in gradients(
            HATNet(SMALL_ARCH, **kwargs), images()
        ).items():
            assert gradient is not None, name
            assert gradient.isfinite().all(), name
            assert gradient.abs().sum() > 0, name

    def test_ddp_without_find_unused_parameters(self, tmp_path):
        torch.distributed.init_process_group(
            'gloo',
            init_method=f'file://{tmp_path}/store',
            rank=0,
            world_size=1,
        )
        try:
            model = nn.parallel.DistributedDataParallel(
                HATNet(SMALL_ARCH, out_indices=(0, 2), out_norm_cfg=BN)
            )
            for _ in range(2):  # a second step fails on unused parameters
                gradients(model, images())
        finally:
            torch.distributed.destroy_process_group()

    @pytest.mark.parametrize('drop_rate', [0, 0.1])
    def test_checkpointed_gradients(self, drop_rate):
        kwargs = dict(drop_rate=drop_rate, drop_path_rate=0.3)
        plain = HATNet(SMALL_ARCH, **kwargs)
        with_cp = HATNet(SMALL_ARCH, **kwargs, with_cp=True)
        with_cp.load_state_dict(plain.state_dict())
        x = images()
        torch.manual_seed(1)
        expected = gradients(plain, x)
        torch.manual_seed(1)
        for name, gradient in gradients(with_cp, x).items():
            torch.testing.assert_close(gradient, expected[name])

    def test_checkpointing_recomputes_the_blocks(self):
        model = HATNet(SMALL_ARCH, with_cp=True)
        calls = []
        model.stages[1][0].mlp.fc1.register_forward_hook(
            lambda *args: calls.append(1)
        )
        gradients(model, images())
        assert len(calls) == 2

    def test_drop_path_grows_linearly(self):
        model = HATNet(SMALL_ARCH, drop_path_rate=0.5)
        rates = [
            block.drop_path.drop_prob
            for stage in model.stages
            for block in stage
        ]
        assert rates == pytest.approx([0.5 * i / 5 for i in range(6)])

    def test_dropout_acts_in_training_only(self):
        model = HATNet(SMALL_ARCH, drop_rate=0.5)
        x = images()
        assert not torch.equal(model(x)[3], model(x)[3])
        model.eval()
        assert torch.equal(model(x)[3], model(x)[3])

    @pytest.mark.parametrize('frozen_stages', range(-1, 5))
    def test_frozen_stages(self, frozen_stages):
        model = HATNet(
            SMALL_ARCH, norm_cfg=BN, frozen_stages=frozen_stages
        ).train()
        parts = [
            [model.stem],
            [model.stages[0]],
            *(
                [model.downsamples[i - 1], model.stages[i]]
                for i in range(1, 4)
            ),
        ]
        for i, modules in enumerate(parts):
            for module in modules:
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
        for name, depth in {
            'stem.0.weight': 0,
            'stages.0.0.attn.q.weight': 1,
            'stages.0.1.mlp.fc1.weight': 2,
            'downsamples.0.0.weight': 3,
            'stages.1.0.attn.qkv.bias': 3,
            'stages.3.0.attn.qkv.bias': 6,
            'out_norms.0.bias': 7,
        }.items():
            assert model.get_layer_depth(name) == (depth, 8)
            prefixed = model.get_layer_depth(f'backbone.{name}', 'backbone.')
            assert prefixed == (depth, 8)
        assert model.get_layer_depth('head.fc.bias', 'backbone.') == (7, 8)

    def test_layer_depth_never_falls_along_the_network(self):
        model = HATNet(SMALL_ARCH)
        depths = [
            model.get_layer_depth(f'{part}.x')[0]
            for part in (
                'stem.0',
                'stages.0.0',
                'stages.0.1',
                'downsamples.0.0',
                'stages.1.0',
                'stages.1.1',
                'downsamples.1.0',
                'stages.2.0',
                'downsamples.2.1',
                'stages.3.0',
            )
        ]
        assert depths == sorted(depths)

    def test_initialization(self):
        model = HATNet('tiny')
        model.init_weights()
        weight = model.stages[3][0].mlp.fc1.weight
        assert weight.std().item() == pytest.approx(0.02, rel=0.01)
        assert weight.abs().max() > 0.06
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                assert not module.bias.any()
            if isinstance(module, nn.GroupNorm):
                assert (module.weight == 1).all()
                assert not module.bias.any()


class TestModes:
    @pytest.fixture
    def model(self):
        return HATNet('tiny').eval()

    @pytest.fixture
    def expected(self, model):
        with torch.no_grad():
            return model(golden_image(75, 101))

    def test_bfloat16_autocast(self, model, expected):
        with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
            found = model(golden_image(75, 101))
        for a, b in zip(found, expected, strict=True):
            assert (a - b).abs().mean() < 0.02 * b.std()

    def test_bfloat16_autocast_training(self):
        model = HATNet(SMALL_ARCH)
        x = images()
        expected = gradients(model, x)
        with torch.autocast('cpu', torch.bfloat16):
            found = gradients(model, x)
        for name, gradient in found.items():
            cosine = torch.cosine_similarity(
                gradient.flatten(), expected[name].flatten(), dim=0
            )
            assert cosine > 0.98, name

    def test_channels_last(self, model, expected):
        model = copy.deepcopy(model).to(memory_format=torch.channels_last)
        x = golden_image(75, 101).to(memory_format=torch.channels_last)
        with torch.no_grad():
            assert_features_close(model(x), expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        'memory_format', [torch.contiguous_format, torch.channels_last]
    )
    def test_memory_format_is_kept(self, memory_format):
        """Heads of mm view features of a contiguous image."""
        model = HATNet(SMALL_ARCH).to(memory_format=memory_format)
        for feature in model(images().to(memory_format=memory_format)):
            assert feature.is_contiguous(memory_format=memory_format)

    @pytest.mark.skipif(
        platform.libc_ver()[0] != 'glibc', reason='the malloc of glibc'
    )
    @pytest.mark.parametrize('kept', [True, False])
    def test_freed_memory_is_kept(self, kept):
        """By the process, for the next tensors, or as the user has set it."""
        code = """
            import resource, torch
            from mmhatnet.models import HATNet

            def resident():
                with open('/proc/self/statm') as f:
                    return int(f.read().split()[1]) * resource.getpagesize()

            HATNet()(torch.rand(1, 3, 32, 32))
            before = resident()
            tensors = [torch.ones(6, 2**20) for _ in range(5)]
            del tensors
            print(resident() - before)
        """
        env = dict(os.environ)
        for name in (
            'GLIBC_TUNABLES',
            'MALLOC_MMAP_THRESHOLD_',
            'MALLOC_TRIM_THRESHOLD_',
        ):
            env.pop(name, None)
        if not kept:
            env['MALLOC_TRIM_THRESHOLD_'] = str(2**20)
        result = subprocess.run(
            [sys.executable, '-c', textwrap.dedent(code)],
            capture_output=True,
            text=True,
            check=True,
            env=env,
        )
        resident = int(result.stdout.split()[-1]) / 2**20
        assert resident > 90 if kept else resident < 30  # of 120

    def test_part_of_an_image(self):
        """Neither layout: the features are contiguous."""
        x = images(75, 120)[..., :101]
        for feature in HATNet(SMALL_ARCH)(x):
            assert feature.is_contiguous()

    def test_heads_are_split_without_copies(self):
        """And the gradients, which are laid out by tokens, joined with one."""
        x = torch.rand(2, 24, 3, 5).to(memory_format=torch.channels_last)
        parts = hatnet._split_heads(x.requires_grad_(), 3, 2)
        for part in parts:
            assert part.shape == (2, 2, 15, 4)
            assert part.data_ptr() - x.data_ptr() < x[0, :, 0, 0].nbytes
        grads = [torch.rand(2, 15, 2, 4).transpose(1, 2) for _ in parts]
        (grad,) = torch.autograd.grad(parts, x, grads)
        assert grad.is_contiguous(memory_format=torch.channels_last)

    @pytest.mark.parametrize('grad', [False, True])
    @pytest.mark.parametrize('chunk', [1, 2**14, 2**15, 2**18])
    @pytest.mark.parametrize(
        'kwargs', [{}, dict(dw_conv=False), dict(kernel_sizes=(5, 3, 5, 3))]
    )
    def test_in_chunks(self, chunk, kwargs, grad, monkeypatch):
        """Of rows and of samples: equal to all at once."""
        monkeypatch.setattr(hatnet, 'CHUNK', chunk)
        arch = {**SMALL_ARCH, 'kernel_sizes': (3,) * 4}
        arch |= {key: kwargs[key] for key in kwargs if key in arch}
        model = HATNet(arch, dw_conv=kwargs.get('dw_conv', True))
        x, calls = images(), set()
        compute = hatnet.MLP._chunk

        def record(self, x, padding):
            calls.add((len(x), tuple(x.shape[2:])))
            return compute(self, x, padding)

        monkeypatch.setattr(hatnet.MLP, '_chunk', record)
        with torch.set_grad_enabled(grad):
            found = model(x)
        # The first stage's maps are 19x26, the last one's 3x4.
        assert ((2, (3, 4)) in calls) == (chunk > 1)
        assert ((2, (19, 26)) in calls) == (chunk == 2**18)
        assert ((1, (19, 26)) in calls) == (chunk == 2**15)
        chunked = gradients(model, x)
        calls.clear()
        not_in_chunks(model)
        assert_features_close(found, model(x), rtol=1e-4, atol=1e-5)
        assert_gradients_close(chunked, gradients(model, x))
        assert not calls

    @pytest.mark.parametrize('groups', [1, 4])
    def test_derivatives_of_silu_conv(self, groups):
        """The first, by which one trains, and the second."""
        conv = nn.Conv2d(
            4, 4, 3, padding=(0, 1), groups=groups, bias=False
        ).double()
        x = torch.randn(2, 4, 5, 4, dtype=torch.double, requires_grad=True)

        def compute(x, weight):
            return hatnet._SiLUConv.apply(x, weight, conv.padding, groups)

        inputs = x, conv.weight
        expected = conv(nn.functional.silu(x))
        torch.testing.assert_close(compute(*inputs), expected)
        assert torch.autograd.gradcheck(compute, inputs)
        assert torch.autograd.gradgradcheck(compute, inputs)

    def test_activations_are_not_kept(self):
        """Of the hidden maps, two, not four, wait for the backward pass."""
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

    def test_dropout_of_whole_channels(self, monkeypatch):
        """Not of those of a chunk."""
        monkeypatch.setattr(hatnet, 'CHUNK', 1)
        model, x = HATNet(SMALL_ARCH, drop_rate=0.5), images()
        torch.manual_seed(1)
        found = model(x)
        not_in_chunks(model)
        torch.manual_seed(1)
        assert_features_close(found, model(x))

    def test_hooks_and_replaced_layers_are_called(self):
        """Also where the computation needs but their weights."""

        class Twice(nn.Conv2d):
            def forward(self, x):
                return 2 * super().forward(x)

        model, seen = HATNet(SMALL_ARCH).eval(), []
        mlp = model.stages[3][0].mlp
        handle = mlp.dw_conv.register_forward_hook(
            lambda module, args, out: seen.append(out.shape)
        )
        with torch.no_grad():
            model(images())
            assert len(seen) == 1
            handle.remove()
            x = torch.rand(1, mlp.fc1.in_channels, 4, 4)
            before = mlp.fc1(mlp.norm1(x))
            mlp.fc1.__class__ = Twice
            mlp.dw_conv = None
            expected = mlp.norm2(mlp.fc2(mlp.act(2 * before)))
            torch.testing.assert_close(mlp(x), expected)

    def test_bias_of_another_layer(self, monkeypatch):
        """It makes something of the zeros around a map."""
        monkeypatch.setattr(hatnet, 'CHUNK', 1)
        mlp = HATNet(SMALL_ARCH).eval().stages[0][0].mlp
        x = torch.rand(1, mlp.fc1.in_channels, 4, 4)
        mlp.fc1 = nn.Conv2d(mlp.fc1.in_channels, mlp.fc1.out_channels, 1)
        with torch.no_grad():
            hidden = mlp.act(mlp.dw_conv(mlp.act(mlp.fc1(mlp.norm1(x)))))
            expected = mlp.norm2(mlp.fc2(hidden))
            torch.testing.assert_close(mlp(x), expected)

    def test_trace(self, model, expected):
        x = golden_image(75, 101)
        with torch.no_grad():
            traced = torch.jit.trace(model, x)
            assert_features_close(traced(x), expected)

    def test_compile_without_graph_breaks(self, model, expected):
        compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
        with torch.no_grad():
            assert_features_close(
                compiled(golden_image(75, 101)), expected, rtol=1e-4, atol=1e-4
            )

    def test_compile_a_training_step(self):
        model, x = HATNet(SMALL_ARCH), images()
        expected = gradients(model, x)
        compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
        model.zero_grad()
        sum(out.square().mean() for out in compiled(x)).backward()
        found = {name: p.grad for name, p in model.named_parameters()}
        assert_gradients_close(found, expected)

    @pytest.mark.skipif(
        hatnet.has_static_value is None,
        reason='torch < 2.8 compiles for every way that G1 divides a map',
    )
    def test_compile_for_any_size(self):
        """One graph, whether or not G1 and G2 divide the maps."""
        graphs = []

        def backend(graph, _):
            graphs.append(graph)
            return graph.forward

        # Maps so large that torch does not look at how small they are.
        dims = dict(embed_dims=(32, 64, 128, 256), depths=(1,) * 4)
        model = HATNet({**SMALL_ARCH, **dims}).eval()
        compiled = torch.compile(
            model, backend=backend, fullgraph=True, dynamic=True
        )
        with torch.no_grad():
            for size in ((352, 480), (512, 512), (320, 321), (333, 500)):
                x = torch.rand(1, 3, *size)
                assert_features_close(
                    compiled(x), model(x), rtol=1e-4, atol=1e-4
                )
        assert len(graphs) == 1

    def test_pickle_and_deepcopy(self, model, expected):
        for clone in (
            copy.deepcopy(model),
            pickle.loads(pickle.dumps(model)),
        ):
            with torch.no_grad():
                assert_features_close(clone(golden_image(75, 101)), expected)
            clone.set_grids(grid_sizes=(2, 2, 2))
        assert model.grid_sizes == (8, 8, 8)
