"""Operators on regions (image, x1, y1, x2, y2) of maps.

The functions have the arguments of mmcv's compiled ones, which :mod:`.ext`
explains. Maps are (N, C, H, W), regions (K, 5), and what is pooled
(K, C, rows, columns).
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from .common import float32, widen

LOWEST = -10000.0  # mmcv's maximum of no values


def _corners(
    y: Tensor, x: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """The pixels around points and their weights, both (4, ...)."""
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.floor(), x.floor()
    low, right = y - top, x - left
    weights = [
        (1 - low) * (1 - right),
        (1 - low) * right,
        low * (1 - right),
        low * right,
    ]
    rows = top, top, top + 1, top + 1
    columns = left, left + 1, left, left + 1
    pixels = [
        row.clamp(max=height - 1) * width + column.clamp(max=width - 1)
        for row, column in zip(rows, columns, strict=True)
    ]
    # Float64 can hold all numbers of pixels, float32 only those up to 2^24.
    return torch.stack(pixels).long(), torch.stack(weights) * inside


def _planes(images: Tensor, maps: Tensor) -> Tensor:
    """Where the channels of images begin, (regions, channels, 1, 1)."""
    channels = torch.arange(maps.shape[1], device=maps.device)
    planes = images.long()[:, None] * maps.shape[1] + channels
    return planes[..., None, None] * maps[0, 0].numel()


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Pool samples of regions.

    ``pool_mode`` is 0 for the largest sample, whose place is written into
    argmax_y and argmax_x, and 1 for the mean. ``sampling_ratio`` is the number
    of samples in each direction, 0 for about one in a pixel. With ``aligned``,
    0.5 is the centre of the first pixel.
    """
    maps, rois = widen(input, rois)
    rois, scale = rois.to(maps), float32(spatial_scale)
    size = aligned_height, aligned_width
    if pool_mode == 1:
        pooled = torch.ops.torchvision.roi_align(
            maps, rois, scale, *size, sampling_ratio, aligned
        )
        output.copy_(pooled)
        return
    output.fill_(LOWEST)
    argmax_y.fill_(-1)
    argmax_x.fill_(-1)
    start = rois[:, [2, 1]] * scale - 0.5 * aligned
    sides = rois[:, [4, 3]] * scale - 0.5 * aligned - start
    if not aligned:
        sides = sides.clamp(min=1)
    bins = sides / sides.new_tensor(size)
    grids = bins.ceil() if sampling_ratio < 1 else bins * 0 + sampling_ratio
    # Regions with equal numbers of samples at once, as means of single
    # samples.
    for grid in grids.unique(dim=0):
        chosen = (grids == grid).all(1).nonzero()[:, 0]
        rows, columns = (int(n) for n in grid)
        if rows < 1 or columns < 1:
            continue
        samples = torch.ops.torchvision.roi_align(
            maps,
            rois[chosen],
            scale,
            size[0] * rows,
            size[1] * columns,
            1,
            aligned,
        )
        best, where = F.max_pool2d(
            samples, (rows, columns), return_indices=True
        )
        output[chosen] = best.clamp(min=LOWEST).to(output)
        width = size[1] * columns
        for target, index, axis, count in (
            (argmax_y, where // width, 0, rows),
            (argmax_x, where % width, 1, columns),
        ):
            first, side = (
                x[chosen, axis].view(-1, 1, 1, 1) for x in (start, bins)
            )
            place = first + (index + 0.5) * side / count
            target[chosen] = place.to(target)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the gradient of the maps."""
    grad, rois = widen(grad_output, rois)
    if pool_mode == 1:
        found = torch.ops.torchvision._roi_align_backward(
            grad,
            rois.to(grad),
            float32(spatial_scale),
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
        grad_input.add_(found)
        return
    y, x = widen(argmax_y, argmax_x)
    pixels, weights = _corners(y, x, *grad_input.shape[2:])
    weights = weights * (y != -1)
    _add(grad_input, pixels + _planes(rois[:, 0], grad_input), weights * grad)


def _add(target: Tensor, places: Tensor, values: Tensor) -> None:
    """Add values at places of a contiguous tensor."""
    summed = values.new_zeros(target.numel())
    summed.index_add_(0, places.flatten(), values.flatten())
    target.add_(summed.view_as(target))


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Take the largest value of each bin; torchvision's bins differ.

    ``argmax`` gets the pixels of the values, -1 for none.
    """
    maps, rois = widen(input, rois)
    scale = float32(spatial_scale)
    width = maps.shape[3]
    for number, (image, *box) in enumerate(rois.to(maps).unbind()):
        x1, y1, x2, y2 = box[0], box[1], box[2] + 1, box[3] + 1
        if x2 <= x1 or y2 <= y1:
            continue
        best = maps[image.long()]
        masks = [
            _bins(first * scale, last * scale, count, length)
            for first, last, count, length in (
                (x1, x2, pooled_width, width),
                (y1, y2, pooled_height, maps.shape[2]),
            )
        ]
        # Along the rows (C, H, bins, W), then along the columns.
        best = best[:, :, None].masked_fill(~masks[0], -torch.inf)
        best, column = best.max(-1)
        best = best.mT[:, None].masked_fill(~masks[1][:, None], -torch.inf)
        best, row = best.max(-1)
        column = column.mT[:, None].expand(-1, pooled_height, -1, -1)
        where = row * width + column.gather(-1, row[..., None])[..., 0]
        empty = best == -torch.inf
        output[number] = best.masked_fill(empty, 0).to(output)
        argmax[number] = where.masked_fill(empty, -1).to(argmax)


def _bins(first: Tensor, last: Tensor, count: int, length: int) -> Tensor:
    """Which pixels of a line belong to which bins, (count, length)."""
    side = (last - first) / count
    numbers = torch.arange(count, device=side.device)
    starts = (numbers * side + first).floor()
    ends = ((numbers + 1) * side + first).ceil()
    pixels = torch.arange(length, device=side.device)
    return (pixels >= starts[:, None]) & (pixels < ends[:, None])


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradient of the maps."""
    (grad,) = widen(grad_output)
    places = argmax.long().clamp(min=0) + _planes(rois[:, 0], grad_input)
    _add(grad_input, places, grad * (argmax >= 0))
