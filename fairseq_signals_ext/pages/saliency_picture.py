"""A map of where a model looked, as it is drawn under the traces of the recording."""

import numpy as np

from fairseq_signals_ext.analysis.saliency import Saliency
from fairseq_signals_ext.readers import Recording

_SEEN_SECONDS = 0.04


def drawn_values(saliency: Saliency, recording: Recording) -> np.ndarray:
    """A map as `ecg_paper` draws it: at the recording's samples.

    One that distinguishes leads is given as its means over 40 ms (1 mm), for a single sample could not be seen.
    """
    values = saliency.at(recording)
    return smoothed(values, round(_SEEN_SECONDS * recording.sample_rate)) if saliency.leads else values


def smoothed(rows: np.ndarray, samples: int) -> np.ndarray:
    """Means of the known values around each sample: float64, as many rows and samples; NaN stays.

    Args:
        rows: 0 or more, or NaN.
        samples: that a mean is over, of which those outside are not known.
    """
    from scipy.ndimage import uniform_filter1d

    known = np.isfinite(rows)
    total = uniform_filter1d(np.where(known, rows, 0).astype(np.float64), max(1, samples), mode="constant")
    number = uniform_filter1d(known.astype(np.float64), max(1, samples), mode="constant")
    # a running sum leaves a rounding error, also below zero
    return np.where(known, np.maximum(total, 0) / np.where(known, number, 1), np.nan)
