"""The attention of one point of an image, in every stage of a HATNet."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..models.hatnet import HMHSA, HATNet, WindowMHSA, _windows


@dataclass(frozen=True)
class PointAttention:
    """What one token attends to in one block.

    Attributes:
        stage (int): The stage, from 0.
        block (int): The block of the stage, from 0.
        shape (tuple[int, int]): Height and width of the map in tokens.
        token (tuple[int, int]): Row and column of the token.
        window (tuple[int, int, int, int]): First row, first column, end row
            and end column of its window; of the whole map in the last stage.
        local (Tensor): (heads, rows, columns), the weights on the tokens of
            the window (Eqs. 6 to 9 of the paper).
        grid_size (int, optional): G1; None in the last stage.
        pooled (Tensor, optional): (heads, rows, columns), the weights on the
            pooled tokens (Eqs. 10 to 13); None where the block has no H-MHSA.
        ds_ratio (int, optional): G2; None where the block has no H-MHSA.
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
    """Compute what a point of an image attends to, in every stage.

    Args:
        model (HATNet): The backbone.
        image (Tensor): (1, C, H, W), normalized.
        point (tuple[float, float]): x and y in pixels.
        block (int): Which block of each stage; negative ones count from the
            end. Defaults to -1, the last.

    Returns:
        list[PointAttention]: One for each stage that is built.

    Raises:
        ValueError: If the point is outside of the image, or a stage has no
            such block.
    """
    height, width = image.shape[-2:]
    x, y = point
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(
            f'the point {x:g}, {y:g} is outside of the image of {width}x'
            f'{height} pixels (W x H)'
        )
    fewest = min(len(stage) for stage in model.stages)
    if not -fewest <= block < fewest:
        raise ValueError(
            f'block is from {-fewest} to {fewest - 1}, for the stages have '
            f'{", ".join(str(len(stage)) for stage in model.stages)} blocks; '
            f'got {block}'
        )
    inputs: list[Tensor] = []
    hooks = [
        stage[block].attn.register_forward_pre_hook(
            lambda _, args: inputs.append(args[0])
        )
        for stage in model.stages
    ]
    try:
        model.eval()(image)
    finally:
        for hook in hooks:
            hook.remove()
    found = []
    for i, (stage, tokens) in enumerate(
        zip(model.stages, inputs, strict=True)
    ):
        attn = stage[block].attn
        rows, columns = tokens.shape[-2:]
        token = int(y * rows // height), int(x * columns // width)
        window, local = _local_weights(attn, tokens, token)
        hierarchical = isinstance(attn, HMHSA)
        found.append(
            PointAttention(
                stage=i,
                block=block % len(stage),
                shape=(rows, columns),
                token=token,
                window=window,
                local=local,
                grid_size=attn.grid_size,
                pooled=_global_weights(attn, tokens, token)
                if hierarchical
                else None,
                ds_ratio=attn.ds_ratio if hierarchical else None,
            )
        )
    return found


def _weights(q: Tensor, k: Tensor, heads: int) -> Tensor:
    """Softmax of one query (C) with the keys (C, rows, columns)."""
    q = q.view(heads, -1, 1)
    scores = (q * q.shape[1] ** -0.5 * k.reshape(*q.shape[:2], -1)).sum(1)
    return scores.softmax(-1).view(heads, *k.shape[-2:])


def _local_weights(
    attn: WindowMHSA, x: Tensor, token: tuple[int, int]
) -> tuple[tuple[int, int, int, int], Tensor]:
    starts, ends = [], []
    for position, length in zip(token, x.shape[-2:], strict=True):
        size = attn.grid_size or length
        _, size, before, _ = _windows(length, size, attn.shifted)
        start = (position + before) // size * size - before
        starts.append(max(start, 0))
        ends.append(min(start + size, length))
    q, k, _ = attn.qkv(attn.norm(x))[0].chunk(3)
    (top, left), (bottom, right) = starts, ends
    k = k[:, top:bottom, left:right]
    weights = _weights(q[:, token[0], token[1]], k, attn.num_heads)
    return (top, left, bottom, right), weights


def _global_weights(attn: HMHSA, x: Tensor, token: tuple[int, int]) -> Tensor:
    local = attn.grid_norm(x + attn.local_attention(x))
    pooled = F.avg_pool2d(
        local, attn.ds_ratio, ceil_mode=True, count_include_pad=False
    )
    q = attn.q(local)[0, :, token[0], token[1]]
    k, _ = attn.kv(attn.pool_norm(pooled))[0].chunk(2)
    return _weights(q, k, attn.num_heads)
