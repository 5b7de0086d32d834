"""Muon for trainings from scratch, by timm."""

from collections.abc import Iterable
from typing import Any

from torch.optim import Optimizer

from .registry import OPTIMIZERS


@OPTIMIZERS.register_module('Muon')
def build_muon(params: Iterable, **kwargs: Any) -> Optimizer:
    """Build timm's Muon: for matrices Muon, for the rest AdamW.

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
