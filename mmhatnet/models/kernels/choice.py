"""Which operations Triton kernels compute, and whether they work here."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from ..compiling import exports, is_transformed, makes_graph

# Triton itself is imported with the first kernel, since its import takes long.
HAS_TRITON = find_spec('triton') is not None and hasattr(
    torch.library, 'triton_op'
)  # since torch 2.6
VARIABLE = 'MMHATNET_KERNELS'
NAMES = 'norm', 'mlp', 'windows', 'casts'
# Triton computes kernels on a CPU then, slowly, for tests.
INTERPRETED = HAS_TRITON and os.environ.get('TRITON_INTERPRET') == '1'
# Largest error, relative to the largest value, in a comparison with the twin.
TOLERANCES = {
    torch.float32: 5e-3,  # products may be in TF32
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}
# The comparison of each operation with its twin. The file of its kernels,
# which has its name, adds it.
CHECKS: dict[str, Callable[[torch.device, torch.dtype], float]] = {}
_results: dict[tuple, bool] = {}


def read_choice(text: str) -> frozenset[str]:
    """Read a choice of kernels.

    Args:
        text (str): Names separated by commas, 'none', or '' for all.

    Returns:
        frozenset[str]: The names.

    Raises:
        ValueError: If a name is unknown.
    """
    names = {'': NAMES, 'none': ()}.get(text, text.split(','))
    unknown = ', '.join(sorted({*names} - {*NAMES}))
    if unknown:
        raise ValueError(
            f'{VARIABLE}={text}: no kernels for {unknown}; choose from '
            f'{", ".join(NAMES)}, or none'
        )
    return frozenset(names)


_chosen = read_choice(os.environ.get(VARIABLE, ''))


@contextmanager
def select_kernels(text: str) -> Iterator[None]:
    """Use the kernels of :func:`read_choice` only, in a ``with`` block."""
    global _chosen
    before, _chosen = _chosen, read_choice(text)
    try:
        yield
    finally:
        _chosen = before


def is_chosen(name: str) -> bool:
    """Whether a name of :func:`read_choice` is not left out by the user."""
    return name in _chosen


def kernels_apply(
    name: str, x: Tensor, dtype: torch.dtype | None = None
) -> bool:
    """Whether kernels compute an operation on a tensor.

    The first time on a device and in a precision, they are compared with
    their plain twin; kernels that fail or differ are left out with a warning.

    Args:
        name (str): 'norm', 'mlp' or 'windows'.
        x (Tensor): The map.
        dtype (torch.dtype, optional): What is computed in. Defaults to that
            of the map.

    Returns:
        bool: False without a GPU, Triton or torch 2.6, in graphs for export,
        under torch.func, and where ``MMHATNET_KERNELS`` leaves the operation
        out.
    """
    dtype = dtype or x.dtype
    if (
        not HAS_TRITON
        or not is_chosen(name)
        or not (x.is_cuda or INTERPRETED)
        or dtype not in TOLERANCES
        or torch.jit.is_tracing()
        or exports()
        or is_transformed(x)
    ):
        return False
    key = name, dtype, x.device
    if makes_graph():
        return _results.get(key, True)
    if key not in _results:
        if INTERPRETED or _computes_nothing(x):
            return True
        _results[key] = _works(name, x.device, dtype)
    return _results[key]


def _computes_nothing(x: Tensor) -> bool:
    # A kernel cannot be checked on fake tensors or while a graph is recorded.
    return (
        isinstance(x, torch._subclasses.FakeTensor)
        or torch.cuda.is_current_stream_capturing()
    )


def _works(name: str, device: torch.device, dtype: torch.dtype) -> bool:
    try:
        import_module(f'{__package__}.{name}')
        devices = [device] if device.type == 'cuda' else []
        with (
            torch.random.fork_rng(devices),
            torch.inference_mode(False),
            torch.autocast(device.type, enabled=False),
            torch.enable_grad(),
        ):
            torch.manual_seed(0)
            error = CHECKS[name](device, dtype)
        if error <= TOLERANCES[dtype]:
            return True
        reason = f'differ from torch by {error:.1e} in {dtype}'
    except Exception as e:  # whatever a compiler or driver says
        reason = f'fail: {str(e).splitlines()[0] if str(e) else type(e)}'
    warnings.warn(
        f'The Triton kernels for {name} {reason}. HAT-Net computes without '
        f'them; {VARIABLE}=none leaves all out.',
        stacklevel=2,
    )
    return False


def largest_error(
    kernels: Callable[..., Tensor],
    twin: Callable[..., Tensor],
    *inputs: Tensor,
) -> float:
    """Compare results and gradients of kernels and their twin in float32.

    Args:
        kernels (Callable): Computes a tensor from the inputs.
        twin (Callable): The same by torch.
        *inputs (Tensor): The inputs.

    Returns:
        float: The largest of the errors, each relative to the largest value
        of the result or gradient; NaN if a value is.
    """
    precise = [x.float() for x in inputs]
    grad = None
    results = []
    for function, args in (kernels, inputs), (twin, precise):
        args = [x.detach().requires_grad_() for x in args]
        y = function(*args)
        grad = torch.randn_like(y) if grad is None else grad.to(y.dtype)
        results.append([y.detach(), *torch.autograd.grad(y, args, grad)])
    errors = [
        (found - expected).abs().max().float() / expected.abs().max()
        for found, expected in zip(*results, strict=True)
    ]
    return float(torch.stack(errors).max())
