"""HAT-Net, Sec. 3 of the paper.

How it is made fast, and how windows work at any size, stand in the modules
beside this one.
"""

from collections.abc import Sequence

import torch
from mmcv.cnn import build_activation_layer
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..registry import MODELS
from .archs import (
    ARCHS,
    STAGES,
    check_arch,
    check_attn_types,
    check_frozen_stages,
    check_grids,
    check_out_indices,
)
from .base import BackboneBase
from .compiling import makes_graph
from .fast import (
    PointwiseConv,
    build_norm,
    fused_attention,
    inverted_bottleneck,
    is_bare,
)
from .windows import average_cells, cut_windows, join_windows, window_mask

STRIDE = 32


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
    """Split a map into queries, keys, values, and these into heads.

    Args:
        x (Tensor): (N, parts * C, H, W). In channels_last memory no copy is
            made, neither here nor of the gradients.
        parts (int): Number of tensors to split it into.
        heads (int): Number of heads.

    Returns:
        tuple[Tensor, ...]: ``parts`` of (N, heads, H * W, C / heads).
    """
    return tuple(
        part.flatten(2).unflatten(1, (heads, -1)).transpose(-2, -1)
        for part in x.chunk(parts, dim=1)
    )


class MHSA(nn.Module):
    """Multi-head self-attention over the map or inside windows (Eqs. 1, 2).

    Over the whole map (``grid_size=None``) it is the attention of the last
    stage. With windows it is the baseline of Table 5, where H-MHSA replaces
    the window attention of Swin. The paper does not specify that baseline
    further. Here windows have the side G1 and are shifted by half a window in
    every second block, as in Swin; there is no table of relative position
    biases, as its size would fix G1. Tokens only attend to tokens that are
    neighbours on the map.

    Args:
        embed_dims (int): Channels C.
        num_heads (int): Number of heads.
        grid_size (int, optional): G1, the windows' side in tokens. Defaults
            to None, the whole map.
        shifted (bool): Shift the windows by half of their side. Defaults to
            False.
        drop_rate (float): Probability of dropping an output channel.
            Defaults to 0.
        norm_cfg (dict): Config of the norms.
        fast (bool): As in :class:`HATNet`. Defaults to True.
    """

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
        self.num_heads = num_heads
        self.grid_size = grid_size
        self.shifted = shifted
        self.fast = fast
        conv = PointwiseConv if fast else nn.Conv2d
        self.norm = build_norm(norm_cfg, embed_dims, fast)
        self.qkv = conv(embed_dims, 3 * embed_dims, 1)
        self.proj = conv(embed_dims, embed_dims, 1)
        self.drop = nn.Dropout2d(drop_rate)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend, without the residual.

        Args:
            x (Tensor): The map, (N, C, H, W).
            mask (Tensor, optional): :meth:`window_mask` of ``x``, which all
                blocks of a stage can share. Defaults to None: it is made.

        Returns:
            Tensor: (N, C, H, W).
        """
        return self.drop(self.proj(self.local_attention(x, mask)))

    def window_mask(self, x: Tensor) -> Tensor | None:
        """Make the mask of partial windows; None if all are whole."""
        return window_mask(x, self.grid_size, self.shifted)

    def local_attention(
        self, x: Tensor, mask: Tensor | None = None, residual: bool = False
    ) -> Tensor:
        """Attend inside the windows, Eqs. (6) to (9).

        Args:
            x (Tensor): The map, (N, C, H, W).
            mask (Tensor, optional): As in :meth:`forward`.
            residual (bool): Add ``x``. Defaults to False.

        Returns:
            Tensor: (N, C, H, W).
        """
        grid = self.grid_size, self.shifted
        if mask is None:
            mask = self.window_mask(x)
        if self.fast:
            # Windows of one map instead of three are a third as much to copy.
            qkv = self.qkv(cut_windows(self.norm(x), *grid))
        else:
            qkv = cut_windows(self.qkv(self.norm(x)), *grid)
        out = self.attend(*split_heads(qkv, 3, self.num_heads), mask)
        out = out.transpose(1, 2).flatten(2)
        return join_windows(out, x.shape, *grid, onto=x if residual else None)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Softmax attention; see :func:`attention`."""
        if self.fast:
            return fused_attention(attention, q, k, v, mask)
        return attention(q, k, v, mask)

    def extra_repr(self) -> str:
        """Show the attributes that are not modules."""
        return f'num_heads={self.num_heads}, grid_size={self.grid_size}'


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
        ds_ratio (int): G2, the side of the pooled cells in tokens.
        drop_rate (float): Probability of dropping an output channel.
            Defaults to 0.
        norm_cfg (dict): Config of the norms.
        fast (bool): As in :class:`HATNet`. Defaults to True.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        grid_size: int,
        ds_ratio: int,
        drop_rate: float = 0.0,
        *,
        norm_cfg: dict,
        fast: bool = True,
    ) -> None:
        super().__init__(
            embed_dims,
            num_heads,
            grid_size,
            drop_rate=drop_rate,
            norm_cfg=norm_cfg,
            fast=fast,
        )
        self.ds_ratio = ds_ratio
        conv = PointwiseConv if fast else nn.Conv2d
        self.grid_norm = build_norm(norm_cfg, embed_dims, fast)
        self.pool_norm = build_norm(norm_cfg, embed_dims, fast)
        self.q = conv(embed_dims, embed_dims, 1)
        self.kv = conv(embed_dims, 2 * embed_dims, 1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend, without the residual; see :meth:`MHSA.forward`."""
        x = self.grid_norm(self.local_attention(x, mask, residual=True))
        return self.drop(self.proj(self.global_attention(x) + x))

    def global_attention(self, x: Tensor) -> Tensor:
        """Attend to the pooled map, Eqs. (10) to (13).

        Args:
            x (Tensor): The map, (N, C, H, W).

        Returns:
            Tensor: (N, C, H, W).
        """
        pooled = self.pool_norm(average_cells(x, self.ds_ratio))
        (q,) = split_heads(self.q(x), 1, self.num_heads)
        k, v = split_heads(self.kv(pooled), 2, self.num_heads)
        out = self.attend(q, k, v)
        n, channels, h, w = x.shape
        out = out.transpose(1, 2).reshape(n, h, w, channels)
        return out.permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        """Show the attributes that are not modules."""
        return f'{super().extra_repr()}, ds_ratio={self.ds_ratio}'


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
        conv = PointwiseConv if fast else nn.Conv2d
        self.norm1 = build_norm(norm_cfg, embed_dims, fast)
        self.fc1 = conv(embed_dims, hidden, 1, bias=False)
        self.dw_conv = (
            nn.Conv2d(
                hidden,
                hidden,
                kernel_size,
                padding=kernel_size // 2,
                groups=hidden,
                bias=False,
            )
            if dw_conv
            else None
        )
        self.fc2 = conv(hidden, embed_dims, 1, bias=False)
        self.norm2 = build_norm(norm_cfg, embed_dims, fast)
        self.act = build_activation_layer(act_cfg)
        self.drop = nn.Dropout2d(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W), without the residual."""
        x = self.norm1(x)
        if self.fast and self._is_fusible():
            x = inverted_bottleneck(x, self.fc1, self.dw_conv, self.fc2)
        else:
            x = self.act(self.fc1(x))
            if self.dw_conv is not None:
                x = self.act(self.dw_conv(x))
            x = self.fc2(self.drop(x))
        return self.drop(self.norm2(x))

    def _is_fusible(self) -> bool:
        """Whether all between the norms may be computed at once."""
        if makes_graph() or (self.training and self.drop.p):
            return False
        layers = self.fc1, self.dw_conv, self.fc2, self.act
        return isinstance(self.act, nn.SiLU) and all(
            is_bare(layer) for layer in layers if layer is not None
        )


class HATNetBlock(nn.Module):
    """Attention and MLP, each with a residual (Eqs. 4 and 14).

    Args:
        attn (MHSA): The attention.
        mlp (nn.Module): The MLP.
        drop_path_rate (float): Probability of dropping a branch, per sample.
            Defaults to 0.
        with_cp (bool): Recompute the block in the backward pass instead of
            keeping its activations. Defaults to False.
    """

    def __init__(
        self,
        attn: MHSA,
        mlp: nn.Module,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        self.attn = attn
        self.mlp = mlp
        self.drop_path = DropPath(drop_path_rate)
        self.with_cp = with_cp

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W); see :meth:`MHSA.forward`."""
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(self._forward, x, mask, use_reentrant=False)
        return self._forward(x, mask)

    def _forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.drop_path(self.attn(x, mask))
        return x + self.drop_path(self.mlp(x))


@MODELS.register_module()
class HATNet(BackboneBase):
    """HAT-Net, the Hierarchical-Attention-based Transformer Network.

    A PyTorch implementation of `Vision Transformers with Hierarchical
    Attention <https://arxiv.org/abs/2106.03180>`_, equal to `the authors'
    code <https://github.com/yun-liu/HAT-Net>`_ where that runs, and exact at
    any input size and any G1 and G2: windows and pooled cells that the map's
    border cuts see the tokens that exist. Nothing is resized, and no result
    depends on padding.

    The paper counts the stem as its stage 1. Everywhere here, as in mm, stage
    0 to 3 are the four stages of blocks, at strides 4, 8, 16 and 32.

    Args:
        arch (str | dict): 'tiny'/'t', 'small'/'s', 'medium'/'m' or
            'large'/'l' (Table 1), or a dict with these keys, all but the last
            one with four entries, one per stage:

            - **embed_dims** (Sequence[int]): Channels C.
            - **depths** (Sequence[int]): Number of blocks.
            - **kernel_sizes** (Sequence[int]): K of the depthwise
              convolutions, odd.
            - **expansions** (Sequence[int]): Expansion ratio E of the MLPs.
            - **head_dim** (int): Channels of an attention head; has to divide
              every C.

            Defaults to 'tiny'.
        in_channels (int): Channels of the image. Defaults to 3.
        grid_sizes (Sequence[int]): G1 in tokens, the windows' side, for the
            stages 0 to 2. Has no parameters. Defaults to (8, 8, 8), the
            paper's choice for dense prediction; for 224x224 classification it
            is (8, 7, 7).
        ds_ratios (Sequence[int]): G2 in tokens, the pooling of the global
            attention, for the stages 0 to 2. Has no parameters. Defaults to
            (16, 8, 4), the paper's choice for dense prediction; for 224x224
            classification it is (8, 4, 2).
        out_indices (Sequence[int] | int): Stages whose features are returned;
            negative ones count from the end. Stages behind the last of them
            are not built. Defaults to (0, 1, 2, 3).
        attn_types (Sequence[str]): 'h-mhsa' or 'window' for the stages 0 to 2
            (Table 5); see :class:`WindowMHSA`. The last stage always attends
            over the whole map. Defaults to 'h-mhsa' in all.
        dw_conv (bool): Have depthwise convolutions in the MLPs; without them
            it is the pure transformer of Sec. 4.4. Defaults to True.
        drop_rate (float): Probability of dropping a channel inside the
            blocks. Defaults to 0.
        drop_path_rate (float): Stochastic depth of the last block; grows
            linearly from 0 at the first. Defaults to 0.
        norm_cfg (dict): Config of all norms in the network. Defaults to the
            official one, GroupNorm with a single group.
        act_cfg (dict): Config of the activations. Defaults to SiLU; the
            ablation of Sec. 4.4 has GELU.
        out_norm_cfg (dict, optional): Config of a norm on each returned
            feature. Defaults to None, no norm.
        frozen_stages (int): 0 freezes the stem, k > 0 also the first k
            stages, -1 nothing. Defaults to -1.
        norm_eval (bool): Keep batch norms, where ``norm_cfg`` has them, in
            eval mode. Defaults to False.
        with_cp (bool): Checkpoint the activations of every block: less
            memory, slower training. Defaults to False.
        fast (bool): Compute by fused attention, in channels_last memory and in
            chunks that fit the cache of a CPU. False computes the equations
            as the paper has them, with the same weights and results. Defaults
            to True.
        init_cfg (dict | list[dict], optional): Initialization config. With
            ``dict(type='Pretrained', checkpoint=...)`` the checkpoint is a
            file or URL of the authors or of mm, or ``'hatnet://small'``; see
            :func:`mmhatnet.weights.loading.load_backbone`. Defaults to the
            official truncated normal with a standard deviation of 0.02.

    Raises:
        ValueError: If an argument is illegal, or an image smaller than
            32x32.

    Examples:
        >>> import torch
        >>> from mmhatnet.models import HATNet
        >>> model = HATNet('tiny')
        >>> for feature in model(torch.rand(1, 3, 511, 333)):
        ...     print(tuple(feature.shape))
        (1, 48, 128, 84)
        (1, 96, 64, 42)
        (1, 240, 32, 21)
        (1, 384, 16, 11)
    """

    arch_zoo = ARCHS
    STEM_DIMS = 16

    def __init__(
        self,
        arch: str | dict = 'tiny',
        in_channels: int = 3,
        grid_sizes: Sequence[int] = (8, 8, 8),
        ds_ratios: Sequence[int] = (16, 8, 4),
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
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(
            init_cfg
            or dict(
                type='TruncNormal',
                layer=['Conv2d', 'Linear'],
                std=0.02,
                bias=0.0,
            )
        )
        self.arch_settings = check_arch(arch)
        self.embed_dims = dims = tuple(self.arch_settings['embed_dims'])
        self.depths = tuple(self.arch_settings['depths'])
        self.out_indices = check_out_indices(out_indices)
        self.num_stages = max(self.out_indices) + 1
        self.grid_sizes = check_grids('grid_sizes (G1)', grid_sizes)
        self.ds_ratios = check_grids('ds_ratios (G2)', ds_ratios)
        self.frozen_stages = check_frozen_stages(
            frozen_stages, self.out_indices
        )
        self.norm_eval = norm_eval
        self.fast = fast
        attn_types = check_attn_types(attn_types)

        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, self.STEM_DIMS, 3, stride=2, padding=1),
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
        num_blocks = sum(self.depths)
        self.stages = nn.ModuleList()
        for i in range(self.num_stages):
            attn_cfg = dict(
                embed_dims=dims[i],
                num_heads=dims[i] // self.arch_settings['head_dim'],
                drop_rate=drop_rate,
                norm_cfg=norm_cfg,
                fast=fast,
            )
            blocks = nn.Sequential()
            for j in range(self.depths[i]):
                if i == STAGES - 1:
                    attn = MHSA(**attn_cfg)
                elif attn_types[i] == 'window':
                    grid_size, shifted = self.grid_sizes[i], j % 2 == 1
                    attn = MHSA(
                        **attn_cfg, grid_size=grid_size, shifted=shifted
                    )
                else:
                    attn = HMHSA(
                        **attn_cfg,
                        grid_size=self.grid_sizes[i],
                        ds_ratio=self.ds_ratios[i],
                    )
                mlp = MLP(
                    dims[i],
                    self.arch_settings['expansions'][i],
                    self.arch_settings['kernel_sizes'][i],
                    dw_conv,
                    drop_rate,
                    norm_cfg=norm_cfg,
                    act_cfg=act_cfg,
                    fast=fast,
                )
                depth = sum(self.depths[:i]) + j
                rate = drop_path_rate * depth / max(1, num_blocks - 1)
                blocks.append(HATNetBlock(attn, mlp, rate, with_cp))
            self.stages.append(blocks)
        self.out_norms = nn.ModuleDict(
            {
                str(i): build_norm(out_norm_cfg, dims[i], fast)
                for i in self.out_indices
            }
            if out_norm_cfg
            else {}
        )
        self._freeze_stages()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the features of the stages in ``out_indices``.

        Args:
            x (Tensor): Images, (N, in_channels, H, W), H and W at least 32.

        Returns:
            tuple[Tensor]: (N, C_i, H_i, W_i) for each stage i, where H_i is H
            / (4 * 2**i) rounded up, and W_i likewise; in channels_last memory
            if the images are, else contiguous.
        """
        if x.shape[-2] < STRIDE or x.shape[-1] < STRIDE:
            raise ValueError(
                f'HATNet needs images of at least {STRIDE}x{STRIDE} pixels, '
                f'got {x.shape[-2]}x{x.shape[-1]} (H x W)'
            )
        layout = torch.contiguous_format
        if not x.is_contiguous() and x.is_contiguous(
            memory_format=torch.channels_last
        ):
            layout = torch.channels_last
        if self.fast:
            x = x.contiguous(memory_format=torch.channels_last)
        outs = []
        for i, stage in enumerate(self.stages):
            x = self.downsamples[i - 1](x) if i else self.stem(x)
            if self.fast:  # which some kernels of convolutions do not keep
                x = x.contiguous(memory_format=torch.channels_last)
            masks = {}  # shifted or not -> mask
            for block in stage:
                if block.attn.shifted not in masks:
                    masks[block.attn.shifted] = block.attn.window_mask(x)
                x = block(x, masks[block.attn.shifted])
            if i in self.out_indices:
                out = self.out_norms[str(i)](x) if self.out_norms else x
                outs.append(out.contiguous(memory_format=layout))
        return tuple(outs)

    def set_grids(
        self,
        grid_sizes: Sequence[int] | None = None,
        ds_ratios: Sequence[int] | None = None,
    ) -> None:
        """Change G1 and G2; the weights stay as they are.

        Args:
            grid_sizes (Sequence[int], optional): G1 of the stages 0 to 2, as
                in the constructor. Defaults to None, no change.
            ds_ratios (Sequence[int], optional): G2 of the stages 0 to 2.
                Defaults to None, no change.

        Raises:
            ValueError: If either is not three positive integers. Nothing is
                changed then.
        """
        if grid_sizes is None:
            grid_sizes = self.grid_sizes
        if ds_ratios is None:
            ds_ratios = self.ds_ratios
        grid_sizes = check_grids('grid_sizes (G1)', grid_sizes)
        ds_ratios = check_grids('ds_ratios (G2)', ds_ratios)
        self.grid_sizes, self.ds_ratios = grid_sizes, ds_ratios
        for stage, grid_size, ds_ratio in zip(
            self.stages, grid_sizes, ds_ratios, strict=False
        ):
            for block in stage:
                block.attn.grid_size = grid_size
                if isinstance(block.attn, HMHSA):
                    block.attn.ds_ratio = ds_ratio
