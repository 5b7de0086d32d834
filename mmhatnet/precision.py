"""Mixed precision where mmengine has none."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.runner.amp import autocast
from torch import nn

from .registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Train in bfloat16 under autocast, on a CPU or a CUDA GPU.

    mmengine's ``AmpOptimWrapper`` refuses a CPU. bfloat16 has the range of
    float32, so no loss is scaled. Configs name ``AmpOptimWrapper`` with
    ``dtype='bfloat16'``; ``tools/train.py`` puts this one in its place if
    there is no GPU.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Compute the model and its losses under autocast."""
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield
