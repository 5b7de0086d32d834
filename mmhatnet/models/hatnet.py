"""HAT-Net, Sec. 3 of the paper.

``windows.py`` cuts maps of any size into windows, ``archs.py`` has Table 1,
``base.py`` has mm's methods, and ``@has_forms`` marks what has faster forms.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn.bricks import DropPath, build_activation_layer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..registry import MODELS
from . import archs
from .base import BackboneBase, Stage
from .casting import casts_weights
from .fast import (
    build_depthwise,
    build_norm,
    build_pointwise,
    memory_format_of,
    to_memory_format,
)
from .forms import has_forms
from .initialization import draw_weights, is_fan_out
from .windows import average_cells, cut_windows, join_windows, window_mask


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Softmax attention, Eq. (2).

    Args:
        q (Tensor): (N, heads, Lq, head_dim).
        k (Tensor): (N, heads, Lk, head_dim).
        v (Tensor): (N, heads, Lk, head_dim).
        mask (Tensor, optional): Added to the scores; broadcastable to
            (N, heads, Lq, Lk). Defaults to None.

    Returns:
        Tensor: (N, heads, Lq, head_dim).
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores + mask
    return scores.softmax(dim=-1) @ v


def split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """Split (N, parts * C, ...) to parts of (N, heads, tokens, C / heads).

    In channels_last memory neither the parts nor their gradients are copied.
    """
    return tuple(
        part.flatten(2).unflatten(1, (heads, -1)).transpose(-2, -1)
        for part in x.chunk(parts, dim=1)
    )


class MHSA(nn.Module):
    """Multi-head self-attention over the map or inside windows, Eqs. (1, 2).

    The last stage attends over the whole map. Windows are the baseline of
    Table 5, where H-MHSA replaces the attention of Swin. As in Swin, every
    second block shifts them by half their side. Relative position biases are
    left out, because their number would fix G1. Windows only hold neighbours.

    Args:
        embed_dims (int): Channels C.
        num_heads (int): Number of heads.
        grid_size (int, optional): G1, the windows' side in tokens. Defaults
            to None, the whole map.
        shifted (bool): Shift the windows. Defaults to False.
        drop_rate (float): Dropout of output channels. Defaults to 0.
        norm_cfg (dict): Config of the norms.
        fast (bool): As in :class:`HATNet`. Defaults to True.
    """

    NORMS: tuple[str, ...] = ('norm',)

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        grid_size: int | None = None,
        shifted: bool = False,
        drop_rate: float = 0.0,
        *,
        norm_cfg: dict,
        fast: bool = True,
    ) -> None:
        super().__init__()
        self.num_heads, self.fast = num_heads, fast
        self.grid_size, self.shifted = grid_size, shifted
        # First, since fuse_conv_bn fuses a convolution with the norm after it.
        for name in self.NORMS:
            setattr(self, name, build_norm(norm_cfg, embed_dims, fast))
        self.qkv = build_pointwise(embed_dims, 3 * embed_dims, fast)
        self.proj = build_pointwise(embed_dims, embed_dims, fast)
        self.drop = nn.Dropout2d(drop_rate)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend, without the residual.

        Args:
            x (Tensor): The map, (N, C, H, W).
            mask (Tensor, optional): :meth:`window_mask` of ``x``, to share it
                between the blocks of a stage. Defaults to None: make it.

        Returns:
            Tensor: (N, C, H, W).
        """
        return self.drop(self.proj(self.local_attention(x, mask)))

    @has_forms
    def attend(self, q: Tensor, k: Tensor, v: Tensor, *mask: Any) -> Tensor:
        """Compute :func:`attention`."""
        return attention(q, k, v, *mask)

    @has_forms
    def window_mask(self, x: Tensor) -> Tensor | None:
        """Make the mask of partial windows; None if all are whole."""
        return window_mask(x, self.grid_size, self.shifted)

    @has_forms
    def local_attention(
        self, x: Tensor, mask: Tensor | None = None, residual: bool = False
    ) -> Tensor:
        """Attend inside the windows, Eqs. (6) to (9); can add ``x``."""
        qkv = cut_windows(self.qkv(self.norm(x)), self.grid_size, self.shifted)
        return self.attend_windows(qkv, x, mask, residual)

    def attend_windows(
        self, qkv: Tensor, x: Tensor, mask: Tensor | None, residual: bool
    ) -> Tensor:
        """Attend inside windows that are cut, Eqs. (7) to (9)."""
        grid = self.grid_size, self.shifted
        mask = self.window_mask(x) if mask is None else mask
        qkv = qkv.transpose(1, 2).flatten(0, 1)
        out = self.attend(*split_heads(qkv, 3, self.num_heads), mask)
        out = out.transpose(1, 2).flatten(2)
        return join_windows(out, x.shape, *grid, onto=x if residual else None)

    def extra_repr(self) -> str:
        """Show the attributes that are not modules."""
        names, found = ('num_heads', 'grid_size', 'ds_ratio'), vars(self)
        return ', '.join(f'{k}={found[k]}' for k in names if k in found)


