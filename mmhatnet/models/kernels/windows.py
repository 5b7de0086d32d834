"""Attention inside windows, of maps that lie as (N, H, W, C) in memory.

A program attends in one window with one head. It reads q, k and v from the
map and writes to the map, so nothing is cut, padded, masked or joined: tokens
of a window that the map does not have are neither read nor written. The
backward pass computes the softmax again from q and k.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..windows import cut_side, cut_windows
from .choice import CHECKS, largest_error
from .launching import operator, wrap_triton


@triton.jit
def _place(
    height,
    width,
    before_y,
    before_x,
    across,
    windows,
    heads,
    SIDE_Y: tl.constexpr,
    SIDE_X: tl.constexpr,
    L: tl.constexpr,
):
    """Tokens of a window, which of them there are, and the head."""
    program = tl.program_id(0)
    head, window = program % heads, program // heads
    image, window = window // windows, window % windows
    token = tl.arange(0, L)
    row = window // across * SIDE_Y - before_y + token // SIDE_X
    column = window % across * SIDE_X - before_x + token % SIDE_X
    real = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    real = real & (token < SIDE_Y * SIDE_X)
    place = image.to(tl.int64) * height * width + row * width + column
    return place[:, None], real, head


@triton.jit
def _softmax(q, k, real, scale):
    scores = tl.dot(q, tl.trans(k)) * scale
    scores = tl.where(real[None, :], scores, float('-inf'))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit
def _forward_kernel(
    qkv,
    residual,
    out,
    height,
    width,
    before_y,
    before_x,
    across,
    windows,
    heads,
    scale,
    SIDE_Y: tl.constexpr,
    SIDE_X: tl.constexpr,
    L: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    RESIDUAL: tl.constexpr,
):
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
def _backward_kernel(
    qkv,
    grad,
    qkv_grad,
    height,
    width,
    before_y,
    before_x,
    across,
    windows,
    heads,
    scale,
    SIDE_Y: tl.constexpr,
    SIDE_X: tl.constexpr,
    L: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
):
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
    sizes = dict(
        SIDE_Y=side_y,
        SIDE_X=side_x,
        L=tokens,
        D=head_dim,
        DP=padded,
        num_warps=4 if tokens * padded >= 2048 else 2,
    )
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
        added = residual.numel() > 0
        wrap_triton(_forward_kernel)[grid](
            *(qkv, residual, out, *place), **sizes, RESIDUAL=added
        )
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
        wrap_triton(_backward_kernel)[grid](
            *(qkv, grad, qkv_grad, *place), **sizes
        )
    return qkv_grad.permute(0, 3, 1, 2)


class WindowAttention(torch.autograd.Function):
    """Attention inside windows of a map, Eqs. (6) to (9)."""

    @staticmethod
    def forward(
        ctx, qkv: Tensor, residual: Tensor | None, *grid: int
    ) -> Tensor:
        ctx.grid, ctx.added = grid, residual is not None
        ctx.save_for_backward(qkv)
        if residual is None:
            residual = qkv[:0]
        return window_attention_forward(qkv, residual, *grid)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (qkv,) = ctx.saved_tensors
        qkv_grad = window_attention_backward(grad, qkv, *ctx.grid)
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


def _check(device: torch.device, dtype: torch.dtype) -> float:
    from ..hatnet import MHSA

    layer = MHSA(96, 2, 7, norm_cfg=dict(type='GN', num_groups=1), fast=False)

    def plain(qkv: Tensor, residual: Tensor) -> Tensor:
        windows = cut_windows(qkv, 7, False)
        return layer.attend_windows(windows, residual, None, True)

    def kernels(qkv: Tensor, residual: Tensor) -> Tensor:
        return window_attention(qkv, residual, 2, 7)

    maps = torch.randn(2, 4 * 96, 17, 19, device=device, dtype=dtype)
    return largest_error(kernels, plain, *maps.split((3 * 96, 96), 1))


CHECKS['windows'] = _check
