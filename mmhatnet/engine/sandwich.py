"""The costliest, the cheapest and a drawn setting train on every batch."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from math import ceil
from random import Random
from typing import Any

import torch
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor

from ..models import HATNet
from ..models.archs import Ratio, check_ratios
from ..models.windows import cell_side
from ..registry import HOOKS
from .elastic import ElasticGridsHook


@HOOKS.register_module()
class SandwichGridsHook(ElasticGridsHook):
    """Train several pairs of G1 and G2 on each batch: the sandwich rule.

    These are the costliest pair, the cheapest one, and one of those between,
    drawn evenly over the cost of attention at the size of the batch. Their
    losses are averaged (https://arxiv.org/abs/1903.05134). A step has three
    passes of the model instead of one.

    Args:
        distill (float): Weight of ``loss_distill``, which pulls the features
            of the other pairs towards those of the costliest: the mean square
            of the differences, relative to the variance, averaged over the
            features and the pairs. Defaults to 0.0, none.
        **kwargs: As of :class:`ElasticGridsHook`.

    Raises:
        ValueError: If an argument is illegal.

    Examples:
        >>> custom_hooks = [
        ...     dict(
        ...         type='mmhatnet.SandwichGridsHook',
        ...         ds_ratios=[(4, 2, 1), (8, 4, 2), (16, 8, 4)],
        ...         distill=1.0,
        ...     )
        ... ]
    """

    def __init__(self, distill: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= distill < float('inf'):
            raise ValueError(f'distill is a weight, got {distill!r}')
        self.distill = distill

    def before_train(self, runner: Runner) -> None:
        """Train the pairs wherever the model computes its losses.

        Args:
            runner (Runner): The runner.

        Raises:
            ValueError: As by :class:`ElasticGridsHook`, or if there is one
                pair only, or the backbone computes blocks again (with_cp).
        """
        super().before_train(runner)
        g1, g2 = self.configured
        grids = [tuple(x) for x in self.grid_sizes] or [g1]
        ratios = [check_ratios(x) for x in self.ds_ratios] or [g2]
        self.pairs = [*product(grids, ratios)]
        if len(self.pairs) < 2:
            raise ValueError('list at least two G1 or two G2')
        if any(getattr(x, 'with_cp', False) for x in self.backbone.modules()):
            # It computes blocks again after G1 and G2 have changed.
            raise ValueError('SandwichGridsHook needs backbone.with_cp=False')
        self.keeping = self.backbone.register_forward_hook(self._keep)
        model = runner.model
        self.model = model.module if is_model_wrapper(model) else model
        self.model.loss = partial(self._losses, self.model.loss)

    def before_train_iter(
        self, runner: Runner, *args: Any, **kwargs: Any
    ) -> None:
        """Draw."""
        super().before_train_iter(runner, *args, **kwargs)
        self.share = Random(f'{self.seed} {runner.iter} cost').random()

    def after_train(self, runner: Runner) -> None:
        """Give the model its own losses back."""
        super().after_train(runner)
        self.keeping.remove()
        del self.model.loss

    def _keep(self, module: HATNet, args: tuple, outs: tuple) -> None:
        self.features = outs

    def choose(self, shape: Sequence[int]) -> list[tuple]:
        """Choose the pairs of a batch, the costliest first.

        Args:
            shape (Sequence[int]): Height and width of the images in pixels.

        Returns:
            list[tuple]: Up to three pairs of G1 and G2.
        """
        costs = {
            pair: attention_cost(self.backbone, *pair, shape)
            for pair in self.pairs
        }
        ranked = sorted(costs, key=costs.__getitem__, reverse=True)
        high, low = costs[ranked[0]], costs[ranked[-1]]
        wanted = low + self.share * (high - low)
        between = ranked[1:-1]
        between.sort(key=lambda pair: abs(costs[pair] - wanted))
        return list(dict.fromkeys([ranked[0], ranked[-1], *between[:1]]))

    def _losses(
        self, compute: Callable, inputs: Tensor, *args: Any, **kwargs: Any
    ) -> dict:
        """Compute the mean losses of the chosen pairs."""
        found, features = [], []
        for pair in self.choose(inputs.shape[-2:]):
            self.backbone.set_grids(*pair)
            found.append(compute(inputs, *args, **kwargs))
            features.append(self.features)
        losses = {key: _mean([x[key] for x in found]) for key in found[0]}
        if self.distill:
            target, *others = features
            errors = [
                _error(*both)
                for outs in others
                for both in zip(outs, target, strict=True)
            ]
            losses['loss_distill'] = self.distill * _mean(errors)
        return losses


def attention_cost(
    backbone: HATNet,
    grid_sizes: Sequence[int],
    ds_ratios: Sequence[Ratio],
    shape: Sequence[int],
) -> int:
    """Count the products of attention in the stages 0 to 2 (Eq. 15).

    Args:
        backbone (HATNet): The backbone.
        grid_sizes (Sequence[int]): G1 of the stages in tokens.
        ds_ratios (Sequence[Ratio]): G2 of the stages in tokens.
        shape (Sequence[int]): Height and width of the images in pixels.

    Returns:
        int: Multiply-accumulates for one image.
    """
    total = 0
    stages = range(min(backbone.num_stages, len(grid_sizes)))
    for i, g1, g2 in zip(stages, grid_sizes, ds_ratios, strict=False):
        h, w = (ceil(side / backbone.stem_stride / 2**i) for side in shape)
        cell = cell_side(g2, h, w)
        keys = min(g1, h) * min(g1, w) + ceil(h / cell) * ceil(w / cell)
        channels = backbone.embed_dims[i] * backbone.depths[i]
        total += 2 * h * w * channels * keys
    return total


def _mean(values: list) -> Any:
    """The mean of tensors, or of each place in lists of them."""
    if isinstance(values[0], Tensor):
        return torch.stack(values).mean(0)
    return [_mean(list(place)) for place in zip(*values, strict=True)]


def _error(found: Tensor, target: Tensor) -> Tensor:
    target = target.detach().float()
    error = (found.float() - target).square().mean()
    return error / target.var().clamp_min(1e-6)
