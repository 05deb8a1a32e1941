"""Items of one label sorted by score: operating points, and AUROC and AUPRC for many weightings.

A bootstrap resample is a vector of weights: how often each item was drawn. Scores are sorted once; each resample only
needs sums of weights, which is fast for many resamples at a time.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Mapping, Optional, Tuple

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


def operating_points(scores: np.ndarray, targets: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True and false positives at each threshold; an item is called positive if its score is not below it.

    Args:
        scores, targets: n items, all known (1 or 0).

    Returns:
        Thresholds (float64), decreasing: infinity, then each different score; true and false positives (int64).
    """
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    ends = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)
    true = np.cumsum(targets[order] == 1)[ends]
    return np.append(np.inf, falling[ends]), np.append(0, true), np.append(0, ends + 1 - true)


@dataclass(frozen=True)
class Ranking:
    """The known items of a label, cut into runs of decreasing score; made by `rank`.

    A run is either all items with the same score as some positive, or the negatives between two such scores: AUROC and
    AUPRC of a resample need only the weights of positives and of negatives in each run.

    Attributes:
        positives: float64, runs x items: 1 where the item is a positive of the run.
        negatives: the same for negatives.
    """

    positives: "csr_matrix"
    negatives: "csr_matrix"

    @property
    def runs(self) -> int:
        """Number of runs."""
        return int(self.positives.shape[0])

    def weigh(self, weights: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Weights of positives and of negatives in each run, runs x resamples.

        Args:
            weights: float64, items x resamples, not negative.
        """
        return self.positives @ weights, self.negatives @ weights


def rank(scores: np.ndarray, targets: np.ndarray, items: Optional[np.ndarray] = None) -> Ranking:
    """Prepare a label for `Ranking.weigh`.

    Args:
        scores: float64, n.
        targets: n, 1, 0, or NaN where unknown.
        items: int, n: row of the weights for each score; default: the n rows in order. It allows to pool several labels
            of an item.
    """
    from scipy.sparse import csr_matrix

    items = np.arange(len(scores)) if items is None else items
    width = int(items.max(initial=-1)) + 1
    known = np.flatnonzero(~np.isnan(targets))
    known = known[np.argsort(-scores[known], kind="stable")]
    positive, items = targets[known] == 1, items[known]
    run = _runs(scores[known], positive)
    count = int(run.max(initial=-1)) + 1
    matrices = [
        csr_matrix((np.ones(chosen.sum()), (run[chosen], items[chosen])), shape=(count, width))
        for chosen in (positive, ~positive)
    ]
    return Ranking(*matrices)


def _runs(falling: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """The run of each item, counted from 0."""
    if not len(falling):
        return np.zeros(0, np.int64)
    tie = np.append(0, np.cumsum(np.diff(falling) != 0))
    with_positive = np.bincount(tie, weights=positive) > 0
    starts = with_positive | np.append(True, with_positive[:-1])
    return (np.cumsum(starts) - 1)[tie]


def weighted_auroc(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each resample; equals scikit-learn's `roc_auc_score` with `sample_weight`.

    It is the weight of pairs of a positive and a negative in which the positive has the higher score, ties counting
    half (Hanley and McNeil 1982), over the weight of all pairs.

    Args:
        positives, negatives: runs x resamples, from `Ranking.weigh`.

    Returns:
        Resamples; NaN where one class has no weight.
    """
    all_positives, all_negatives = positives.sum(axis=0), negatives.sum(axis=0)
    below = all_negatives - np.cumsum(negatives, axis=0) + negatives / 2
    area = np.einsum("ij,ij->j", positives, below)
    return _where_both(area, all_positives, all_negatives, all_positives * all_negatives)


def weighted_auprc(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Average precision of each resample; equals scikit-learn's `average_precision_score` with `sample_weight`.

    Args:
        positives, negatives: runs x resamples, from `Ranking.weigh`.

    Returns:
        Resamples; NaN where one class has no weight.
    """
    true, false = np.cumsum(positives, axis=0), np.cumsum(negatives, axis=0)
    precision = np.divide(true, true + false, out=np.zeros_like(true), where=true > 0)
    all_positives, all_negatives = positives.sum(axis=0), negatives.sum(axis=0)
    area = np.einsum("ij,ij->j", positives, precision)
    return _where_both(area, all_positives, all_negatives, all_positives)


def _where_both(values: np.ndarray, positives: np.ndarray, negatives: np.ndarray, divisor: np.ndarray) -> np.ndarray:
    """Values divided by the divisor; NaN if a class has no weight."""
    both = (positives > 0) & (negatives > 0)
    return np.divide(values, divisor, out=np.full(len(values), np.nan), where=both)


# metric -> its value of each resample
WEIGHTED: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "auroc": weighted_auroc,
    "auprc": weighted_auprc,
}
