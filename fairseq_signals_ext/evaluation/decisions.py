"""Which labels a recording is said to have."""

import numpy as np


def called(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Whether each score is called positive: bool, N x L.

    Args:
        scores: float64, N x L.
        thresholds: float64, L: a score that is not below its own is positive; all NaN: the labels are classes that
            exclude one another, and the most probable one is.
    """
    if np.isnan(thresholds).all():
        return np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, np.newaxis]
    return scores >= thresholds
