"""Operators on regions (image, x1, y1, x2, y2) of maps.

The functions have the arguments of mmcv's compiled ones, which :mod:`.ext`
explains. Maps are (N, C, H, W), regions (K, 5), and what is pooled
(K, C, rows, columns).
"""

import torch
from torch import Tensor

from .common import float32, raise_missing, widen


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
    """Pool the means of samples of regions, which is a ``pool_mode`` of 1.

    ``sampling_ratio`` is the number of samples in each direction, 0 for about
    one in a pixel. With ``aligned``, 0.5 is the centre of the first pixel.
    """
    if pool_mode != 1:
        raise_missing("RoIAlign with pool_mode='max'")
    maps, rois = widen(input, rois)
    pooled = torch.ops.torchvision.roi_align(
        maps,
        rois.to(maps),
        float32(spatial_scale),
        aligned_height,
        aligned_width,
        sampling_ratio,
        aligned,
    )
    output.copy_(pooled)


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
    _, channels, height, width = grad_input.shape
    # Where the channels of the image of each region begin.
    planes = rois[:, :1].long() * channels
    planes = planes + torch.arange(channels, device=grad.device)
    places = argmax.clamp(min=0) + planes[..., None, None] * height * width
    summed = grad.new_zeros(grad_input.numel())
    values = grad * (argmax >= 0)
    summed.index_add_(0, places.flatten().long(), values.flatten())
    grad_input.add_(summed.view_as(grad_input))
