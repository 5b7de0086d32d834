"""Forms for a GPU, by the kernels of ``kernels/`` where they apply."""

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor, nn

from . import compiled, fast
from .casting import autocast_dtype
from .compiling import makes_graph
from .kernels.choice import INTERPRETED, kernels_apply
from .windows import cut_side

__all__ = ['local_attention', 'window_mask']

# Of a window and of a head in a program. In float32 they would not fit.
MAX_TOKENS = 64
MAX_HEAD_DIM = 64


def others() -> ModuleType:
    """The forms where kernels do not apply."""
    return compiled if makes_graph() else fast


def attends_on_map(layer: nn.Module, x: Tensor) -> bool:
    """Whether kernels compute the attention inside the windows of a map.

    Args:
        layer (nn.Module): An :class:`MHSA`.
        x (Tensor): Its input, (N, C, H, W).

    Returns:
        bool: Whether the precision is half, and a window and a head fit the
        registers of a program.
    """
    if layer.grid_size is None:
        return False
    dtype = autocast_dtype(x) or x.dtype
    tall, wide = (cut_side(n, layer.grid_size)[1] for n in x.shape[2:])
    return (
        (dtype in (torch.float16, torch.bfloat16) or INTERPRETED)
        and tall * wide <= MAX_TOKENS
        and x.shape[1] <= MAX_HEAD_DIM * layer.num_heads
        and kernels_apply('windows', x, dtype)
    )


def window_mask(
    layer: nn.Module, equation: Callable, x: Tensor
) -> Tensor | None:
    """Make no mask where :func:`local_attention` needs none."""
    return None if attends_on_map(layer, x) else equation(layer, x)


def local_attention(
    layer: nn.Module,
    equation: Callable,
    x: Tensor,
    mask: Tensor | None = None,
    residual: bool = False,
) -> Tensor:
    """Attend on the map, without cutting it."""
    if not attends_on_map(layer, x):
        return others().local_attention(layer, equation, x, mask, residual)
    from .kernels.windows import window_attention

    grid = layer.num_heads, layer.grid_size, layer.shifted
    qkv = layer.qkv(layer.norm(x))
    return window_attention(qkv, x if residual else None, *grid)
