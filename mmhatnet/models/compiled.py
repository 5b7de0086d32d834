"""Forms for graphs of fixed sizes, whose compiler fuses the rest itself."""

from collections.abc import Callable

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from .fast import local_attention

__all__ = ['attend', 'local_attention']


def attend(
    layer: nn.Module,
    equation: Callable,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """Compute Eq. (2) by torch's fused operator.

    It has kernels for heads whose channels lie side by side; torch computes
    explicit products for others. On CUDA, the group norm of a graph returns
    contiguous memory, and convolutions in float32 keep that.
    """
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
