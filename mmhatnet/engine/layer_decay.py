from typing import Any

from torch import nn

from ..registry import OPTIM_WRAPPER_CONSTRUCTORS

try:
    from mmpretrain.engine.optimizers import (
        LearningRateDecayOptimWrapperConstructor,
    )
except ImportError as error:
    raise ImportError(
        'LayerDecayOptimWrapperConstructor needs mmpretrain: '
        'tools/setup_env.sh installs it'
    ) from error


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(
    LearningRateDecayOptimWrapperConstructor
):
    """Layer-wise learning rate decay for any model with a HATNet backbone.

    mmpretrain's constructor asks the model for the depth of a parameter.
    Segmentors and detectors do not know it, so this one asks their backbone.
    ``paramwise_cfg`` takes ``layer_decay_rate`` and the other keys as there;
    ``custom_keys`` may contain ``decay_mult`` and ``lr_mult``.
    """

    def add_params(
        self, params: list[dict], module: nn.Module, **kwargs: Any
    ) -> None:
        """Add the parameters of a module to the groups, as mmpretrain's."""
        if 'get_layer_depth' not in kwargs:
            kwargs['get_layer_depth'] = lambda name: (
                module.backbone.get_layer_depth(name, prefix='backbone.')
            )
        super().add_params(params, module, **kwargs)
        if not kwargs.get('prefix'):  # not a call for a part of the model
            for group in params:
                group['lr'] *= group.pop('lr_mult', 1)
