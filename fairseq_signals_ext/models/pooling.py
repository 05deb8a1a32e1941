"""From frames to one vector per segment."""

from typing import Optional

import torch
from torch import Tensor, nn


def mean_over_frames(x: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
    """B x E, of x (B x T x E) and `padding_mask` (bool, B x T, True where a frame is padding)."""
    if padding_mask is None:
        return x.mean(dim=1)
    # traced, `to` would keep the device
    kept = (~padding_mask).unsqueeze(-1).type_as(x)
    return (x * kept).sum(dim=1) / kept.sum(dim=1)


class MeanPooling(nn.Module):
    """Mean over the frames that are not padding, as in ECG-FM."""

    def forward(self, x: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """See `mean_over_frames`."""
        return mean_over_frames(x, padding_mask)


class AttentionPooling(nn.Module):
    """Mean of the frames, weighted by a learned score (self-attention pooling, arXiv 2008.01077).

    The score starts at zero, so that an untrained layer is the mean.
    """

    def __init__(self, embed_dim: int):
        super().__init__()
        self.score = nn.Linear(embed_dim, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, x: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """B x E, of x (B x T x E) and `padding_mask` (bool, B x T, True where a frame is padding)."""
        scores = self.score(x).squeeze(-1).float()
        if padding_mask is not None:
            scores = scores.masked_fill(padding_mask, float("-inf"))
        weights = torch.softmax(scores, dim=-1).type_as(x)
        return torch.einsum("bt,bte->be", weights, x)
