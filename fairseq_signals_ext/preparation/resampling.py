"""Resampling of a recording to the rate of the shards."""

from fractions import Fraction
from typing import Callable, Dict

import numpy as np

from fairseq_signals_ext.errors import UserError

# relative; less than a sample in an hour at 500 Hz
_LARGEST_STRETCH = 5e-7

Resampler = Callable[[np.ndarray, float, float], np.ndarray]


def resample_linear(signal: np.ndarray, source_rate: float, target_rate: float) -> np.ndarray:
    """ECG-FM's linear resampling: int(samples * target / source) points from the first sample to the last.

    The first and the last sample stay as they are and the points between are evenly spaced, as in ECG-FM's
    preprocessed files (arXiv 2408.05178), so the time axis is stretched by less than one sample.

    Args:
        signal: leads x samples.
        source_rate, target_rate: Hz.

    Returns:
        leads x new samples, float64.
    """
    samples = signal.shape[1]
    target = np.linspace(0, samples - 1, int(samples * target_rate / source_rate))
    grid = np.arange(samples)
    return np.stack([np.interp(target, grid, lead) for lead in signal])


def resample_polyphase(signal: np.ndarray, source_rate: float, target_rate: float) -> np.ndarray:
    """Resampling with a filter against aliasing (`scipy.signal.resample_poly`); keeps the time axis exactly.

    Beyond its ends a lead is continued along the line through its first and last sample, so that an offset of the
    baseline makes no transient.

    Args:
        signal: leads x samples.
        source_rate, target_rate: Hz; their ratio is taken as a fraction with a denominator of at most 10,000.

    Returns:
        leads x new samples, float64.

    Raises:
        UserError: the ratio of the rates is no such fraction.
    """
    from scipy.signal import resample_poly

    ratio = Fraction(target_rate / source_rate).limit_denominator(10_000)
    if abs(float(ratio) * source_rate / target_rate - 1) > _LARGEST_STRETCH:
        raise UserError(f"{source_rate:g} Hz cannot be resampled to {target_rate:g} Hz this way; use --resample linear")
    return resample_poly(signal, ratio.numerator, ratio.denominator, axis=1, padtype="line")


RESAMPLERS: Dict[str, Resampler] = {"linear": resample_linear, "polyphase": resample_polyphase}
