"""Helpers of the operators."""

import math
from typing import NoReturn

import torch
from torch import Tensor


def float32(number: float) -> float:
    """Round a number to float32, as mmcv's functions do with arguments.

    Otherwise, an overlap of exactly 0.6 would count as above 0.6.
    """
    if not math.isfinite(number):
        return number
    # torch.compile does not follow struct, numpy or Tensor.item().
    mantissa, exponent = math.frexp(number)
    return math.ldexp(round(mantissa * 2**24), exponent - 24)


def widen(*tensors: Tensor) -> list[Tensor]:
    """Make the half precisions float32, which all kernels have."""
    halves = torch.float16, torch.bfloat16
    return [x.float() if x.dtype in halves else x for x in tensors]


def raise_missing(name: str) -> NoReturn:
    """Refuse what only mmcv's compiled operators have, and say what to do."""
    raise ImportError(
        f"{name} needs mmcv's compiled operators: run tools/setup_env.sh "
        '--compiled, and do not set MMHATNET_OPERATORS=torchvision'
    )
