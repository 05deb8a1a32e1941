"""Pooling: frames, of one layer or of all, to one vector per segment; needs torch only.

A pooling is a module with a `forward(x, padding_mask)` that turns frames, N x T x E, into N x `outputs`; padded frames
have no influence. `build_pooling` makes one by its name. Shapes: N segments, T frames, E dimensions, H heads.
"""

from typing import Any, Callable, Dict, Optional, Sequence

import torch
from torch import Tensor, nn

from fairseq_signals_ext.common.errors import UserError

# added to the variance, so that its root has a gradient if all frames are equal
_LEAST_VARIANCE = 1e-6


def mean_over_frames(x: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
    """Return B x E for x (B x T x E) and `padding_mask` (bool, B x T, True where a frame is padding)."""
    if padding_mask is None:
        return x.mean(dim=1)
    # with `to`, tracing would fix the device
    kept = (~padding_mask).unsqueeze(-1).type_as(x)
    return (x * kept).sum(dim=1) / kept.sum(dim=1)


class MeanPooling(nn.Module):
    """Mean over the frames that are not padding, as in ECG-FM."""

    def __init__(self, dimensions: int):
        super().__init__()
        self.outputs = dimensions

    def forward(self, x: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """See `mean_over_frames`."""
        return mean_over_frames(x, padding_mask)


class MeanStdPooling(nn.Module):
    """Mean and standard deviation over the frames that are not padding, concatenated (arXiv 1803.10963)."""

    def __init__(self, dimensions: int):
        super().__init__()
        self.outputs = 2 * dimensions

    def forward(self, x: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """Return N x 2 E for x (N x T x E) and `padding_mask` (bool, N x T, True where a frame is padding)."""
        values = x.to(_at_least_fp32(x))
        mean = mean_over_frames(values, padding_mask)
        apart = values - mean.unsqueeze(1)
        if padding_mask is not None:  # the square of padding may be infinite
            apart = apart.masked_fill(padding_mask.unsqueeze(-1), 0)
        variance = mean_over_frames(apart**2, padding_mask)
        return torch.cat([mean, torch.sqrt(variance + _LEAST_VARIANCE)], dim=-1).type_as(x)


class AttentionPooling(nn.Module):
    """Mean of the frames, weighted by a learned score (self-attention pooling, arXiv 2008.01077).

    The score starts at zero, so that an untrained layer computes the mean.
    """

    def __init__(self, dimensions: int):
        super().__init__()
        self.outputs = dimensions
        self.score = nn.Linear(dimensions, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, x: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """Return B x E for x (B x T x E) and `padding_mask` (bool, B x T, True where a frame is padding)."""
        weights = _softmax_over_frames(self.score(x).squeeze(-1), padding_mask).type_as(x)
        return torch.einsum("bt,bte->be", weights, x)


class QueryPooling(nn.Module):
    """Attention of one learned query to the frames, with several heads (arXiv 1706.03762).

    Query, keys and values have separate projections, without bias. The heads have no output projection: a linear layer
    follows. This is the attentive probe for frozen encoders (arXiv 2404.08471).
    """

    def __init__(self, dimensions: int, heads: int = 16):
        """Make a query and projections with random values.

        Raises:
            UserError: `dimensions` is not a multiple of `heads`.
        """
        super().__init__()
        if heads < 1 or dimensions % heads:
            raise UserError(
                f"model.pooling_heads={heads} does not divide the encoder's {dimensions} dimensions; give a divisor, "
                f"such as {_divisor(dimensions, heads)}"
            )
        self.outputs, self.heads = dimensions, heads
        self.query = nn.Parameter(torch.empty(dimensions))
        self.q, self.k, self.v = (nn.Linear(dimensions, dimensions, bias=False) for _ in range(3))
        nn.init.normal_(self.query, std=0.02)
        for projection in (self.q, self.k, self.v):
            nn.init.xavier_uniform_(projection.weight)

    def forward(self, x: Tensor, padding_mask: Optional[Tensor] = None) -> Tensor:
        """Return N x E for x (N x T x E) and `padding_mask` (bool, N x T, True where a frame is padding)."""
        # project the query instead of each frame, and values after the weighted mean: E / `heads` times less work
        query = self.q(self.query).unflatten(-1, (self.heads, -1))
        to_keys, to_values = (part.weight.unflatten(0, (self.heads, -1)) for part in (self.k, self.v))
        directions = torch.einsum("hd,hde->he", query, to_keys) * (self.outputs // self.heads) ** -0.5
        scores = torch.einsum("nte,he->nht", x, directions)
        weights = _softmax_over_frames(scores, None if padding_mask is None else padding_mask.unsqueeze(1))
        found = torch.einsum("nht,nte->nhe", weights.type_as(x), x)
        return torch.einsum("nhe,hde->nhd", found, to_values).flatten(1)


class LayerMix(nn.Module):
    """Mean of the frames of all layers with learned weights, equal at first (arXiv 1802.05365; SUPERB, 2105.01051)."""

    def __init__(self, layers: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers))  # before the softmax

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """Return N x T x E; `layers`: frames of each layer, N x T x E."""
        shares = torch.softmax(self.weights, dim=0).type_as(layers[0])
        # one by one: a stack would copy all of them
        return sum(share * x for share, x in zip(shares.unbind(), layers))


_POOLINGS: Dict[str, Callable[..., Any]] = {
    "mean": MeanPooling,
    "attention": AttentionPooling,
    "query": QueryPooling,
    "mean_std": MeanStdPooling,
}


def build_pooling(name: str, dimensions: int, heads: int = 16) -> Any:
    """Make a pooling by its name.

    Args:
        name: mean, attention, query or mean_std.
        dimensions: E.
        heads: only for `query`.

    Raises:
        UserError: the name is unknown, or `dimensions` is not a multiple of `heads`.
    """
    if name not in _POOLINGS:
        raise UserError(f"model.pooling={name!s:.60}: use one of {', '.join(_POOLINGS)}")
    return QueryPooling(dimensions, heads) if name == "query" else _POOLINGS[name](dimensions)


def _softmax_over_frames(scores: Tensor, padding_mask: Optional[Tensor]) -> Tensor:
    """Softmax over the last axis, in fp32 or more; exactly 0 where `padding_mask` is True."""
    scores = scores.to(_at_least_fp32(scores))
    if padding_mask is not None:
        scores = scores.masked_fill(padding_mask, float("-inf"))
    return torch.softmax(scores, dim=-1)


def _at_least_fp32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _divisor(dimensions: int, heads: int) -> int:
    """Return the largest divisor of `dimensions` that is not above `heads`."""
    return max(number for number in range(1, max(heads, 1) + 1) if dimensions % number == 0)
