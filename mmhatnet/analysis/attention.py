"""The attention of one point of an image, in every stage of a HATNet."""

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.hatnet import HMHSA, MHSA, HATNet, split_heads
from ..models.windows import average_cells, cell_side, cut_side


@dataclass(frozen=True)
class PointAttention:
    """The attention of one token in one block.

    Attributes:
        stage (int): The stage, from 0.
        block (int): The block of the stage, from 0.
        shape (tuple[int, int]): Height and width of the map in tokens.
        token (tuple[int, int]): Row and column of the token.
        window (tuple[int, int, int, int]): First row, first column, end row
            and end column of its window. In the last stage, the window is the
            whole map.
        local (Tensor): (heads, rows, columns), the weights of the tokens in
            the window (Eqs. 6 to 9 of the paper).
        grid_size (int, optional): G1; None in the last stage.
        pooled (Tensor, optional): (heads, rows, columns), the weights of the
            pooled tokens (Eqs. 10 to 13); None if the block has no H-MHSA.
        ds_ratio (int, optional): G2 in tokens, also where it is 'auto'; None
            if the block has no H-MHSA.
    """

    stage: int
    block: int
    shape: tuple[int, int]
    token: tuple[int, int]
    window: tuple[int, int, int, int]
    local: Tensor
    grid_size: int | None
    pooled: Tensor | None
    ds_ratio: int | None


@torch.no_grad()
def attend_from(
    model: HATNet, image: Tensor, point: tuple[float, float], block: int = -1
) -> list[PointAttention]:
    """Compute the attention of a point of an image, in every stage.

    Args:
        model (HATNet): The backbone; it is set to evaluation mode.
        image (Tensor): The normalized image, (1, C, H, W).
        point (tuple[float, float]): x and y in pixels.
        block (int): Index of the block in each stage. Defaults to -1, the
            last.

    Returns:
        list[PointAttention]: One for each stage that is built.

    Raises:
        ValueError: If the point is outside the image, or a stage has no such
            block.
    """
    height, width = image.shape[-2:]
    x, y = point
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(
            f'the point {x:g}, {y:g} is outside the image of {width}x'
            f'{height} pixels (W x H)'
        )
    fewest = min(len(stage) for stage in model.stages)
    if not -fewest <= block < fewest:
        raise ValueError(
            f'block must be from {-fewest} to {fewest - 1}, as the shortest '
            f'stage has {fewest}; got {block}'
        )
    inputs: list[Tensor] = []
    with ExitStack() as hooks:
        for stage in model.stages:
            hook = stage[block].attn.register_forward_pre_hook(
                lambda _, args: inputs.append(args[0])
            )
            hooks.enter_context(hook)
        model.eval()(image)
    found = []
    stages = zip(model.stages, inputs, strict=True)
    for i, (stage, tokens) in enumerate(stages):
        attn = stage[block].attn
        rows, columns = tokens.shape[-2:]
        token = int(y * rows // height), int(x * columns // width)
        window, local = _local_weights(attn, tokens, token)
        pooled = ratio = None
        if isinstance(attn, HMHSA):
            pooled = _global_weights(attn, tokens, token)
            ratio = cell_side(attn.ds_ratio, rows, columns)
        found.append(
            PointAttention(
                stage=i,
                block=block % len(stage),
                shape=(rows, columns),
                token=token,
                window=window,
                local=local,
                grid_size=attn.grid_size,
                pooled=pooled,
                ds_ratio=ratio,
            )
        )
    return found


def _weights(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """Weights of one query (1, C, 1, 1) on the keys (1, C, rows, columns)."""
    (query,), (keys,) = split_heads(q, 1, heads), split_heads(k, 1, heads)
    # attention() with the identity as values would take GBs for large maps.
    scores = (query * query.shape[-1] ** -0.5) @ keys.transpose(-2, -1)
    return scores.softmax(dim=-1).view(heads, *k.shape[-2:])


def _local_weights(
    attn: MHSA, x: Tensor, token: tuple[int, int]
) -> tuple[tuple[int, int, int, int], Tensor]:
    starts, ends = [], []
    for position, length in zip(token, x.shape[-2:], strict=True):
        size = attn.grid_size or length
        _, size, before, _ = cut_side(length, size, attn.shifted)
        start = (position + before) // size * size - before
        starts.append(max(start, 0))
        ends.append(min(start + size, length))
    (top, left), (bottom, right) = starts, ends
    q, k, _ = attn.qkv(attn.norm(x)).chunk(3, dim=1)
    weights = _weights(
        _at(q, token), k[..., top:bottom, left:right], attn.num_heads
    )
    return (top, left, bottom, right), weights


def _global_weights(attn: HMHSA, x: Tensor, token: tuple[int, int]) -> Tensor:
    local = attn.grid_norm(attn.local_attention(x, residual=True))
    pooled = attn.pool_norm(average_cells(local, attn.ds_ratio))
    k, _ = attn.kv(pooled).chunk(2, dim=1)
    return _weights(attn.q(_at(local, token)), k, attn.num_heads)


def _at(x: Tensor, token: tuple[int, int]) -> Tensor:
    """One token of a map (1, C, H, W), as (1, C, 1, 1)."""
    row, column = token
    return x[..., row : row + 1, column : column + 1]
