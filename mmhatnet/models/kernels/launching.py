"""Makes operators of kernels, and launches them."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from ..compiling import makes_graph
from .choice import HAS_TRITON, INTERPRETED

if HAS_TRITON:
    from torch._library.triton import set_wrap_triton_enabled
    from torch.library import triton_op

__all__ = ['operator', 'wrap_triton']


def operator(name: str) -> Callable[[Callable], Callable]:
    """Make an operator of torch from a function that launches kernels.

    Graphs and fake tensors see ``mmhatnet::<name>``. Elsewhere the function
    itself is called, which takes less of the host's time.

    Args:
        name (str): The operator's name.

    Returns:
        Callable: A decorator for a function with type hints, which changes
        none of its arguments. It launches kernels by ``wrap_triton``, which
        lets graphs see them.
    """

    def decorate(function: Callable) -> Callable:
        if not HAS_TRITON or INTERPRETED:
            return function
        as_operator = triton_op(f'mmhatnet::{name}', mutates_args=())(function)

        @wraps(function)
        def call(*args: Any) -> Any:
            if makes_graph() or isinstance(
                args[0], torch._subclasses.FakeTensor
            ):
                return as_operator(*args)
            # Else each launch would go through a dispatcher in Python.
            with set_wrap_triton_enabled(False):
                if args[0].get_device() == torch.cuda.current_device():
                    return function(*args)
                # Triton launches on the current GPU, wherever tensors are.
                with torch.cuda.device(args[0].device):
                    return function(*args)

        return call

    return decorate


def wrap_triton(kernel: Any) -> Any:
    """Make a kernel visible to graphs.

    Args:
        kernel (Any): A function with ``@triton.jit``.

    Returns:
        Any: To be launched as ``wrap_triton(kernel)[grid](...)``.
    """
    return kernel if INTERPRETED else torch.library.wrap_triton(kernel)
