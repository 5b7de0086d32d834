from typing import Any

import torch
from mmpretrain.models.heads import LinearClsHead
from torch import nn

from .initialization import INIT_CFG, draw_weights


class HATNetClsHead(LinearClsHead):
    """Global average pooling, dropout and a linear layer (paper, Sec. 3.3).

    In a config, use ``dict(type='mmhatnet.HATNetClsHead', ...)`` and no neck.

    Args:
        num_classes (int): Number of classes.
        in_channels (int): Channels of the backbone's last stage.
        drop_rate (float): Dropout before the linear layer. Defaults to 0.2, as
            in the official model.
        init_cfg (dict, optional): Initialization config. Defaults to the
            backbone's, as in the official model.
        **kwargs: ``loss``, ``topk`` and ``cal_acc``, as in mmpretrain's
            ``LinearClsHead``.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        drop_rate: float = 0.2,
        init_cfg: dict | None = None,
        **kwargs: Any,
    ) -> None:
        init_cfg = init_cfg or INIT_CFG
        super().__init__(num_classes, in_channels, init_cfg=init_cfg, **kwargs)
        self.dropout = nn.Dropout(drop_rate)
        draw_weights(self)

    def pre_logits(self, feats: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Pool the last feature map.

        Args:
            feats (tuple[Tensor]): Feature maps (N, C, H, W); the last one is
                from the last stage.

        Returns:
            Tensor: Pooled features (N, C).
        """
        return self.dropout(feats[-1].mean(dim=(2, 3)))

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, *args: Any
    ) -> None:
        # mmengine would only log that the number of classes differs, and the
        # head would keep its random weights.
        weight = state_dict.get(f'{prefix}fc.weight')
        if weight is not None and weight.shape != self.fc.weight.shape:
            raise ValueError(
                f'{prefix}fc.weight is {tuple(weight.shape)} in the '
                f'checkpoint and {tuple(self.fc.weight.shape)} in the model. '
                'To train on other classes, load only the backbone: '
                "model.backbone.init_cfg=dict(type='Pretrained', "
                'checkpoint=...)'
            )
        super()._load_from_state_dict(state_dict, prefix, *args)
