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


def _weigh(weight: Tensor, target: Tensor) -> Tensor:
    """The weight of each target; that of the background is 1."""
    if not len(weight):
        return torch.ones_like(target, dtype=weight.dtype)
    return F.pad(weight, (0, 1), value=1)[target]


def _sigmoid_parts(
    input: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, ...]:
    """Which scores are of the target's class, the factor of each, and logits.

    These are positive where the score is right.
    """
    input, weight = widen(input, weight)
    classes = torch.arange(input.shape[1], device=input.device)
    positive = target[:, None] == classes
    factors = torch.where(positive, -alpha, alpha - 1).to(input)
    factors = factors * _weigh(weight, target)[:, None]
    return positive, factors, torch.where(positive, input, -input)


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
    _, factors, right = _sigmoid_parts(input, target, weight, alpha)
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
    positive, factors, right = _sigmoid_parts(input, target, weight, alpha)
    wrong = (-right).sigmoid()
    # 0 times the logarithm is 0 for an infinite logit, too.
    log = F.logsigmoid(right).clamp(min=torch.finfo(right.dtype).min)
    slope = wrong - gamma * right.sigmoid() * log
    slope = wrong.pow(gamma) * slope
    grad_input.copy_(factors * torch.where(positive, slope, -slope))


def _softmax_parts(
    input: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, ...]:
    """The label of each row, its probability, and the factor of its loss."""
    input, weight = widen(input, weight)
    label = target.clamp(min=0)
    p = input.gather(1, label[:, None])[:, 0]
    factors = alpha * _weigh(weight, label)
    return label, p, torch.where(target < 0, 0.0, factors)


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
    _, p, factors = _softmax_parts(input, target, weight, alpha)
    log = p.clamp(min=SMALLEST).log()
    output.copy_(-factors * (1 - p).pow(gamma) * log)


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
    label, p, factors = _softmax_parts(input, target, weight, alpha)
    q, log = 1 - p, p.clamp(min=SMALLEST).log()
    shared = factors * (gamma * q.pow(gamma - 1) * p * log - q.pow(gamma))
    buff.copy_(shared)
    onehot = F.one_hot(label, input.shape[1]).to(shared)
    grad_input.copy_(shared[:, None] * (onehot - input.to(shared)))
