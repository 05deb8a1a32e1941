"""The attention head: what one learned query finds in the frames, and a linear layer to the labels."""

import math
from typing import Optional

from torch import Tensor, nn

from fairseq_signals_ext.models.pooling import QueryPooling


class AttentionProbe(nn.Module):
    """One learned query, several heads, separate projections without bias; its outputs are the labels."""

    def __init__(self, dimensions: int, labels: int, heads: int = 16):
        """Make one with random weights.

        Args:
            dimensions: of a frame; heads that do not divide it become the largest number that divides both.
            labels: outputs.
            heads: of the attention.
        """
        super().__init__()
        self.pooling = QueryPooling(dimensions, math.gcd(dimensions, heads))
        self.output = nn.Linear(dimensions, labels)

    def forward(self, x: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """Logits, N x labels, of x (N x T x E) and `padding_mask` (bool, N x T, True where a frame is padding)."""
        return self.output(self.pooling(x, padding_mask))
