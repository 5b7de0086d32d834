import copy

import numpy as np
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


def shapes(features):
    return [tuple(feature.shape) for feature in features]


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
            (dict(frozen_stages='1'), 'frozen_stages'),
            (dict(frozen_stages=None), 'frozen_stages'),
            (dict(arch=None), 'a dict with the keys'),
            (dict(arch={1: 2, 'depths': 3}), 'a dict with the keys'),
            (dict(arch={**SMALL_ARCH, 'depths': '1111'}), 'depths'),
            (dict(arch={**SMALL_ARCH, 'depths': (1, 1, 1, None)}), 'depths'),
            (dict(arch={**SMALL_ARCH, 'embed_dims': (8.0,) * 4}), 'embed'),
            (dict(arch={**SMALL_ARCH, 'head_dim': '8'}), "head_dim='8'"),
            (dict(grid_sizes=None), r'grid_sizes \(G1\).*three positive'),
            (dict(ds_ratios=(True, 1, 1)), r'ds_ratios \(G2\).*three pos'),
            (dict(out_indices=None), 'from 0 to 3'),
            (dict(out_indices='01'), 'from 0 to 3'),
            (dict(out_indices=(1.0,)), 'from 0 to 3'),
            (dict(attn_types=None), 'three times'),
            (dict(attn_types=([], {}, ())), 'three times'),
            (dict(in_channels=0), 'in_channels'),
            (dict(in_channels='3'), 'in_channels'),
            (dict(frozen_stages=3, out_indices=(0, 1)), 'up to 2'),
        ],
    )
    def test_illegal(self, kwargs, message):
        with pytest.raises(ValueError, match=message):
            HATNet(**{'arch': SMALL_ARCH, **kwargs})

    def test_integers_of_numpy(self):
        arch = {key: np.array(value) for key, value in SMALL_ARCH.items()}
        arch['head_dim'] = np.int64(8)
        model = HATNet(
            arch,
            np.int64(3),
            np.array([4, 4, 4]),
            [np.int32(4)] * 3,
            np.int64(-1),
            frozen_stages=np.int8(1),
            drop_rate=np.float32(0),
        )
        assert shapes(model(random_images())) == [(2, 24, 3, 4)]
        assert model.grid_sizes == (4, 4, 4)

    @pytest.mark.parametrize('size', [(31, 64), (64, 31)])
    def test_image_too_small(self, size):
        with pytest.raises(ValueError, match=f'32x32.*{size[0]}x{size[1]}'):
            HATNet(SMALL_ARCH)(random_images(*size))

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
        x = random_images()
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
        x = random_images()
        expected = full(x)
        assert_features_close(part(x), [expected[i] for i in stages])

    def test_output_norms(self):
        plain = HATNet(SMALL_ARCH, out_indices=(1, 3))
        model = HATNet(SMALL_ARCH, out_indices=(1, 3), out_norm_cfg=BN).eval()
        model.load_state_dict(plain.state_dict(), strict=False)
        assert set(model.out_norms) == {'1', '3'}
        nn.init.constant_(model.out_norms['3'].bias, 7.0)
        x = random_images()
        found, expected = model(x), plain(x)
        torch.testing.assert_close(found[1], model.out_norms['3'](expected[1]))
        assert not torch.allclose(found[1], expected[1])

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
        assert shapes(model(random_images())) == shapes(
            HATNet(SMALL_ARCH)(random_images())
        )

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
            HATNet(SMALL_ARCH, **kwargs), random_images()
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
                gradients(model, random_images())
        finally:
            torch.distributed.destroy_process_group()

    @pytest.mark.parametrize('drop_rate', [0, 0.1])
    def test_checkpointed_gradients(self, drop_rate):
        kwargs = dict(drop_rate=drop_rate, drop_path_rate=0.3)
        plain = HATNet(SMALL_ARCH, **kwargs)
        with_cp = HATNet(SMALL_ARCH, **kwargs, with_cp=True)
        with_cp.load_state_dict(plain.state_dict())
        x = random_images()
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
        gradients(model, random_images())
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
        x = random_images()
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


