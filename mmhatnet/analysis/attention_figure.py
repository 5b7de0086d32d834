"""Draw the attention of one point of an image.

``tools/visualization/vis_attention.py`` is a command over this module.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from .attention import PointAttention

# Edges in pixels, as imshow takes them: left, right, bottom, top.
Extent = tuple[float, float, float, float]

LOCAL, GLOBAL = '#00c8ff', '#ffb000'
LEGEND = {
    LOCAL: 'Local attention: over the G1 x G1 tokens of the window\n'
    'that has the point (cross).',
    GLOBAL: 'Global attention: over the whole map, pooled by G2:\n'
    'one cell is the average of G2 x G2 tokens.',
    'black': 'The title of a panel has its least (dark) and its most\n'
    '(bright) attention; 1x is equal attention to all tokens.\n'
    'The last stage attends to all tokens of the map.',
}


def draw_attention(
    image: np.ndarray,
    point: tuple[float, float],
    attentions: list[PointAttention],
) -> Figure:
    """Draw the attention of a point, for every stage and head.

    Args:
        image (ndarray): The image as the network sees it, (H, W, 3), RGB,
            8 bits.
        point (tuple[float, float]): x and y in pixels.
        attentions (list[PointAttention]): As from
            :func:`~mmhatnet.analysis.attention.attend_from`.

    Returns:
        Figure: A row for each attention, with a panel for each head.
    """
    rows = sum(1 + (a.pooled is not None) for a in attentions)
    columns = max(len(a.local) for a in attentions) + 1
    height, width = image.shape[:2]
    figure = Figure(
        figsize=(1.8 * (columns + 1), (1.8 * height / width + 0.3) * rows),
        layout='constrained',
    )
    # An overview is as wide as two heads, and up to two rows high.
    grid = figure.add_gridspec(
        rows, columns, width_ratios=[2] + [1] * (columns - 1)
    )
    grey, row = image.mean(axis=2) * 0.5, 0
    for attention in attentions:
        end = row + 1 + (attention.pooled is not None)
        axes = figure.add_subplot(grid[row:end, 0])
        _draw_overview(axes, image, point, attention)
        for part, draw in (
            (attention.local, _draw_local),
            (attention.pooled, _draw_global),
        ):
            for head, weights in enumerate(() if part is None else part):
                axes = figure.add_subplot(grid[row, head + 1])
                _draw_image(axes, grey, point)
                draw(axes, grey, attention, head, weights)
            row += part is not None
    # Early stages have few heads and leave room for the legend.
    free = max(columns - 5, len(attentions[0].local) + 1)
    if free < columns:
        _draw_legend(figure.add_subplot(grid[0, free:]))
    return figure


def _draw_legend(axes: Axes) -> None:
    axes.axis('off')
    for y, (color, text) in zip((1.0, 0.7, 0.4), LEGEND.items(), strict=True):
        axes.text(0, y, '\u25a0 ', color=color, va='top', fontsize=14)
        axes.text(0.07, y, text, va='top', fontsize=10)


def _draw_image(
    axes: Axes, image: np.ndarray, point: tuple[float, float]
) -> None:
    """Draw the image and the cross; what follows keeps the limits."""
    height, width = image.shape[:2]
    axes.imshow(
        image, cmap='gray', vmin=0, vmax=255, extent=(0, width, height, 0)
    )
    axes.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    for color, thickness in (('black', 2.5), ('white', 1.2)):
        axes.plot(*point, '+', ms=9, mew=thickness, color=color)


def extent_of(
    image: np.ndarray, attention: PointAttention, *tokens: int
) -> Extent:
    """Edges of tokens, from the first row and column to the end ones."""
    dy, dx = np.divide(image.shape[:2], attention.shape)
    top, left, bottom, right = tokens
    return left * dx, right * dx, bottom * dy, top * dy


def draw_window(axes: Axes, window: Extent) -> None:
    """Draw the edges of a window, as from :func:`extent_of`."""
    left, right, bottom, top = window
    size = right - left, bottom - top
    axes.add_patch(
        Rectangle((left, top), *size, fill=False, lw=2, zorder=3, color=LOCAL)
    )


def _draw_overview(
    axes: Axes,
    image: np.ndarray,
    point: tuple[float, float],
    attention: PointAttention,
) -> None:
    _draw_image(axes, image, point)
    draw_window(axes, extent_of(image, attention, *attention.window))
    rows, columns = attention.shape
    title = f'stage {attention.stage}: {rows}x{columns} tokens'
    ratio = attention.ds_ratio
    if attention.pooled is not None and ratio is not None:
        dy, dx = np.divide(image.shape[:2], attention.shape)
        for i in range(ratio, rows, ratio):
            axes.axhline(i * dy, color=GLOBAL, lw=0.6)
        for i in range(ratio, columns, ratio):
            axes.axvline(i * dx, color=GLOBAL, lw=0.6)
        pooled = 'x'.join(map(str, attention.pooled.shape[1:]))
        title += f'\nG1 = {attention.grid_size}: the window'
        title += f'\nG2 = {ratio}: {pooled} pooled'
    axes.set_title(title, fontsize=9, loc='left')


def _draw_weights(
    axes: Axes, weights: Tensor, extent: Extent, title: str
) -> None:
    values = weights.cpu().numpy()
    strength = Normalize()(values)
    axes.imshow(
        strength,
        cmap='inferno',
        alpha=0.25 + 0.65 * strength,
        extent=extent,
        interpolation='nearest',
        zorder=1,
    )
    least, most = (x * values.size for x in (values.min(), values.max()))
    axes.set_title(f'{title}: {least:.2f} - {most:.2f}x', fontsize=8)


def _draw_local(
    axes: Axes,
    image: np.ndarray,
    attention: PointAttention,
    head: int,
    weights: Tensor,
) -> None:
    window = extent_of(image, attention, *attention.window)
    name = 'local' if attention.grid_size else 'head'
    _draw_weights(axes, weights, window, f'{name} {head + 1}')
    draw_window(axes, window)
    # Show the window and half of its size on each side.
    left, right, bottom, top = window
    x, y = (right - left) / 2, (bottom - top) / 2
    height, width = image.shape[:2]
    axes.set_xlim(max(left - x, 0), min(right + x, width))
    axes.set_ylim(min(bottom + y, height), max(top - y, 0))


def _draw_global(
    axes: Axes,
    image: np.ndarray,
    attention: PointAttention,
    head: int,
    weights: Tensor,
) -> None:
    # Cells at the border may extend beyond the image.
    ends = (side * attention.ds_ratio for side in weights.shape)
    extent = extent_of(image, attention, 0, 0, *ends)
    _draw_weights(axes, weights, extent, f'global {head + 1}')
    for spine in axes.spines.values():
        spine.set_color(GLOBAL)
