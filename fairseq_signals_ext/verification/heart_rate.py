"""Heart rate of one lead, for an overview of many recordings; not for diagnosis."""

from typing import Optional

import numpy as np

# QRS complexes have most of their energy here (Hz); as in Pan and Tompkins 1985, doi:10.1109/TBME.1985.325532
_QRS_HZ = (5.0, 20.0)
_QRS_SECONDS, _REFRACTORY_SECONDS = 0.1, 0.25
_FEWEST_BEATS = 3


def heart_rate(signal: np.ndarray, rate: float) -> Optional[float]:
    """Beats per minute, from the median distance of R peaks; None where fewer than three are found.

    R peaks are peaks of the energy in the band of QRS complexes, averaged over the length of one.

    Args:
        signal: one lead, samples, in any unit.
        rate: Hz.
    """
    from scipy.ndimage import uniform_filter1d
    from scipy.signal import butter, find_peaks, sosfiltfilt

    too_short = len(signal) < _FEWEST_BEATS * _REFRACTORY_SECONDS * rate
    if rate <= 2.5 * _QRS_HZ[1] or too_short or np.ptp(signal) == 0:
        return None
    band = sosfiltfilt(butter(2, _QRS_HZ, "bandpass", fs=rate, output="sos"), signal)
    energy = uniform_filter1d(band**2, max(1, round(_QRS_SECONDS * rate)))
    # a fraction of what the strongest complexes have: above T waves and noise, below a small R peak
    threshold = 0.25 * np.percentile(energy, 98)
    peaks, _ = find_peaks(energy, height=threshold, distance=max(1, round(_REFRACTORY_SECONDS * rate)))
    if len(peaks) < _FEWEST_BEATS:
        return None
    return float(60 * rate / np.median(np.diff(peaks)))