class HMHSA(MHSA):
    """Hierarchical multi-head self-attention, Sec. 3.2.

    Attention inside windows of G1 x G1 tokens (Eqs. 6 to 9), then attention
    of every token to the map pooled by G2 (Eqs. 10 to 13), then the
    projection of both (Eq. 14). As in the official model, the inputs of the
    three products are normalized, and the residual of the first step is the
    input itself. Neither G1 nor G2 has parameters, and neither has to divide
    the map: pooled tokens at the border average the tokens that exist.

    Args:
        embed_dims (int): Channels C.
        num_heads (int): Number of heads.
        grid_size (int): G1, the windows' side in tokens.
        ds_ratio (Ratio): G2, the side of the pooled cells in tokens.
        **kwargs: ``drop_rate``, ``norm_cfg`` and ``fast`` of :class:`MHSA`.
    """

    NORMS = ('norm', 'grid_norm', 'pool_norm')

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        grid_size: int,
        ds_ratio: archs.Ratio,
        **kwargs: Any,
    ) -> None:
        super().__init__(embed_dims, num_heads, grid_size, **kwargs)
        self.ds_ratio = ds_ratio
        self.q = build_pointwise(embed_dims, embed_dims, self.fast)
        self.kv = build_pointwise(embed_dims, 2 * embed_dims, self.fast)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend, without the residual; see :meth:`MHSA.forward`."""
        x = self.grid_norm(self.local_attention(x, mask, residual=True))
        return self.drop(self.proj(self.global_attention(x) + x))

    @has_forms
    def global_attention(self, x: Tensor) -> Tensor:
        """Attend to the pooled map, Eqs. (10) to (13): (N, C, H, W)."""
        n, channels, h, w = x.shape
        pooled = self.pool_norm(average_cells(x, self.ds_ratio))
        q = split_heads(self.q(x), 1, self.num_heads)
        kv = split_heads(self.kv(pooled), 2, self.num_heads)
        out = self.attend(*q, *kv).transpose(1, 2)
        return out.reshape(n, h, w, channels).permute(0, 3, 1, 2)


class MLP(nn.Module):
    """The inverted bottleneck with a depthwise convolution, Sec. 3.3.

    Args:
        embed_dims (int): Channels C.
        expansion (int): E, hidden channels per channel.
        kernel_size (int): K of the depthwise convolution; odd.
        dw_conv (bool): Have the depthwise convolution and its activation.
            Defaults to True.
        drop_rate (float): Probability of dropping a channel. Defaults to 0.
        norm_cfg (dict): Config of the norms.
        act_cfg (dict): Config of the activation.
        fast (bool): As in :class:`HATNet`. Defaults to True.
    """

    def __init__(
        self,
        embed_dims: int,
        expansion: int,
        kernel_size: int,
        dw_conv: bool = True,
        drop_rate: float = 0.0,
        *,
        norm_cfg: dict,
        act_cfg: dict,
        fast: bool = True,
    ) -> None:
        super().__init__()
        self.fast = fast
        hidden = embed_dims * expansion
        self.norm1 = build_norm(norm_cfg, embed_dims, fast)
        self.fc1 = build_pointwise(embed_dims, hidden, fast, bias=False)
        depthwise = build_depthwise(hidden, kernel_size) if dw_conv else None
        self.dw_conv = depthwise
        self.fc2 = build_pointwise(hidden, embed_dims, fast, bias=False)
        self.norm2 = build_norm(norm_cfg, embed_dims, fast)
        self.act = build_activation_layer(act_cfg)
        self.drop = nn.Dropout2d(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W), without the residual."""
        return self.drop(self.norm2(self.bottleneck(self.norm1(x))))

    @has_forms
    def bottleneck(self, x: Tensor) -> Tensor:
        """Compute everything between the norms."""
        x = self.act(self.fc1(x))
        if self.dw_conv is not None:
            x = self.act(self.dw_conv(x))
        return self.fc2(self.drop(x))


