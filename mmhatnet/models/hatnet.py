import ctypes
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from numbers import Integral

import torch
import torch.nn.functional as F  # noqa: N812
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..registry import MODELS
from ..weights.loading import (
    adapt_backbone,
    adapt_classifier,
    load_backbone,
)

try:
    from torch.fx.experimental.symbolic_shapes import has_static_value
except ImportError:  # before torch 2.8
    has_static_value = None

STAGES = 4
STRIDE = 32
# Bytes of the MLP's hidden maps that are computed at once on a CPU. With more,
# two of them leave its cache (24 MiB took 1 to 10 % more time at 224x224, with
# a cache of 32 MiB), and with less, more of a strip are rows that its
# neighbours compute, too (12 MiB took 1 to 4 % more).
CHUNK = 16 * 2**20

# What a module calls besides its forward method.
HOOKS = (
    '_forward_pre_hooks',
    '_forward_hooks',
    '_backward_pre_hooks',
    '_backward_hooks',
)

if hasattr(torch.compiler, 'is_compiling'):
    _is_compiling = torch.compiler.is_compiling
else:  # torch 2.1
    _is_compiling = torch._utils.is_compiling


@cache
def keep_freed_memory() -> None:
    """Have glibc keep 256 MiB of freed memory, for the tensors to come.

    By itself it gives back to the system what is free at the end of the heap,
    and the layers of a large image wait for the same pages anew: up to a fifth
    of the time. See M_TRIM_THRESHOLD in mallopt(3). Nothing is done where the
    environment sets it, or for another C library. A HATNet calls this for its
    first images on a CPU, unless it is compiled.
    """
    is_set = 'glibc.malloc' in os.environ.get('GLIBC_TUNABLES', '') or any(
        name in os.environ
        for name in ('MALLOC_TRIM_THRESHOLD_', 'MALLOC_MMAP_THRESHOLD_')
    )
    if sys.platform == 'linux' and not is_set:
        mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
        if mallopt:
            mallopt(-1, 2**28)  # M_TRIM_THRESHOLD
            # M_MMAP_THRESHOLD, which grows no more by itself after the above:
            # to the largest value that it would reach.
            mallopt(-3, 2**25)


def _is_open(size: int) -> bool:
    """Whether a graph is compiled that leaves a size open.

    What depends on such a size is computed without branches, or another graph
    would be compiled for every outcome.
    """
    return (
        _is_compiling()
        and has_static_value is not None
        and not has_static_value(size)
    )


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, sdpa: bool
) -> Tensor:
    """Softmax attention, Eq. (2) of the paper.

    Args:
        q (Tensor): (N, heads, Lq, head_dim).
        k (Tensor): (N, heads, Lk, head_dim).
        v (Tensor): (N, heads, Lk, head_dim).
        mask (Tensor, optional): Boolean, broadcastable to
            (N, heads, Lq, Lk), false where a key is not attended to.
        sdpa (bool): Use torch's fused attention, else the explicit products.

    Returns:
        Tensor: (N, heads, Lq, head_dim).
    """
    if sdpa:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    attn = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if mask is not None:
        attn = attn.masked_fill(~mask, float('-inf'))
    return attn.softmax(dim=-1) @ v


