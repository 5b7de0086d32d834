"""Windows and pooled cells on a map of any size, Sec. 3.2 of the paper.

A grid of G1 x G1 windows, or G2 x G2 cells, need not divide the map. Windows
and cells at the border then hold the tokens that exist: padding completes
windows for the computation, and a mask keeps it out of the attention.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from .archs import Ratio

AUTO_CELLS = 7  # per side of a square map


def cut_side(
    length: int, size: int | None, shifted: bool = False
) -> tuple[int, int, int, int]:
    """Cut one side of a map into windows.

    Args:
        length (int): The side in tokens.
        size (int, optional): The windows' side G1 in tokens; None for one
            window.
        shifted (bool): Begin with half a window. Defaults to False.

    Returns:
        tuple[int, int, int, int]: The number of windows, their side (at most
        ``length``), and the padding before and after, all in tokens.
    """
    if size is None or size >= length:
        return 1, length, 0, 0
    before = -(size // 2) % size if shifted else 0
    windows = (before + length + size - 1) // size
    return windows, size, before, windows * size - before - length


def is_padded(h: int, w: int, size: int | None, shifted: bool) -> bool:
    """Whether windows need padding; see :func:`cut_side`."""
    return any(
        padding
        for length in (h, w)
        for padding in cut_side(length, size, shifted)[2:]
    )


def window_mask(x: Tensor, size: int | None, shifted: bool) -> Tensor | None:
    """Make the mask that keeps the padding of windows out of the attention.

    Args:
        x (Tensor): The map, (N, C, H, W).
        size (int, optional): G1; None for one window.
        shifted (bool): As in :func:`cut_side`.

    Returns:
        Tensor, optional: To be added to the scores, (N * windows, 1, 1,
        tokens of a window), 0 or -inf; None if there is no padding.
    """
    h, w = x.shape[2:]
    if not is_padded(h, w, size, shifted):
        return None
    rows, columns = cut_side(h, size, shifted), cut_side(w, size, shifted)
    return mark_tokens(x, rows, columns)


def mark_tokens(
    x: Tensor,
    rows: tuple[int, int, int, int],
    columns: tuple[int, int, int, int],
) -> Tensor:
    """Make :func:`window_mask` from :func:`cut_side` of H and W."""
    n, _, h, w = x.shape
    real_rows = real_tokens(h, *rows[1:], x.device)
    real_columns = real_tokens(w, *columns[1:], x.device)
    real = real_rows[:, None, :, None] & real_columns[None, :, None, :]
    mask = x.new_zeros(real.shape).masked_fill(~real, float('-inf'))
    return mask.reshape(-1, 1, 1, rows[1] * columns[1]).repeat(n, 1, 1, 1)


def real_tokens(
    length: int, size: int, before: int, after: int, device: torch.device
) -> Tensor:
    """Find the tokens of a cut side that are not padding, (windows, size)."""
    index = torch.arange(-before, length + after, device=device)
    return ((index >= 0) & (index < length)).view(-1, size)


def cut_windows(x: Tensor, size: int | None, shifted: bool) -> Tensor:
    """Cut a map into windows, Eq. (6) of the paper.

    Args:
        x (Tensor): The map, (N, C, H, W).
        size (int, optional): G1; None for one window.
        shifted (bool): As in :func:`cut_side`.

    Returns:
        Tensor: (N, C, windows, tokens of a window), in channels_last memory.
    """
    n, channels, h, w = x.shape
    num_h, size_h, top, bottom = cut_side(h, size, shifted)
    num_w, size_w, left, right = cut_side(w, size, shifted)
    x = x.permute(0, 2, 3, 1)
    if is_padded(h, w, size, shifted):
        x = F.pad(x, (0, 0, left, right, top, bottom))
    x = x.reshape(n, num_h, size_h, num_w, size_w, channels)
    x = x.transpose(2, 3)
    x = x.reshape(n, num_h * num_w, size_h * size_w, channels)
    return x.permute(0, 3, 1, 2)


def join_windows(
    windows: Tensor,
    shape: tuple[int, ...],
    size: int | None,
    shifted: bool,
    onto: Tensor | None = None,
) -> Tensor:
    """Join windows to a map, Eq. (9) of the paper.

    Args:
        windows (Tensor): (N * windows, tokens of a window, C).
        shape (tuple[int, ...]): N, C, H and W of the map.
        size (int, optional): G1, as when the map was cut.
        shifted (bool): As when the map was cut.
        onto (Tensor, optional): A map in channels_last memory to add to; the
            sum then needs no copy of the joined map. Defaults to None.

    Returns:
        Tensor: The map, (N, C, H, W), in channels_last memory.
    """
    n, channels, h, w = shape
    num_h, size_h, top, _ = cut_side(h, size, shifted)
    num_w, size_w, left, _ = cut_side(w, size, shifted)
    x = windows.view(n, num_h, num_w, size_h, size_w, channels)
    x = x.transpose(2, 3)
    if is_padded(h, w, size, shifted):
        # Rows of tokens: a crop of whole maps would have a layout of its own.
        x = x.reshape(n, num_h * size_h, num_w * size_w * channels)
        x = x.narrow(1, top, h).narrow(2, left * channels, w * channels)
    if onto is not None:
        x = onto.permute(0, 2, 3, 1).reshape(x.shape) + x
    return x.reshape(n, h, w, channels).permute(0, 3, 1, 2)


def cell_side(ratio: Ratio, height: int, width: int) -> int:
    """Compute the side of the pooled cells of a map.

    Args:
        ratio (Ratio): G2 in tokens, or 'auto': the side that leaves about 7x7
            cells, as the paper's G2 does at 224x224.
        height (int): Height of the map in tokens.
        width (int): Width of the map in tokens.

    Returns:
        int: The side in tokens.
    """
    if isinstance(ratio, str):
        return max(1, (height + width + AUTO_CELLS) // (2 * AUTO_CELLS))
    return ratio


def average_cells(x: Tensor, ratio: Ratio) -> Tensor:
    """Average the cells of a map, Eq. (10); partial ones by their tokens.

    Args:
        x (Tensor): The map, (N, C, H, W).
        ratio (Ratio): G2 in tokens, or 'auto', as for :func:`cell_side`.

    Returns:
        Tensor: (N, C, ceil(H / G2), ceil(W / G2)).
    """
    size = cell_side(ratio, *x.shape[2:])
    return F.avg_pool2d(x, size, ceil_mode=True, count_include_pad=False)
