"""The attention head: attention of one learned query over the frames, and a linear layer to the labels."""

import math
from typing import Optional

from torch import Tensor, nn

from fairseq_signals_ext.models.pooling import QueryPooling


class AttentionProbe(nn.Module):
    """One learned query, several heads, separate projections without bias; its outputs are the labels."""

    def __init__(self, dimensions: int, labels: int, heads: int = 16):
        """Make a head with random weights.

        Args:
            dimensions: values per frame; if the heads do not divide it, their number is the largest common divisor.
            labels: number of outputs.
            heads: number of attention heads.
        """
        super().__init__()
        self.pooling = QueryPooling(dimensions, math.gcd(dimensions, heads))
        self.output = nn.Linear(dimensions, labels)

    def forward(self, x: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """Return logits, N x labels, for x (N x T x E) and `padding_mask` (bool, N x T, True for padding)."""
        return self.output(self.pooling(x, padding_mask))
