"""Contrastive multi-segment coding (CMSC; Kiyasseh et al. 2021, arXiv 2005.13249)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class CmscResult:
    """Loss (scalar, nats) and retrieval: of `count` segments, `correct` were nearest to one of the same patient."""

    loss: Tensor
    correct: Tensor
    count: int


def cmsc_loss(
    features: Tensor, patient_id: Tensor, segment: Tensor, temp: float = 0.1, eps: float = 1e-8
) -> CmscResult:
    """InfoNCE between first and second segments, in both directions.

    Every first segment is compared with every second one; those of the same patient are positives, so a row has
    several where a patient occurs more than once. The loss is the mean over all positives of both directions.

    Args:
        features: N x E, one a segment (the encoder's output, averaged over time).
        patient_id: integer, N.
        segment: integer, N; 0 for a first and 1 for a second segment.
        temp: temperature.
        eps: least length that features are divided by.
    """
    # the length is taken as a constant, as in ECG-FM
    length = features.detach().norm(dim=-1, keepdim=True)
    features = features / length.clamp(min=eps)
    first, second = segment == 0, segment == 1
    logits = features[first] @ features[second].t() / temp
    positive = patient_id[first].unsqueeze(1) == patient_id[second].unsqueeze(0)
    loss = _mean_over_positives(logits, positive) + _mean_over_positives(logits.t(), positive.t())
    correct = _nearest_is_positive(logits, positive) + _nearest_is_positive(logits.t(), positive.t())
    return CmscResult(loss / 2, correct, sum(logits.shape))


def _mean_over_positives(logits: Tensor, positive: Tensor) -> Tensor:
    return -F.log_softmax(logits, dim=-1)[positive].mean()


def _nearest_is_positive(logits: Tensor, positive: Tensor) -> Tensor:
    with torch.no_grad():
        return positive.gather(1, logits.argmax(dim=-1, keepdim=True)).sum()
