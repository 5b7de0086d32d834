"""Casts the weights of a block for autocast in one call.

Autocast casts each weight and each of their gradients by an operator of its
own: some 20 launches a block, for which a GPU may wait.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import FunctionCtx

from .compiling import makes_graph
from .fast import PointwiseConv
from .kernels import is_chosen


class CastFunction(torch.autograd.Function):
    """Casts float32 tensors to another dtype, and their gradients back."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, dtype: torch.dtype, *tensors: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        sources = [x for x in tensors if x is not None]
        copies = [torch.empty_like(x, dtype=dtype) for x in sources]
        if copies:
            torch._foreach_copy_(copies, sources)
        rest = iter(copies)
        return tuple(None if x is None else next(rest) for x in tensors)

    @staticmethod
    def backward(
        ctx: FunctionCtx, *grads: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        # As a function again, so that the gradient can be differentiated.
        return None, *CastFunction.apply(torch.float32, *grads)


def casts_weights(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let the forward pass of a block cast its weights in one call.

    Args:
        forward (Callable): The method. Its first argument is the map.

    Returns:
        Callable: The same with weights that are cast before, in training with
        autocast on a GPU. Graphs, and weights that are not there whole, as
        those of FSDP, are left to autocast.
    """

    @wraps(forward)
    def run(block: nn.Module, x: Tensor, *args: Any) -> Tensor:
        if makes_graph() or not _casts_on(x):
            return forward(block, x, *args)
        dtype = autocast_dtype(x)
        children = *block.attn.children(), *block.mlp.children()
        convs = [m for m in children if isinstance(m, PointwiseConv)]
        if not dtype or not all(map(_is_whole, convs)):
            return forward(block, x, *args)
        with _cast_weights(convs, dtype):
            return forward(block, x, *args)

    return run


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Get the dtype to which autocast casts on a tensor's device.

    Args:
        x (Tensor): Any tensor.

    Returns:
        torch.dtype, optional: None where autocast is off.
    """
    device = x.device.type
    if device == 'meta':
        return None
    if not hasattr(torch, 'get_autocast_dtype'):  # before torch 2.4
        enabled = x.is_cuda and torch.is_autocast_enabled()
        return torch.get_autocast_gpu_dtype() if enabled else None
    enabled = torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if enabled else None


def _casts_on(x: Tensor) -> bool:
    return not x.is_cpu and torch.is_grad_enabled() and is_chosen('casts')


def _is_whole(conv: PointwiseConv) -> bool:
    weight = conv.weight
    return (
        type(weight) in (nn.Parameter, FakeTensor)
        and weight.dtype == torch.float32
        and weight.dim() == 4
    )


@contextmanager
def _cast_weights(
    convs: Sequence[PointwiseConv], dtype: torch.dtype
) -> Iterator[None]:
    own = [tensor for conv in convs for tensor in (conv.weight, conv.bias)]
    cast = CastFunction.apply(dtype, *own)
    try:
        for conv, *pair in zip(convs, cast[::2], cast[1::2], strict=True):
            conv.cast = tuple(pair)
        yield
    finally:
        for conv in convs:
            conv.cast = None
