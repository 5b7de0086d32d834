"""One set of weights for every G1, G2 and image size."""

from collections.abc import Sequence
from math import inf
from numbers import Real
from random import Random
from typing import Any

import torch.nn.functional as F  # noqa: N812
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import PixelData
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..models import HATNet
from ..registry import HOOKS


@HOOKS.register_module()
class ElasticGridsHook(Hook):
    """Draw a new G1, G2 and image size in every iteration.

    So one set of weights learns all settings. Each of the three is drawn on
    its own. A draw depends on the seed and the number of the iteration alone,
    so it is the same on all processes and after a resume. Validation and
    testing use the configured setting.

    Args:
        grid_sizes (Sequence[Sequence[int]]): G1 to draw from, as in
            :class:`~mmhatnet.models.HATNet`. Defaults to (), the configured
            one.
        ds_ratios (Sequence[Sequence[int] | str]): G2 to draw from, likewise;
            one may be 'auto'.
        scales (Sequence[float]): Factors of the images' sides to draw from,
            for classifiers and segmentors; detectors have mm's
            ``RandomChoiceResize``. Defaults to (1.0,).
        seed (int): Seed of the draws. Defaults to 0.

    Raises:
        ValueError: If an argument is not a list, or scales are not positive.
            An illegal G1 or G2 is an error when the training starts.

    Examples:
        >>> custom_hooks = [
        ...     dict(
        ...         type='mmhatnet.ElasticGridsHook',
        ...         ds_ratios=[(4, 2, 1), (8, 4, 2), (16, 8, 4)],
        ...         scales=[0.75, 1.0, 1.25],
        ...     )
        ... ]
    """

    def __init__(
        self,
        grid_sizes: Sequence[Sequence[int]] = (),
        ds_ratios: Sequence[Sequence[int] | str] = (),
        scales: Sequence[float] = (1.0,),
        seed: int = 0,
    ) -> None:
        given = dict(grid_sizes=grid_sizes, ds_ratios=ds_ratios, scales=scales)
        for name, values in given.items():
            # A setting alone is not a list of settings.
            kind = Real if name == 'scales' else Sequence
            listed = isinstance(values, list | tuple)
            if not listed or not all(isinstance(x, kind) for x in values):
                raise ValueError(
                    f'{name} must be a list of values to draw from, got '
                    f'{values!r}'
                )
        if not scales or not all(0 < scale < inf for scale in scales):
            raise ValueError(f'scales are positive numbers, got {scales!r}')
        self.grid_sizes, self.ds_ratios = list(grid_sizes), list(ds_ratios)
        self.scales, self.seed = list(scales), seed
        self.scale = 1.0
        self.resizing: RemovableHandle | None = None

    def before_train(self, runner: Runner) -> None:
        """Find the backbone and try all settings.

        Raises ValueError if there is not one HATNet, or a setting is illegal.
        """
        modules = list(runner.model.modules())
        backbones = [m for m in modules if isinstance(m, HATNet)]
        if len(backbones) != 1:
            raise ValueError(
                f'ElasticGridsHook is for models with one HATNet; this one '
                f'has {len(backbones)}'
            )
        self.backbone = backbones[0]
        self.configured = self.backbone.grid_sizes, self.backbone.ds_ratios
        for grid_size in self.grid_sizes:
            self.backbone.set_grids(grid_sizes=grid_size)
        for ds_ratio in self.ds_ratios:
            self.backbone.set_grids(ds_ratios=ds_ratio)
        self.backbone.set_grids(*self.configured)
        if self.scales != [1.0]:
            # The outermost; models of models have more.
            preprocessor = next(
                module.data_preprocessor
                for module in modules
                if hasattr(module, 'data_preprocessor')
            )
            self.resizing = preprocessor.register_forward_hook(self._resize)

    def after_train(self, *args: Any) -> None:
        """Stop resizing."""
        if self.resizing:
            self.resizing.remove()

    def before_train_iter(
        self, runner: Runner, *args: Any, **kwargs: Any
    ) -> None:
        """Draw the G1, G2 and size of this iteration."""
        draw = Random(f'{self.seed} {runner.iter}')
        self.backbone.set_grids(
            draw.choice(self.grid_sizes or [None]),
            draw.choice(self.ds_ratios or [None]),
        )
        self.scale = draw.choice(self.scales)

    def after_train_iter(self, *args: Any, **kwargs: Any) -> None:
        """Go back to the configured setting."""
        self.backbone.set_grids(*self.configured)
        self.scale = 1.0

    def _resize(self, module: nn.Module, args: tuple, data: dict) -> None:
        """Resize a batch and its maps: labels, edges, depths."""
        samples = data.get('data_samples') or ()
        if any('gt_instances' in sample for sample in samples):
            raise ValueError(
                'the scales of ElasticGridsHook are for classifiers and '
                "segmentors; a detector's pipeline has RandomChoiceResize"
            )
        if self.scale == 1:
            return
        images = data['inputs']
        size = tuple(
            max(self.backbone.stride, round(side * self.scale))
            for side in images.shape[2:]
        )
        data['inputs'] = F.interpolate(
            images, size, mode='bilinear', antialias=True
        )
        for sample in samples:
            for name, value in sample.items():
                if isinstance(value, PixelData):
                    resized = F.interpolate(
                        value.data[None].float(), size, mode='nearest-exact'
                    )
                    data = resized[0].to(value.data.dtype)
                    sample.set_field(PixelData(data=data), name)
            sample.set_metainfo(dict(img_shape=size, pad_shape=size))
