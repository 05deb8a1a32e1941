"""Measure, over batches and processes, whether the targets of a prediction still differ from one another."""

import math
from typing import NamedTuple, Optional

import torch
import torch.distributed as dist
from torch import Tensor


class Spread(NamedTuple):
    """Spread of an update's tokens around the means of their recording and of their place in time.

    Attributes:
        deviation: standard deviation of a value of a token.
        rank: effective rank of the tokens' covariance: the exponential of the entropy of its eigenvalues (Roy and
            Vetterli 2007, EUSIPCO); None if not requested.
    """

    deviation: float
    rank: Optional[float]


class TokenStatistics:
    """Sums over the tokens of an update; all processes compute the same values from them.

    Spread around both means, because tokens that depend only on the place, or are equal at all places of a recording,
    have collapsed as well. The sums are small: places x E values, and E x E for the rank.
    """

    def __init__(self) -> None:
        self._sums: Optional[Tensor] = None  # places x (E + 1): sums of values, and their number
        self._squares: Optional[Tensor] = None
        self._products: Optional[Tensor] = None

    @torch.no_grad()
    def add(self, tokens: Tensor, padding: Optional[Tensor], with_rank: bool) -> None:
        """Add tokens.

        Args:
            tokens: N x places x E.
            padding: bool, N x places, True where a token does not count; None: all count.
            with_rank: the same for all calls of an update.
        """
        tokens = tokens.float()
        counts = tokens.new_ones(tokens.shape[:2]) if padding is None else (~padding).float()
        counted = counts.unsqueeze(-1)
        of_recordings = (tokens * counted).sum(1, keepdim=True) / counted.sum(1, keepdim=True).clamp(min=1)
        kept = (tokens - of_recordings) * counted
        sums = torch.cat([kept.sum(0), counts.sum(0).unsqueeze(-1)], dim=1)
        self._sums = _added(self._sums, sums)
        self._squares = _added(self._squares, kept.square().sum())
        if with_rank:
            rows = kept.flatten(0, 1)
            self._products = _added(self._products, rows.T @ rows)

    @torch.no_grad()
    def finish(self) -> Optional[Spread]:
        """Return the spread of all tokens of all processes, and start again; None for too few recordings."""
        sums, squares, products = self._sums, self._squares, self._products
        self._sums = self._squares = self._products = None
        if sums is None or squares is None:
            return None
        for part in (sums, squares, products):
            if part is not None and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
                dist.all_reduce(part)
        values, counts = sums[:, :-1].double(), sums[:, -1:].double()
        means = values / counts.clamp(min=1)
        freedom = float((counts - 1).clamp(min=0).sum())
        if not freedom:
            return None
        variance = float(squares.double() - (values * means).sum()) / freedom / values.size(1)
        rank = None if products is None else _effective_rank(products.double() - values.T @ means)
        return Spread(math.sqrt(max(variance, 0.0)), rank)


def _added(total: Optional[Tensor], part: Tensor) -> Tensor:
    return part if total is None else total + part


def _effective_rank(products: Tensor) -> float:
    values = torch.linalg.eigvalsh(products).clamp(min=0)
    shares = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    return float(torch.special.entr(shares).sum().exp())
