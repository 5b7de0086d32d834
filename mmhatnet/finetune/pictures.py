"""Pictures of images with their labels or predictions."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..runtime.images import decode
from ..runtime.results import classification, detection, segmentation
from ..utils.atomic import replacing

COLUMNS = 4


def draw_labels(path: Path | str, meta: dict, **labels: Any) -> np.ndarray:
    """Draw the labels or the predictions of an image.

    Args:
        path (Path | str): The image.
        meta (dict): ``classes`` and ``palette``.
        **labels (Any): ``scores`` of the classes; or ``label_map``, (H, W);
            or ``boxes``, (N, 4), their ``scores`` and ``labels``, and
            ``masks``, N of (H, W), or None.

    Returns:
        ndarray: (H, W, 3), RGB.
    """
    image, classes, palette = decode(path), meta['classes'], meta['palette']
    if 'boxes' in labels:
        drawn = detection(image, **labels, classes=classes, palette=palette)
        picture = drawn[1]
    elif 'scores' in labels:
        scores = labels['scores']
        shown = min(3, np.count_nonzero(scores))
        picture = classification(image, scores, classes, shown)[1]
    else:
        picture = segmentation(image, labels['label_map'], classes, palette)[1]
    return np.zeros((1, 1, 3), np.uint8) if picture is None else picture


def draw_grid(pictures: Sequence[np.ndarray], titles: Sequence[str]) -> Figure:
    """Arrange pictures in rows; the titles are repeated."""
    rows = ceil(len(pictures) / COLUMNS)
    figure = Figure((3.2 * COLUMNS, 3.4 * rows), layout='constrained')
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for number, axis in enumerate(axes):
        axis.axis('off')
        if number < len(pictures):
            axis.imshow(pictures[number])
            axis.set_title(titles[number % len(titles)], fontsize=9)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a picture, complete or not at all."""
    with replacing(path) as part:
        figure.savefig(part, format='png', dpi=100)
