"""The initial weights, and the signal that they let through."""

import pytest
import torch
from helpers import SMALL_ARCH, init_silently
from torch import nn

from mmhatnet.models import HATNet
from mmhatnet.models.archs import ARCHS
from mmhatnet.models.hatnet import MLP
from mmhatnet.models.initialization import MLP_LAYERS, FanOutInit

FAN_OUT = dict(type='mmhatnet.FanOutInit')
VARIANTS = [name for name in ARCHS if len(name) > 1]


def signals(model, initialize=False):
    """Standard deviations behind the layers of all MLPs, of normal maps."""
    torch.manual_seed(0)
    found = []
    for mlp in model.modules():
        if not isinstance(mlp, MLP):
            continue
        x = torch.randn(1, mlp.norm1.num_channels, 16, 16)
        row = []
        for name in MLP_LAYERS:
            x = getattr(mlp, name)(x)
            row.append(x.std().item())
            x = mlp.act(x)
        found.append(row)
    return torch.tensor(found)


@pytest.mark.parametrize('arch', VARIANTS)
@torch.no_grad()
def test_signal_in_mlps(arch):
    """It stays of the order of 1; the authors' weights shrink it."""
    found = signals(HATNet(arch, init_cfg=FAN_OUT))
    expansions = torch.tensor(
        [
            expansion
            for expansion, depth in zip(
                ARCHS[arch]['expansions'], ARCHS[arch]['depths'], strict=True
            )
            for _ in range(depth)
        ]
    )
    # Behind fc1: C * 2 / (E * C) of a normalized map.
    expected = (2 / expansions) ** 0.5
    torch.testing.assert_close(found[:, 0], expected, rtol=0.1, atol=0)
    assert 0.2 < found.min()
    assert found.max() < 3
    official = signals(HATNet(arch))
    assert official[:, 2].max() < 0.02
