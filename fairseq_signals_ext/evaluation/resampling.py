"""Resample patients, and compute intervals and p-values from the resampled values."""

from typing import Iterator, Optional, Tuple

import numpy as np

from fairseq_signals_ext.common.progress import Progress

_BLOCK_BYTES = 32 * 2**20


def resampled(patients: int, resamples: int, seed: int, rows: int = 0, progress: bool = False) -> Iterator[np.ndarray]:
    """Yield `patient_weights` in blocks of resamples with limited memory.

    Args:
        rows: largest number of values computed per resample.
        progress: show a progress bar.
    """
    block = max(1, _BLOCK_BYTES // (8 * max(1, rows, patients)))
    rng = np.random.default_rng(seed)
    with Progress("bootstrap", resamples, "resample", is_shown=progress, leave=False) as bar:
        for first in range(0, resamples, block):
            count = min(block, resamples - first)
            yield patient_weights(rng, patients, count)
            bar.update(count)


def patient_weights(rng: np.random.Generator, patients: int, resamples: int) -> np.ndarray:
    """How often each patient is drawn in each resample: int64, patients x resamples; columns sum up to `patients`.

    Resamples are drawn one after the other, so they do not depend on the size of blocks.
    """
    draws = (rng.integers(patients, size=patients) for _ in range(resamples))
    return np.stack([np.bincount(draw, minlength=patients) for draw in draws], axis=1)


def one_of_each_patient(patients: np.ndarray, seed: int) -> np.ndarray:
    """Positions (int64, ascending) of one item of each patient, drawn at random.

    Args:
        patients: int64, n: number of each item's patient.
    """
    order = np.random.default_rng(seed).permutation(len(patients))
    _, first = np.unique(patients[order], return_index=True)
    return np.sort(order[first])


def mirrored(point: np.ndarray, drawn: np.ndarray, patients: Optional[int] = None) -> np.ndarray:
    """Mirror values of resamples at the point; their percentiles are the basic interval.

    The method assumes that the data exceed the truth by as much as a resample exceeds the data (Davison and Hinkley
    1997, section 5.2).
    A metric between 0 and 1 is mirrored by its log odds, so that it stays there and may be skew near the ends, as Boyd
    et al. 2013 (doi:10.1007/978-3-642-40994-3_29) recommend for AUPRC. Odds are those of (n x + 1/2) / (n + 1), with n
    patients (Cox and Snell 1989, the empirical logit), so that they are finite for 0 and 1.

    Args:
        point: of the items as they are, float64, rows x 1.
        drawn: rows x resamples; NaN (undefined) stays NaN.
        patients: n; None for a difference, which is mirrored as it is.
    """
    if patients is None:
        return 2 * point - drawn
    at_point, at_drawn = ((patients * x + 0.5) / (patients * (1 - x) + 0.5) for x in (point, drawn))
    odds = at_point**2 / at_drawn
    return np.clip(((patients + 1) * odds / (1 + odds) - 0.5) / patients, 0, 1)


def interval(values: np.ndarray, confidence: float) -> Tuple[float, float]:
    """Low and high end: the k-th smallest and the k-th largest of n defined values.

    k is (n + 1) (1 - confidence) / 2, rounded down; 1 if there are too few for that. NaN if no value is defined.
    """
    defined = np.sort(values[~np.isnan(values)])
    if not len(defined):
        return float("nan"), float("nan")
    place = max(1, int((len(defined) + 1) * (1 - confidence) / 2 + 1e-9))  # 1 - 0.9 is a little less than 0.1
    return float(defined[place - 1]), float(defined[-place])


def p_value(differences: np.ndarray) -> float:
    """Two-sided p-value for no difference, from mirrored differences; NaN if none is defined.

    It is twice the smaller share of differences that are not above, or not below, 0. One is added to both counts, so
    that p is never 0 (Davison and Hinkley 1997, section 4.2).
    """
    defined = differences[~np.isnan(differences)]
    if not len(defined):
        return float("nan")
    fewer = min((defined <= 0).sum(), (defined >= 0).sum())
    return min(1.0, float(2 * (1 + fewer) / (1 + len(defined))))


def mean_of_defined(values: np.ndarray, axis: int) -> np.ndarray:
    """Means without NaN along an axis, which is kept with length 1; NaN if all values are NaN."""
    defined = (~np.isnan(values)).sum(axis=axis, keepdims=True)
    total = np.nansum(values, axis=axis, keepdims=True)
    return np.divide(total, defined, out=np.full(total.shape, np.nan), where=defined > 0)
