"""SiLU, depthwise convolution and SiLU of maps in channels_last memory.

A program is one warp. It walks down a few columns of the map, with one or two
channels in each thread. Each row that it reads is added to the rows of the
convolution that are not complete yet, which stay in registers as a tuple. The
backward pass convolves once more: reading and keeping the convolution would
be two passes more over memory. All is computed in float32.
"""

# Tuples grow in kernels.
# mypy: disable-error-code="assignment"

import torch
import torch.nn.functional as F  # noqa: N812
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import FunctionCtx

from ..derivatives import refuse_graph
from .choice import CHECKS, largest_error
from .launching import operator, wrap_triton

# Columns of a program. SiLU is computed K - 1 columns wider, and 2 (K - 1) in
# the backward pass. 7 would need fewer instructions, but all registers.
COLUMNS = 4
# Channels of a program by K: two in each thread, or one if it has to hold the
# sums for 25 taps.
WIDTHS = {3: 64, 5: 32}
# Most and fewest rows of a program, which in the backward pass reads 2 (K - 1)
# rows more.
ROWS = 64
FEW_ROWS = 8
# Programs to make: at least as many as a GPU of 132 multiprocessors runs at
# once, and so few in the backward pass that their sums are small.
PROGRAMS = 4096


@triton.jit
def _sigmoid(x):
    # The square of 1 / sqrt(y) takes 8 instructions less than 1 / y.
    root = tl.rsqrt(1 + tl.exp2(-1.4426950408889634 * x))
    return root * root


@triton.jit
def _silu(values, SIZE: tl.constexpr):
    out = ()
    for j in tl.static_range(SIZE):
        out = out + (values[j] * _sigmoid(values[j]),)
    return out


@triton.jit
def _silu_backward(grad, x):
    s = _sigmoid(x)
    return grad * s * (1 + x * (1 - s))


@triton.jit
def _load_taps(weight, c, C, K: tl.constexpr):
    taps = ()
    for k in tl.static_range(K * K):
        tap = tl.load(weight + c * (K * K) + k, mask=c < C, other=0.0)
        taps = taps + (tap.to(tl.float32),)
    return taps


@triton.jit
def _load_row(row, left, SIZE: tl.constexpr, c, inside, W, C):
    """Columns of a row; those outside of the map, and such rows, are 0."""
    values = ()
    for j in tl.static_range(SIZE):
        at = left + j
        mask = (c < C) & (inside & (at >= 0) & (at < W))
        value = tl.load(row + at * C + c, mask=mask, other=0.0)
        values = values + (value.to(tl.float32),)
    return values


@triton.jit
def _store_row(row, left, values, SIZE: tl.constexpr, c, inside, W, C):
    for j in tl.static_range(SIZE):
        at = left + j
        mask = (c < C) & (inside & (at < W))
        value = values[j].to(row.dtype.element_ty)
        tl.store(row + at * C + c, value, mask=mask)


