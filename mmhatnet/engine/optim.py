"""Optimizers and mixed precision that mmengine lacks."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.runner.amp import autocast
from torch import nn
from torch.optim import Optimizer

from ..registry import OPTIM_WRAPPERS, OPTIMIZERS


@OPTIMIZERS.register_module('Muon')
def build_muon(params: Iterable, **kwargs: Any) -> Optimizer:
    """Build timm's optimizer: Muon for matrices, AdamW for the rest.

    Convolutions count as matrices of (output channels, the rest). The updates
    are as large as those of AdamW, so that both take one learning rate. In a
    config, ``optimizer=dict(type='mmhatnet.Muon', lr=4e-3)``.

    Args:
        params (Iterable): The parameters, or groups of them.
        **kwargs: As for ``timm.optim.Muon``.

    Returns:
        Optimizer: The optimizer.

    Raises:
        ImportError: If timm is absent, or too old.
    """
    try:
        from timm.optim import Muon
    except ImportError as error:
        raise ImportError(
            "the optimizer Muon needs timm: pip install 'timm>=1.0.21'"
        ) from error
    return Muon(params, **kwargs)


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Train in bfloat16 under autocast, on a CPU or a CUDA GPU.

    mmengine's ``AmpOptimWrapper`` refuses a CPU. bfloat16 has the range of
    float32, so losses need no scaling. Configs name ``AmpOptimWrapper`` with
    ``dtype='bfloat16'``; ``tools/train.py`` replaces it by this class if there
    is no GPU.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Compute the model and its losses under autocast."""
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield
