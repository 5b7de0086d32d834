"""SiLU, depthwise convolution, SiLU of maps that lie as (N, H, W, C) in memory.

A program walks down a strip of the map. Of each row it reads each column once,
with those around it, and adds it to the sums of the rows that are not complete
yet, which stay in registers. The backward pass keeps nothing but the input: it
convolves again on the way. All is computed in float32.
"""

import torch
import torch.nn.functional as F  # noqa: N812
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from .choice import CHECKS
from .launching import operator, wrap_triton

# Columns that a thread computes. More need more registers; fewer compute SiLU
# of the columns between them more often.
COLUMNS = 4
# Threads side by side. With the columns they cover 8, as a map of 7 or 56 has.
GROUPS = 2
WARPS = 2
# Rows of a strip: the backward pass reads 2 (K - 1) more.
ROWS = 56
# Programs that are enough for a GPU of 132 multiprocessors, several on each.
PROGRAMS = 2048


@triton.jit
def _load_taps(weight, c, C, K: tl.constexpr):
    taps = ()
    for k in tl.static_range(K * K):
        tap = tl.load(weight + c * (K * K) + k, mask=c < C, other=0.0)
        taps = taps + (tap.to(tl.float32)[None, :],)
    return taps


@triton.jit
def _load_row(row, x, c, inside, W, C, FIRST: tl.constexpr, M: tl.constexpr):
    """Columns x + FIRST, x + FIRST + 1, ...: M tensors of x by channels."""
    values = ()
    for j in tl.static_range(M):
        at = (x + FIRST + j)[:, None]
        mask = inside & (at >= 0) & (at < W) & (c < C)[None, :]
        value = tl.load(row + at * C + c[None, :], mask=mask, other=0.0)
        values = values + (value.to(tl.float32),)
    return values


@triton.jit
def _silu(values, M: tl.constexpr):
    out = ()
    for j in tl.static_range(M):
        out = out + (values[j] * tl.sigmoid(values[j]),)
    return out


@triton.jit
def _convolve_row(values, sums, taps, M: tl.constexpr, K: tl.constexpr):
    """Add a row to K rows of M sums; return the complete row and the rest."""
    done = ()
    rest = ()
    for d in tl.static_range(K):
        for j in tl.static_range(M):
            if d < K - 1:
                total = sums[d * M + j]
            else:
                total = tl.zeros_like(values[0])
            for k in tl.static_range(K):
                total += taps[(K - 1 - d) * K + k] * values[j + k]
            if d == 0:
                done = done + (total,)
            else:
                rest = rest + (total,)
    return done, rest


@triton.jit
def _zeros(ROWS: tl.constexpr, COLUMNS: tl.constexpr, M: tl.constexpr):
    zeros = ()
    for _ in tl.static_range(M):
        zeros = zeros + (tl.zeros([ROWS, COLUMNS], tl.float32),)
    return zeros


