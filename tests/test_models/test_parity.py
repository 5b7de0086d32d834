"""HATNet is the official network where that runs, and exact elsewhere."""

import naive
import numpy as np
import pytest
import torch
from helpers import ARCHS, CLS_GRIDS, SMALL_ARCH, golden_image, official_shapes

from mmhatnet.models import HATNet
from mmhatnet.weights.official import from_official


@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('arch', ['tiny', 'small'])
def test_golden_outputs(arch, channels_last, official, golden):
    model = HATNet(arch, **CLS_GRIDS).eval()
    weights = official(arch)
    model.load_state_dict(weights)
    image = golden_image()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        image = image.to(memory_format=torch.channels_last)
    with torch.no_grad():
        features = model(image)
        logits = (
            features[-1].mean(dim=(2, 3)) @ weights['classifier.1.weight'].T
        )
        logits += weights['classifier.1.bias']
    expected = golden(arch)

    def error(found, name):
        difference = np.abs(found - expected[name]).max()
        return difference / expected[name].std()

    assert error(logits.numpy(), 'logits') <= 5e-5
    for i, feature in enumerate(features):
        assert feature.shape == tuple(expected[f'stage{i}_shape'])
        feature = feature.numpy()
        step = max(1, feature.shape[2] // 7)
        sample = feature[:, ::8, ::step, ::step]
        assert error(sample, f'stage{i}_sample') <= 5e-5
        for name, found in (
            ('mean', feature.mean(axis=(2, 3))),
            ('std', feature.std(axis=(2, 3))),
        ):
            reference = expected[f'stage{i}_channel_{name}']
            difference = np.abs(found - reference).max()
            assert difference <= 5e-5 * feature.std()


@pytest.mark.parametrize('arch', ARCHS)
def test_keys_and_shapes(arch):
    shapes = {
        key: torch.empty(shape, device='meta')
        for key, shape in official_shapes(arch).items()
    }
    with torch.device('meta'):
        model = HATNet(arch)
    converted = from_official(shapes)
    assert {
        'backbone.' + key: value.shape
        for key, value in model.state_dict().items()
    } == {
        key: value.shape
        for key, value in converted.items()
        if not key.startswith('head.')
    }
    assert converted['head.fc.weight'].shape == (1000, model.embed_dims[-1])
    unused = [key for key in shapes if '.proj_norm.' in key]
    assert len(converted) == len(shapes) - len(unused)


@pytest.mark.parametrize(
    ('size', 'grid_sizes', 'ds_ratios'),
    [
        # everything divides
        ((128, 128), (8, 8, 8), (16, 8, 4)),
        # odd sizes, the dense and the classification setting
        ((101, 75), (8, 8, 8), (16, 8, 4)),
        ((87, 130), (8, 7, 7), (8, 4, 2)),
        # only one side is cut, and either of G1 and G2 alone
        ((64, 100), (4, 4, 4), (4, 2, 2)),
        ((96, 96), (5, 3, 4), (8, 4, 2)),
        ((96, 96), (8, 4, 2), (5, 7, 4)),
        # coprime, G1 > G2 and G1 < G2
        ((93, 61), (11, 5, 3), (3, 2, 7)),
        ((61, 93), (2, 3, 5), (7, 5, 11)),
        # the smallest image; windows and cells larger than the map
        ((32, 32), (8, 8, 8), (16, 8, 4)),
        ((32, 55), (64, 64, 64), (64, 64, 64)),
        # one token per window, no pooling
        ((45, 33), (1, 1, 1), (1, 1, 1)),
        # a border window of a single row or column
        ((36, 68), (4, 2, 2), (4, 2, 2)),
    ],
)
@pytest.mark.parametrize(
    'attn_types',
    [('h-mhsa',) * 3, ('window',) * 3],
    ids=['h-mhsa', 'window'],
)
def test_any_size(size, grid_sizes, ds_ratios, attn_types):
    model = HATNet(
        SMALL_ARCH, 3, grid_sizes, ds_ratios, attn_types=attn_types
    ).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    images = torch.randn(2, 3, *size, dtype=torch.double)
    with torch.no_grad():
        features = model(images)
        for i, image in enumerate(images):
            for found, expected in zip(
                features, naive.forward(model, image), strict=True
            ):
                torch.testing.assert_close(found[i], expected)


def test_any_size_of_the_official_archs():
    model = HATNet('tiny').double()
    image = torch.randn(1, 3, 111, 70, dtype=torch.double)
    with torch.no_grad():
        for found, expected in zip(
            model(image), naive.forward(model, image[0]), strict=True
        ):
            torch.testing.assert_close(found[0], expected)
