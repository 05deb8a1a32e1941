"""Similarities of predicted and true targets (arXiv 2006.11477, equation 3), without waiting for the device.

Shapes: B segments, M masked frames a segment, D values a target, N negatives a frame.
"""

from typing import Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor

# what picks masked frames: their places (rows, frames), each B x M, or a mask, bool, B x T
MaskedFrames = Union[Tuple[Tensor, Tensor], Tensor]
_EPS = 1e-8  # least length, as in torch's cosine similarity


def places_of(masked_frames: Tensor) -> Tuple[Tensor, Tensor]:
    """Rows and frames that pick the masked frames, B x M each, of `masked_frames`, int64, B x M."""
    rows = torch.arange(len(masked_frames), device=masked_frames.device).unsqueeze(-1)
    return rows.expand_as(masked_frames), masked_frames


def draw_negatives(segments: int, frames: int, number: int, device: torch.device) -> Tensor:
    """For each of `frames` masked frames of a segment, `number` others of it: int64, N x B x M.

    These are the numbers that fairseq draws on a CPU, here from the generator of `device`.
    """
    drawn = torch.randint(0, frames - 1, (segments, frames * number), device=device)
    own = torch.arange(frames, device=device).repeat_interleave(number)
    others = drawn + (drawn >= own)
    return others.view(segments, frames, number).permute(2, 0, 1)


def targets_at(targets: Tensor, places: Tensor) -> Tensor:
    """Targets, N x B x M x D, of `targets`, B x M x D, at `places`, N x B x M."""
    segments, frames, _ = targets.shape
    flat = places + frames * torch.arange(segments, device=targets.device).unsqueeze(-1)
    # not by indexing, whose gradients torch adds up in no fixed order on a CPU
    return targets.flatten(0, 1).index_select(0, flat.flatten()).unflatten(0, places.shape)


def similarities(predicted: Tensor, targets: Tensor, negatives: Tensor) -> Tensor:
    """Cosines, (1 + N) x B x M, of each prediction with its own target first; -inf where a negative equals that.

    Args:
        predicted: B x M x D.
        targets: B x M x D.
        negatives: N x B x M x D.
    """
    same = (targets == negatives).all(-1)
    every = torch.cat([targets.unsqueeze(0), negatives])
    cosines = torch.cosine_similarity(predicted.float(), every.float(), dim=-1)
    return cosines.masked_fill(F.pad(same, (0, 0, 0, 0, 1, 0)), float("-inf"))


def similarities_by_place(predicted: Tensor, targets: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """The same for negatives given by their places: B x M x M cosines instead of N copies of the targets.

    Args:
        predicted: B x M x D.
        targets: B x M x D.
        places: int64, N x B x M: masked frames of the same segment.
        weights: int64, D: random numbers, of which fingerprints of targets are made.
    """
    cosines = F.normalize(predicted.float(), dim=-1, eps=_EPS) @ F.normalize(targets.float(), dim=-1, eps=_EPS).mT
    negatives = places.permute(1, 2, 0)
    marks = _fingerprints(targets, weights)
    same = marks.unsqueeze(1).expand_as(cosines).gather(2, negatives) == marks.unsqueeze(2)
    of_negatives = cosines.gather(2, negatives).masked_fill(same, float("-inf"))
    return torch.cat([cosines.diagonal(dim1=1, dim2=2).unsqueeze(2), of_negatives], dim=2).permute(2, 0, 1)


def _fingerprints(targets: Tensor, weights: Tensor) -> Tensor:
    """int64, B x M: equal for equal targets, and for others next to never."""
    # adding zero makes -0.0 the 0.0 that it equals
    bits = (targets.detach().float() + 0.0).contiguous().view(torch.int32)
    return (bits.long() * weights).sum(-1)
