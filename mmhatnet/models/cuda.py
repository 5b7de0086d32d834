"""Forms for a GPU, by the kernels of ``kernels/``."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .casting import autocast_dtype
from .fast import is_bare_mlp
from .kernels.choice import INTERPRETED, kernels_apply
from .windows import cut_side

# Of a window and of a head in a program. In float32 they would not fit.
MAX_TOKENS = 64
MAX_HEAD_DIM = 64
# K of depthwise convolutions whose sums fit the registers of a thread. The
# kernels have tuples, which Triton knows since torch 2.7.
KERNEL_SIZES = (3, 5) if torch.__version__ >= (2, 7) else ()


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


def has_kernel(layer: nn.Module, x: Tensor) -> bool:
    """Whether a kernel computes what is between the convolutions of an MLP.

    Args:
        layer (nn.Module): An :class:`MLP`.
        x (Tensor): Its normalized input, (N, C, H, W).

    Returns:
        bool: Whether K fits, and no one has replaced a part or hooked it.
    """
    return (
        layer.dw_conv is not None
        and layer.dw_conv.kernel_size[0] in KERNEL_SIZES
        and is_bare_mlp(layer)
        and kernels_apply('mlp', x, autocast_dtype(x) or x.dtype)
    )


APPLIES = dict(
    bottleneck=has_kernel,
    local_attention=attends_on_map,
    window_mask=attends_on_map,
)


def window_mask(layer: nn.Module, equation: Callable, x: Tensor) -> None:
    """Make no mask, as :func:`local_attention` needs none."""


def local_attention(
    layer: nn.Module,
    equation: Callable,
    x: Tensor,
    mask: None = None,
    residual: bool = False,
) -> Tensor:
    """Attend on the map, without cutting it."""
    from .kernels.windows import window_attention

    grid = layer.num_heads, layer.grid_size, layer.shifted
    qkv = layer.qkv(layer.norm(x))
    return window_attention(qkv, x if residual else None, *grid)


def bottleneck(layer: nn.Module, equation: Callable, x: Tensor) -> Tensor:
    """Compute by kernels what is between the 1x1 convolutions of an MLP."""
    from .kernels.mlp import silu_depthwise_silu

    return layer.fc2(silu_depthwise_silu(layer.fc1(x), layer.dw_conv.weight))
