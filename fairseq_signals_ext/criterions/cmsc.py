"""Contrastive multi-segment coding (CMSC; Kiyasseh et al. 2021, arXiv 2005.13249)."""

from dataclasses import dataclass
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class CmscResult:
    """Loss (scalar, nats) and retrieval: of `count` segments, `correct` were nearest to one of the same patient.

    Segments that no other patient's could be nearer to, as in a batch of one pair, are not counted.
    """

    loss: Tensor
    correct: Tensor
    count: Tensor


def cmsc_loss(
    features: Tensor,
    patient_id: Tensor,
    segment: Tensor,
    temp: float = 0.1,
    eps: float = 1e-8,
    present: Optional[Tensor] = None,
) -> CmscResult:
    """InfoNCE between first and second segments, in both directions.

    Every first segment is compared with every second one; those of the same patient are positives, so a row has
    several where a patient occurs more than once. The loss is the mean over all positives of both directions.
    Nothing waits for the device, and shapes depend on N and E only.

    Args:
        features: N x E, one a segment (the encoder's output, averaged over time).
        patient_id: integer, N.
        segment: integer, N; 0 for a first and 1 for a second segment. There must be as many first as second ones, in
            any order; this is not looked at, which would wait for the device.
        temp: temperature.
        eps: least length that features are divided by.
        present: bool, N; segments where it is False are left out, as if they were not there. Default: all are there.

    Raises:
        ValueError: N is odd.
    """
    if len(features) % 2:
        raise ValueError(f"{len(features)} segments: CMSC needs as many first as second segments")
    # the length is taken as a constant, as in ECG-FM
    length = features.detach().norm(dim=-1, keepdim=True)
    features = features / length.clamp(min=eps)
    first, second = segment.sort(stable=True).indices.chunk(2)
    logits = features[first] @ features[second].t() / temp
    positive = patient_id[first].unsqueeze(1) == patient_id[second].unsqueeze(0)
    to_second, to_first, rival = logits, logits.t(), ~positive
    if present is not None:
        both = present[first].unsqueeze(1) & present[second].unsqueeze(0)
        positive, rival = positive & both, rival & both
        to_second = to_second.masked_fill(~present[second], float("-inf"))
        to_first = to_first.masked_fill(~present[first], float("-inf"))
    loss = _mean_over_positives(to_second, positive) + _mean_over_positives(to_first, positive.t())
    sides = ((to_second, positive, rival.any(1)), (to_first, positive.t(), rival.any(0)))
    correct = torch.stack([_nearest_is_positive(*side) for side in sides]).sum()
    return CmscResult(loss / 2, correct, torch.stack([counted.sum() for _, _, counted in sides]).sum())


def _mean_over_positives(logits: Tensor, positive: Tensor) -> Tensor:
    chosen = F.log_softmax(logits, dim=-1).masked_fill(~positive, 0)
    return -chosen.sum() / positive.sum()


def _nearest_is_positive(logits: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    with torch.no_grad():
        return (positive.gather(1, logits.argmax(dim=-1, keepdim=True)).squeeze(1) & counted).sum()
