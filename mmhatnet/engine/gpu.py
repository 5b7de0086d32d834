"""Hooks for training on a GPU, each a line in a config."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..models import HATNet
from ..models.compiling import compile_blocks
from ..models.graphing import graph_training
from ..registry import HOOKS


def _find_backbones(runner: Runner) -> list[HATNet]:
    """Find the HAT-Nets of a runner's model; ValueError if there is none."""
    modules = runner.model.modules()
    backbones = [m for m in modules if isinstance(m, HATNet)]
    if not backbones:
        raise ValueError('the model has no HATNet')
    return backbones


@HOOKS.register_module()
class CUDAGraphHook(Hook):
    """Launch the backbone's kernels by CUDA graphs, for images of one size.

    See :func:`~mmhatnet.models.graphing.graph_training`. Useful where a GPU
    waits for the host: with small batches, or a slow CPU.
    """

    def before_train(self, runner: Runner) -> None:
        """Let the first iteration record the graphs."""
        for backbone in _find_backbones(runner):
            graph_training(backbone)


@HOOKS.register_module()
class CompileBlocksHook(Hook):
    """Compile the blocks of the backbone, for images of one size.

    Detectors cannot be compiled as a whole by ``compile = True``; their
    backbone can. See :func:`~mmhatnet.models.compiling.compile_blocks`.

    Args:
        **kwargs: Arguments of :func:`torch.compile`.
    """

    def __init__(self, **kwargs: Any) -> None:
        self.kwargs = kwargs

    def before_train(self, runner: Runner) -> None:
        """Let the first iteration compile the blocks."""
        for backbone in _find_backbones(runner):
            compile_blocks(backbone, **self.kwargs)
