"""Weights of a block that are cast for autocast in one call."""

import pytest
import torch
from helpers import SMALL_ARCH, gradients, random_images
from torch.utils._python_dispatch import TorchDispatchMode

from mmhatnet.models import HATNet, casting
from mmhatnet.models.fast import PointwiseConv
from mmhatnet.models.kernels import select_kernels

pytestmark = pytest.mark.skipif(
    not hasattr(torch, 'get_autocast_dtype'),
    reason='before torch 2.4, the dtype of autocast is only known on a GPU',
)


class Casts(TorchDispatchMode):
    """Counts the operators that cast weights of the 1x1 convolutions."""

    def __init__(self, model):
        super().__init__()
        convs = [m for m in model.modules() if isinstance(m, PointwiseConv)]
        self.shapes = {conv.weight.shape for conv in convs}
        self.single, self.joint = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.single += name == '_to_copy' and args[0].shape in self.shapes
        self.joint += name == '_foreach_copy_'
        return func(*args, **(kwargs or {}))


@pytest.fixture
def everywhere(monkeypatch):
    """Cast on a CPU, too."""
    monkeypatch.setattr(
        casting, '_casts_on', lambda _: casting.is_chosen('casts')
    )


def train(model, x):
    with torch.autocast('cpu', torch.bfloat16):
        found = gradients(model, x)
    return {k: v for k, v in found.items() if v is not None}  # not frozen


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('frozen_stages', [-1, 2])
def test_gradients_are_those_of_autocast(everywhere, with_cp, frozen_stages):
    model = HATNet(SMALL_ARCH, with_cp=with_cp, frozen_stages=frozen_stages)
    x = random_images()
    with Casts(model) as counted:
        found = train(model, x)
    with select_kernels('none'), Casts(model) as without:
        expected = train(model, x)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert (counted.single, without.joint) == (0, 0)
    assert counted.joint > 0
    assert without.single > 0
    assert not any(getattr(m, 'cast', None) for m in model.modules())


def test_an_error_leaves_no_casts(everywhere, monkeypatch):
    model = HATNet(SMALL_ARCH)
    monkeypatch.setattr(model.stages[0][0].mlp, 'forward', lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(model, random_images())
    assert not any(getattr(m, 'cast', None) for m in model.modules())


def test_other_weights_are_left_alone(everywhere):
    """Half a model in bfloat16, and weights that are computed."""
    model, x = HATNet(SMALL_ARCH), random_images()
    block = model.stages[0][0]
    block.mlp.bfloat16()
    torch.nn.utils.parametrizations.weight_norm(block.attn.qkv)
    with Casts(model) as counted:
        train(model, x)
    blocks = sum(map(len, model.stages))
    assert counted.joint == 2 * (blocks - 1)
