"""Contrastive multi-segment coding (CMSC; Kiyasseh et al. 2021, arXiv 2005.13249)."""

from dataclasses import dataclass
from typing import List, Optional

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.nn.functional import all_gather


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


def gather_from_all_ranks(tensor: Tensor, group: Optional[dist.ProcessGroup] = None) -> Tensor:
    """Rows of all ranks, in order of rank; the gradient flows back to the rank that a row came from.

    Ranks may have different numbers of rows. Without a process group the tensor comes back as it is.
    """
    if not dist.is_initialized() or dist.get_world_size(group) == 1:
        return tensor
    counts = _gather_counts(tensor, group)
    padded = F.pad(tensor, [0, 0] * (tensor.dim() - 1) + [0, max(counts) - len(tensor)])
    pieces = all_gather(padded.contiguous(), group=group or dist.group.WORLD)
    return torch.cat([piece[:count] for piece, count in zip(pieces, counts)])


def _gather_counts(tensor: Tensor, group: Optional[dist.ProcessGroup]) -> List[int]:
    own = torch.tensor([len(tensor)], device=tensor.device)
    counts = [torch.zeros_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(counts, own, group=group)
    return [int(count) for count in counts]
