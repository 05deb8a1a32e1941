"""Metrics of calibration: whether predicted probabilities agree with observed frequencies."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


def brier(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Brier score of each label: the mean squared difference of probability and outcome (Brier 1950); 0 is best.

    Args:
        scores: float64, N x L, probabilities.
        targets: float64, N x L: 1, 0, or NaN where unknown.

    Returns:
        L; NaN only without known targets; one class is enough.
    """
    known = (~np.isnan(targets)).sum(axis=0)
    return np.divide(
        np.nansum((scores - targets) ** 2, axis=0), known, out=np.full(scores.shape[1], np.nan), where=known > 0
    )


def expected_calibration_error(scores: np.ndarray, targets: np.ndarray, bins: int = 15) -> np.ndarray:
    """Mean absolute difference of predicted probability and observed frequency, for each label; 0 is best.

    Items go to bins of equal width, lower edge left out (Guo et al. 2017, arXiv 1706.04599). Each label is a separate
    question, so items are binned by the probability of the label, not by the confidence in the more likely answer.

    Args:
        scores, targets: as for `brier`.
        bins: number of bins.

    Returns:
        L; NaN only without known targets.
    """
    errors = np.full(scores.shape[1], np.nan)
    for label in range(scores.shape[1]):
        known = ~np.isnan(targets[:, label])
        if known.any():
            score, target = scores[known, label], targets[known, label]
            gaps = np.bincount(_bin_of(score, bins), weights=score - target, minlength=bins)
            errors[label] = np.abs(gaps).sum() / known.sum()
    return errors


def reliability(scores: np.ndarray, targets: np.ndarray, bins: int = 10) -> "pd.DataFrame":
    """Data of a label's reliability diagram: one row per bin with items; empty without known targets.

    Args:
        scores: float64, n, probabilities of one label.
        targets: float64, n: 1, 0, or NaN where unknown.
        bins: number of bins of equal width, lower edge left out.

    Returns:
        Columns `low` and `high` (edges of the bin), `count`, `positives`, `mean_score`, and `observed`, the fraction of
        positives.
    """
    import pandas as pd

    known = ~np.isnan(targets)
    score, target = scores[known], targets[known]
    place = _bin_of(score, bins)
    count = np.bincount(place, minlength=bins)
    filled = np.flatnonzero(count)
    positives = np.bincount(place, weights=target, minlength=bins)[filled]
    total, count, edges = np.bincount(place, weights=score, minlength=bins)[filled], count[filled], _edges(bins)
    return pd.DataFrame(
        {
            "low": edges[filled],
            "high": edges[filled + 1],
            "count": count,
            "positives": positives.astype(np.int64),
            "mean_score": total / count,
            "observed": positives / count,
        }
    )


def _edges(bins: int) -> np.ndarray:
    return np.linspace(0.0, 1.0, bins + 1)


def _bin_of(scores: np.ndarray, bins: int) -> np.ndarray:
    return np.searchsorted(_edges(bins)[1:-1], scores)
