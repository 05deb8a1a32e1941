"""Tensors from all processes of a data-parallel run, and averages that are logged without waiting."""

from typing import Any, Dict, List, Optional, Tuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from fairseq.logging import meters, metrics
from torch import Tensor
from torch.distributed.nn.functional import all_gather

# fp32 represents integers up to 2**24 exactly, so 63 bits are sent as three numbers
_BITS = 21
_ABSENT = 2  # added to a padding row's segment

Segments = Tuple[Tensor, Tensor, Tensor, Optional[Tensor]]


def gather_from_all_ranks(tensor: Tensor, group: Optional[dist.ProcessGroup] = None) -> Tensor:
    """Return the rows of all ranks, in order of rank; the gradient of a row flows back to its rank.

    Ranks may have different numbers of rows. Without a process group, return the tensor unchanged.
    """
    if not _has_others(group):
        return tensor
    counts = _gather_counts(tensor, group)
    padded = F.pad(tensor, [0, 0] * (tensor.dim() - 1) + [0, max(counts) - len(tensor)])
    pieces = all_gather(padded.contiguous(), group=group or dist.group.WORLD)
    return torch.cat([piece[:count] for piece, count in zip(pieces, counts)])


def gather_segments(
    features: Tensor,
    patient_id: Tensor,
    segment: Tensor,
    most_segments: Optional[int] = None,
    counts: bool = True,
    group: Optional[dist.ProcessGroup] = None,
) -> Segments:
    """Return the segments of all ranks for CMSC, in order of rank, by one collective, without waiting for the device.

    The gradient of a row, summed over the ranks, flows back to its rank. Each rank's rows are padded to
    `most_segments`, so that shapes are the same at each update.

    Args:
        features: float, N x E; gathered as fp32.
        patient_id: int64, N.
        segment: int64, N; 0 for a first and 1 for a second segment, the same number of each.
        most_segments: segments of the largest batch of any rank, the same number on all ranks. None: ranks
            exchange their numbers, which is slower: it needs a second collective and waits for it.
        counts: False: this rank's segments only give the shapes; none of them is present.
        group: the ranks to gather from; default: all.

    Returns:
        `features`, `patient_id`, `segment` of (ranks x most_segments) rows, and `present`: bool, False where a row is
        padding (zeros; with the same number of first and second segments). Without other ranks, the unchanged
        arguments, with `present` None.

    Raises:
        ValueError: a batch is larger than `most_segments`, or it or `most_segments` is odd.
    """
    if not _has_others(group):
        return features, patient_id, segment, None
    rows = len(features)
    most = max(_gather_counts(features, group)) if most_segments is None else most_segments
    if rows > most or rows % 2 or most % 2:
        raise ValueError(f"{rows} segments cannot be padded to {most}: pairs are needed, and no more than that")
    missing = most - rows
    code = torch.cat([segment + (0 if counts else _ABSENT), torch.arange(missing, device=segment.device) % 2 + _ABSENT])
    columns = _packed(F.pad(patient_id, [0, missing]), code)
    packed = torch.cat([F.pad(features.float(), [0, 0, 0, missing]), columns], dim=1)
    gathered = torch.cat(all_gather(packed, group=group or dist.group.WORLD))
    width = features.size(1)
    return (gathered[:, :width], *_unpacked(gathered[:, width:].detach()))


def _packed(patient_id: Tensor, code: Tensor) -> Tensor:
    low = patient_id & (2**_BITS - 1)
    middle = (patient_id >> _BITS) & (2**_BITS - 1)
    high = patient_id >> 2 * _BITS
    return torch.stack([high, middle, low, code], dim=1).float()


def _unpacked(columns: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """Return patient, segment and presence."""
    high, middle, low, code = columns.long().unbind(dim=1)
    return (high << 2 * _BITS) | (middle << _BITS) | low, code % _ABSENT, code < _ABSENT


def _has_others(group: Optional[dist.ProcessGroup]) -> bool:
    return dist.is_initialized() and dist.get_world_size(group) > 1


def _gather_counts(tensor: Tensor, group: Optional[dist.ProcessGroup]) -> List[int]:
    own = torch.tensor([len(tensor)], device=tensor.device)
    counts = [torch.zeros_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(counts, own, group=group)
    return [int(count) for count in counts]


# with this name, because fairseq restores meters of a checkpoint by the names of their classes
class AverageMeter(meters.AverageMeter):
    """fairseq's weighted average, for numbers or tensors with one value on any device."""

    def update(self, val: Any, n: Any = 1) -> None:
        """Add `val` with weight `n`."""
        self.val = val
        self.sum: Any = meters.type_as(self.sum, val) + val * n
        self.count: Any = meters.type_as(self.count, n) + n

    @property
    def smoothed_value(self) -> Any:
        """Return the rounded average; on its device, if reading it would have to wait."""
        if self.val is None:
            return None
        if not torch.is_tensor(self.count) and not self.count:
            return float("nan")
        average = self.sum / self.count
        if not torch.is_tensor(average):
            return meters.safe_round(average, self.round)
        # fairseq requests this after each update, but uses it only when it logs
        rounded = torch.round(average.double(), decimals=self.round)
        return rounded.item() if rounded.device.type == "cpu" else rounded

    def state_dict(self) -> Dict[str, Any]:
        """Return fairseq's state as plain numbers."""
        state = super().state_dict()
        return {key: value.item() if torch.is_tensor(value) else value for key, value in state.items()}


def log_average(key: str, value: Any, weight: Any = 1, round: int = 3) -> None:  # noqa: A002 - fairseq's name
    """Log a weighted average like `fairseq.logging.metrics.log_scalar`, without waiting for the device."""
    metrics.log_custom(lambda: AverageMeter(round=round), key, value, weight, priority=10)
