"""What mm asks of a backbone: freezing, layer depths, pretrained weights."""

import re
from collections.abc import Mapping

from mmengine.model import BaseModule, PretrainedInit
from torch.nn.modules.batchnorm import _BatchNorm

from ..weights.loading import adapt_backbone, adapt_classifier, load_backbone
from .archs import STAGES


class BackboneBase(BaseModule):
    """The part of HATNet that does not depend on its layers.

    A subclass has ``stem``, ``downsamples`` and ``stages``, and the arguments
    of :class:`~mmhatnet.models.HATNet` that are used here as attributes.
    """

    def get_layer_depth(
        self, param_name: str, prefix: str = ''
    ) -> tuple[int, int]:
        """Get the depth of a parameter, for layer-wise lr decay.

        The stem is at depth 0 and the blocks are at 1, 2, ...; a downsampling
        convolution belongs to the block after it. Norms on the outputs and
        everything outside the backbone come last.

        Args:
            param_name (str): Name of the parameter.
            prefix (str): Prefix of the backbone's parameters. Defaults to ''.

        Returns:
            tuple[int, int]: The depth and the number of depths.
        """
        num_depths = sum(self.depths) + 2
        part, _, rest = param_name.removeprefix(prefix).partition('.')
        if not param_name.startswith(prefix):
            part = ''
        if part == 'stem':
            depth = 0
        elif part == 'downsamples':
            stage = int(rest.split('.')[0]) + 1
            depth = sum(self.depths[:stage]) + 1
        elif part == 'stages':
            stage, block = map(int, rest.split('.')[:2])
            depth = sum(self.depths[:stage]) + block + 1
        else:
            depth = num_depths - 1
        return depth, num_depths

    def init_weights(self) -> None:
        """Initialize, or load the checkpoint that ``init_cfg`` names.

        mmengine's own loading only warns if nothing in a checkpoint matches,
        and unpickles whatever the file holds.
        """
        cfgs = self.init_cfg
        if isinstance(cfgs, Mapping):
            cfgs = [cfgs]
        pretrained = [
            cfg
            for cfg in cfgs
            if cfg['type'] in ('Pretrained', PretrainedInit)
        ]
        if not pretrained:
            super().init_weights()
        for cfg in pretrained:
            load_backbone(self, **{k: cfg[k] for k in cfg if k != 'type'})
            self.is_init = True

    def train(self, mode: bool = True) -> 'BackboneBase':
        """Set the mode, except of frozen stages and, if asked, batch norms.

        Args:
            mode (bool): Train or evaluate. Defaults to True.

        Returns:
            BackboneBase: The backbone.
        """
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def is_optional(self, key: str) -> bool:
        """Whether a checkpoint may have or lack a key.

        Args:
            key (str): Name of a parameter.

        Returns:
            bool: True for norms on the outputs, and for stages that are not
            built since none of ``out_indices`` needs them.
        """
        if key.startswith('out_norms.'):
            return True
        match = re.match(r'(stages|downsamples)\.(\d+)\.', key)
        if not match:
            return False
        # downsamples[i] leads to stages[i + 1]
        stage = int(match[2]) + (match[1] == 'downsamples')
        return self.num_stages <= stage < STAGES

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        for module in (
            self.stem,
            *self.downsamples[: max(self.frozen_stages - 1, 0)],
            *self.stages[: self.frozen_stages],
        ):
            module.eval()
            module.requires_grad_(False)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        adapt_backbone(state_dict, self, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _checkpoint_filter(self, state_dict, prefix, *args) -> None:
        # mmpretrain's ImageClassifier calls this before it loads anything.
        if not prefix:
            adapt_classifier(state_dict, self)
