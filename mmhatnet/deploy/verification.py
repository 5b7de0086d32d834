"""Compare exported files with PyTorch."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..runtime.metadata import has_batches
from .base_graph import Graph

# Largest differences from PyTorch, relative to the largest value or to 1, and
# shares of pixels with another label. Those of int8 depend on the images of
# the calibration, so only NaN, infinity and wrong shapes fail; a test with
# data measures the cost.
TOLERANCES = dict(float32=1e-3, float16=5e-2, int8=1e6)
# Heights and widths of the images of a verification.
SHAPES = ((224, 224), (101, 77), (256, 160), (97, 353), (64, 64), (32, 50))


def verify(
    graph: Graph, run: Callable[[np.ndarray], Sequence[np.ndarray]]
) -> list[dict]:
    """Compare an exported file with PyTorch on the same images.

    Args:
        graph (Graph): The graph.
        run (Callable): Runs the file: from images (N, 3, H, W), float32, to
            the list of outputs.

    Returns:
        list[dict]: For each of SHAPES: ``images``, ``height``, ``width``, the
        largest ``error`` of any output, relative to its largest value or to
        1, or that of :func:`objects_error` for a detector, and the number of
        ``objects`` that were compared.
    """
    rows = []
    random = np.random.default_rng(0)
    for count, (h, w) in zip((1, 2) * len(SHAPES), SHAPES, strict=False):
        count = count if has_batches(graph.kind) else 1
        images = random.integers(0, 256, (count, 3, h, w)).astype(np.float32)
        found = compare(graph.kind, run(images), as_arrays(graph)(images))
        rows.append(dict(images=count, height=h, width=w, **found))
    return rows


def compare(
    kind: str, found: Sequence[np.ndarray], expected: Sequence[np.ndarray]
) -> dict[str, float]:
    """Compare outputs with expected ones.

    Returns:
        dict[str, float]: ``error``, and ``objects`` of a detector, as in the
        rows of :func:`verify`.
    """
    if has_batches(kind):
        errors = list(map(_relative_error, found, expected))
        return dict(error=float(np.max(errors)))  # max() would lose NaN
    error, count = objects_error(found, expected)
    return dict(error=error, objects=count)


def as_arrays(
    model: Callable[[Tensor], Tensor | tuple[Tensor, ...]],
) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Wrap a model as a function from an array to the list of outputs."""

    @torch.no_grad()
    def run(images: np.ndarray) -> list[np.ndarray]:
        found = model(torch.from_numpy(images))
        found = (found,) if torch.is_tensor(found) else found
        return [each.numpy() for each in found]

    return run


def objects_error(
    found: Sequence[np.ndarray], expected: Sequence[np.ndarray]
) -> tuple[float, int]:
    """Get the largest difference of 95 % of the objects to their counterpart.

    Where an overlap is at the threshold of non-maximum suppression, rounding
    decides which object stays, so one object in twenty (or one object) may
    lack a counterpart. The order may change where scores are equal, and the
    last objects may differ, since their number is capped.

    Returns:
        tuple[float, int]: The difference of scores, of boxes relative to the
        largest coordinate, or of masks in the mean; and the number of objects
        that were compared.
    """
    boxes, scores, labels, *masks = found
    true_boxes, true_scores, true_labels, *true_masks = expected
    if not len(scores) or not len(true_scores):
        return float(abs(len(scores) - len(true_scores))), 0
    largest = max(1.0, float(np.abs(true_boxes).max()))
    differences = np.maximum(
        np.abs(boxes - true_boxes[:, None]).max(2) / largest,
        np.abs(scores - true_scores[:, None]),
    )
    differences[labels != true_labels[:, None]] = 1
    for mask, true_mask in zip(masks, true_masks, strict=True):
        pairs = np.abs(mask - true_mask[:, None]).mean((2, 3))
        differences = np.maximum(differences, pairs)
    lowest = max(scores.min(), true_scores.min()) + TOLERANCES['float32']
    errors, count = [0.0], 0
    for axis, side in enumerate((true_scores, scores)):
        nearest = np.sort(differences.min(1 - axis)[side > lowest])
        if len(nearest):
            errors.append(float(nearest[int(0.95 * (len(nearest) - 1))]))
        count = count or len(nearest)
    return float(np.max(errors)), count  # max() would lose NaN


def _relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest value or to 1."""
    if found.shape != expected.shape:
        return float('inf')
    if expected.dtype.kind in 'iu':
        # Labels may differ where logits are equal within the tolerance.
        return float((found != expected).mean())
    largest = max(1.0, float(np.abs(expected).max()))
    return float(np.abs(found - expected).max()) / largest


def check_errors(rows: Sequence[dict], precision: str = 'float32') -> None:
    """Check the rows of :func:`verify` of a file of this precision.

    Raises:
        ValueError: If an error is above the tolerance, or not a number.
    """
    worst = float(np.max([row['error'] for row in rows]))
    if not worst <= TOLERANCES[precision]:
        raise ValueError(
            f'the exported file differs from PyTorch by {worst:.1e}, more '
            f'than {TOLERANCES[precision]}, and is not written'
        )