def test_fuse_conv_bn():
    """Every batch norm is fused with the convolution before it, or kept."""
    model = HATNet(SMALL_ARCH, norm_cfg=dict(type='BN')).train()
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


@pytest.mark.parametrize('rate', [-0.1, 1, 1.5, float('nan'), '0.1', None])
@pytest.mark.parametrize('name', ['drop_rate', 'drop_path_rate'])
def test_impossible_rates(name, rate):
    with pytest.raises(ValueError, match=f'{name} needs 0 <= {name} < 1'):
        HATNet(SMALL_ARCH, **{name: rate})


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
    sum(out.square().mean() for out in model(x)).backward()
    sum(out.square().mean() for out in other(x)).backward()
    trained = dict(model.named_parameters())
    for name, parameter in other.named_parameters():
        if trained[name].requires_grad:
            torch.testing.assert_close(
                trained[name].grad, parameter.grad, rtol=1e-3, atol=1e-5
            )


def test_dropout_in_evaluation():
    """As in Monte Carlo dropout: only the dropout is in training mode."""
    model = HATNet(SMALL_ARCH, drop_rate=0.5).eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout2d):
            module.train()
    x, calls = random_images(), []
    mlp = model.stages[0][0].mlp
    mlp.drop.register_forward_hook(lambda *_: calls.append(1))
    model(x)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ('values', 'expected'),
    [
        (np.array([16, 8, 4]), (16, 8, 4)),
        (torch.tensor([16, 8, 4]), (16, 8, 4)),
        ([torch.tensor(16), np.int64(8), 4], (16, 8, 4)),
        (np.array(['auto'] * 3), ('auto',) * 3),
        ([2**31 - 1] * 3, (2**31 - 1,) * 3),
    ],
)
@pytest.mark.parametrize('fast', [True, False])
def test_forms_of_grids(values, expected, fast):
    model = HATNet(SMALL_ARCH, ds_ratios=values, fast=fast).eval()
    assert model.ds_ratios == expected
    image = torch.rand(1, 3, 70, 50)
    with torch.no_grad():
        found = model(image)
        if expected[0] == 2**31 - 1:  # like any that exceeds the map
            expected = (64, 64, 64)
        model.set_grids(ds_ratios=expected)
        torch.testing.assert_close(found, model(image))
    if expected[0] == 16:
        model.set_grids(grid_sizes=values)
        assert model.grid_sizes == expected


@pytest.mark.parametrize('name', ['grid_sizes', 'ds_ratios'])
@pytest.mark.parametrize(
    'values',
    [[2**31] * 3, [2**70] * 3, np.array(8), torch.tensor([8.0, 8, 8])],
)
def test_illegal_forms_of_grids(name, values):
    with pytest.raises(ValueError, match=rf'^{name} .*below 2\*\*31'):
        HATNet(SMALL_ARCH, **{name: values})


@pytest.mark.parametrize('fast', [True, False])
@pytest.mark.parametrize('with_cp', [True, False])
def test_hooks_of_named_modules(fast, with_cp):
    """Each fires once, with the features of its stage."""
    model = HATNet(SMALL_ARCH, fast=fast, with_cp=with_cp)
    calls = {}
    names = [f'stages.{i}' for i in range(4)]
    names += ['stem', *(f'downsamples.{i}' for i in range(3)), 'stages.0.1']
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: calls.setdefault(name, []).append(
                out
            )
        )
    outs = model(torch.rand(1, 3, 70, 50))
    assert {name: len(found) for name, found in calls.items()} == (
        dict.fromkeys(names, 1)
    )
    for i, out in enumerate(outs):
        assert torch.equal(calls[f'stages.{i}'][0], out)
