from mmpretrain.engine.optimizers import (
    LearningRateDecayOptimWrapperConstructor,
)
from torch import nn

from .registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(
    LearningRateDecayOptimWrapperConstructor
):
    """Layer-wise learning rate decay for any model around a HATNet.

    mmpretrain's constructor asks the model for the depth of a parameter, which
    segmentors and detectors do not know; their backbone does. In a config::

        optim_wrapper = dict(
            constructor='mmhatnet.LayerDecayOptimWrapperConstructor',
            paramwise_cfg=dict(layer_decay_rate=0.9),
        )

    The other keys of ``paramwise_cfg`` are those of mmpretrain's, which has
    ``decay_mult`` but no ``lr_mult`` in ``custom_keys``.
    """

    def add_params(self, params: list[dict], module: nn.Module, **kwargs):
        """Add the parameters of a module to the list of groups.

        Args:
            params (list[dict]): The groups, changed in place.
            module (nn.Module): The model, or a part of it.
            **kwargs: As in mmpretrain's class.
        """
        if 'get_layer_depth' not in kwargs:
            kwargs['get_layer_depth'] = lambda name: (
                module.backbone.get_layer_depth(name, prefix='backbone.')
            )
        super().add_params(params, module, **kwargs)
