"""Graphs: whether one is made, for which sizes and modules; CUDA graphs."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

T = TypeVar('T')

try:
    from torch.fx.experimental.symbolic_shapes import has_static_value
except ImportError:  # before torch 2.8
    has_static_value = None

_is_functorch = getattr(
    torch._C._functorch, 'is_functorch_wrapped_tensor', lambda _: False
)
# As autograd makes for several gradients at once.
_is_batched = getattr(
    torch._C._functorch, 'is_legacy_batchedtensor', lambda _: False
)

if hasattr(torch.compiler, 'is_compiling'):
    is_compiling = torch.compiler.is_compiling
else:  # torch 2.1
    is_compiling = torch._utils.is_compiling


def makes_graph() -> bool:
    """Whether operators are recorded for a graph instead of being run once.

    Returns:
        bool: True under torch.compile, torch.export and torch.jit.trace.
    """
    return is_compiling() or torch.jit.is_tracing()


def is_transformed(x: Tensor) -> bool:
    """Whether a tensor is under torch.func or forward-mode differentiation.

    Layouts are hidden there, and some of torch's kernels do not work.

    Args:
        x (Tensor): Any tensor.

    Returns:
        bool: False where a graph is made.
    """
    if makes_graph():
        return False
    return (
        _is_functorch(x)
        or _is_batched(x)
        or forward_ad.unpack_dual(x).tangent is not None
    )


def exports() -> bool:
    """Whether torch.export makes a graph, which must run without mmhatnet.

    Returns:
        bool: False under torch.compile, though torch says that it exports.
    """
    return (
        hasattr(torch.compiler, 'is_exporting')
        and not torch.compiler.is_dynamo_compiling()
        and torch.compiler.is_exporting()
    )


def is_dynamic(*sizes: int) -> bool:
    """Whether a graph is made in which one of the sizes can change.

    Code that depends on a dynamic size must not branch on it: each outcome
    would trigger a recompile. Nor must a view with dynamic strides wait for
    the backward pass, since Inductor cannot compare them.

    Args:
        *sizes (int): Sizes of a tensor's dimensions, or computed from sizes.

    Returns:
        bool: True in torch.jit.trace, whose graphs are used for all sizes.
        False in eager mode, and before torch 2.8 for compilers.
    """
    return torch.jit.is_tracing() or (
        is_compiling()
        and has_static_value is not None
        and not all(map(has_static_value, sizes))
    )


def exports_dynamic(*sizes: int) -> bool:
    """Whether torch.export makes a graph in which one of the sizes changes.

    Its graph must hold for all sizes, and must not even branch on whether one
    is 1. Compilers may make a second graph then.

    Args:
        *sizes (int): As for :func:`is_dynamic`.

    Returns:
        bool: False before torch 2.8, and if torch.export is strict.
    """
    return has_static_value is not None and exports() and is_dynamic(*sizes)


def copy_for_export(x: Tensor) -> Tensor:
    """Copy a tensor whose strides depend on its size, for torch.export.

    Operators would branch on them, and the graph would fit some sizes only.

    Args:
        x (Tensor): Any tensor.

    Returns:
        Tensor: A contiguous copy; the tensor itself where
        :func:`exports_dynamic` is false.
    """
    if not exports_dynamic(*x.shape):
        return x
    return x.clone(memory_format=torch.contiguous_format)


def compile_blocks(backbone: nn.Module, **kwargs: Any) -> None:
    """Compile the attention and the MLP of each block, in place.

    ``torch.compile(backbone)`` compiles every block. Here, the blocks of a
    stage share a graph, which takes less time in training. It is meant for
    images of one size, because torch allows at most eight graphs per method.
    (torch 2.1 makes a graph of every block here, too.)

    Args:
        backbone (nn.Module): A :class:`HATNet`.
        **kwargs: Arguments of :func:`torch.compile`. ``dynamic`` defaults to
            False.
    """
    for stage in backbone.stages:
        for block in stage:
            for part in (block.attn, block.mlp):
                part.compile(**{'dynamic': False, **kwargs})


def capture_cuda_graph(
    step: Callable[[], T], device: str | torch.device = 'cuda'
) -> Callable[[], T]:
    """Record the kernels of a step, to launch all of them with one call.

    HAT-Net has many short kernels. For small batches, a GPU waits longer for
    the launch of each than it computes.

    Args:
        step (Callable): Computes on CUDA tensors that stay where they are,
            without gradients.
        device (str | torch.device): The GPU. Defaults to 'cuda', the current
            one.

    Returns:
        Callable: Computes the step again, and returns the tensors of its
        recording, with new values.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device):  # else the graph would be empty
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # allocates, and chooses algorithms
                step()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            outs = step()
    graph.step = step  # its tensors are read by each replay

    def replay() -> T:
        graph.replay()
        return outs

    return replay
