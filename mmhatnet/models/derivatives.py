"""Operations of ``fast.py`` with derivatives of their own.

They keep less for the backward pass than autograd does, launch less, or allow
a second derivative.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from .compiling import is_transformed, makes_graph


def is_half(x: Tensor) -> bool:
    """Whether a tensor is in float16 or bfloat16."""
    return x.dtype in (torch.float16, torch.bfloat16)


def needs_equation(grad: Tensor) -> bool:
    """Whether a backward pass must go by operators with derivatives.

    Args:
        grad (Tensor): The gradient of the result.

    Returns:
        bool: True if it is to be differentiated itself, or transformed.
    """
    if makes_graph():
        return False
    return torch.is_grad_enabled() or is_transformed(grad)


def differentiate(
    equation: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    grad: Tensor,
    *args: Any,
) -> list[Tensor | None]:
    """Differentiate an equation by autograd, for derivatives of derivatives.

    Args:
        equation (Callable): Computes a tensor from the inputs.
        inputs (Sequence[Tensor]): The inputs, as a function has saved them.
        grad (Tensor): The gradient of the result.
        *args: Further arguments of the equation.

    Returns:
        list[Tensor | None]: The gradients of the inputs; None where none is
        needed.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        out = equation(*inputs, *args)
    wanted = [x for x in inputs if x.requires_grad]
    grads = torch.autograd.grad(out, wanted, grad, create_graph=again)
    rest = iter(grads)
    return [next(rest) if x.requires_grad else None for x in inputs]


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
        ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float, large: bool
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
        ctx.eps = eps
        ctx.save_for_backward(x, weight, bias, w, mean, rstd, normed)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, w, mean, rstd, normed = ctx.saved_tensors
        if needs_equation(grad):
            inputs = x, weight, bias
            grads = differentiate(single_group_norm, inputs, grad, ctx.eps)
            return *grads, None, None
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
    """(N, H, W, C), as a copy only if the map is not in channels_last."""
    return x.permute(0, 2, 3, 1).contiguous()


def _group_sizes(x: Tensor) -> tuple[int, int, int, int]:
    """N, C, H x W and groups of (N, H, W, C), as torch's kernels take them."""
    n, channels, h, w = x.shape
    return n, h, w * channels, 1


class TwiceDifferentiable(torch.autograd.Function):
    """Replaces the fused derivative if it is to be differentiated itself."""

    @staticmethod
    def forward(ctx, explicit, out, q, k, v, mask) -> Tensor:
        ctx.explicit = explicit
        ctx.save_for_backward(q, k, v, mask)
        return out.view_as(out)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        if not torch.is_grad_enabled():
            return None, grad, None, None, None, None
        *qkv, mask = ctx.saved_tensors
        out = ctx.explicit(*qkv, mask)
        grads = torch.autograd.grad(out, qkv, grad, create_graph=True)
        return None, None, *grads, None


def _silu_backward(grad: Tensor, x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return torch.ops.aten.silu_backward(grad, x)
    # torch's operator has no derivative.
    sigmoid = x.sigmoid()
    return grad * sigmoid * (1 + x * (1 - sigmoid))


class SiLUConv(torch.autograd.Function):
    """A convolution of SiLU(x) that keeps x for the backward pass.

    SiLU(x) is computed again there, which takes little time and halves the
    memory of an MLP. torch.utils.checkpoint sees the tensors that a function
    saves; it would not see those of a hook for saved tensors.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, padding: tuple[int, int], groups: int
    ) -> Tensor:
        return F.conv2d(F.silu(x), weight, padding=padding, groups=groups)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        x, weight, ctx.padding, ctx.groups = inputs
        ctx.save_for_backward(x, weight)
        ctx.save_for_forward(x, weight)

    @staticmethod
    def jvp(ctx, x_t, weight_t, *_):
        x, weight = ctx.saved_tensors
        args = dict(padding=ctx.padding, groups=ctx.groups)
        x_t = _silu_backward(x_t, x)
        return F.conv2d(x_t, weight, **args) + F.conv2d(
            F.silu(x), weight_t, **args
        )

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
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
            x_grad = _silu_backward(x_grad, x)
        return x_grad, weight_grad, None, None