@triton.jit
def _convolve_row(values, sums, taps, SIZE: tl.constexpr, K: tl.constexpr):
    """Add a row to the K rows around it: the complete one, and the others."""
    rows = ()
    for k in tl.static_range(SIZE * K):
        total = sums[k]
        for j in tl.static_range(K):
            tap = taps[K * K - K - k // SIZE * K + j]
            total += tap * values[k % SIZE + j]
        rows = rows + (total,)
    return rows[:SIZE], rows[SIZE:]


@triton.jit
def _place(tile, H, strips, across, rows, COLUMNS: tl.constexpr):
    """First row of the image in all images; column and rows of the tile."""
    left = tile % across * COLUMNS
    top = tile // across % strips * rows
    image = tl.cast(tile // across // strips, tl.int64) * H
    return image, left, top, tl.minimum(top + rows, H)


@triton.jit(do_not_specialize=['H', 'W', 'strips', 'across', 'rows'])
def forward_kernel(
    x, weight, y, H, W, C, strips, across, rows,
    K: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Write the map."""
    pad: tl.constexpr = K // 2
    size: tl.constexpr = COLUMNS + 2 * pad
    tile = tl.program_id(0)
    image, left, top, end = _place(tile, H, strips, across, rows, COLUMNS)
    c = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    taps = _load_taps(weight, c, C, K)
    zeros = (tl.zeros([WIDTH], tl.float32),) * COLUMNS
    sums = zeros * (K - 1)
    for i in range(top - pad, end + pad):
        start = (image + i) * W * C
        inside = (i >= 0) & (i < H)
        s = _load_row(x + start, left - pad, size, c, inside, W, C)
        u, sums = _convolve_row(_silu(s, size), sums + zeros, taps, COLUMNS, K)
        u = _silu(u, COLUMNS)
        start -= pad * W * C
        _store_row(y + start, left, u, COLUMNS, c, i >= top + pad, W, C)


@triton.jit(do_not_specialize=['H', 'W', 'strips', 'across', 'rows', 'tiles'])
def backward_kernel(
    x, grad, weight, out, sums, H, W, C, strips, across, rows, tiles,
    K: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the map, and that of the weight by some tiles."""
    pad: tl.constexpr = K // 2
    size: tl.constexpr = COLUMNS + 2 * pad
    c = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    taps = _load_taps(weight, c, C, K)
    zeros = (tl.zeros([WIDTH], tl.float32),) * size
    slopes = zeros[:1] * (K * K)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        image, left, top, end = _place(tile, H, strips, across, rows, COLUMNS)
        # Of the convolution: rows not complete yet, and gradients of K rows.
        later = zeros * (K - 1)
        grads = zeros * (K - 1)
        for i in range(top - 2 * pad, end + 2 * pad):
            start = (image + i) * W * C
            inside = (i >= 0) & (i < H)
            s = _load_row(
                x + start, left - 2 * pad, size + 2 * pad, c, inside, W, C
            )
            s = _silu(s, size + 2 * pad)
            u, later = _convolve_row(s, later + zeros, taps, size, K)
            start -= pad * W * C
            inside = (i >= pad) & (i < H + pad)
            g = _load_row(grad + start, left - pad, size, c, inside, W, C)
            for j in tl.static_range(size):
                grads = grads + (_silu_backward(g[j], u[j]),)
            # Row i - 2 pad has all its neighbours now.
            start -= pad * W * C
            inside = (i >= top + 2 * pad) & (i < end + 2 * pad)
            v = _load_row(x + start, left, COLUMNS, c, inside, W, C)
            s = _silu(v, COLUMNS)
            added = ()
            for k in tl.static_range(K * K):
                total = slopes[k]
                for j in tl.static_range(COLUMNS):
                    total += s[j] * grads[k // K * size + j + k % K]
                added = added + (total,)
            slopes = added
            d = ()
            for j in tl.static_range(COLUMNS):
                total = tl.zeros([WIDTH], tl.float32)
                for k in tl.static_range(K * K):
                    tap = taps[K * K - 1 - k]
                    total += tap * grads[k // K * size + j + k % K]
                d = d + (_silu_backward(total, v[j]),)
            _store_row(out + start, left, d, COLUMNS, c, inside, W, C)
            grads = grads[size:]
    sums += (tl.cast(tl.program_id(0), tl.int64) * C + c) * (K * K)
    for k in tl.static_range(K * K):
        tl.store(sums + K * K - 1 - k, slopes[k], mask=c < C)


def _tile(x: Tensor, kernel_size: int) -> tuple[tuple, int, int, dict]:
    """Sizes, strips, tiles across, rows of a tile; grid; constants."""
    n, channels, h, w = x.shape
    blocks, across = -(-channels // WIDTHS[kernel_size]), -(-w // COLUMNS)
    most, fewest = -(-h // FEW_ROWS), -(-h // ROWS)
    strips = PROGRAMS // max(1, n * across * blocks)
    rows = max(1, -(-h // max(1, min(most, max(fewest, strips)))))
    strips = -(-h // rows)
    constants = dict(K=kernel_size, WIDTH=WIDTHS[kernel_size])
    constants |= dict(COLUMNS=COLUMNS, num_warps=1)
    sizes = h, w, channels, strips, across, rows
    return sizes, n * strips * across, blocks, constants


@operator('silu_depthwise_silu')
def mlp_forward(x: Tensor, weight: Tensor) -> Tensor:
    """Compute a map in channels_last memory."""
    sizes, tiles, blocks, constants = _tile(x, weight.shape[-1])
    y = torch.empty_like(x)
    wrap_triton(forward_kernel)[(tiles, blocks)](
        x, weight, y, *sizes, **constants
    )
    return y


@operator('silu_depthwise_silu_backward')
def mlp_backward(
    x: Tensor, grad: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the map and of the weight."""
    sizes, tiles, blocks, constants = _tile(x, weight.shape[-1])
    each = max(1, -(-tiles * blocks // PROGRAMS))  # tiles of a program
    programs = -(-tiles // each)
    sums = x.new_empty((programs, *weight.shape), dtype=torch.float32)
    out = torch.empty_like(x)
    wrap_triton(backward_kernel)[(programs, blocks)](
        x, grad, weight, out, sums, *sizes, tiles, **constants
    )
    return out, sums.sum(0).to(weight.dtype)


def plain(x: Tensor, weight: Tensor) -> Tensor:
    """Compute :func:`silu_depthwise_silu` by torch."""
    sizes = dict(padding=weight.shape[-1] // 2, groups=len(weight))
    return F.silu(F.conv2d(F.silu(x), weight.to(x.dtype), **sizes))


class MLPFunction(torch.autograd.Function):
    """The kernels."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        x = x.contiguous(memory_format=torch.channels_last)
        return mlp_forward(x, weight.contiguous())

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_graph(grad)
        x, weight = ctx.saved_tensors
        x, grad = (
            each.contiguous(memory_format=torch.channels_last)
            for each in (x, grad)
        )
        return mlp_backward(x, grad, weight.contiguous())


def silu_depthwise_silu(x: Tensor, weight: Tensor) -> Tensor:
    """Compute SiLU, a depthwise convolution and SiLU.

    Args:
        x (Tensor): The map, (N, C, H, W), in any memory format.
        weight (Tensor): (C, 1, K, K) in any dtype; K is 3 or 5.

    Returns:
        Tensor: (N, C, H, W) in channels_last memory, in the dtype of ``x``.
    """
    return MLPFunction.apply(x, weight)


def _check(device: torch.device, dtype: torch.dtype) -> float:
    x = torch.randn(1, 40, 9, 5, device=device, dtype=dtype)
    weights = (torch.randn(40, 1, k, k, device=device) / k for k in WIDTHS)
    return max(
        largest_error(silu_depthwise_silu, plain, x, weight)
        for weight in weights
    )


CHECKS['mlp'] = _check