def _windows(
    length: int, size: int | None, shifted: bool
) -> tuple[int, int, int, int]:
    """Cut one side of a map into windows.

    Args:
        length (int): The side in tokens.
        size (int, optional): The window's side G1 in tokens; None for one
            window.
        shifted (bool): Begin with half a window.

    Returns:
        tuple[int, int, int, int]: The number of windows, their side, at most
        ``length`` if that is known, and the tokens to pad before and after.
    """
    if size is None or ((shifted or not _is_open(length)) and size >= length):
        return 1, length, 0, 0
    before = -(size // 2) % size if shifted else 0
    windows = (before + length + size - 1) // size
    return windows, size, before, windows * size - before - length


def _is_padded(h: int, w: int, size: int | None, shifted: bool) -> bool:
    """Whether a grid does not divide a map, or may not."""
    if size is not None and (_is_open(h) or _is_open(w)):
        return True
    _, _, *rows = _windows(h, size, shifted)
    _, _, *cols = _windows(w, size, shifted)
    return any(rows + cols)


def _real_tokens(
    length: int, size: int, before: int, after: int, device: torch.device
) -> Tensor:
    """(windows, size), false for the padding of :func:`_windows`."""
    index = torch.arange(-before, length + after, device=device)
    return ((index >= 0) & (index < length)).view(-1, size)


def _split_windows(
    x: Tensor, size: int | None, shifted: bool
) -> tuple[Tensor, Tensor | None]:
    """Cut a map into the windows of a grid, Eq. (6) of the paper.

    Windows at the border of a map that the grid does not divide are partial:
    padding makes them whole for the computation, and a mask keeps it out.

    Args:
        x (Tensor): (N, C, H, W).
        size (int, optional): The windows' side G1 in tokens; None for one
            window.
        shifted (bool): Shift the grid by half a window.

    Returns:
        tuple[Tensor, Tensor | None]: (N * windows, C, h, w) in channels_last,
        and where there is padding, a mask for :func:`_attend`.
    """
    n, channels, h, w = x.shape
    num_h, size_h, top, bottom = _windows(h, size, shifted)
    num_w, size_w, left, right = _windows(w, size, shifted)
    mask = None
    x = x.permute(0, 2, 3, 1)
    if _is_padded(h, w, size, shifted):
        rows = _real_tokens(h, size_h, top, bottom, x.device)
        cols = _real_tokens(w, size_w, left, right, x.device)
        mask = rows[:, None, :, None] & cols[None, :, None, :]
        mask = mask.reshape(-1, 1, 1, size_h * size_w).repeat(n, 1, 1, 1)
        x = F.pad(x, (0, 0, left, right, top, bottom))
    x = x.reshape(n, num_h, size_h, num_w, size_w, channels)
    x = x.transpose(2, 3).reshape(-1, size_h, size_w, channels)
    return x.permute(0, 3, 1, 2), mask


def _join_windows(
    x: Tensor, shape: Sequence[int], size: int | None, shifted: bool
) -> Tensor:
    """Undo :func:`_split_windows`, Eq. (9) of the paper.

    Args:
        x (Tensor): What was attended to, (N * windows, h * w, C).
        shape (Sequence[int]): N, C, H and W of the map.
        size (int, optional): The windows' side G1 in tokens.
        shifted (bool): As when it was cut.

    Returns:
        Tensor: (N, C, H, W), in channels_last.
    """
    n, channels, h, w = shape
    num_h, size_h, top, _ = _windows(h, size, shifted)
    num_w, size_w, left, _ = _windows(w, size, shifted)
    x = x.reshape(n, num_h, num_w, size_h, size_w, channels).transpose(2, 3)
    x = x.reshape(n, num_h * size_h, num_w * size_w, channels)
    x = x[:, top : top + h, left : left + w].permute(0, 3, 1, 2)
    if _is_open(h) or _is_open(w):  # or the next sum looks at the layout
        x = x.clone(memory_format=torch.channels_last)
    return x


def _pool(x: Tensor, size: int) -> Tensor:
    """Average the cells of a map, Eq. (10), at the border what exists of them.

    Args:
        x (Tensor): (N, C, H, W).
        size (int): The cells' side G2 in tokens.

    Returns:
        Tensor: (N, C, ceil(H / G2), ceil(W / G2)).
    """
    n, channels, h, w = x.shape
    if not (_is_open(h) or _is_open(w)):
        return F.avg_pool2d(x, size, ceil_mode=True, count_include_pad=False)
    rows, cols = (h + size - 1) // size, (w + size - 1) // size
    bottom, right = rows * size - h, cols * size - w
    x = F.pad(x, (0, right, 0, bottom))
    x = x.reshape(n, channels, rows, size, cols, size).sum((3, 5))
    rows = _real_tokens(h, size, 0, bottom, x.device).sum(1)
    cols = _real_tokens(w, size, 0, right, x.device).sum(1)
    return x / (rows[:, None] * cols)


def _split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """(N, parts * C, H, W) to parts of (N, heads, H * W, C / heads).

    Fused attention wants the last dimension contiguous, else its kernels are
    left for the explicit products. In channels_last it is so without a copy,
    and as the channels are split first, the gradients need none, either.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    return tuple(
        part.flatten(2).unflatten(1, (heads, -1)).transpose(-2, -1)
        for part in x.chunk(parts, dim=1)
    )


class WindowMHSA(nn.Module):
    """Multi-head self-attention inside windows, or over the whole map.

    Over the whole map (``grid_size=None``) it is the vanilla MHSA of the
    paper's last stage. With windows it is the baseline of Table 5, where
    H-MHSA replaces the window attention of Swin. The paper does not specify
    that baseline further; here it is Swin's with G1 as its window, shifted by
    half a window in every second block, and without its table of relative
    position biases, whose size would fix G1. Shifted or not, tokens attend
    to each other only where they are neighbours on the map.

    Args:
        embed_dims (int): Channels C.
        num_heads (int): Number of heads.
        grid_size (int, optional): G1, the windows' side in tokens. Defaults
            to None, the whole map.
        shifted (bool): Shift the windows by half of their side. Defaults to
            False.
        drop_rate (float): Probability of dropping an output channel.
            Defaults to 0.
        norm_cfg (dict): Config of the normalization.
        sdpa (bool): Use torch's fused attention. Defaults to True.
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
        sdpa: bool = True,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.grid_size = grid_size
        self.shifted = shifted
        self.sdpa = sdpa
        self.norm = build_norm_layer(norm_cfg, embed_dims)[1]
        self.qkv = nn.Conv2d(embed_dims, 3 * embed_dims, 1)
        self.proj = nn.Conv2d(embed_dims, embed_dims, 1)
        self.drop = nn.Dropout2d(drop_rate)

    def local_attention(self, x: Tensor) -> Tensor:
        """Attend inside the windows: (N, C, H, W) to (N, C, H, W)."""
        shape, x = x.shape, self.norm(x)
        grid = self.grid_size, self.shifted
        if _is_padded(*shape[2:], *grid):
            qkv, mask = _split_windows(self.qkv(x), *grid)
        else:
            # This way round there is a third as much to copy. With padding
            # it would be projected, too.
            x, mask = _split_windows(x, *grid)
            qkv = self.qkv(x)
        qkv = _split_heads(qkv, 3, self.num_heads)
        out = _attend(*qkv, mask, self.sdpa)
        out = out.transpose(1, 2).flatten(2)
        return _join_windows(out, shape, *grid)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W), without the residual."""
        return self.drop(self.proj(self.local_attention(x)))

    def extra_repr(self) -> str:
        """Show what no submodule shows."""
        return f'num_heads={self.num_heads}, grid_size={self.grid_size}'


class HMHSA(WindowMHSA):
    """Hierarchical multi-head self-attention, Sec. 3.2 of the paper.

    Attention inside windows of G1 x G1 tokens (Eqs. 6 to 9), then attention
    of every token over the map pooled by G2 (Eqs. 10 to 13), then the
    projection of both (Eq. 14). As in the official model, the three inputs
    of the products are normalized, and the residual of the first step is the
    input itself. Neither G1 nor G2 has parameters, and neither has to divide
    the map: the pooled tokens at the border average the tokens that exist.

    Args:
        embed_dims (int): Channels C.
        num_heads (int): Number of heads.
        grid_size (int): G1, the windows' side in tokens.
        ds_ratio (int): G2, the side in tokens of what is pooled into one.
        drop_rate (float): Probability of dropping an output channel.
            Defaults to 0.
        norm_cfg (dict): Config of the normalization.
        sdpa (bool): Use torch's fused attention. Defaults to True.
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
        sdpa: bool = True,
    ) -> None:
        super().__init__(
            embed_dims,
            num_heads,
            grid_size,
            drop_rate=drop_rate,
            norm_cfg=norm_cfg,
            sdpa=sdpa,
        )
        self.ds_ratio = ds_ratio
        self.grid_norm = build_norm_layer(norm_cfg, embed_dims)[1]
        self.pool_norm = build_norm_layer(norm_cfg, embed_dims)[1]
        self.q = nn.Conv2d(embed_dims, embed_dims, 1)
        self.kv = nn.Conv2d(embed_dims, 2 * embed_dims, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W), without the residual."""
        local = self.grid_norm(x + self.local_attention(x))
        return self.drop(self.proj(self.global_attention(local) + local))

    def global_attention(self, x: Tensor) -> Tensor:
        """Attend to the pooled map: (N, C, H, W) to (N, C, H, W)."""
        pooled = _pool(x, self.ds_ratio)
        q = _split_heads(self.q(x), 1, self.num_heads)
        kv = _split_heads(self.kv(self.pool_norm(pooled)), 2, self.num_heads)
        out = _attend(*q, *kv, None, self.sdpa)
        n, channels, h, w = x.shape
        out = out.transpose(1, 2).reshape(n, h, w, channels)
        return out.permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        """Show what no submodule shows."""
        return f'{super().extra_repr()}, ds_ratio={self.ds_ratio}'


class _SiLUConv(torch.autograd.Function):
    """A convolution of SiLU(x) that keeps x, and not SiLU(x), for later.

    To compute SiLU again takes little, and half of the memory of an MLP is
    saved. What it saves is seen by the hooks for saved tensors, such as those
    of checkpoint; if it were done by such a hook, it would not be.
    """

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, padding: tuple[int, int], groups: int
    ) -> Tensor:
        return F.conv2d(F.silu(x), weight, padding=padding, groups=groups)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        x, weight, ctx.padding, ctx.groups = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        with torch.enable_grad():
            act = F.silu(x)
        # By torch.nn.grad, the depthwise one takes four times as long.
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad,
            act,
            weight,
            bias_sizes=None,
            stride=(1, 1),
            padding=ctx.padding,
            dilation=(1, 1),
            transposed=False,
            output_padding=(0, 0),
            groups=ctx.groups,
            output_mask=(*ctx.needs_input_grad[:2], False),
        )
        if grad_x is not None:
            (grad_x,) = torch.autograd.grad(
                act, x, grad_x, create_graph=torch.is_grad_enabled()
            )
        return grad_x, grad_weight, None, None


def _silu_conv(x: Tensor, conv: nn.Conv2d, padding: tuple[int, int]) -> Tensor:
    """A convolution of SiLU(x); x is used up."""
    if torch.is_grad_enabled():
        weight = conv.weight.to(x.dtype)  # as autocast does
        return _SiLUConv.apply(x, weight, padding, conv.groups)
    x = F.silu(x, inplace=True)
    return F.conv2d(x, conv.weight, padding=padding, groups=conv.groups)


class MLP(nn.Module):
    """The inverted bottleneck with a depthwise convolution, Sec. 3.3.

    On a CPU it computes in chunks that fit the cache, of samples or of rows,
    and the backward pass computes the activations again: faster there, in
    much less memory. All is computed at once if a layer has a hook or was
    replaced, with dropout, and where the activation is not the paper's SiLU.

    Args:
        embed_dims (int): Channels C.
        expansion (int): E, hidden channels per channel.
        kernel_size (int): K of the depthwise convolution; odd.
        dw_conv (bool): Have the depthwise convolution and its activation.
            Defaults to True.
        drop_rate (float): Probability of dropping a channel. Defaults to 0.
        norm_cfg (dict): Config of the normalization.
        act_cfg (dict): Config of the activation.
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
    ) -> None:
        super().__init__()
        hidden = embed_dims * expansion
        self.norm1 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.fc1 = nn.Conv2d(embed_dims, hidden, 1, bias=False)
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
        self.fc2 = nn.Conv2d(hidden, embed_dims, 1, bias=False)
        self.norm2 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.act = build_activation_layer(act_cfg)
        self.drop = nn.Dropout2d(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W), without the residual."""
        x = self.norm1(x)
        if x.is_cpu and self._is_plain() and not self._is_for_any_size(x):
            x = self._in_chunks(x)
        else:
            x = self.act(self.fc1(x))
            if self.dw_conv is not None:
                x = self.act(self.dw_conv(x))
            x = self.fc2(self.drop(x))
        return self.drop(self.norm2(x))

    def _is_plain(self) -> bool:
        """Whether rows do not depend on others, but by the convolution."""
        if self.training and self.drop.p:
            return False
        layers = [self.fc1, self.fc2, self.act]
        if self.dw_conv is not None:
            layers.append(self.dw_conv)
        return all(
            type(layer) in (nn.Conv2d, nn.SiLU)
            and getattr(layer, 'bias', None) is None
            and not any(getattr(layer, hooks) for hooks in HOOKS)
            for layer in layers
        )

    @staticmethod
    def _is_for_any_size(x: Tensor) -> bool:
        """Whether a graph is made that chunks would bind to a size."""
        if torch.jit.is_tracing():
            return True
        # The compiler plans by itself what to recompute.
        return _is_compiling() and (
            torch.is_grad_enabled()
            or has_static_value is None
            or _is_open(x.numel())
        )

    def _in_chunks(self, x: Tensor) -> Tensor:
        """All between the norms, of some samples or some rows at a time."""
        n, channels, h, w = x.shape
        row = w * self.fc1.out_channels * x.element_size()
        around = self.dw_conv.padding[0] if self.dw_conv is not None else 0
        if h * row <= CHUNK:
            parts = x.split(CHUNK // (h * row))
            padding = (around, around)
        else:
            # The rows around are computed once more. Behind the border they
            # are zeros for the convolution, as fc1 and SiLU keep zeros.
            rows = max(1, CHUNK // row - 2 * around)
            rows = math.ceil(h / math.ceil(h / rows))  # in equal strips
            padded = F.pad(x, (0, 0, around, around))
            parts = [
                sample[:, :, top : top + rows + 2 * around]
                for sample in padded.split(1)
                for top in range(0, h, rows)
            ]
            padding = (0, around)
        outs = [self._chunk(part, padding) for part in parts]
        x = torch.cat(outs) if len(outs) > 1 else outs[0]
        return x.view(n, h, w, channels).permute(0, 3, 1, 2)

    def _chunk(self, x: Tensor, padding: tuple[int, int]) -> Tensor:
        """All between the norms: (N, C, H, W) to (N * H * W, C)."""
        x = self.fc1(x)
        if self.dw_conv is not None:
            x = _silu_conv(x, self.dw_conv, padding)
        x = _silu_conv(x, self.fc2, (0, 0))
        return x.permute(0, 2, 3, 1).flatten(0, 2)


class HATNetBlock(nn.Module):
    """Attention and MLP, each with a residual (Eqs. 4 and 14).

    Args:
        attn (nn.Module): The attention.
        mlp (nn.Module): The MLP.
        drop_path_rate (float): Probability of dropping a branch, per sample.
            Defaults to 0.
        with_cp (bool): Recompute the block in the backward pass instead of
            storing its activations. Defaults to False.
    """

    def __init__(
        self,
        attn: nn.Module,
        mlp: nn.Module,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        self.attn = attn
        self.mlp = mlp
        self.drop_path = DropPath(drop_path_rate)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W)."""
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(x))
        return x + self.drop_path(self.mlp(x))


