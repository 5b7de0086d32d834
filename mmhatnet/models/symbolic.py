"""Forms for graphs whose sizes change.

One graph must hold for all sizes, so nothing here branches on one. Nor must
strides depend on sizes: torch.export would branch on them, and Inductor cannot
compare those of views that wait for the backward pass.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from .archs import Ratio
from .compiling import copy_for_export, exports_dynamic
from .windows import cell_side, mark_tokens, real_tokens


def cut_side(
    length: int, size: int | None, shifted: bool = False
) -> tuple[int, int, int, int]:
    """Cut as :func:`.windows.cut_side`, but keep windows larger than a map."""
    if size is None:
        return 1, length, 0, 0
    before = -(size // 2) % size if shifted else 0
    if torch.jit.is_tracing():
        before = before * (length > size)
    elif shifted and size >= length:
        return 1, length, 0, 0
    windows = (before + length + size - 1) // size
    return windows, size, before, windows * size - before - length


def window_mask(
    layer: nn.Module, equation: Callable, x: Tensor
) -> Tensor | None:
    """Make the mask, which may be needed at some sizes."""
    if layer.grid_size is None:
        return None
    rows, columns = (
        cut_side(length, layer.grid_size, layer.shifted)
        for length in x.shape[2:]
    )
    return mark_tokens(x, rows, columns)


def attend(
    layer: nn.Module,
    equation: Callable,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """Compute Eq. (2)."""
    if exports_dynamic(*q.shape, *k.shape):
        # Products of three dimensions, as others branch on sizes of 1.
        windows = q.shape[:2]
        q, k, v = (copy_for_export(x).flatten(0, 1) for x in (q, k, v))
        scores = torch.bmm(q * q.shape[-1] ** -0.5, k.transpose(1, 2))
        if mask is not None:
            scores = (scores.unflatten(0, windows) + mask).flatten(0, 1)
        return torch.bmm(scores.softmax(-1), v).unflatten(0, windows)
    if not layer.fast:
        return equation(layer, q, k, v, mask)
    layout = torch.contiguous_format
    q, k, v = (x.clone(memory_format=layout) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """Split heads as :func:`.hatnet.split_heads`."""
    return tuple(
        part.unflatten(1, (heads, -1)).transpose(-2, -1)
        for part in copy_for_export(x).flatten(2).chunk(parts, dim=1)
    )


def local_attention(
    layer: nn.Module,
    equation: Callable,
    x: Tensor,
    mask: Tensor | None = None,
    residual: bool = False,
) -> Tensor:
    """Compute Eqs. (6) to (9)."""
    n, channels, h, w = x.shape
    size, shifted = layer.grid_size, layer.shifted
    num_h, size_h, top, bottom = cut_side(h, size, shifted)
    num_w, size_w, left, right = cut_side(w, size, shifted)
    if mask is None:
        mask = layer.window_mask(x)

    qkv = copy_for_export(layer.qkv(layer.norm(x)).permute(0, 2, 3, 1))
    if size is not None:
        qkv = F.pad(qkv, (0, 0, left, right, top, bottom))
    qkv = qkv.reshape(n, num_h, size_h, num_w, size_w, 3 * channels)
    qkv = copy_for_export(qkv.transpose(2, 3))
    qkv = qkv.reshape(n * num_h * num_w, size_h * size_w, 3 * channels)
    qkv = split_heads(qkv.transpose(1, 2), 3, layer.num_heads)
    out = copy_for_export(layer.attend(*qkv, mask).transpose(1, 2)).flatten(2)

    out = out.view(n, num_h, num_w, size_h, size_w, channels)
    out = copy_for_export(out.transpose(2, 3))
    if size is not None:
        out = out.reshape(n, num_h * size_h, num_w * size_w, channels)
        rows = torch.arange(top, top + h, device=x.device)
        columns = torch.arange(left, left + w, device=x.device)
        out = out.index_select(1, rows).index_select(2, columns)
    if residual:
        out = x.permute(0, 2, 3, 1).reshape(out.shape) + out
    out = copy_for_export(out.reshape(n, h, w, channels).permute(0, 3, 1, 2))
    if residual:
        return out
    return out.clone(memory_format=torch.contiguous_format)


def global_attention(
    layer: nn.Module, equation: Callable, x: Tensor
) -> Tensor:
    """Compute Eqs. (10) to (13)."""
    n, channels, h, w = x.shape
    pooled = layer.pool_norm(average_cells(x, layer.ds_ratio))
    q = split_heads(layer.q(x), 1, layer.num_heads)
    kv = split_heads(layer.kv(pooled), 2, layer.num_heads)
    out = copy_for_export(layer.attend(*q, *kv).transpose(1, 2))
    return out.reshape(n, h, w, channels).permute(0, 3, 1, 2)


def average_cells(x: Tensor, ratio: Ratio) -> Tensor:
    """Average cells as :func:`.windows.average_cells`."""
    n, channels, h, w = x.shape
    size = cell_side(ratio, h, w)
    rows, columns = cut_side(h, size), cut_side(w, size)
    x = F.pad(copy_for_export(x), (0, columns[3], 0, rows[3]))
    x = x.reshape(n, channels, rows[0], size, columns[0], size).sum((3, 5))
    real_rows = real_tokens(h, *rows[1:], x.device).sum(1)
    real_columns = real_tokens(w, *columns[1:], x.device).sum(1)
    return x / (real_rows[:, None] * real_columns)
