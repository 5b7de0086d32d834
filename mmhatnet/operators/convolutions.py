"""Deformable and masked convolutions.

The functions have the arguments of mmcv's compiled ones, which :mod:`.ext`
explains.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from .common import widen

# The arguments of a convolution as deform_conv and modulated_deform_conv name
# them.
SETTINGS = (
    ('dH', 'dW', 'padH', 'padW', 'dilationH', 'dilationW'),
    ('stride_h', 'stride_w', 'pad_h', 'pad_w', 'dilation_h', 'dilation_w'),
)


def _arguments(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    given: dict[str, int],
) -> list:
    """The arguments of torchvision's operators, which need all tensors."""
    has_mask = mask is not None
    mask = mask if has_mask else input.new_zeros(len(input), 1)
    bias = input.new_zeros(len(weight)) if bias is None else bias
    tensors = widen(input, weight, offset, mask, bias)
    names = next(names for names in SETTINGS if names[0] in given)
    groups = given['group'], given['deformable_group']
    return [*tensors, *(given[name] for name in names), *groups, has_mask]


def _forward(*arguments: Any) -> Tensor:
    """The output, from what :func:`_arguments` takes."""
    # In mixed precision, torchvision's products would round.
    with torch.autocast(arguments[0].device.type, enabled=False):
        return torch.ops.torchvision.deform_conv2d(*_arguments(*arguments))


def _backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    given: dict[str, int],
) -> tuple[Tensor, ...]:
    """The gradients of input, weight, offset, mask and bias."""
    arguments = _arguments(input, weight, offset, mask, None, given)
    with torch.autocast(input.device.type, enabled=False):
        found = torch.ops.torchvision._deform_conv2d_backward(
            *widen(grad), *arguments
        )
    inside = _inside(arguments[2], weight, arguments[5:11])
    return (*found[:2], found[2] * inside, *found[3:])


def _inside(offset: Tensor, weight: Tensor, settings: list[int]) -> Tensor:
    """Whether samples are inside the padded map, in the shape of offset.

    Exactly at -1, as on the padded edge without offsets, torchvision has a
    gradient, and mmcv has none.
    """
    places = offset.view(
        len(offset), -1, *weight.shape[2:], 2, *offset.shape[2:]
    )
    valid = torch.ones_like(places[:, :, :, :, 0], dtype=torch.bool)
    for axis in (0, 1):
        stride, padding, dilation = settings[axis::2]
        taps, steps = (
            torch.arange(x.shape[2 + axis], device=x.device)
            for x in (weight, offset)
        )
        start = taps[:, None] * dilation + steps * stride - padding
        # (h, w, H', W'), of which the other two sides are 1.
        start = start[:, None, :, None] if axis == 0 else start[:, None]
        valid &= start + places[:, :, :, :, axis] > -1
    return valid[:, :, :, :, None].expand_as(places).reshape(offset.shape)


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **given: int,
) -> None:
    """Compute a deformable convolution.

    From maps (N, C, H, W), weights (C', C / groups, h, w) and offsets
    (N, deformable groups * h * w * 2, H', W') to (N, C', H', W').
    """
    output.copy_(_forward(input, weight, offset, None, None, given))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,  # noqa: N803 (mmcv's name)
    gradInput: Tensor,  # noqa: N803
    gradOffset: Tensor,  # noqa: N803
    weight: Tensor,
    columns: Tensor,
    **given: int,
) -> None:
    """Compute the gradients of input and offset."""
    found = _backward(gradOutput, input, weight, offset, None, given)
    gradInput.copy_(found[0])
    gradOffset.copy_(found[2])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,  # noqa: N803
    gradWeight: Tensor,  # noqa: N803
    columns: Tensor,
    ones: Tensor,
    scale: float,
    **given: int,
) -> None:
    """Add the gradient of weight, times ``scale``.

    It depends only on the shape of the weight, which gradWeight has.
    """
    found = _backward(gradOutput, input, gradWeight, offset, None, given)
    gradWeight.add_(found[1] * scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    with_bias: bool,
    **given: int,
) -> None:
    """Compute a deformable convolution with weights of the samples.

    These are ``mask``, (N, deformable groups * h * w, H', W').
    """
    chosen = bias if with_bias else None
    output.copy_(_forward(input, weight, offset, mask, chosen, given))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    with_bias: bool,
    **given: int,
) -> None:
    """Compute the gradients of all inputs."""
    found = _backward(grad_output, input, weight, offset, mask, given)
    targets = [grad_input, grad_weight, grad_offset, grad_mask]
    targets += [grad_bias] if with_bias else []
    for target, gradient in zip(targets, found, strict=False):
        target.copy_(gradient)


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Collect the neighbours of K pixels, given by their rows and columns.

    From a map (1, C, H, W) to ``col``, (C * kernel_h * kernel_w, K).
    """
    padded = F.pad(im[0], (pad_w, kernel_w, pad_h, kernel_h))
    rows, columns = (
        torch.arange(count, device=im.device)[:, None] + index
        for count, index in ((kernel_h, mask_h_idx), (kernel_w, mask_w_idx))
    )
    col.copy_(padded[:, rows[:, None], columns].reshape(col.shape))


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, **_: int
) -> None:
    """Set K pixels of a map (1, C, H, W) to the values (C, K)."""
    im[0, :, mask_h_idx, mask_w_idx] = col
