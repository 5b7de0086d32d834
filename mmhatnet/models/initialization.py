"""The initial weights of HAT-Net: the authors', and those for short trainings.

The authors draw all weights with a standard deviation of 0.02. The signal in
an MLP is then so small that its activations are linear, SiLU(x) = x / 2. A
long training overcomes this; a short one may be too short for that.
"""

from collections.abc import Iterable, Mapping
from math import erf, exp, pi

import torch
from mmengine.model.weight_init import trunc_normal_, update_init_info
from torch import nn

from ..registry import WEIGHT_INITIALIZERS

STD = 0.02
# In standard deviations. The authors cut at a hundred, where their formula
# gives single weights. Weights that are cut vary a little less.
BOUND = 2
# The standard deviation of a normal distribution that is cut there.
TRUNCATED_STD = (
    1 - BOUND * (2 / pi) ** 0.5 * exp(-(BOUND**2) / 2) / erf(BOUND / 2**0.5)
) ** 0.5
MLP_LAYERS = 'fc1', 'dw_conv', 'fc2'
INIT_CFG = dict(
    type='TruncNormal',
    layer=['Conv2d', 'Linear'],
    std=STD,
    a=-BOUND * STD,
    b=BOUND * STD,
    bias=0.0,
)


@WEIGHT_INITIALIZERS.register_module()
class FanOutInit:
    """Initial weights of a backbone for short trainings from scratch.

    The layers ``fc1``, ``dw_conv`` and ``fc2`` of the MLPs keep the variance
    of the signal and its gradient: their weights have a standard deviation of
    sqrt(2 / fan_out), where fan_out is kernel area * output channels / groups
    (He et al., https://arxiv.org/abs/1502.01852, Eq. 14). All other layers
    are drawn as by default.

    Examples:
        >>> from mmhatnet.models import HATNet
        >>> init_cfg = dict(type='mmhatnet.FanOutInit')  # as in a config
        >>> backbone = HATNet('tiny', init_cfg=init_cfg)
    """

    def __call__(self, module: nn.Module) -> None:
        """Draw all weights of a module, in place."""
        draw_weights(module, fan_out=True)
        if hasattr(module, '_params_init_info'):  # mmengine logs it
            update_init_info(module, init_info='FanOutInit')


@torch.no_grad()
def draw_weights(model: nn.Module, fan_out: bool = False) -> None:
    """Draw the weights of all convolutions and linear layers, in place.

    They are normal, cut at two standard deviations; biases are zero.

    Args:
        model (nn.Module): The layers.
        fan_out (bool): Draw those of MLPs as :class:`FanOutInit` does, instead
            of with the authors' standard deviation. Defaults to False.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            std = STD
            if fan_out and name.rpartition('.')[2] in MLP_LAYERS:
                std = (2 / _fan_out(layer)) ** 0.5 / TRUNCATED_STD
            trunc_normal_(layer.weight, 0, std, -BOUND * std, BOUND * std)
            if layer.bias is not None:
                layer.bias.zero_()


def _fan_out(layer: nn.Conv2d | nn.Linear) -> float:
    return layer.weight[:, 0].numel() / getattr(layer, 'groups', 1)


def is_fan_out(init_cfg: Mapping | Iterable | None) -> bool:
    """Whether an ``init_cfg``, or an entry of it, is :class:`FanOutInit`."""
    if isinstance(init_cfg, Mapping):
        return init_cfg.get('type') in (FanOutInit, 'mmhatnet.FanOutInit')
    if isinstance(init_cfg, list | tuple):
        return any(map(is_fan_out, init_cfg))
    return False