@triton.jit
def _forward_kernel(
    x, weight, y, H, W, C, rows, strips, tiles_w,
    K: tl.constexpr, M: tl.constexpr, G: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    P: tl.constexpr = K // 2
    tile = tl.program_id(0)
    at = tile % tiles_w * (M * G) + tl.arange(0, G) * M
    strip = tile // tiles_w % strips
    image = (tile // tiles_w // strips).to(tl.int64) * H
    c = tl.program_id(1) * B + tl.arange(0, B)
    taps = _load_taps(weight, c, C, K)
    sums = _zeros(G, B, M * (K - 1))
    top = strip * rows
    bottom = tl.minimum(top + rows, H)
    for i in range(top - P, bottom + P):
        start = (image + i) * W * C
        inside = (i >= 0) & (i < H)
        values = _load_row(x + start, at, c, inside, W, C, -P, M + 2 * P)
        values = _silu(values, M + 2 * P)
        done, sums = _convolve_row(values, sums, taps, M, K)
        done = _silu(done, M)
        for j in tl.static_range(M):
            o = (at + j)[:, None]
            mask = (i - P >= top) & (o < W) & (c < C)[None, :]
            out = y + (start - P * W * C) + o * C + c[None, :]
            tl.store(out, done[j].to(y.dtype.element_ty), mask=mask)


@triton.jit
def _backward_kernel(
    grad, x, weight, dx, partial, H, W, C, rows, strips, tiles_w, tiles,
    K: tl.constexpr, M: tl.constexpr, G: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Gradients of the map and, summed over some tiles, of the weight.

    ``recent`` has K rows of the gradient of the convolution, P columns wider
    on both sides. The gradient of x is complete P rows above the last one.
    """
    P: tl.constexpr = K // 2
    N: tl.constexpr = M + 2 * P
    c = tl.program_id(1) * B + tl.arange(0, B)
    taps = _load_taps(weight, c, C, K)
    dtaps = _zeros(G, B, K * K)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        at = tile % tiles_w * (M * G) + tl.arange(0, G) * M
        strip = tile // tiles_w % strips
        image = (tile // tiles_w // strips).to(tl.int64) * H
        top = strip * rows
        bottom = tl.minimum(top + rows, H)
        sums = _zeros(G, B, N * (K - 1))
        recent = _zeros(G, B, N * (K - 1))
        for i in range(top - 2 * P, bottom + 2 * P):
            start = (image + i) * W * C
            inside = (i >= 0) & (i < H)
            s = _load_row(x + start, at, c, inside, W, C, -2 * P, M + 4 * P)
            s = _silu(s, M + 4 * P)
            u, sums = _convolve_row(s, sums, taps, N, K)
            start -= P * W * C
            inside = (i >= P) & (i < H + P)
            g = _load_row(grad + start, at, c, inside, W, C, -P, N)
            for j in tl.static_range(N):
                a = tl.sigmoid(u[j])
                recent = recent + (g[j] * a * (1 + u[j] * (1 - a)),)
            start -= P * W * C
            inside = (i >= top + 2 * P) & (i < bottom + 2 * P)
            v = _load_row(x + start, at, c, inside, W, C, 0, M)
            s = _silu(v, M)
            for j in tl.static_range(M):
                total = tl.zeros([G, B], tl.float32)
                for k in tl.static_range(K * K):
                    d = recent[(K - 1 - k // K) * N + j + 2 * P - k % K]
                    total += taps[k] * d
                a = tl.sigmoid(v[j])
                total *= a * (1 + v[j] * (1 - a))
                o = (at + j)[:, None]
                mask = inside & (o < W) & (c < C)[None, :]
                out = dx + start + o * C + c[None, :]
                tl.store(out, total.to(dx.dtype.element_ty), mask=mask)
            added = ()
            for k in tl.static_range(K * K):
                total = dtaps[k]
                for j in tl.static_range(M):
                    total += s[j] * recent[(K - 1 - k // K) * N + j + 2 * P - k % K]
                added = added + (total,)
            dtaps = added
            recent = recent[N:]
    partial += (tl.program_id(0).to(tl.int64) * C + c) * (K * K)
    for k in tl.static_range(K * K):
        tl.store(partial + k, tl.sum(dtaps[k], 0), mask=c < C)


def _tiles(x: Tensor) -> tuple[int, int, int, int]:
    """Rows of a strip, strips of an image, tiles of a strip, all tiles."""
    n, _, h, w = x.shape
    strips = triton.cdiv(h, ROWS)
    tiles_w = triton.cdiv(w, COLUMNS * GROUPS)
    return triton.cdiv(h, strips), strips, tiles_w, n * strips * tiles_w


def _options(kernel_size: int) -> dict[str, int]:
    # One channel in each thread if it has to hold 25 taps, else two.
    width = 64 if kernel_size < 5 else 32
    return dict(
        K=kernel_size, M=COLUMNS, G=GROUPS, B=width, num_warps=WARPS
    )


@operator('silu_depthwise_silu')
def forward(x: Tensor, weight: Tensor) -> Tensor:
    """Launch the forward kernel.

    Args:
        x (Tensor): (N, C, H, W), contiguous in channels_last.
        weight (Tensor): (C, 1, K, K), contiguous.

    Returns:
        Tensor: Like ``x``.
    """
    y = torch.empty_like(x)
    channels, h, w = x.shape[1:]
    options = _options(weight.shape[-1])
    *tiling, tiles = _tiles(x)
    grid = tiles, triton.cdiv(channels, options['B'])
    if x.numel():
        wrap_triton(_forward_kernel)[grid](
            x, weight, y, h, w, channels, *tiling, **options
        )
    return y


@operator('silu_depthwise_silu_backward')
def backward(
    grad: Tensor, x: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Launch the backward kernel, and sum the gradient of the weight.

    Args:
        grad (Tensor): Gradient of the result, contiguous in channels_last.
        x (Tensor): As for :func:`forward`.
        weight (Tensor): As for :func:`forward`.

    Returns:
        tuple[Tensor, Tensor]: The gradients of ``x`` and ``weight``.
    """
    dx = torch.empty_like(x)
    channels, h, w = x.shape[1:]
    options = _options(weight.shape[-1])
    *tiling, tiles = _tiles(x)
    blocks = triton.cdiv(channels, options['B'])
    programs = min(tiles, max(1, PROGRAMS // blocks))
    partial = x.new_empty((programs, *weight.shape), dtype=torch.float32)
    if x.numel():
        wrap_triton(_backward_kernel)[programs, blocks](
            grad, x, weight, dx, partial, h, w, channels, *tiling, tiles,
            **options,
        )  # fmt: skip
    return dx, partial.sum(0).to(weight.dtype)


class SiLUDepthwiseSiLU(torch.autograd.Function):
    """Keeps the map before both activations, and nothing else."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        weight = weight.contiguous()
        ctx.save_for_backward(x, weight)
        return forward(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        grad = grad.contiguous(memory_format=torch.channels_last)
        return backward(grad, *ctx.saved_tensors)


def silu_depthwise_silu(x: Tensor, weight: Tensor) -> Tensor:
    """Compute SiLU, a depthwise convolution and SiLU.

    Args:
        x (Tensor): (N, C, H, W), fastest in channels_last.
        weight (Tensor): (C, 1, K, K) in any dtype; K is 3 or 5.

    Returns:
        Tensor: (N, C, H, W) in the dtype of ``x``, in channels_last.
    """
    return SiLUDepthwiseSiLU.apply(x, weight)


def plain(x: Tensor, weight: Tensor) -> Tensor:
    """Compute the same by torch, as :func:`silu_depthwise_silu`."""
    x = F.conv2d(
        F.silu(x), weight, padding=weight.shape[-1] // 2, groups=len(weight)
    )
    return F.silu(x)
