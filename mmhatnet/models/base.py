"""What mm needs in a backbone: freezing, layer depths, pretrained weights."""

import re
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..weights.loading import adapt_backbone, adapt_classifier, load_backbone
from .archs import (
    STAGES,
    check_arch,
    check_frozen_stages,
    check_grids,
    check_out_indices,
    check_ratios,
    check_stem_stride,
)
from .initialization import INIT_CFG


def _is_pretrained(cfg: Mapping) -> bool:
    """Whether an entry of init_cfg names a checkpoint, and check its keys."""
    keys = list(cfg) if isinstance(cfg, Mapping) else [cfg]
    allowed = {*signature(load_backbone).parameters, 'type'} - {'model'}
    named = 'checkpoint' in keys
    found = named or not isinstance(cfg, Mapping) or 'type' not in cfg
    if found or cfg['type'] in ('Pretrained', PretrainedInit):
        kind = cfg.get('type', 'Pretrained') if named else None
        if kind not in ('Pretrained', PretrainedInit) or set(keys) - allowed:
            raise ValueError(
                f'init_cfg of HATNet with {", ".join(map(str, keys))[:200]}: '
                "a checkpoint needs type='Pretrained' and checkpoint=..., and "
                f'takes {", ".join(sorted(allowed - {"type"}))} alone. On the '
                'command line, model.backbone.init_cfg._delete_=True before '
                'them drops what the config has'
            )
        return True
    return False


class Stage(nn.Sequential):
    """Blocks, which share the masks of their windows."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W)."""
        masks: dict[bool, Tensor | None] = {}  # shifted or not -> mask
        for block in self:
            if block.attn.shifted not in masks:
                masks[block.attn.shifted] = block.attn.window_mask(x)
            x = block(x, masks[block.attn.shifted])
        return x


class BackboneBase(BaseModule):
    """The part of HATNet that does not depend on its layers.

    A subclass builds ``stem``, ``downsamples``, ``stages`` and ``out_norms``.
    The arguments are those of :class:`~mmhatnet.models.HATNet`.
    """

    def __init__(
        self,
        arch: str | dict,
        grid_sizes: Sequence[int],
        ds_ratios: Sequence[int] | str,
        out_indices: Sequence[int] | int,
        frozen_stages: int,
        norm_eval: bool,
        stem_stride: int,
        init_cfg: dict | list[dict] | None,
    ) -> None:
        super().__init__(init_cfg or INIT_CFG)
        self.arch_settings = check_arch(arch)
        self.embed_dims = tuple(self.arch_settings['embed_dims'])
        self.depths = tuple(self.arch_settings['depths'])
        self.out_indices = check_out_indices(out_indices)
        self.num_stages = max(self.out_indices) + 1
        self.grid_sizes = check_grids('grid_sizes (G1)', grid_sizes)
        self.ds_ratios = check_ratios(ds_ratios)
        self.frozen_stages = check_frozen_stages(
            frozen_stages, self.out_indices
        )
        self.norm_eval = norm_eval
        self.stem_stride = check_stem_stride(stem_stride)
        self.stride = stem_stride * 2 ** (STAGES - 1)  # of the last stage

    def set_grids(
        self,
        grid_sizes: Sequence[int] | None = None,
        ds_ratios: Sequence[int | str] | None = None,
    ) -> None:
        """Change G1 and G2; the weights stay as they are.

        Args:
            grid_sizes (Sequence[int], optional): G1 of the stages 0 to 2, as
                in the constructor. Defaults to None, no change.
            ds_ratios (Sequence[int | str], optional): G2 of the stages 0 to 2,
                or 'auto'. Defaults to None, no change.

        Raises:
            ValueError: If either is not valid. Then nothing is changed.
        """
        g1 = self.grid_sizes if grid_sizes is None else grid_sizes
        g2 = self.ds_ratios if ds_ratios is None else ds_ratios
        g1, g2 = check_grids('grid_sizes (G1)', g1), check_ratios(g2)
        self.assign_grids(g1, g2)

    def assign_grids(self, g1: Sequence, g2: Sequence) -> None:
        """Change G1 and G2 without a check, as graphs in which they vary do.

        Args:
            g1 (Sequence): G1 of the stages 0 to 2.
            g2 (Sequence): G2 of the stages 0 to 2.
        """
        self.grid_sizes, self.ds_ratios = tuple(g1), tuple(g2)
        for stage, grid_size, ds_ratio in zip(
            self.stages, g1, g2, strict=False
        ):
            for block in stage:
                block.attn.grid_size = grid_size
                if hasattr(block.attn, 'ds_ratio'):
                    block.attn.ds_ratio = ds_ratio

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
        depth = num_depths - 1
        if param_name.startswith(prefix):
            part, *rest = param_name.removeprefix(prefix).split('.')
            if part == 'stem':
                depth = 0
            elif part == 'downsamples':
                depth = sum(self.depths[: int(rest[0]) + 1]) + 1
            elif part == 'stages':
                stage, block = map(int, rest[:2])
                depth = sum(self.depths[:stage]) + block + 1
        return depth, num_depths

    def init_weights(self) -> None:
        """Initialize, or load the checkpoint that ``init_cfg`` names.

        mmengine's own loading only warns if nothing in a checkpoint matches,
        and unpickles whatever the file holds.

        Raises:
            ValueError: If ``init_cfg`` has an entry without a type or with
                keys that do not belong together, or a checkpoint does not
                fit.
        """
        cfgs = self.init_cfg or []
        if isinstance(cfgs, Mapping | str):
            cfgs = [cfgs]
        pretrained = [cfg for cfg in cfgs if _is_pretrained(cfg)]
        if not pretrained:
            super().init_weights()
        for cfg in pretrained:
            load_backbone(self, **{k: cfg[k] for k in cfg if k != 'type'})
            self.is_init = True

    def train(self, mode: bool = True) -> 'BackboneBase':
        """Set the mode, except of frozen stages and, if asked, batch norms."""
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

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, *args: Any
    ) -> None:
        adapt_backbone(state_dict, self, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _checkpoint_filter(
        self, state_dict: dict, prefix: str, *args: Any
    ) -> None:
        # mmpretrain's ImageClassifier calls this before it loads anything.
        if not prefix:
            adapt_classifier(state_dict, self)
