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


class _Sheet:
    """The figure: one row for each attention, with an overview on the left."""

    LOCAL, GLOBAL = '#00c8ff', '#ffb000'

    def __init__(self, image: np.ndarray, point: tuple[float, float]) -> None:
        self.image = image
        self.point = point

    def draw(self, attentions: list[PointAttention]) -> Figure:
        rows = sum(1 + (a.pooled is not None) for a in attentions)
        columns = max(len(a.local) for a in attentions) + 1
        height, width = self.image.shape[:2]
        figure = Figure(
            figsize=(
                1.8 * (columns + 1),
                (1.8 * height / width + 0.3) * rows,
            ),
            layout='constrained',
        )
        # An overview is as wide as two heads, and up to two rows high.
        grid = figure.add_gridspec(
            rows, columns, width_ratios=[2] + [1] * (columns - 1)
        )
        row = 0
        for attention in attentions:
            extra = attention.pooled is not None
            overview = figure.add_subplot(grid[row : row + 1 + extra, 0])
            self._overview(overview, attention)
            for head, weights in enumerate(attention.local):
                axes = figure.add_subplot(grid[row, head + 1])
                self._local(axes, attention, head, weights)
            row += 1
            if attention.pooled is not None:
                for head, weights in enumerate(attention.pooled):
                    axes = figure.add_subplot(grid[row, head + 1])
                    self._global(axes, attention, head, weights)
                row += 1
        # Early stages have few heads and leave room for the legend.
        free = max(columns - 5, len(attentions[0].local) + 1)
        if free < columns:
            self._explain(figure.add_subplot(grid[0, free:]))
        return figure

    def _explain(self, axes: Axes) -> None:
        axes.axis('off')
        for y, color, text in (
            (
                1.0,
                self.LOCAL,
                'Local attention: over the G1 x G1 tokens of the window\n'
                'that has the point (cross).',
            ),
            (
                0.7,
                self.GLOBAL,
                'Global attention: over the whole map, pooled by G2:\n'
                'one cell is the average of G2 x G2 tokens.',
            ),
            (
                0.4,
                'black',
                'The title of a panel has its least (dark) and its most\n'
                '(bright) attention; 1x is equal attention to all tokens.\n'
                'The last stage attends to all tokens of the map.',
            ),
        ):
            axes.text(0, y, '\u25a0 ', color=color, va='top', fontsize=14)
            axes.text(0.07, y, text, va='top', fontsize=10)

    def _show(self, axes: Axes) -> None:
        grey = self.image.mean(axis=2) * 0.5
        axes.imshow(grey, cmap='gray', vmin=0, vmax=255)
        axes.set_xticks([])
        axes.set_yticks([])

    def _cross(self, axes: Axes) -> None:
        for color, width in (('black', 2.5), ('white', 1.2)):
            axes.plot(
                *self.point, '+', ms=9, mew=width, color=color, clip_on=True
            )

    def _scale(self, attention: PointAttention) -> tuple[float, float]:
        """Pixels of a token's height and width."""
        height, width = self.image.shape[:2]
        return height / attention.shape[0], width / attention.shape[1]

    def _box(self, axes: Axes, attention: PointAttention) -> None:
        dy, dx = self._scale(attention)
        top, left, bottom, right = attention.window
        axes.add_patch(
            Rectangle(
                (left * dx - 0.5, top * dy - 0.5),
                (right - left) * dx,
                (bottom - top) * dy,
                fill=False,
                lw=2,
                zorder=3,
                color=self.LOCAL,
            )
        )

    def _overview(self, axes: Axes, attention: PointAttention) -> None:
        axes.imshow(self.image)
        axes.set_xticks([])
        axes.set_yticks([])
        height, width = self.image.shape[:2]
        rows, columns = attention.shape
        title = f'stage {attention.stage}: {rows}x{columns} tokens'
        ratio = attention.ds_ratio
        if attention.pooled is not None and ratio is not None:
            dy, dx = self._scale(attention)
            for i in range(ratio, rows, ratio):
                axes.axhline(i * dy - 0.5, color=self.GLOBAL, lw=0.6)
            for i in range(ratio, columns, ratio):
                axes.axvline(i * dx - 0.5, color=self.GLOBAL, lw=0.6)
            pooled = 'x'.join(map(str, attention.pooled.shape[1:]))
            title += f'\nG1 = {attention.grid_size}: the window'
            title += f'\nG2 = {ratio}: {pooled} pooled'
        self._box(axes, attention)
        self._cross(axes)
        axes.set_xlim(-0.5, width - 0.5)
        axes.set_ylim(height - 0.5, -0.5)
        axes.set_title(title, fontsize=9, loc='left')

    def _heat(
        self,
        axes: Axes,
        weights: Tensor,
        extent: tuple[float, float, float, float],
    ) -> None:
        values = weights.cpu().numpy()
        strength = Normalize(values.min(), values.max())(values)
        axes.imshow(
            strength,
            cmap='inferno',
            alpha=0.25 + 0.65 * strength,
            extent=extent,
            interpolation='nearest',
            zorder=1,
        )

    def _title(self, axes: Axes, what: str, head: int, weights: Tensor):
        least, most = weights.aminmax()
        least, most = (float(w) * weights.numel() for w in (least, most))
        text = f'{what} {head + 1}: {least:.2f} - {most:.2f}x'
        axes.set_title(text, fontsize=8)

    def _local(self, axes, attention, head, weights) -> None:
        dy, dx = self._scale(attention)
        top, left, bottom, right = attention.window
        self._show(axes)
        self._heat(
            axes,
            weights,
            (
                left * dx - 0.5,
                right * dx - 0.5,
                bottom * dy - 0.5,
                top * dy - 0.5,
            ),
        )
        self._box(axes, attention)
        self._cross(axes)
        # Show the window and half of its size on each side.
        y, x = (bottom - top) * dy / 2, (right - left) * dx / 2
        height, width = self.image.shape[:2]
        axes.set_xlim(
            max(left * dx - x, 0) - 0.5, min(right * dx + x, width) - 0.5
        )
        axes.set_ylim(
            min(bottom * dy + y, height) - 0.5, max(top * dy - y, 0) - 0.5
        )
        self._title(
            axes, 'local' if attention.grid_size else 'head', head, weights
        )

    def _global(self, axes, attention, head, weights) -> None:
        dy, dx = self._scale(attention)
        ratio = attention.ds_ratio
        # Cells at the border may extend beyond the image.
        self._show(axes)
        self._heat(
            axes,
            weights,
            (
                -0.5,
                weights.shape[1] * ratio * dx - 0.5,
                weights.shape[0] * ratio * dy - 0.5,
                -0.5,
            ),
        )
        self._cross(axes)
        height, width = self.image.shape[:2]
        axes.set_xlim(-0.5, width - 0.5)
        axes.set_ylim(height - 0.5, -0.5)
        for spine in axes.spines.values():
            spine.set_color(self.GLOBAL)
        self._title(axes, 'global', head, weights)


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
        attentions (list[PointAttention]): The result of
            :func:`~mmhatnet.analysis.attention.attend_from`.

    Returns:
        Figure: One row for each attention, with one panel for each head.
    """
    return _Sheet(image, point).draw(attentions)
