"""Tensors of all processes of a data-parallel run."""

from typing import List, Optional

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.nn.functional import all_gather


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