@MODELS.register_module()
class HATNet(BaseModule):
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
        sdpa (bool): Compute attention by
            ``torch.nn.functional.scaled_dot_product_attention``, else by
            explicit products. Defaults to True.
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

    arch_zoo = {
        **dict.fromkeys(
            ['t', 'tiny'],
            {
                'embed_dims': (48, 96, 240, 384),
                'depths': (2, 2, 6, 3),
                'kernel_sizes': (3, 3, 3, 3),
                'expansions': (8, 8, 4, 4),
                'head_dim': 48,
            },
        ),
        **dict.fromkeys(
            ['s', 'small'],
            {
                'embed_dims': (64, 128, 320, 512),
                'depths': (2, 3, 8, 3),
                'kernel_sizes': (3, 3, 3, 3),
                'expansions': (8, 8, 4, 4),
                'head_dim': 64,
            },
        ),
        **dict.fromkeys(
            ['m', 'medium'],
            {
                'embed_dims': (64, 128, 320, 512),
                'depths': (3, 6, 18, 3),
                'kernel_sizes': (5, 3, 5, 3),
                'expansions': (8, 8, 4, 4),
                'head_dim': 64,
            },
        ),
        **dict.fromkeys(
            ['l', 'large'],
            {
                'embed_dims': (64, 128, 320, 640),
                'depths': (3, 8, 27, 3),
                'kernel_sizes': (3, 3, 3, 3),
                'expansions': (8, 8, 4, 4),
                'head_dim': 64,
            },
        ),
    }
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
        sdpa: bool = True,
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
        self.arch_settings = self._check_arch(arch)
        self.embed_dims = tuple(self.arch_settings['embed_dims'])
        self.depths = tuple(self.arch_settings['depths'])
        self.out_indices = self._check_out_indices(out_indices)
        self.num_stages = max(self.out_indices) + 1
        self.norm_eval = norm_eval
        self.grid_sizes = self._check_grids('grid_sizes (G1)', grid_sizes)
        self.ds_ratios = self._check_grids('ds_ratios (G2)', ds_ratios)
        attn_types = self._check_attn_types(attn_types)
        if not -1 <= frozen_stages <= self.num_stages:
            raise ValueError(
                f'frozen_stages is -1 (nothing), 0 (the stem) or up to '
                f'{self.num_stages}, the stages that out_indices='
                f'{self.out_indices} needs; got {frozen_stages}'
            )
        self.frozen_stages = frozen_stages

        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, self.STEM_DIMS, 3, stride=2, padding=1),
            build_norm_layer(norm_cfg, self.STEM_DIMS)[1],
            build_activation_layer(act_cfg),
            nn.Conv2d(
                self.STEM_DIMS, self.embed_dims[0], 3, stride=2, padding=1
            ),
        )
        self.downsamples = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(dims_in, dims_out, 3, stride=2, padding=1),
                build_norm_layer(norm_cfg, dims_out)[1],
            )
            for dims_in, dims_out in zip(
                self.embed_dims[: self.num_stages - 1],
                self.embed_dims[1:],
                strict=False,
            )
        )
        drop_path_rates = torch.linspace(
            0, drop_path_rate, sum(self.depths), device='cpu'
        ).tolist()
        self.stages = nn.ModuleList()
        for stage in range(self.num_stages):
            dims = self.embed_dims[stage]
            attn_cfg = dict(
                embed_dims=dims,
                num_heads=dims // self.arch_settings['head_dim'],
                drop_rate=drop_rate,
                norm_cfg=norm_cfg,
                sdpa=sdpa,
            )
            blocks = nn.Sequential()
            for i in range(self.depths[stage]):
                if stage == STAGES - 1:
                    attn = WindowMHSA(**attn_cfg)
                elif attn_types[stage] == 'window':
                    attn = WindowMHSA(
                        **attn_cfg,
                        grid_size=self.grid_sizes[stage],
                        shifted=i % 2 == 1,
                    )
                else:
                    attn = HMHSA(
                        **attn_cfg,
                        grid_size=self.grid_sizes[stage],
                        ds_ratio=self.ds_ratios[stage],
                    )
                mlp = MLP(
                    dims,
                    self.arch_settings['expansions'][stage],
                    self.arch_settings['kernel_sizes'][stage],
                    dw_conv,
                    drop_rate,
                    norm_cfg=norm_cfg,
                    act_cfg=act_cfg,
                )
                rate = drop_path_rates[sum(self.depths[:stage]) + i]
                blocks.append(HATNetBlock(attn, mlp, rate, with_cp))
            self.stages.append(blocks)
        self.out_norms = nn.ModuleDict(
            {
                str(i): build_norm_layer(out_norm_cfg, self.embed_dims[i])[1]
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
            tuple[Tensor]: Of stage i, (N, C_i, H_i, W_i), where H_i is H
            divided by 4 * 2**i and rounded up, W_i likewise.
        """
        if x.shape[-2] < STRIDE or x.shape[-1] < STRIDE:
            raise ValueError(
                f'HATNet needs images of at least {STRIDE}x{STRIDE} pixels, '
                f'got {x.shape[-2]}x{x.shape[-1]} (H x W)'
            )
        layout = torch.preserve_format
        if x.is_cpu:
            if not _is_compiling():
                keep_freed_memory()
            # Every convolution is faster there, the depthwise ones most. But
            # the features are laid out as the images are.
            layout = torch.contiguous_format
            if not x.is_contiguous() and x.is_contiguous(
                memory_format=torch.channels_last
            ):
                layout = torch.channels_last
            x = x.contiguous(memory_format=torch.channels_last)
        outs = []
        for i, stage in enumerate(self.stages):
            x = stage(self.downsamples[i - 1](x) if i else self.stem(x))
            if i in self.out_indices:
                out = self.out_norms[str(i)](x) if self.out_norms else x
                outs.append(out.to(memory_format=layout))
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
        grid_sizes = self._check_grids('grid_sizes (G1)', grid_sizes)
        ds_ratios = self._check_grids('ds_ratios (G2)', ds_ratios)
        self.grid_sizes, self.ds_ratios = grid_sizes, ds_ratios
        for stage, grid_size, ds_ratio in zip(
            self.stages, grid_sizes, ds_ratios, strict=False
        ):
            for block in stage:
                block.attn.grid_size = grid_size
                if isinstance(block.attn, HMHSA):
                    block.attn.ds_ratio = ds_ratio

    def get_layer_depth(
        self, param_name: str, prefix: str = ''
    ) -> tuple[int, int]:
        """Get the depth of a parameter, for layer-wise lr decay.

        The stem is at depth 0 and the blocks at 1, 2, ...; a downsampling
        convolution belongs to the block that it feeds, and norms on the
        outputs and everything outside the backbone come last.

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
        """Initialize, or load what ``init_cfg`` names as pretrained.

        mmengine's own loading leaves a checkpoint of another layout unloaded
        with a mere warning, and unpickles whatever the file holds.
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

    def train(self, mode: bool = True) -> 'HATNet':
        """Set the mode; frozen stages and, if asked, batch norms stay."""
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
            bool: True for norms on the outputs and for stages behind the last
            of ``out_indices``, which are not built.
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

    @classmethod
    def _check_arch(cls, arch: str | dict) -> dict:
        if isinstance(arch, str):
            if arch.lower() not in cls.arch_zoo:
                raise ValueError(
                    f"unknown arch '{arch}': choose from "
                    f'{", ".join(map(repr, cls.arch_zoo))}, or give a dict'
                )
            return cls.arch_zoo[arch.lower()]
        keys = set(cls.arch_zoo['tiny'])
        if not isinstance(arch, Mapping) or set(arch) != keys:
            got = sorted(arch) if isinstance(arch, Mapping) else arch
            raise ValueError(
                f'arch is a name or a dict with the keys {sorted(keys)}; '
                f'got {got}'
            )
        for key in sorted(keys - {'head_dim'}):
            if (
                not isinstance(arch[key], Sequence)
                or len(arch[key]) != STAGES
                or min(arch[key]) < 1
            ):
                raise ValueError(
                    f"arch['{key}'] needs {STAGES} positive entries, one per "
                    f'stage; got {arch[key]}'
                )
        for dims in arch['embed_dims']:
            if arch['head_dim'] < 1 or dims % arch['head_dim']:
                raise ValueError(
                    f'head_dim={arch["head_dim"]} has to divide every entry '
                    f'of embed_dims={tuple(arch["embed_dims"])}, and does '
                    f'not divide {dims}'
                )
        for kernel_size in arch['kernel_sizes']:
            if kernel_size % 2 == 0:
                raise ValueError(
                    f'kernel_sizes has to be odd, got {arch["kernel_sizes"]}'
                )
        return dict(arch)

    @staticmethod
    def _check_grids(name: str, values: Sequence[int]) -> tuple[int, ...]:
        if (
            not isinstance(values, Sequence)
            or len(values) != STAGES - 1
            or not all(
                isinstance(value, Integral)
                and not isinstance(value, bool)
                and value > 0
                for value in values
            )
        ):
            raise ValueError(
                f'{name} needs three positive integers, one for each stage '
                f'with H-MHSA, such as (8, 8, 8); got {values!r}'
            )
        return tuple(int(value) for value in values)

    @staticmethod
    def _check_out_indices(
        out_indices: Sequence[int] | int,
    ) -> tuple[int, ...]:
        if isinstance(out_indices, int):
            out_indices = (out_indices,)
        indices = tuple(i + STAGES if i < 0 else i for i in out_indices)
        if (
            not indices
            or list(indices) != sorted(set(indices))
            or not set(indices) <= set(range(STAGES))
        ):
            raise ValueError(
                f'out_indices are increasing stages from 0 to {STAGES - 1}, '
                f'got {out_indices}'
            )
        return indices

    @staticmethod
    def _check_attn_types(attn_types: Sequence[str]) -> tuple[str, ...]:
        if (
            isinstance(attn_types, str)
            or len(attn_types) != STAGES - 1
            or not set(attn_types) <= {'h-mhsa', 'window'}
        ):
            raise ValueError(
                "attn_types needs 'h-mhsa' or 'window' three times, for the "
                f'stages 0 to 2; got {attn_types!r}'
            )
        return tuple(attn_types)
