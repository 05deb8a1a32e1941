"""Losses of one label of one segment, for labels of which few are positive."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

_SMALLEST = 1e-8


def focal_loss(logits: Tensor, targets: Tensor, gamma: float, pos_weight: Optional[Tensor] = None) -> Tensor:
    """Cross entropy times (1 - p) ** gamma, p being the probability of what is true (Lin et al., arXiv 1708.02002).

    Args:
        logits, targets: float, of one shape; targets are 0 or 1.
        gamma: 0 gives plain cross entropy.
        pos_weight: weight of positives, broadcast against `logits`.
    """
    # the slope of x ** gamma is infinite at 0 for gamma below 1
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    loss = entropy * (1 - torch.exp(-entropy)).clamp(min=_SMALLEST) ** gamma
    return loss if pos_weight is None else loss * torch.where(targets == 1, pos_weight, torch.ones_like(pos_weight))


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    gamma_pos: float,
    gamma_neg: float,
    clip: float,
    pos_weight: Optional[Tensor] = None,
) -> Tensor:
    """Focal loss with a gamma for positives and one for negatives, whose probability is lowered by `clip`.

    Source: Ridnik et al., arXiv 2009.14119. Arguments as of `focal_loss`.
    """
    positive = F.logsigmoid(logits) * torch.sigmoid(-logits).clamp(min=_SMALLEST) ** gamma_pos
    if pos_weight is not None:
        positive = positive * pos_weight
    probability = (torch.sigmoid(logits) - clip).clamp(min=0)
    # with no clip the logarithm of a sigmoid is exact also where the probability rounds to 1
    log_negative = torch.log1p(-probability) if clip > 0 else F.logsigmoid(-logits)
    return -torch.where(targets == 1, positive, log_negative * probability.clamp(min=_SMALLEST) ** gamma_neg)
