import copy
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from helpers import SMALL_ARCH, assert_features_close, random_images
from torch import nn

from mmhatnet.models import HATNet


# tests/test_fuzz.py has random ones.
@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(arch='huge'), "'t', 'tiny', 's', 'small'"),
        (dict(arch=None), 'a dict with the keys'),
        (dict(arch=dict(embed_dims=(8,) * 4)), 'head_dim'),
        *(
            (dict(arch={**SMALL_ARCH, name: value}), name)
            for name, value in (
                *(('depths', (1, 1)), ('depths', '1111')),
                *(('embed_dims', (8.0,) * 4), ('expansions', (0, 1, 1, 1))),
                *(('kernel_sizes', (4,) * 4), ('head_dim', 5)),
            )
        ),
        *(
            ({name: value}, rf'{name} .*three positive integers below 2')
            for name in ('grid_sizes', 'ds_ratios')
            for value in ((8, 0, 8), (8, 8), (True, 1, 1), '842', [2**70] * 3)
        ),
        *((dict(out_indices=x), 'from 0 to 3') for x in ((0, 4), (), (2, 1))),
        (dict(attn_types='window'), 'three times'),
        (dict(attn_types=([], {}, ())), 'three times'),
        (dict(frozen_stages=5), 'frozen_stages'),
        (dict(frozen_stages=3, out_indices=(0, 1)), 'up to the 2'),
        *((dict(in_channels=x), 'in_channels') for x in (0, '3')),
        *((dict(stem_stride=x), '2 or 4') for x in (1, '4', 2.0)),
        *(
            ({name: rate}, f'{name} needs 0 <= {name} < 1')
            for name in ('drop_rate', 'drop_path_rate')
            for rate in (-0.1, 1, float('nan'), '0.1')
        ),
    ],
)
def test_illegal_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        HATNet(**{'arch': SMALL_ARCH, **kwargs})


def test_numbers_of_numpy():
    arch = {key: np.array(value) for key, value in SMALL_ARCH.items()}
    numbers = np.int64(3), np.array([4] * 3), [torch.tensor(4), np.int8(4), 4]
    options = dict(out_indices=np.int8(-1), frozen_stages=np.int8(1))
    model = HATNet({**arch, 'head_dim': np.int64(8)}, *numbers, **options)
    (feature,) = model(random_images())
    assert feature.shape == (2, 24, 3, 4)
    assert model.grid_sizes == model.ds_ratios == (4, 4, 4)


@pytest.mark.parametrize('stem_stride', [2, 4])
@pytest.mark.parametrize('size', [(32, 32), (37, 50)])
def test_smallest_images(stem_stride, size):
    model = HATNet(SMALL_ARCH, stem_stride=stem_stride).eval()
    with torch.no_grad():
        found = model(torch.rand(1, 3, *size))
    for i, out in enumerate(found):
        stride = stem_stride * 2**i
        assert out.shape[2:] == tuple(-(-side // stride) for side in size)
    least = 8 * stem_stride
    for height, width in (least - 1, 64), (64, least - 1):
        message = f'{least}x{least}.*{height}x{width}'
        with pytest.raises(ValueError, match=message):
            model(torch.rand(1, 3, height, width))
    model.load_state_dict(HATNet(SMALL_ARCH).state_dict())


@pytest.mark.parametrize('attn_type', ['h-mhsa', 'window'])
def test_set_grids(attn_type):
    attn_types = (attn_type,) * 3
    model, x = HATNet(SMALL_ARCH, attn_types=attn_types), random_images()
    before, default = copy.deepcopy(model.state_dict()), model(x)
    model.set_grids(grid_sizes=[5, 3, 2])
    model.set_grids(ds_ratios=(3, 2, 1))
    with pytest.raises(ValueError, match='G2'):
        model.set_grids((4, 4, 4), (0, 1, 1))  # then nothing changes
    other = HATNet(SMALL_ARCH, 3, (5, 3, 2), (3, 2, 1), attn_types=attn_types)
    other.load_state_dict(before)
    assert model.grid_sizes == other.grid_sizes
    assert_features_close(model(x), other(x), rtol=0, atol=0)
    assert not torch.allclose(model(x)[0], default[0])
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize('norm_cfg', [None, dict(type='BN')])
@pytest.mark.parametrize(
    ('out_indices', 'stages'),
    [(3, [3]), (-1, [3]), ((0, 2), [0, 2]), ((1,), [1]), ([1, -1], [1, 3])],
)
def test_outputs(out_indices, stages, norm_cfg):
    """The maps of some stages, each with a norm if asked for."""
    full, x = HATNet(SMALL_ARCH).eval(), random_images()
    part = HATNet(SMALL_ARCH, out_indices=out_indices, out_norm_cfg=norm_cfg)
    part.eval().load_state_dict(full.state_dict(), strict=False)
    expected = [full(x)[i] for i in stages]
    if norm_cfg:
        norms = [part.out_norms[str(i)] for i in stages]
        for norm in norms:
            nn.init.normal_(norm.bias)
        expected = [norm(x) for norm, x in zip(norms, expected, strict=True)]
    assert_features_close(part(x), expected)


def test_window_attention_per_stage():
    model = HATNet(SMALL_ARCH, attn_types=('window', 'h-mhsa', 'window'))
    found = [hasattr(stage[0].attn, 'ds_ratio') for stage in model.stages]
    assert found == [False, True, False, False]
    assert [b.attn.shifted for b in model.stages[0]] == [False, True]


@pytest.mark.parametrize('fast', [True, False])
def test_forms_of_ratios(fast):
    """A name for each stage, and numbers beyond any map."""
    ratios = np.array(['auto'] * 3)
    model = HATNet(SMALL_ARCH, ds_ratios=ratios, fast=fast).eval()
    assert model.ds_ratios == ('auto',) * 3
    image, found = torch.rand(1, 3, 70, 50), []
    with torch.no_grad():
        for ratios in [2**31 - 1] * 3, (64, 64, 64):
            model.set_grids(ds_ratios=ratios)
            found.append(model(image))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize('fast', [True, False])
@pytest.mark.parametrize('with_cp', [True, False])
def test_hooks_of_named_modules(fast, with_cp):
    """Each fires once, with the features of its stage."""
    model = HATNet(SMALL_ARCH, fast=fast, with_cp=with_cp)
    names = [f'stages.{i}' for i in range(4)]
    names += ['stem', *(f'downsamples.{i}' for i in range(3)), 'stages.0.1']
    hooks = {name: Mock(return_value=None) for name in names}
    for name, hook in hooks.items():
        model.get_submodule(name).register_forward_hook(hook)
    outs = model(torch.rand(1, 3, 70, 50))
    for hook in hooks.values():
        hook.assert_called_once()
    for i, out in enumerate(outs):
        assert torch.equal(hooks[f'stages.{i}'].call_args[0][2], out)