class HATNetBlock(nn.Module):
    """Attention and MLP, each with a residual (Eqs. 4 and 14).

    Args:
        attn (MHSA): The attention.
        mlp (MLP): The MLP.
        drop_path_rate (float): Probability of dropping a branch, per sample.
        with_cp (bool): Recompute the block in the backward pass instead of
            keeping its activations.
    """

    def __init__(
        self, attn: MHSA, mlp: MLP, drop_path_rate: float, with_cp: bool
    ) -> None:
        super().__init__()
        self.attn, self.mlp = attn, mlp
        self.drop_path, self.with_cp = DropPath(drop_path_rate), with_cp

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W); see :meth:`MHSA.forward`."""
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(self._forward, x, mask, use_reentrant=False)
        return self._forward(x, mask)

    @casts_weights
    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.drop_path(self.attn(x, mask))
        return x + self.drop_path(self.mlp(x))


@MODELS.register_module()
class HATNet(BackboneBase):
    """HAT-Net, the Hierarchical-Attention-based Transformer Network.

    The backbone of "Vision Transformers with Hierarchical Attention"
    (https://arxiv.org/abs/2106.03180), equal to the authors' code
    (https://github.com/yun-liu/HAT-Net) where that runs, and exact at any
    input size and any G1 and G2. Stages 0 to 3 are the four stages of blocks,
    at strides 4, 8, 16 and 32; the paper counts the stem as stage 1.

    Args:
        arch (str | dict): 'tiny'/'t', 'small'/'s', 'medium'/'m' or
            'large'/'l' (Table 1), 'micro', or a dict with an entry per stage
            for **embed_dims** (channels C), **depths** (numbers of blocks),
            **kernel_sizes** (K of the depthwise convolutions, odd) and
            **expansions** (E of the MLPs), and with **head_dim** (channels of
            a head; divides every C). Defaults to 'tiny'.
        in_channels (int): Channels of the images. Defaults to 3.
        grid_sizes (Sequence[int]): G1 of the stages 0 to 2, the windows' side
            in tokens. Has no parameters. Defaults to (8, 8, 8), the paper's
            choice for dense prediction; for 224x224 classification it is
            (8, 7, 7).
        ds_ratios (Sequence[int] | str): G2 of the stages 0 to 2, the side in
            tokens of the cells that are pooled for the global attention, or
            'auto' for 7x7 cells on a square map. Defaults to (16, 8, 4), the
            paper's choice for dense prediction; for 224x224 it is (8, 4, 2).
        out_indices (Sequence[int] | int): Stages whose features are returned;
            negative ones count from the end. Later stages are not built.
            Defaults to (0, 1, 2, 3).
        attn_types (Sequence[str]): 'h-mhsa' or 'window' for the stages 0 to 2
            (Table 5); see :class:`MHSA`. The last stage always attends over
            the whole map. Defaults to 'h-mhsa' in all.
        dw_conv (bool): Have depthwise convolutions in the MLPs; without them
            it is the pure transformer of Sec. 4.4. Defaults to True.
        drop_rate (float): Probability of dropping a channel inside the
            blocks. Defaults to 0.
        drop_path_rate (float): Stochastic depth of the last block; grows
            linearly from 0 at the first. Defaults to 0.
        norm_cfg (dict): Config of all norms. Defaults to GroupNorm with a
            single group, as in the official model.
        act_cfg (dict): Config of the activations. Defaults to SiLU.
        out_norm_cfg (dict, optional): Config of a norm on each returned
            feature. Defaults to None, no norm.
        frozen_stages (int): 0 freezes the stem, k > 0 also the first k
            stages, -1 nothing. Defaults to -1.
        norm_eval (bool): Keep batch norms, where ``norm_cfg`` has them, in
            eval mode. Defaults to False.
        with_cp (bool): Checkpoint the activations of every block: less
            memory, slower training. Defaults to False.
        fast (bool): Use fused attention, channels_last memory and, on a CPU,
            chunks that fit its cache. False computes the paper's equations:
            equal results, and derivatives of any order. Defaults to True.
        stem_stride (int): 4, or 2 for images like CIFAR's. Defaults to 4.
        init_cfg (dict | list[dict], optional): Initialization config. With
            ``dict(type='Pretrained', checkpoint=...)`` the checkpoint is a
            file or URL of the authors or of mm, or ``'hatnet://small'``; see
            :func:`mmhatnet.weights.loading.load_backbone`. With
            ``dict(type='mmhatnet.FanOutInit')`` short trainings from scratch
            can learn faster. Defaults to the authors', cut at 2 deviations.

    Raises:
        ValueError: If an argument is illegal or an image is smaller than 32x32
            pixels (16x16 with a stem of stride 2).

    Examples:
        >>> import torch
        >>> from mmhatnet.models import HATNet
        >>> features = HATNet('tiny')(torch.rand(1, 3, 511, 333))
        >>> [tuple(feature.shape[1:]) for feature in features]
        [(48, 128, 84), (96, 64, 42), (240, 32, 21), (384, 16, 11)]
    """

    arch_zoo = archs.ARCHS
    STEM_DIMS = 16

    def __init__(
        self,
        arch: str | dict = 'tiny',
        in_channels: int = 3,
        grid_sizes: Sequence[int] = (8, 8, 8),
        ds_ratios: Sequence[int] | str = (16, 8, 4),
        out_indices: Sequence[int] | int = (0, 1, 2, 3),
        attn_types: Sequence[str] = ('h-mhsa', 'h-mhsa', 'h-mhsa'),
        dw_conv: bool = True,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_cfg: dict = dict(type='GN', num_groups=1, eps=1e-6),  # noqa: B006
        act_cfg: dict = dict(type='SiLU'),  # noqa: B006
        out_norm_cfg: dict | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        fast: bool = True,
        stem_stride: int = 4,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        others = out_indices, frozen_stages, norm_eval, stem_stride, init_cfg
        super().__init__(arch, grid_sizes, ds_ratios, *others)
        self.fast = fast
        attn_types = archs.check_attn_types(attn_types)
        archs.check_numbers(in_channels, drop_rate, drop_path_rate)
        dims = self.embed_dims
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, self.STEM_DIMS, 3, stem_stride // 2, 1),
            build_norm(norm_cfg, self.STEM_DIMS, fast),
            build_activation_layer(act_cfg),
            nn.Conv2d(self.STEM_DIMS, dims[0], 3, stride=2, padding=1),
        )
        self.downsamples = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(dims[i], dims[i + 1], 3, stride=2, padding=1),
                build_norm(norm_cfg, dims[i + 1], fast),
            )
            for i in range(self.num_stages - 1)
        )
        cfg: dict = dict(drop_rate=drop_rate, norm_cfg=norm_cfg, fast=fast)
        self.stages = nn.ModuleList()
        for i in range(self.num_stages):
            heads = dims[i] // self.arch_settings['head_dim']
            table = self.arch_settings
            sizes = table['expansions'][i], table['kernel_sizes'][i]
            blocks = Stage()
            for j in range(self.depths[i]):
                if i == archs.STAGES - 1:
                    attn = MHSA(dims[i], heads, **cfg)
                elif attn_types[i] == 'window':
                    grid: tuple = self.grid_sizes[i], j % 2 == 1
                    attn = MHSA(dims[i], heads, *grid, **cfg)
                else:
                    grid = self.grid_sizes[i], self.ds_ratios[i]
                    attn = HMHSA(dims[i], heads, *grid, **cfg)
                mlp_cfg: dict = dict(dw_conv=dw_conv, act_cfg=act_cfg, **cfg)
                mlp = MLP(dims[i], *sizes, **mlp_cfg)
                depth = sum(self.depths[:i]) + j
                rate = drop_path_rate * depth / max(1, sum(self.depths) - 1)
                blocks.append(HATNetBlock(attn, mlp, rate, with_cp))
            self.stages.append(blocks)
        self.out_norms = nn.ModuleDict()
        if out_norm_cfg:
            for i in self.out_indices:
                norm = build_norm(out_norm_cfg, dims[i], fast)
                self.out_norms[str(i)] = norm
        draw_weights(self, is_fan_out(init_cfg))
        self._freeze_stages()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the features of the stages in ``out_indices``.

        Args:
            x (Tensor): Images, (N, in_channels, H, W).

        Returns:
            tuple[Tensor]: (N, C_i, H_i, W_i) for each stage i, in the images'
            memory format; H_i is H / (stem_stride * 2**i) rounded up.
        """
        archs.check_images(x.shape, self.stride)
        layout = memory_format_of(x)
        inner = torch.channels_last if self.fast else torch.contiguous_format
        x = to_memory_format(x, inner)
        outs = []
        for i, stage in enumerate(self.stages):
            x = self.downsamples[i - 1](x) if i else self.stem(x)
            x = stage(to_memory_format(x, inner))  # convolutions change it
            if i in self.out_indices:
                out = self.out_norms[str(i)](x) if self.out_norms else x
                outs.append(to_memory_format(out, layout))
        return tuple(outs)
