"""Chooses how a layer computes an operation.

A layer holds the equation. A function of the same name in ``cuda.py``,
``fast.py``, ``compiled.py`` or ``symbolic.py`` stands in for it where that
form is chosen. It gets the layer, and the equation, in front of the arguments.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor, nn

from . import compiled, cuda, fast, symbolic
from .compiling import (
    exports_dynamic,
    is_dynamic,
    is_transformed,
    makes_graph,
)
from .kernels.choice import INTERPRETED

FORMS = dict(cuda=cuda, fast=fast, compiled=compiled, symbolic=symbolic)
OPERATIONS: set[str] = set()


def find_form(
    layer: nn.Module,
    x: Tensor,
    applies: Callable[[nn.Module, Tensor], bool] | None,
) -> str:
    """Choose the form for a layer and a tensor.

    Args:
        layer (nn.Module): The layer.
        x (Tensor): The map, or the queries of an attention.
        applies (Callable, optional): Whether a form for CUDA applies to both;
            None if the operation has none.

    Returns:
        str: The name of its file, or 'plain' for the equation.
    """
    on_gpu = x.is_cuda or INTERPRETED
    if layer.fast and on_gpu and applies and applies(layer, x):
        return 'cuda'
    if makes_graph():
        if exports_dynamic(*x.shape) or is_dynamic(*x.shape[2:]):
            return 'symbolic'
        return 'compiled' if layer.fast else 'plain'
    return 'fast' if layer.fast and not is_transformed(x) else 'plain'


def has_forms(equation: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let the forms stand in for a method of a layer with ``fast``.

    Args:
        equation (Callable): The method. Its first argument is a tensor.

    Returns:
        Callable: A method that chooses the form.
    """
    name = equation.__name__
    OPERATIONS.add(name)
    # Looked up here, since the compiler of torch 2.1 does not follow getattr.
    forms = {form: getattr(FORMS[form], name, None) for form in FORMS}
    forms['plain'] = None
    applies = cuda.APPLIES.get(name)

    @wraps(equation)
    def operation(
        layer: nn.Module, x: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        form = forms[find_form(layer, x, applies)]
        if form is None:
            return equation(layer, x, *args, **kwargs)
        return form(layer, equation, x, *args, **kwargs)

    return operation
