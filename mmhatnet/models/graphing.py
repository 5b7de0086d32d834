"""Records a training step of a backbone as CUDA graphs."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .casting import autocast_dtype


class Recordable(nn.Module):
    """A module whose forward pass torch replaces by graphs of it.

    Args:
        module (nn.Module): Gets an image batch, (N, C, H, W).
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.eager = module, module.forward

    def forward(self, x: Tensor) -> Any:
        """Compute what the module did before it was changed."""
        return self.eager(x)


def graph_training(module: nn.Module) -> None:
    """Let a backbone launch its kernels by two CUDA graphs, in place.

    The first training step records them, for its shape, precision, G1 and G2:
    one of the forward pass and one of the backward pass. They take the host
    two launches instead of thousands. Anything else, such as the last batch of
    an epoch if it is smaller, runs as before. So does everything on a CPU, and
    a batch whose gradients are added to those of others.

    Args:
        module (nn.Module): A backbone, for instance a :class:`HATNet`. Its
            forward pass must not wait for the GPU, nor depend on what is
            changed from one iteration to the next but G1 and G2.
    """
    recordable = Recordable(module)
    graphs: dict[tuple, Callable[[Tensor], Any]] = {}

    def forward(x: Tensor) -> Any:
        if not (x.is_cuda and module.training and torch.is_grad_enabled()):
            return recordable.eager(x)
        # Gradients that are there may be the graph's own, which it overwrites.
        if any(p.grad is not None for p in module.parameters()):
            return recordable.eager(x)
        key = _setting(module, x)
        if not graphs:
            graphs[key] = _record(recordable, x)
        return graphs.get(key, recordable.eager)(x)

    module.forward = forward


def _setting(module: nn.Module, x: Tensor) -> tuple:
    """All on which a recording depends."""
    return (
        *(x.shape, x.dtype, x.device, x.stride(), x.requires_grad),
        *(getattr(module, name, None) for name in ('grid_sizes', 'ds_ratios')),
        autocast_dtype(x),
    )


def _record(recordable: Recordable, x: Tensor) -> Callable[[Tensor], Any]:
    example = torch.empty_like(x).copy_(x).requires_grad_(x.requires_grad)
    dtype = autocast_dtype(x)
    try:
        # A weight that was cast outside would not be cast in replays.
        with torch.autocast('cuda', dtype, dtype is not None, False):
            # DistributedDataParallel needs 11 iterations before.
            return torch.cuda.make_graphed_callables(
                recordable, (example,), num_warmup_iters=11
            )
    except RuntimeError as e:
        warnings.warn(
            f'CUDA graphs are not used: {str(e).splitlines()[0]}', stacklevel=2
        )
        return recordable.eager
