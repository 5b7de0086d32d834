"""Optimizers and mixed precision that mmengine lacks."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from mmengine.optim import OptimWrapper
from mmengine.runner.amp import autocast
from torch import nn
from torch.optim import Optimizer

from ..registry import OPTIM_WRAPPERS, OPTIMIZERS
from ..utils.device import computes_bfloat16


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
        from timm.optim import muon
    except ImportError as error:
        raise ImportError(
            "the optimizer Muon needs timm: pip install 'timm>=1.0.21'"
        ) from error

    if computes_bfloat16():
        return muon.Muon(params, **kwargs)

    class Muon(muon.Muon):
        """Makes matrices orthogonal in float32 on this CPU."""

        def step(self, closure: Callable | None = None) -> Any:
            if self.param_groups[0]['params'][0].device.type != 'cpu':
                return super().step(closure)
            name = 'zeropower_via_newtonschulz'  # timm has no argument for it
            changed = partial(getattr(muon, name), dtype=torch.float32)
            with patch.object(muon, name, changed):
                return super().step(closure)

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
