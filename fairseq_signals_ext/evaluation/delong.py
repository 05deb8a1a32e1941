"""AUROC with its variance from the scores alone: DeLong, DeLong and Clarke-Pearson 1988, doi:10.2307/2531595.

It assumes independent items. If patients have several recordings, report the bootstrap of patients instead.
Scores and targets are of one label: n items, targets 1, 0, or NaN (unknown, ignored).
"""

from typing import NamedTuple, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError


class PairedTest(NamedTuple):
    """Test of two models on the same items: AUROCs, and z and two-sided p of the difference a - b; NaN: undefined."""

    auc_a: float
    auc_b: float
    z: float
    p: float


def delong(scores: np.ndarray, targets: np.ndarray) -> Tuple[float, float]:
    """AUROC and its variance.

    Returns:
        AUROC, NaN without both classes; variance, NaN with fewer than two items of either class.
    """
    of_positives, of_negatives = _components(scores, targets)
    return _mean(of_positives), _variance(of_positives, of_negatives)


def interval(scores: np.ndarray, targets: np.ndarray, confidence: float = 0.95) -> Tuple[float, float, float]:
    """AUROC and its confidence interval.

    The interval is symmetric for the logit of the AUROC (Pepe 2003, "The Statistical Evaluation of Medical Tests"), so
    that it stays between 0 and 1 and has the right coverage for a high AUROC.

    Returns:
        AUROC, low, high. Low and high are NaN if the variance is NaN, or the AUROC is 0 or 1.
    """
    from scipy.special import expit, logit
    from scipy.stats import norm

    auc, variance = delong(scores, targets)
    if np.isnan(variance) or not 0 < auc < 1:
        return auc, float("nan"), float("nan")
    reach = norm.ppf((1 + confidence) / 2) * np.sqrt(variance) / (auc * (1 - auc))
    return auc, float(expit(logit(auc) - reach)), float(expit(logit(auc) + reach))


def paired_test(scores_a: np.ndarray, scores_b: np.ndarray, targets: np.ndarray) -> PairedTest:
    """Test whether two models differ in AUROC on the same items.

    Models that rank all pairs equally have z = 0 and p = 1. If the difference has no variance for another reason (such
    as a perfect model against one that is always wrong), z and p are NaN.

    Raises:
        UserError: the arrays differ in length.
    """
    from scipy.stats import norm

    if not len(scores_a) == len(scores_b) == len(targets):
        raise UserError(f"paired test: {len(scores_a)} and {len(scores_b)} scores for {len(targets)} targets")
    a, b = _components(scores_a, targets), _components(scores_b, targets)
    difference = _mean(a[0]) - _mean(b[0])
    variance = _variance(a[0] - b[0], a[1] - b[1])
    if np.isnan(variance) or (variance == 0 and difference != 0):
        return PairedTest(_mean(a[0]), _mean(b[0]), float("nan"), float("nan"))
    z = difference / np.sqrt(variance) if variance else 0.0
    return PairedTest(_mean(a[0]), _mean(b[0]), float(z), float(2 * norm.sf(abs(z))))


def _components(scores: np.ndarray, targets: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """For each positive the share of negatives below it; for each negative the share of positives above it.

    Ties count half. Computed from ranks instead of all pairs: Sun and Xu 2014, doi:10.1109/LSP.2014.2337313. Both are
    empty if a class is missing.
    """
    from scipy.stats import rankdata

    positives, negatives = scores[targets == 1], scores[targets == 0]
    if not len(positives) or not len(negatives):
        return np.zeros(0), np.zeros(0)
    ranks = rankdata(np.concatenate([positives, negatives]))
    below = ranks[: len(positives)] - rankdata(positives)
    above = len(positives) - (ranks[len(positives) :] - rankdata(negatives))
    return below / len(negatives), above / len(positives)


def _mean(components: np.ndarray) -> float:
    return float(components.mean()) if len(components) else float("nan")


def _variance(of_positives: np.ndarray, of_negatives: np.ndarray) -> float:
    if min(len(of_positives), len(of_negatives)) < 2:
        return float("nan")
    return float(of_positives.var(ddof=1) / len(of_positives) + of_negatives.var(ddof=1) / len(of_negatives))
