"""Attention inside windows, of maps that lie as (N, H, W, C) in memory.

A program attends in one window with one head. It reads q, k and v from the
map and writes to the map, so nothing is cut, padded, masked or joined: tokens
of a window that the map does not have are neither read nor written. The
backward pass computes the softmax again from q and k.
"""

from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import FunctionCtx

from ..derivatives import refuse_graph
from ..windows import cut_side, cut_windows, join_windows, window_mask
from .choice import CHECKS, largest_error
from .launching import operator, wrap_triton

# What both kernels get to find their window.
PLACE = (
    *('height', 'width', 'before_y', 'before_x'),
    *('across', 'windows', 'heads'),
)


@triton.jit
def _place(
    height, width, before_y, before_x, across, windows, heads,
    SIDE_Y: tl.constexpr, SIDE_X: tl.constexpr, L: tl.constexpr,
):  # fmt: skip
    """Tokens of a window, which of them there are, and the head."""
    program = tl.program_id(0)
    head, window = program % heads, program // heads
    image, window = window // windows, window % windows
    token = tl.arange(0, L)
    row = window // across * SIDE_Y - before_y + token // SIDE_X
    column = window % across * SIDE_X - before_x + token % SIDE_X
    real = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    real = real & (token < SIDE_Y * SIDE_X)
    place = tl.cast(image, tl.int64) * height * width + row * width + column
    return place[:, None], real, head


@triton.jit
def _softmax(q, k, real, scale):
    scores = tl.dot(q, tl.trans(k)) * scale
    scores = tl.where(real[None, :], scores, float('-inf'))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit
