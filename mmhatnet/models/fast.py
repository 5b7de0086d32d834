"""What makes ``HATNet(fast=True)`` fast; each function has a plain equivalent.

Maps stay in channels_last memory, in which attention, 1x1 convolutions and
norms work without copies.
"""

import math
from collections.abc import Callable
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from mmcv.cnn import build_norm_layer
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from .compiling import (
    copy_for_export,
    exports,
    exports_dynamic,
    is_transformed,
    makes_graph,
)
from .derivatives import (
    SiLUConv,
    SingleGroupNormFunction,
    is_half,
    refuse_graph,
    single_group_norm,
)
from .kernels import kernels_apply
from .windows import cut_windows

# CUDA's attention kernels take at most this many windows of all images.
MAX_WINDOWS = 65535
# Values of a map from which one block of a GPU is too slow for the statistics.
LARGE = 2**18
# Bytes of the MLP's hidden map in a chunk of rows on a CPU. Two chunks must
# fit in the cache, and smaller chunks recompute more overlapping rows. Chunks
# of whole images do not overlap and have half the size, for which glibc keeps
# the freed memory.
CHUNK = 16 * 2**20
HOOKS = (
    '_forward_pre_hooks',
    '_forward_hooks',
    '_backward_pre_hooks',
    '_backward_hooks',
)


def memory_format_of(x: Tensor) -> torch.memory_format:
    """Get the memory format of a map; contiguous if it has neither one.

    Args:
        x (Tensor): (N, C, H, W).

    Returns:
        torch.memory_format: ``contiguous_format`` or ``channels_last``.
    """
    if (
        is_transformed(x)
        or x.is_contiguous()
        or not x.is_contiguous(memory_format=torch.channels_last)
    ):
        return torch.contiguous_format
    return torch.channels_last


def to_memory_format(x: Tensor, layout: torch.memory_format) -> Tensor:
    """Copy a map to a memory format, unless it has it or layouts are hidden.

    Args:
        x (Tensor): (N, C, H, W).
        layout (torch.memory_format): The memory format. torch.export gets a
            contiguous map instead, as it would branch on other strides.

    Returns:
        Tensor: The map or a copy.
    """
    if is_transformed(x):
        return x
    if exports_dynamic(*x.shape):
        return copy_for_export(x)
    return x.contiguous(memory_format=layout)


class PointwiseConv(nn.Conv2d):
    """A 1x1 convolution, computed as a matrix product in half precision.

    In float32 it stays a convolution, for which CUDA uses TF32 by default.
    """

    # What ``casting.py`` computes with for the time of a block.
    cast: tuple[Tensor, Tensor | None] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H, W)."""
        weight, bias = self.cast or (self.weight, self.bias)
        if not is_half(x) or exports() or (makes_graph() and not x.is_cuda):
            return self._conv_forward(copy_for_export(x), weight, bias)
        x = F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias)
        return x.permute(0, 3, 1, 2)


def build_pointwise(
    channels: int, out_channels: int, fast: bool, bias: bool = True
) -> nn.Conv2d:
    """Build a 1x1 convolution, a :class:`PointwiseConv` if ``fast``."""
    conv = PointwiseConv if fast else nn.Conv2d
    return conv(channels, out_channels, 1, bias=bias)


def build_depthwise(channels: int, kernel_size: int) -> nn.Conv2d:
    """Build a depthwise convolution that keeps a map's size; K is odd."""
    padding = kernel_size // 2
    cfg: dict = dict(padding=padding, groups=channels, bias=False)
    return nn.Conv2d(channels, channels, kernel_size, **cfg)


def build_norm(norm_cfg: dict, channels: int, fast: bool) -> nn.Module:
    """Build a norm, a :class:`SingleGroupNorm` if ``fast`` and it applies."""
    if (
        fast
        and norm_cfg['type'] in ('GN', nn.GroupNorm)
        and norm_cfg.get('num_groups') == 1
        and norm_cfg.get('affine', True)
    ):
        norm_cfg = dict(norm_cfg, type=SingleGroupNorm)
    return build_norm_layer(norm_cfg, channels)[1]


