"""Focal losses.

The functions have the arguments of mmcv's compiled ones, which :mod:`.ext`
explains, and their formulas. But mmcv computes log(1 - p) from a rounded p,
which is less exact for large logits, and limits it.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from .common import widen

SMALLEST = torch.finfo(torch.float32).tiny  # mmcv's FLT_MIN


def _factors(weight: Tensor, target: Tensor) -> Tensor:
    """The weight of each target; that of the background is 1."""
    if not len(weight):
        return torch.ones_like(target, dtype=weight.dtype)
    return F.pad(weight, (0, 1), value=1)[target]


def _balance(
    input: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    """Which scores are of the target's class, and the factor of each."""
    classes = torch.arange(input.shape[1], device=input.device)
    positive = target[:, None] == classes
    factors = torch.where(positive, -alpha, alpha - 1).to(input)
    return positive, factors * _factors(weight, target)[:, None]


def sigmoid_focal_loss_forward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    output: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Compute the focal loss of each score.

    Input and output are (N, classes), logits and losses. Targets are (N,);
    the number of classes is the background. ``weight`` has the classes'
    weights, or is empty; ``alpha`` is the weight of positive scores.
    """
    input, weight = widen(input, weight)
    positive, factors = _balance(input, target, weight, alpha)
    right = torch.where(positive, input, -input)
    wrong = (-right).sigmoid()
    output.copy_(factors * wrong.pow(gamma) * F.logsigmoid(right))


def sigmoid_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Compute the derivative of each loss."""
    input, weight = widen(input, weight)
    positive, factors = _balance(input, target, weight, alpha)
    right = torch.where(positive, input, -input)
    wrong = (-right).sigmoid()
    # 0 times the logarithm is 0 for an infinite logit, too.
    log = F.logsigmoid(right).clamp(min=torch.finfo(right.dtype).min)
    slope = wrong - gamma * right.sigmoid() * log
    slope = wrong.pow(gamma) * slope
    grad_input.copy_(factors * torch.where(positive, slope, -slope))


def softmax_focal_loss_forward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    output: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Compute the focal loss of each row, (N,).

    Input is (N, classes), probabilities; negative targets have no loss.
    """
    input, weight = widen(input, weight)
    label = target.clamp(min=0)
    p = input.gather(1, label[:, None])[:, 0]
    loss = (
        -alpha
        * (1 - p).pow(gamma)
        * p.clamp(min=SMALLEST).log()
        * _factors(weight, label)
    )
    output.copy_(torch.where(target < 0, 0.0, loss))


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Compute the derivatives of the logits.

    ``buff``, (N,), gets what the derivatives of a row share.
    """
    input, weight = widen(input, weight)
    label = target.clamp(min=0)
    p = input.gather(1, label[:, None])[:, 0]
    q = 1 - p
    slope = gamma * q.pow(gamma - 1) * p * p.clamp(min=SMALLEST).log() - q.pow(
        gamma
    )
    shared = alpha * slope * _factors(weight, label)
    shared = torch.where(target < 0, 0.0, shared)
    buff.copy_(shared)
    classes = torch.arange(input.shape[1], device=input.device)
    onehot = (label[:, None] == classes).to(input)
    grad_input.copy_(shared[:, None] * (onehot - input))
