"""Pictures of images with their labels or predictions."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..runtime.images import decode
from ..runtime.results import classification, detection, segmentation
from ..utils.atomic import replacing
from .converting import make_palette
from .layouts.label_maps import read_labels
from .samples import Found, Sample

COLUMNS = 4
EXAMPLES = 12


def choose_examples(samples: list[Sample], count: int) -> list[Sample]:
    """Choose samples all over a list, whose order may be that of classes."""
    places = np.linspace(0, len(samples) - 1, min(count, len(samples)))
    return [samples[int(place)] for place in places]


def draw_labels(found: Found, sample: Sample) -> np.ndarray | None:
    """Draw an image with its labels: (H, W, 3), RGB; None if it cannot."""
    image, classes = decode(sample.image), found.classes
    palette = make_palette(found)
    if found.task == 'classification':
        scores = np.eye(len(classes))[sample.label]
        return classification(image, scores, classes, 1)[1]
    if found.task == 'segmentation':
        labels = read_labels(sample.label_map, found.values)
        return segmentation(image, labels, classes, palette)[1]
    masks = None
    if found.task == 'instances':
        from pycocotools.mask import decode as decode_mask

        masks = (decode_mask(box.mask) > 0 for box in sample.boxes)
    boxes = np.array([box[:4] for box in sample.boxes])
    labels = np.array([box.label for box in sample.boxes])
    scores = np.ones(len(boxes))
    drawn = image, boxes, scores, labels, masks
    return detection(*drawn, classes, palette)[1]


def draw_examples(found: Found, file: Path) -> None:
    """Draw images of the training with their labels."""
    samples = choose_examples(found.splits['train'], EXAMPLES)
    pictures = [draw_labels(found, sample) for sample in samples]
    save_figure(draw_grid(pictures, ['']), file)


def draw_grid(
    pictures: Sequence[np.ndarray | None], titles: Sequence[str]
) -> Figure:
    """Arrange pictures in rows; the titles are repeated."""
    rows = ceil(len(pictures) / COLUMNS)
    figure = Figure((3.2 * COLUMNS, 3.4 * rows), layout='constrained')
    for number, axis in enumerate(figure.subplots(rows, COLUMNS).ravel()):
        axis.axis('off')
        if number < len(pictures) and pictures[number] is not None:
            axis.imshow(pictures[number])
            axis.set_title(titles[number % len(titles)], fontsize=9)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a picture, complete or not at all."""
    with replacing(path) as part:
        figure.savefig(part, format='png', dpi=100)
