"""Operators that weight neighbours or samples: CARAFE, PSA, attention."""

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


def carafe_naive_forward(
    features: Tensor,
    masks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Upsample by weighted sums of neighbours.

    Args:
        features (Tensor): (N, C, H, W).
        masks (Tensor): (N, group_size * kernel_size^2, s H, s W), weights.
        output (Tensor): (N, C, s H, s W), gets the result.
        kernel_size (int): Side of the neighbourhood.
        group_size (int): Number of groups of channels.
        scale_factor (int): s.
    """
    wide, weights = widen(features, masks)
    # In mixed precision, einsum would round its arguments.
    with torch.autocast(features.device.type, enabled=False):
        sums = torch.einsum(
            'ngckhw,ngkhiwj->ngchiwj',
            _neighbours(wide, kernel_size, group_size),
            _split(weights, group_size, scale_factor),
        )
    output.copy_(sums.reshape(output.shape))


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Compute both gradients.

    Args:
        top_grad (Tensor): As output of the forward pass.
        features (Tensor): As in the forward pass.
        masks (Tensor): As in the forward pass.
        bottom_grad (Tensor): Gets the gradient of features.
        mask_grad (Tensor): Gets the gradient of masks.
        kernel_size (int): As in the forward pass.
        group_size (int): As in the forward pass.
        scale_factor (int): As in the forward pass.
    """
    grad, wide, weights = widen(top_grad, features, masks)
    grad = _split(grad, group_size, scale_factor)
    with torch.autocast(features.device.type, enabled=False):
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
        values.reshape(len(features), -1, features[0, 0].numel()),
        features.shape[2:],
        kernel_size,
        padding=kernel_size // 2,
    )
    bottom_grad.copy_(folded)
    mask_grad.copy_(found.reshape(masks.shape))


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
    """Compute :func:`carafe_naive_forward`.

    Args:
        features (Tensor): As there.
        masks (Tensor): As there.
        rfeatures (Tensor): Gets the features, for the backward pass.
        routput (Tensor): Not used.
        rmasks (Tensor): Not used.
        output (Tensor): As there.
        kernel_size (int): As there.
        group_size (int): As there.
        scale_factor (int): As there.
    """
    rfeatures.copy_(features)
    carafe_naive_forward(
        features, masks, output, kernel_size, group_size, scale_factor
    )


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
    """Compute :func:`carafe_naive_backward`.

    Args:
        top_grad (Tensor): As there.
        rfeatures (Tensor): As from :func:`carafe_forward`.
        masks (Tensor): As there.
        rtop_grad (Tensor): Not used.
        rbottom_grad_hs (Tensor): Not used.
        rbottom_grad (Tensor): Not used.
        rmask_grad (Tensor): Not used.
        bottom_grad (Tensor): As there.
        mask_grad (Tensor): As there.
        kernel_size (int): As there.
        group_size (int): As there.
        scale_factor (int): As there.
    """
    sizes = kernel_size, group_size, scale_factor
    carafe_naive_backward(
        top_grad, rfeatures, masks, bottom_grad, mask_grad, *sizes
    )


def _psa_places(
    height: int, width: int, mask_size: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of channel, pixel and neighbour of neighbours inside the map."""
    y, x, rows, columns = (
        torch.arange(count, device=device)
        for count in (height, width, *mask_size)
    )
    # (rows, columns, height, width)
    rows = rows[:, None, None, None]
    columns = columns[:, None, None]
    y_near = y[:, None] + rows - (mask_size[0] - 1) // 2
    x_near = x + columns - (mask_size[1] - 1) // 2
    inside = (
        (y_near >= 0) & (y_near < height) & (x_near >= 0) & (x_near < width)
    )
    places = (
        rows * mask_size[1] + columns,
        y[:, None] * width + x,
        y_near * width + x_near,
    )
    channel, pixel, near = (x.expand_as(inside)[inside] for x in places)
    return channel, pixel, near


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Spread the weights of neighbours over the map.

    Args:
        input (Tensor): (N, h_mask * w_mask, H, W).
        output (Tensor): (N, H * W, H, W), gets the result.
        psa_type (int): 0 to collect, 1 to distribute.
        num_ (int): N.
        h_feature (int): H.
        w_feature (int): W.
        h_mask (int): Rows of the neighbourhood.
        w_mask (int): Columns of the neighbourhood.
        half_h_mask (int): Not used.
        half_w_mask (int): Not used.
    """
    channel, pixel, near = _psa_places(
        h_feature, w_feature, (h_mask, w_mask), input.device
    )
    pair = (near, pixel) if psa_type == 0 else (pixel, near)
    values = input.flatten(2)[:, channel, pixel]
    output.view(*output.shape[:2], -1)[:, pair[0], pair[1]] = values


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Collect the gradients of the weights.

    Args:
        grad_output (Tensor): (N, H * W, H, W).
        grad_input (Tensor): (N, h_mask * w_mask, H, W), gets the gradient.
        psa_type (int): As in the forward pass.
        num_ (int): N.
        h_feature (int): H.
        w_feature (int): W.
        h_mask (int): As in the forward pass.
        w_mask (int): As in the forward pass.
        half_h_mask (int): Not used.
        half_w_mask (int): Not used.
    """
    channel, pixel, near = _psa_places(
        h_feature, w_feature, (h_mask, w_mask), grad_output.device
    )
    pair = (near, pixel) if psa_type == 0 else (pixel, near)
    values = grad_output.flatten(2)[:, pair[0], pair[1]]
    grad_input.view(*grad_input.shape[:2], -1)[:, channel, pixel] = values


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Attend to samples of several maps; mmcv has it in plain torch, too.

    Args:
        value (Tensor): (N, pixels of all maps, heads, C).
        value_spatial_shapes (Tensor): (maps, 2), heights and widths.
        value_level_start_index (Tensor): Not used.
        sampling_locations (Tensor): (N, queries, heads, maps, points, 2), x
            and y from 0 to 1.
        attention_weights (Tensor): (N, queries, heads, maps, points).
        im2col_step (int): Not used.

    Returns:
        Tensor: (N, queries, heads * C).
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
    """Compute the gradients of all inputs.

    Args:
        value (Tensor): As in the forward pass.
        value_spatial_shapes (Tensor): As in the forward pass.
        value_level_start_index (Tensor): As in the forward pass.
        sampling_locations (Tensor): As in the forward pass.
        attention_weights (Tensor): As in the forward pass.
        grad_output (Tensor): (N, queries, heads * C).
        grad_value (Tensor): Gets the gradient of value.
        grad_sampling_loc (Tensor): Gets that of sampling_locations.
        grad_attn_weight (Tensor): Gets that of attention_weights.
        im2col_step (int): Not used.
    """
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
