"""Operations of ``fast.py`` with derivatives of their own.

They keep less for the backward pass than autograd does, or allow a second
derivative. All work under torch.func.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def is_half(x: Tensor) -> bool:
    """Whether a tensor is in float16 or bfloat16."""
    return x.dtype in (torch.float16, torch.bfloat16)


def _statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / standard deviation of images, (N, 1, 1, 1)."""
    dims = (1, 2, 3)
    if is_half(x):
        # Sums in float32 without a copy of the map. The variance loses less
        # to cancellation than the map lost to rounding.
        with torch.autocast(x.device.type, enabled=False):
            mean = x.mean(dims, keepdim=True, dtype=torch.float32)
            norm = torch.linalg.vector_norm(
                x, dim=dims, keepdim=True, dtype=torch.float32
            )
        var = norm.square() / math.prod(x.shape[1:]) - mean.square()
        return mean, (var.clamp(min=0) + eps).rsqrt()
    var, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    return mean, (var + eps).rsqrt()


class SingleGroupNormFunction(torch.autograd.Function):
    """Keeps nothing but the map, and writes the result in one pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        mean, rstd = _statistics(x, eps)
        scale = (rstd * weight.view(-1, 1, 1)).to(x.dtype)
        # Computed from the rounded scale, so that the mean cancels.
        shift = bias.view(-1, 1, 1) - mean * scale
        return torch.addcmul(shift.to(x.dtype), x, scale)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        x, weight, bias, ctx.eps = inputs
        ctx.save_for_backward(x, weight)
        ctx.save_for_forward(x, weight)

    @staticmethod
    def jvp(ctx, x_t, weight_t, bias_t, _):
        x, weight = ctx.saved_tensors
        mean, rstd = _statistics(x, ctx.eps)
        normed = (x - mean) * rstd
        x_t = x_t - x_t.mean((1, 2, 3), keepdim=True)
        x_t = x_t - normed * (normed * x_t).mean((1, 2, 3), keepdim=True)
        return (
            x_t * rstd * weight.view(-1, 1, 1)
            + normed * weight_t.view(-1, 1, 1)
            + bias_t.view(-1, 1, 1)
        ).to(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        mean, rstd = _statistics(x, ctx.eps)
        rounded = rstd.to(x.dtype)
        rstd = rounded.to(mean.dtype)
        # Scaled first: in float16, x times the gradient could overflow.
        scaled = x * rounded
        over = dict(dim=(2, 3), keepdim=True, dtype=mean.dtype)
        bias_grad = grad.sum(**over)
        weight_grad = (grad * scaled).sum(**over) - mean * rstd * bias_grad
        affine = weight.view(-1, 1, 1)
        a = -rstd * (affine * weight_grad).sum(1, keepdim=True)
        b = -rstd * (affine * bias_grad).sum(1, keepdim=True)
        count = math.prod(x.shape[1:])
        a, b = a / count, (b - mean * rstd * a) / count
        x_grad = torch.addcmul(b.to(x.dtype), scaled, a.to(x.dtype))
        scale = (rstd * affine).to(x.dtype)
        x_grad = torch.addcmul(x_grad, grad, scale)
        weight_grad, bias_grad = (
            each.sum((0, 2, 3)) for each in (weight_grad, bias_grad)
        )
        return x_grad, weight_grad, bias_grad, None


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
