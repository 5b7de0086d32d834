"""Operations of ``fast.py`` with derivatives of their own.

They keep less for the backward pass than autograd does, or launch less. They
have no derivatives of derivatives.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd.function import FunctionCtx

from .compiling import is_transformed, makes_graph


def is_half(x: Tensor) -> bool:
    """Whether a tensor is in float16 or bfloat16."""
    return x.dtype in (torch.float16, torch.bfloat16)


def refuse_graph(grad: Tensor) -> None:
    """Refuse a backward pass that is to be differentiated or transformed.

    Args:
        grad (Tensor): The gradient of the result.

    Raises:
        RuntimeError: With what can do it.
    """
    if makes_graph():
        return
    if torch.is_grad_enabled() or is_transformed(grad):
        raise RuntimeError(
            'only HATNet(fast=False), or nn.GroupNorm for GroupNorm1, has '
            'derivatives of derivatives'
        )


def single_group_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Normalize a map over all but N, in any layout, in its dtype.

    Args:
        x (Tensor): (N, C, H, W).
        weight (Tensor): (C,).
        bias (Tensor): (C,).
        eps (float): Added to the variance.

    Returns:
        Tensor: (N, C, H, W).
    """
    with torch.autocast(x.device.type, enabled=False):
        normed = F.group_norm(x.permute(0, 2, 3, 1), 1, eps=eps)
        y = torch.addcmul(bias.to(x.dtype), normed, weight.to(x.dtype))
    return y.permute(0, 3, 1, 2)


class SingleGroupNormFunction(torch.autograd.Function):
    """:func:`single_group_norm` by fewer operators of torch than by autograd.

    Its statistics are those of torch's kernel, or by several blocks of a GPU
    for each image, without a map that is only normalized.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        large: bool,
    ) -> Tensor:
        w, b = (each.to(x.dtype).view(-1, 1, 1) for each in (weight, bias))
        if large:
            dims = (1, 2, 3)
            std, mean = torch.std_mean(x, dims, correction=0, keepdim=True)
            # In float16 the square would overflow.
            std = std.to(torch.promote_types(x.dtype, torch.float32))
            rstd = (std.square() + eps).rsqrt().to(x.dtype)
            scale, normed = rstd * w, None
            shift = torch.addcmul(b, mean, scale, value=-1)
            y = torch.addcmul(shift, x, scale)
        else:
            normed, mean, rstd = torch.native_group_norm(
                _to_rows(x), None, None, *_group_sizes(x), eps
            )
            normed = normed.permute(0, 3, 1, 2)
            y = torch.addcmul(b, normed, w)
        ctx.save_for_backward(x, weight, bias, w, mean, rstd, normed)
        return y

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_graph(grad)
        x, weight, bias, w, mean, rstd, normed = ctx.saved_tensors
        if normed is None:
            normed = (x - mean) * rstd
        bias_grad = grad.sum((0, 2, 3), dtype=bias.dtype)
        weight_grad = (grad * normed).sum((0, 2, 3), dtype=weight.dtype)
        x_grad = torch.ops.aten.native_group_norm_backward(
            _to_rows(grad * w),
            _to_rows(x),
            mean.flatten(1),
            rstd.flatten(1),
            None,
            *_group_sizes(x),
            [True, False, False],
        )[0]
        x_grad = x_grad.permute(0, 3, 1, 2)
        return x_grad, weight_grad, bias_grad, None, None


def _to_rows(x: Tensor) -> Tensor:
    """Return (N, H, W, C), copied only if it is not channels_last."""
    return x.permute(0, 2, 3, 1).contiguous()


def _group_sizes(x: Tensor) -> tuple[int, int, int, int]:
    """N, C, H x W and groups of (N, H, W, C), as torch's kernels take them."""
    n, channels, h, w = x.shape
    return n, h, w * channels, 1


class SiLUConv(torch.autograd.Function):
    """A convolution of SiLU(x) that keeps x for the backward pass.

    SiLU(x) is computed again there, which takes little time and halves the
    memory of an MLP. torch.utils.checkpoint sees the tensors that a function
    saves; it would not see those of a hook for saved tensors.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        weight: Tensor,
        padding: tuple[int, int],
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.groups = padding, groups
        return F.conv2d(F.silu(x), weight, padding=padding, groups=groups)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_graph(grad)
        x, weight = ctx.saved_tensors
        # By torch.nn.grad, the depthwise one takes longer.
        x_grad, weight_grad, _ = torch.ops.aten.convolution_backward(
            grad,
            F.silu(x),
            weight,
            bias_sizes=None,
            stride=(1, 1),
            padding=ctx.padding,
            dilation=(1, 1),
            transposed=False,
            output_padding=(0, 0),
            groups=ctx.groups,
            output_mask=(*ctx.needs_input_grad[:2], False),
        )
        if x_grad is not None:
            x_grad = torch.ops.aten.silu_backward(x_grad, x)
        return x_grad, weight_grad, None, None