class SingleGroupNorm(nn.GroupNorm):
    """Group norm with one group, for maps in channels_last memory.

    torch's CUDA kernel copies such maps to another layout, and computes the
    statistics of an image in one block. Here, Triton kernels do all at once.
    Without them only small maps go to torch's kernel, and they go as they lie
    in memory, since one group has the same statistics in any layout. The
    result has the dtype of the map, also under autocast.

    Args:
        num_channels (int): Channels C.
        num_groups (int): As in :class:`nn.GroupNorm`, but 1. Defaults to 1.
        **kwargs: ``eps`` and the like, as in :class:`nn.GroupNorm`.
    """

    def __init__(
        self, num_channels: int, num_groups: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(num_groups, num_channels, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, H, W) over all but N."""
        w, b = self.weight, self.bias
        if is_transformed(x) or is_transformed(w) or is_transformed(b):
            return single_group_norm(x, w, b, self.eps)
        if kernels_apply('norm', x):
            from .kernels.norm import NormFunction

            return NormFunction.apply(x, w, b, self.eps)
        if self._has_good_kernel(x):
            return super().forward(copy_for_export(x)).to(x.dtype)
        large = math.prod(x.shape[1:]) >= LARGE
        return SingleGroupNormFunction.apply(x, w, b, self.eps, large)

    @staticmethod
    def _has_good_kernel(x: Tensor) -> bool:
        # torch's CPU kernel keeps the layout; compilers write their own.
        # It crashes if only the weight needs a gradient.
        return makes_graph() or (
            x.device.type in ('cpu', 'meta')
            and (x.requires_grad or not torch.is_grad_enabled())
        )


class GroupNorm1(SingleGroupNorm):
    """``nn.GroupNorm(1, C)``, faster on a GPU for maps in channels_last.

    Has the parameters of :class:`nn.GroupNorm`, and takes what it takes.

    Examples:
        >>> import torch
        >>> from mmhatnet.models import GroupNorm1
        >>> norm = GroupNorm1(64)
        >>> norm.load_state_dict(torch.nn.GroupNorm(1, 64).state_dict())
        <All keys matched successfully>
        >>> x = torch.rand(2, 64, 7, 9).to(memory_format=torch.channels_last)
        >>> norm(x).shape
        torch.Size([2, 64, 7, 9])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, ...) over all but N."""
        if x.dim() != 4 or not self.affine:
            return nn.GroupNorm.forward(self, x)
        return super().forward(x)


def _has_slow_backward(q: Tensor, k: Tensor) -> bool:
    # In half precision, torch's CPU kernel takes longer than explicit
    # products for the windows and pooled tokens of the configs.
    return q.is_cpu and is_half(q) and q.requires_grad and k.shape[2] <= 256


def attend(
    layer: nn.Module,
    equation: Callable,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """Compute Eq. (2) by torch's fused kernels, for any number of windows.

    Explicit products stand in for them on a CPU where the backward pass of
    its kernel is slow.

    Args:
        layer (nn.Module): An :class:`MHSA`.
        equation (Callable): Its attention by explicit products.
        q (Tensor): (N, heads, Lq, head_dim).
        k (Tensor): (N, heads, Lk, head_dim).
        v (Tensor): (N, heads, Lk, head_dim).
        mask (Tensor, optional): Added to the scores, (N, 1, 1, Lk).
            Defaults to None.

    Returns:
        Tensor: (N, heads, Lq, head_dim).
    """
    if _has_slow_backward(q, k):
        return equation(layer, q, k, v, mask)
    if len(q) <= MAX_WINDOWS:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    else:
        masks = repeat(None) if mask is None else mask.split(MAX_WINDOWS)
        qkv = (x.split(MAX_WINDOWS) for x in (q, k, v))
        parts = zip(*qkv, masks, strict=False)
        out = torch.cat(
            [F.scaled_dot_product_attention(*part) for part in parts]
        )
    if out.requires_grad:
        out.register_hook(refuse_graph)
    return out


def local_attention(
    layer: nn.Module,
    equation: Callable,
    x: Tensor,
    mask: Tensor | None = None,
    residual: bool = False,
) -> Tensor:
    """Cut the windows before they have three times as many channels."""
    qkv = layer.qkv(cut_windows(layer.norm(x), layer.grid_size, layer.shifted))
    return layer.attend_windows(qkv, x, mask, residual)


def silu_conv(x: Tensor, conv: nn.Conv2d, padding: tuple[int, int]) -> Tensor:
    """Convolve SiLU(x), in place if no gradient is needed."""
    if torch.is_grad_enabled():
        cast = conv.cast if isinstance(conv, PointwiseConv) else None
        weight = cast[0] if cast else conv.weight.to(x.dtype)  # as autocast
        return SiLUConv.apply(x, weight, padding, conv.groups)
    x = F.silu(x, inplace=True)
    if padding == conv.padding:
        return conv(x)
    return F.conv2d(x, conv.weight, padding=padding, groups=conv.groups)


def is_unchanged(layer: nn.Module | None) -> bool:
    """Whether an MLP has no such layer, or that of the paper.

    It is another one where it has hooks, or a user has replaced the layer, its
    forward method or its arguments. Whether a dropout drops does not count.
    """
    if layer is None:
        return True
    if (
        'forward' in vars(layer)
        or any(getattr(layer, hooks) for hooks in HOOKS)
        or any(getattr(torch_module, f'_global{hooks}') for hooks in HOOKS)
    ):
        return False
    return type(layer) in (nn.SiLU, nn.Dropout2d) or (
        type(layer) in (nn.Conv2d, PointwiseConv)
        and layer.bias is None
        and not is_transformed(layer.weight)
        and layer.kernel_size[0] == layer.kernel_size[1]
        and layer.padding == tuple(size // 2 for size in layer.kernel_size)
        and all(size % 2 for size in layer.kernel_size)
        and (*layer.stride, *layer.dilation) == (1, 1, 1, 1)
        and layer.padding_mode == 'zeros'
    )


def is_bare_mlp(layer: nn.Module) -> bool:
    """Whether all layers of an :class:`MLP` are bare, and none drops."""
    if layer.drop.training and layer.drop.p:
        return False
    layers = layer.fc1, layer.dw_conv, layer.fc2, layer.act, layer.drop
    return all(map(is_unchanged, layers))


def bottleneck(layer: nn.Module, equation: Callable, x: Tensor) -> Tensor:
    """Compute everything between the norms of an MLP, Sec. 3.3.

    On a CPU it is computed in chunks that fit the cache, of images or of
    rows.

    Args:
        layer (nn.Module): An :class:`MLP`.
        equation (Callable): The same, layer by layer.
        x (Tensor): The map, (N, C, H, W).

    Returns:
        Tensor: (N, C, H, W).
    """
    if not is_bare_mlp(layer):
        return equation(layer, x)
    fc1, dw_conv, fc2 = layer.fc1, layer.dw_conv, layer.fc2
    n, channels, h, w = x.shape
    around = dw_conv.padding[0] if dw_conv is not None else 0
    row = w * fc1.out_channels * x.element_size()

    def compute(x: Tensor, padding: tuple[int, int]) -> Tensor:
        x = fc1(x)
        if dw_conv is not None:
            x = silu_conv(x, dw_conv, padding)
        return silu_conv(x, fc2, (0, 0))

    if not x.is_cpu or n * h * row <= CHUNK // 2:
        return compute(x, (around, around))
    if h * row <= CHUNK:
        parts = x.split(max(1, CHUNK // 2 // (h * row)))
        padding = (around, around)
    else:
        # Neighbouring strips overlap. Padding beyond the border stays zero,
        # as fc1 and SiLU keep zeros.
        rows = max(1, CHUNK // row - 2 * around)
        rows = math.ceil(h / math.ceil(h / rows))  # strips of equal height
        padded = F.pad(x, (0, 0, around, around))
        parts = [
            image[:, :, top : top + rows + 2 * around]
            for image in padded.split(1)
            for top in range(0, h, rows)
        ]
        padding = (0, around)
    # As tokens, so that strips and images are joined in the same way.
    tokens = [
        compute(part, padding).permute(0, 2, 3, 1).flatten(0, 2)
        for part in parts
    ]
    return torch.cat(tokens).view(n, h, w, channels).permute(0, 3, 1, 2)
