"""The attention head: what one learned query finds in the frames, and a linear layer to the labels."""

import math
from typing import Optional

import torch
from torch import Tensor, nn

from fairseq_signals_ext.models.pooling import QueryPooling


class AttentionProbe(nn.Module):
    """One learned query, several heads, separate projections without bias; its outputs are the labels.

    It has the weights of `QueryPooling` and gives what that does, in another order: the query is projected onto the
    frames, not each frame onto keys, and values are made of what the heads found, not of each frame. With E dimensions
    and H heads that is E / H times less work.
    """

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
        pooling = self.pooling
        query = pooling.q(pooling.query).unflatten(0, (pooling.heads, -1))
        to_keys, to_values = (part.weight.unflatten(0, (pooling.heads, -1)) for part in (pooling.k, pooling.v))
        directions = torch.einsum("hd,hde->he", query, to_keys) * query.shape[1] ** -0.5
        scores = x @ directions.T
        if padding_mask is not None:
            scores = scores.masked_fill(padding_mask.unsqueeze(-1), float("-inf"))
        found = torch.softmax(scores, dim=1).transpose(1, 2) @ x
        return self.output(torch.einsum("nhe,hde->nhd", found, to_values).flatten(1))
