"""Operators that weight neighbours or samples: CARAFE, PSA, attention.

The functions have the arguments of mmcv's compiled ones, which :mod:`.ext`
explains.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from .common import widen


def _neighbours(features: Tensor, kernel_size: int, groups: int) -> Tensor:
    """The values around each pixel, (N, groups, C / groups, K^2, H, W)."""
    n, c, h, w = features.shape
    values = F.unfold(features, kernel_size, padding=kernel_size // 2)
    return values.view(n, groups, c // groups, kernel_size**2, h, w)


def _split(upsampled: Tensor, groups: int, scale: int) -> Tensor:
    """(N, G C, s H, s W) to (N, G, C, H, s, W, s)."""
    n, c, h, w = upsampled.shape
    size = h // scale, scale, w // scale, scale
    return upsampled.reshape(n, groups, c // groups, *size)


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Upsample (N, C, H, W) to (N, C, s H, s W) by sums of neighbours.

    Their weights are ``masks``, (N, group_size * kernel_size^2, s H, s W), for
    each of group_size groups of channels; s is scale_factor. ``rfeatures``
    keeps the features for the gradients.
    """
    rfeatures.copy_(features)
    wide, weights = widen(features, masks)
    # In mixed precision, einsum would round its arguments.
    with torch.autocast(features.device.type, enabled=False):
        sums = torch.einsum(
            'ngckhw,ngkhiwj->ngchiwj',
            _neighbours(wide, kernel_size, group_size),
            _split(weights, group_size, scale_factor),
        )
    output.copy_(sums.reshape(output.shape))


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Compute the gradients of features and masks from that of output."""
    grad, wide, weights = widen(top_grad, rfeatures, masks)
    grad = _split(grad, group_size, scale_factor)
    with torch.autocast(grad.device.type, enabled=False):
        values = torch.einsum(
            'ngkhiwj,ngchiwj->ngckhw',
            _split(weights, group_size, scale_factor),
            grad,
        )
        found = torch.einsum(
            'ngckhw,ngchiwj->ngkhiwj',
            _neighbours(wide, kernel_size, group_size),
            grad,
        )
    folded = F.fold(
        values.reshape(len(wide), -1, wide[0, 0].numel()),
        wide.shape[2:],
        kernel_size,
        padding=kernel_size // 2,
    )
    bottom_grad.copy_(folded)
    mask_grad.copy_(found.reshape(masks.shape))


def _psa_places(
    like: Tensor,
    psa_type: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    **_: int,
) -> tuple[Tensor, ...]:
    """Where weights of neighbours inside the map are, and where they go.

    Channels and pixels of the first, rows and columns of the second.
    ``psa_type`` is 0 to collect weights, and 1 to distribute them.
    """
    numbers = torch.arange(h_feature * w_feature, device=like.device)
    numbers = numbers.view(1, 1, h_feature, w_feature).double()
    top, left = (h_mask - 1) // 2, (w_mask - 1) // 2
    sides = left, w_mask - 1 - left, top, h_mask - 1 - top
    # The pixel that is the neighbour of each, (neighbours, pixels).
    places = F.unfold(F.pad(numbers, sides, value=-1), (h_mask, w_mask))[0]
    channel, pixel = (places >= 0).nonzero(as_tuple=True)
    near = places[channel, pixel].long()
    pair = (near, pixel) if psa_type == 0 else (pixel, near)
    return channel, pixel, *pair


def psamask_forward(input: Tensor, output: Tensor, **sizes: int) -> None:
    """Spread the weights of neighbours over the map.

    From (N, h_mask * w_mask, H, W) to (N, H * W, H, W).
    """
    channel, pixel, row, column = _psa_places(input, **sizes)
    target = output.view(*output.shape[:2], -1)
    target[:, row, column] = input.flatten(2)[:, channel, pixel]


def psamask_backward(
    grad_output: Tensor, grad_input: Tensor, **sizes: int
) -> None:
    """Collect the gradients of the weights."""
    channel, pixel, row, column = _psa_places(grad_input, **sizes)
    target = grad_input.view(*grad_input.shape[:2], -1)
    target[:, channel, pixel] = grad_output.flatten(2)[:, row, column]


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Attend to samples of several maps; mmcv has it in plain torch, too.

    From values (N, pixels of all maps, heads, C), the heights and widths of
    the maps (maps, 2), places (N, queries, heads, maps, points, 2), x and y
    from 0 to 1, and weights (N, queries, heads, maps, points) to
    (N, queries, heads * C).
    """
    from mmcv.ops.multi_scale_deform_attn import (
        multi_scale_deformable_attn_pytorch,
    )

    wide, locations, weights = widen(
        value, sampling_locations, attention_weights
    )
    shapes = value_spatial_shapes.tolist()
    return multi_scale_deformable_attn_pytorch(
        wide, shapes, locations, weights
    ).to(value)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Compute the gradients of values, places and weights."""
    grad, *inputs = widen(
        grad_output, value, sampling_locations, attention_weights
    )
    shapes, starts = value_spatial_shapes, value_level_start_index
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        wide, places, weights = leaves
        out = ms_deform_attn_forward(
            wide, shapes, starts, places, weights, im2col_step
        )
    found = torch.autograd.grad(out, leaves, grad)
    targets = grad_value, grad_sampling_loc, grad_attn_weight
    for target, gradient in zip(targets, found, strict=True):
        target.copy_(gradient)