def attend_kernel(
    qkv, residual, out,
    height, width, before_y, before_x, across, windows, heads, scale,
    SIDE_Y: tl.constexpr, SIDE_X: tl.constexpr, L: tl.constexpr,
    D: tl.constexpr, DP: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Attend, and add the residual."""
    place, real, head = _place(
        height, width, before_y, before_x, across, windows, heads,
        SIDE_Y, SIDE_X, L,
    )  # fmt: skip
    d = tl.arange(0, DP)
    mask = real[:, None] & (d < D)[None, :]
    channels = heads * D
    channel = head * D + d[None, :]
    q = tl.load(qkv + place * 3 * channels + channel, mask=mask, other=0.0)
    k_place = qkv + place * 3 * channels + channels + channel
    k = tl.load(k_place, mask=mask, other=0.0)
    v = tl.load(k_place + channels, mask=mask, other=0.0)
    weights = _softmax(q, k, real, scale).to(v.dtype)
    result = tl.dot(weights, v)
    if RESIDUAL:
        own = tl.load(residual + place * channels + channel, mask=mask)
        # Rounded first, as a sum of two maps is.
        result = result.to(v.dtype).to(tl.float32) + own.to(tl.float32)
    result = result.to(out.dtype.element_ty)
    tl.store(out + place * channels + channel, result, mask=mask)


@triton.jit
def gradient_kernel(
    qkv, grad, qkv_grad,
    height, width, before_y, before_x, across, windows, heads, scale,
    SIDE_Y: tl.constexpr, SIDE_X: tl.constexpr, L: tl.constexpr,
    D: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of q, k and v."""
    place, real, head = _place(
        height, width, before_y, before_x, across, windows, heads,
        SIDE_Y, SIDE_X, L,
    )  # fmt: skip
    d = tl.arange(0, DP)
    mask = real[:, None] & (d < D)[None, :]
    channels = heads * D
    offset = place * 3 * channels + head * D + d[None, :]
    q = tl.load(qkv + offset, mask=mask, other=0.0)
    k = tl.load(qkv + offset + channels, mask=mask, other=0.0)
    v = tl.load(qkv + offset + 2 * channels, mask=mask, other=0.0)
    at = grad + place * channels + head * D + d[None, :]
    g = tl.load(at, mask=mask, other=0.0).to(v.dtype)
    weights = _softmax(q, k, real, scale)
    dv = tl.dot(tl.trans(weights.to(v.dtype)), g)
    dtype = qkv_grad.dtype.element_ty
    tl.store(qkv_grad + offset + 2 * channels, dv.to(dtype), mask=mask)
    dw = tl.dot(g, tl.trans(v))
    ds = weights * (dw - tl.sum(weights * dw, 1)[:, None]) * scale
    ds = ds.to(v.dtype)
    dq = tl.dot(ds, k)
    tl.store(qkv_grad + offset, dq.to(dtype), mask=mask)
    dk = tl.dot(tl.trans(ds), q)
    tl.store(qkv_grad + offset + channels, dk.to(dtype), mask=mask)


def _last(x: Tensor) -> Tensor:
    """A map as (N, H, W, C), contiguous."""
    return x.permute(0, 2, 3, 1).contiguous()


def _plan(
    qkv: Tensor, heads: int, size: int, shifted: bool
) -> tuple[tuple[int], tuple, dict]:
    """The grid, and what both kernels get."""
    n, height, width, channels = qkv.shape
    down, side_y, before_y, _ = cut_side(height, size, shifted)
    across, side_x, before_x, _ = cut_side(width, size, shifted)
    head_dim = channels // (3 * heads)
    tokens = max(16, triton.next_power_of_2(side_y * side_x))
    padded = max(16, triton.next_power_of_2(head_dim))
    sizes = dict(SIDE_Y=side_y, SIDE_X=side_x, L=tokens)
    sizes |= dict(D=head_dim, DP=padded)
    sizes['num_warps'] = 4 if tokens * padded >= 2048 else 2
    place = height, width, before_y, before_x, across, down * across, heads
    return (n * down * across * heads,), (*place, head_dim**-0.5), sizes


@operator('window_attention')
def window_attention_forward(
    qkv: Tensor, residual: Tensor, heads: int, size: int, shifted: bool
) -> Tensor:
    """Compute :class:`WindowAttention`; a residual without values is none."""
    qkv, residual = _last(qkv), _last(residual)
    n, height, width, channels = qkv.shape
    dtype = torch.promote_types(qkv.dtype, residual.dtype)
    out = qkv.new_empty(n, height, width, channels // 3, dtype=dtype)
    grid, place, sizes = _plan(qkv, heads, size, shifted)
    if qkv.numel():
        sizes['RESIDUAL'] = residual.numel() > 0
        wrap_triton(attend_kernel)[grid](qkv, residual, out, *place, **sizes)
    return out.permute(0, 3, 1, 2)


@operator('window_attention_backward')
def window_attention_backward(
    grad: Tensor, qkv: Tensor, heads: int, size: int, shifted: bool
) -> Tensor:
    """Compute the gradient of q, k and v."""
    grad, qkv = _last(grad), _last(qkv)
    qkv_grad = torch.empty_like(qkv)
    grid, place, sizes = _plan(qkv, heads, size, shifted)
    if qkv.numel():
        wrap_triton(gradient_kernel)[grid](
            qkv, grad, qkv_grad, *place, **sizes
        )
    return qkv_grad.permute(0, 3, 1, 2)


class WindowAttention(torch.autograd.Function):
    """The kernels."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, qkv: Tensor, residual: Tensor | None, *grid: int
    ) -> Tensor:
        ctx.grid, ctx.added = grid, residual is not None
        ctx.save_for_backward(qkv)
        residual = qkv[:0] if residual is None else residual
        return window_attention_forward(qkv, residual, *grid)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_graph(grad)
        qkv_grad = window_attention_backward(
            grad, *ctx.saved_tensors, *ctx.grid
        )
        return qkv_grad, grad if ctx.added else None, None, None, None


def window_attention(
    qkv: Tensor,
    residual: Tensor | None,
    heads: int,
    size: int,
    shifted: bool = False,
) -> Tensor:
    """Attend inside the windows of a map.

    See :func:`~mmhatnet.models.cuda.attends_on_map` for when it can.

    Args:
        qkv (Tensor): Queries, keys and values, (N, 3 * C, H, W), fastest in
            channels_last memory.
        residual (Tensor, optional): A map to add, (N, C, H, W).
        heads (int): Number of heads.
        size (int): G1, the windows' side in tokens.
        shifted (bool): Begin with half a window. Defaults to False.

    Returns:
        Tensor: (N, C, H, W) in channels_last memory.
    """
    return WindowAttention.apply(qkv, residual, heads, size, shifted)


def plain(
    qkv: Tensor,
    residual: Tensor | None,
    heads: int,
    size: int,
    shifted: bool = False,
) -> Tensor:
    """Compute :func:`window_attention` by Eqs. (6) to (9)."""
    from ..hatnet import attention, split_heads

    n, channels, h, w = qkv.shape
    grid = size, shifted
    windows = cut_windows(qkv, *grid).transpose(1, 2).flatten(0, 1)
    q, k, v = split_heads(windows, 3, heads)
    out = attention(q, k, v, window_mask(qkv, *grid)).transpose(1, 2)
    shape = n, channels // 3, h, w
    return join_windows(out.flatten(2), shape, *grid, onto=residual)


def _check(device: torch.device, dtype: torch.dtype) -> float:
    grid: dict[str, Any] = dict(heads=2, size=7)
    maps = torch.randn(2, 4 * 96, 17, 19, device=device, dtype=dtype)
    return largest_error(
        partial(window_attention, **grid),
        partial(plain, **grid),
        *maps.split((3 * 96, 96), 1),
    )


CHECKS['windows'] = _check
