"""Operators on boxes (x1, y1, x2, y2).

The functions have the arguments of mmcv's compiled ones: boxes (N, 4) and
scores (N,). ``offset`` is 1 if a box from 0 to 9 is 10 wide.
"""

import numpy as np
import torch
from torch import Tensor

from .common import float32, widen


def nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int
) -> Tensor:
    """Find the boxes that overlap no better one by more than a threshold."""
    (boxes,) = widen(boxes)
    # torchvision would order equal scores, and those of another dtype, in
    # another way than mmcv.
    order = scores.sort(dim=0, descending=True)[1]
    boxes = boxes[order]
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    falling = torch.arange(
        len(boxes), 0, -1, dtype=boxes.dtype, device=boxes.device
    )
    kept = torch.ops.torchvision.nms(boxes, falling, float32(iou_threshold))
    return order[kept]


def _areas(boxes: np.ndarray, offset: int) -> np.ndarray:
    sides = boxes[:, 2:4] - boxes[:, :2] + offset
    return sides[:, 0] * sides[:, 1]


def _overlaps(
    boxes: np.ndarray, areas: np.ndarray, offset: int = 0
) -> np.ndarray:
    """The overlaps of the first box with each of the others."""
    upper = np.maximum(boxes[0, :2], boxes[1:, :2])
    lower = np.minimum(boxes[0, 2:4], boxes[1:, 2:4])
    sides = np.maximum(lower - upper + offset, 0)
    common = sides[:, 0] * sides[:, 1]
    # Boxes without an area have no overlap, as in mmcv.
    with np.errstate(divide='ignore', invalid='ignore'):
        return common / (areas[0] + areas[1:] - common)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lower the scores of boxes that overlap better ones, on the CPU.

    ``method`` is 0 to suppress, 1 for linear weights, both from an overlap of
    iou_threshold on, and 2 for gaussian weights of width sigma. Boxes below
    min_score are dropped. ``dets``, (N, 5), gets the kept boxes with their new
    scores; their indices are returned.
    """
    wide = widen(boxes)[0]
    rows = torch.cat([wide, scores[:, None].to(wide)], dim=1).numpy().copy()
    areas = _areas(rows, offset)
    found: np.ndarray = np.arange(len(rows))
    threshold, sigma = float32(iou_threshold), float32(sigma)
    start = 0
    while start < len(rows):
        left = rows[start:, 4]
        if not np.isnan(left[0]):  # NaN is neither above nor below it
            swap = np.array([start, start + np.nanargmax(left)])
            for column in (rows, areas, found):
                column[swap] = column[swap[::-1]]
        overlaps = _overlaps(rows[start:], areas[start:], offset)
        if method == 2:
            # numpy's float32 exp is less exact, which reorders near scores.
            weights = np.exp((-(overlaps**2) / sigma).astype(np.float64))
            weights = weights.astype(rows.dtype)
        else:
            weights = np.where(
                overlaps >= threshold, (1 - overlaps) * method, 1
            )
        start += 1
        rows[start:, 4] *= weights
        # The last boxes take the places of dropped ones, which matters for
        # equal scores.
        keep = ~(rows[start:, 4] < float32(min_score))
        count = keep.sum()
        places = np.arange(count)
        places[~keep[:count]] = count + np.flatnonzero(keep[count:])[::-1]
        places = np.concatenate([np.arange(start), start + places])
        rows, areas, found = rows[places], areas[places], found[places]
    dets[: len(rows)] = torch.from_numpy(rows)
    return torch.from_numpy(found)


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group boxes (N, 5) by the first of each, which suppresses the others."""
    rows = widen(dets)[0].numpy()
    order = dets[:, 4].sort(dim=0, descending=True)[1].numpy()
    groups = []
    while len(order):
        ordered = rows[order]
        overlaps = _overlaps(ordered, _areas(ordered, 0))
        near = overlaps >= float32(iou_threshold)
        groups.append([order[0], *order[1:][near]])
        order = order[1:][~near]
    return [[int(index) for index in group] for group in groups]
