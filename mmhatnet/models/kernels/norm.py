"""Group norm with one group, of maps that lie as (N, H, W, C) in memory.

The forward pass reads a map twice: for the moments of its parts, and for the
result. The backward pass reads map and gradient twice: for sums over the parts
and for the gradient of the map. All is computed in float32. Nothing but the
map, its mean and 1 / its standard deviation is kept.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import FunctionCtx

from ..derivatives import refuse_graph, single_group_norm
from .choice import CHECKS, largest_error
from .launching import operator, wrap_triton

# Programs to make: several for each multiprocessor of a GPU.
PROGRAMS = 1024
# Most parts of an image. Each program of a second pass reads the sums of all.
PARTS = 128
# Values of a tile, 16 for each thread of 8 warps.
TILE = 4096
WARPS = 8
# Most channels of a tile, in half precision 256 bytes of each row.
WIDTH = 128


@triton.jit(do_not_specialize=['parts', 'tiles'])
def moments_kernel(x, moments, size, parts, tiles, TILE: tl.constexpr):
    """Mean and squared deviations of a part, by Welford's updates."""
    program = tl.program_id(0).to(tl.int64)
    start = program % parts * tiles * TILE
    x += program // parts * size + start
    count = tl.minimum(size - start, tiles * TILE).to(tl.int32)
    lane = tl.arange(0, TILE)
    mean = tl.zeros([TILE], tl.float32)
    squares = tl.zeros([TILE], tl.float32)
    for i in range(tiles):
        inside = i * TILE + lane < count
        value = tl.load(x + lane, mask=inside, other=0.0).to(tl.float32)
        change = tl.where(inside, value - mean, 0.0)
        mean += change * (1.0 / (i + 1))
        squares += change * (value - mean)
        x += TILE
    counts = tl.maximum((count - lane + TILE - 1) // TILE, 0).to(tl.float32)
    total = tl.sum(mean * counts) / count
    squares += counts * (mean - total) * (mean - total)
    tl.store(moments + 2 * program, total)
    tl.store(moments + 2 * program + 1, tl.sum(squares))


@triton.jit
def _tile(rows, C, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    """Image, tile and first value of a program; channels, offsets, mask."""
    columns = tl.cdiv(C, WIDTH)
    tiles = tl.cdiv(rows, ROWS) * columns
    image = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    row = tile // columns * ROWS
    c = tile % columns * WIDTH + tl.arange(0, WIDTH)
    line = tl.arange(0, ROWS)
    inside = (row + line < rows)[:, None] & (c < C)[None, :]
    offset = line[:, None] * C + c[None, :]
    return image, tile, (image * rows + row) * C, c, offset, inside


@triton.jit(do_not_specialize=['rows', 'parts', 'length'])
def normalize_kernel(
    x, weight, bias, moments, y, statistics, rows, C, parts, length, eps,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Combine the moments of the parts, all but the last of one length."""
    image, tile, start, c, offset, inside = _tile(rows, C, WIDTH, ROWS)
    value = tl.load(x + start + offset, mask=inside, other=0.0)
    i = tl.arange(0, PARTS)
    moments += 2 * (image * parts + i)
    means = tl.load(moments, mask=i < parts, other=0.0)
    squares = tl.load(moments + 1, mask=i < parts, other=0.0)
    size = tl.cast(rows, tl.int64) * C
    counts = tl.minimum(size - i.to(tl.int64) * length, length)
    counts = tl.where(i < parts, counts, 0).to(tl.float32)
    mean = tl.sum(means * counts) / size
    squares += counts * (means - mean) * (means - mean)
    rstd = tl.rsqrt(tl.sum(squares) / size + eps)
    if tile == 0:
        tl.store(statistics + 2 * image, mean)
        tl.store(statistics + 2 * image + 1, rstd)
    scale = rstd * tl.load(weight + c, mask=c < C, other=0.0).to(tl.float32)
    shift = tl.load(bias + c, mask=c < C, other=0.0).to(tl.float32)
    out = (value.to(tl.float32) - mean) * scale[None, :] + shift[None, :]
    tl.store(y + start + offset, out.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=['rows', 'parts', 'tiles'])
def sums_kernel(
    x, grad, weight, statistics, sums, slopes, rows, C, parts, tiles,
    WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Gradients of weight and bias by a part, and of its moments."""
    columns = tl.cdiv(C, WIDTH)
    program = tl.program_id(0).to(tl.int64)
    part = program // columns
    image, row = part // parts, part % parts * tiles * ROWS
    mean = tl.load(statistics + 2 * image)
    rstd = tl.load(statistics + 2 * image + 1)
    c = program % columns * WIDTH + tl.arange(0, WIDTH)
    line = tl.arange(0, ROWS)
    offset = line[:, None] * C + c[None, :]
    x += (image * rows + row) * C
    grad += (image * rows + row) * C
    weights = tl.zeros([ROWS, WIDTH], tl.float32)
    biases = tl.zeros([ROWS, WIDTH], tl.float32)
    for _ in range(tiles):
        inside = (row + line < rows)[:, None] & (c < C)[None, :]
        value = tl.load(x + offset, mask=inside, other=0.0).to(tl.float32)
        slope = tl.load(grad + offset, mask=inside, other=0.0).to(tl.float32)
        weights += slope * ((value - mean) * rstd)
        biases += slope
        x += ROWS * C
        grad += ROWS * C
        row += ROWS
    weight_sum, bias_sum = tl.sum(weights, 0), tl.sum(biases, 0)
    tl.store(sums + 2 * part * C + c, weight_sum, mask=c < C)
    tl.store(sums + (2 * part + 1) * C + c, bias_sum, mask=c < C)
    scale = tl.load(weight + c, mask=c < C, other=0.0).to(tl.float32)
    tl.store(slopes + 2 * program, tl.sum(weight_sum * scale))
    tl.store(slopes + 2 * program + 1, tl.sum(bias_sum * scale))


@triton.jit(do_not_specialize=['rows', 'parts'])
def gradient_kernel(
    x, grad, weight, statistics, slopes, out, rows, C, parts,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the map."""
    image, _, start, c, offset, inside = _tile(rows, C, WIDTH, ROWS)
    value = tl.load(x + start + offset, mask=inside, other=0.0)
    slope = tl.load(grad + start + offset, mask=inside, other=0.0)
    i = tl.arange(0, PARTS)
    slopes += 2 * (image * parts + i)
    size = tl.cast(rows, tl.int64) * C
    along = tl.sum(tl.load(slopes, mask=i < parts, other=0.0)) / size
    level = tl.sum(tl.load(slopes + 1, mask=i < parts, other=0.0)) / size
    mean = tl.load(statistics + 2 * image)
    rstd = tl.load(statistics + 2 * image + 1)
    scale = tl.load(weight + c, mask=c < C, other=0.0).to(tl.float32)
    normed = (value.to(tl.float32) - mean) * rstd
    change = slope.to(tl.float32) * scale[None, :] - level - normed * along
    change = (rstd * change).to(out.dtype.element_ty)
    tl.store(out + start + offset, change, mask=inside)


def _split(images: int, tiles: int, most: int) -> tuple[int, int]:
    """Choose the parts of an image, and the tiles of a part."""
    parts = max(1, min(most, tiles, PROGRAMS // max(1, images)))
    length = max(1, -(-tiles // parts))
    return -(-tiles // length), length


def _cover(x: Tensor) -> tuple[int, int, int, dict[str, int]]:
    """Rows of an image, tiles across and down, and the size of a tile."""
    _, channels, h, w = x.shape
    width = min(WIDTH, triton.next_power_of_2(channels))
    tile = dict(WIDTH=width, ROWS=TILE // width, num_warps=WARPS)
    return h * w, -(-channels // width), -(-h * w // tile['ROWS']), tile


@operator('single_group_norm')
def norm_forward(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Normalize a map in channels_last memory; also returns statistics."""
    n, channels = x.shape[:2]
    rows, across, down, tile = _cover(x)
    size = rows * channels
    parts, tiles = _split(n, -(-size // TILE), PARTS)
    y = torch.empty_like(x)
    moments = x.new_empty((n, parts, 2), dtype=torch.float32)
    statistics = x.new_empty((n, 2), dtype=torch.float32)
    wrap_triton(moments_kernel)[(n * parts,)](
        x, moments, size, parts, tiles, TILE=TILE, num_warps=WARPS
    )
    wrap_triton(normalize_kernel)[(n * across * down,)](
        x, weight, bias, moments, y, statistics, rows, channels, parts,
        tiles * TILE, eps, PARTS=PARTS, **tile,
    )  # fmt: skip
    return y, statistics


@operator('single_group_norm_backward')
def norm_backward(
    x: Tensor, grad: Tensor, weight: Tensor, statistics: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the map, and of weight and bias, (2, C)."""
    n, channels = x.shape[:2]
    rows, across, down, tile = _cover(x)
    most = max(PARTS, triton.next_power_of_2(across))
    parts, tiles = _split(n * across, down, most // across)
    sums = x.new_empty((n * parts, 2, channels), dtype=torch.float32)
    slopes = x.new_empty((n, parts * across, 2), dtype=torch.float32)
    out = torch.empty_like(x)
    wrap_triton(sums_kernel)[(n * parts * across,)](
        x, grad, weight, statistics, sums, slopes, rows, channels, parts,
        tiles, **tile,
    )  # fmt: skip
    wrap_triton(gradient_kernel)[(n * across * down,)](
        x, grad, weight, statistics, slopes, out, rows, channels,
        parts * across, PARTS=most, **tile,
    )  # fmt: skip
    return out, sums.sum(0).to(weight.dtype)


class NormFunction(torch.autograd.Function):
    """The kernels."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> Tensor:
        if x.shape[1] != len(weight):
            raise ValueError(f'{x.shape[1]} channels instead of {len(weight)}')
        rows = x.contiguous(memory_format=torch.channels_last)
        y, statistics = norm_forward(rows, weight, bias, eps)
        ctx.save_for_backward(x, weight, statistics)
        return y

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_graph(grad)
        x, weight, statistics = ctx.saved_tensors
        x = x.contiguous(memory_format=torch.channels_last)
        grad = grad.contiguous(memory_format=torch.channels_last)
        x_grad, rest = norm_backward(x, grad, weight, statistics)
        return x_grad, *rest.unbind(), None


def _check(device: torch.device, dtype: torch.dtype) -> float:
    x = torch.randn(2, 24, 37, 41, device=device, dtype=dtype)
    weights = torch.randn(2, 24, device=device)
    functions = (
        lambda x, w: NormFunction.apply(x, w[0], w[1], 1e-6),
        lambda x, w: single_group_norm(x, w[0], w[1], 1e-6),
    )
    return largest_error(*functions, x, weights)


CHECKS['norm'] = _check
