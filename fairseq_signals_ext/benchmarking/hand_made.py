"""Compute measures of an ECG without training: rate, rhythm, amplitudes and axis, from mV."""

from typing import Optional, Tuple

import numpy as np

from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.readers.limb_leads import combined

MEASURES = (
    *("heart rate (1/min)", "RR deviation (ms)"),
    *(f"deviation of {lead} (mV)" for lead in LEADS),
    *(f"peak to peak of {lead} (mV)" for lead in LEADS),
    *("cosine of the axis", "sine of the axis"),
)
_I, _II, _AVF = (LEADS.index(lead) for lead in ("I", "II", "aVF"))
# band of most power of QRS complexes, but not of T waves and muscles, in Hz
_QRS_BAND = (8.0, 20.0)
# standard deviation of a window about as long as a QRS complex, and the shortest interval between two, in s
_QRS_SECONDS, _REFRACTORY_SECONDS = 0.03, 0.25
# share of the usual height of a peak: ventricular beats are several times as high as others, T waves are below
_LEAST_HEIGHT = 0.15
# each window of this length contains a QRS complex
_WINDOW_SECONDS = 2.0
# half length of a QRS complex for areas, and of the window for its baseline, in s
_HALF_QRS, _HALF_BASELINE = 0.06, 0.3
_SHORTEST_SECONDS = 1.0


def measures(signal: np.ndarray, rate: float) -> np.ndarray:
    """Compute `MEASURES` of a recording: float32; 0 if not found, such as a rate without beats, or a missing lead.

    Args:
        signal: 12 x samples, mV, in the order of `LEADS`; zeros for missing leads.
        rate: Hz.
    """
    beats = r_peaks(signal, rate)
    intervals = np.diff(beats) / rate
    heart_rate = 60 / np.median(intervals) if len(intervals) else 0.0
    deviation = 1000 * np.std(intervals) if len(intervals) > 1 else 0.0
    axis = electrical_axis(signal, rate, beats)
    direction = (0.0, 0.0) if axis is None else (np.cos(np.radians(axis)), np.sin(np.radians(axis)))
    found = [[heart_rate, deviation], signal.std(axis=1), np.ptp(signal, axis=1), direction]
    return np.concatenate(found).astype(np.float32)


def r_peaks(signal: np.ndarray, rate: float) -> np.ndarray:
    """Find the samples in the middle of QRS complexes, ascending: int64.

    The slopes of all leads between 8 and 20 Hz are squared and summed over about the length of a complex, as by Pan and
    Tompkins (1985), but in a window without a flat top, so that noise does not move the peaks of the sum. Their usual
    height is the median over windows of 2 s.

    Args:
        signal: leads x samples, mV.
        rate: Hz; above 40.
    """
    from scipy.ndimage import gaussian_filter1d
    from scipy.signal import butter, find_peaks, sosfiltfilt

    samples = signal.shape[1]
    if samples < _SHORTEST_SECONDS * rate or rate <= 2 * _QRS_BAND[1]:
        return np.empty(0, np.int64)
    filtered = sosfiltfilt(butter(2, _QRS_BAND, "bandpass", fs=rate, output="sos"), signal)
    slopes = (np.gradient(filtered, axis=1) ** 2).sum(axis=0)
    energy = gaussian_filter1d(slopes, _QRS_SECONDS * rate)
    window = min(samples, round(_WINDOW_SECONDS * rate))
    height = np.median(energy[: samples // window * window].reshape(-1, window).max(axis=1))
    if not height > 0:
        return np.empty(0, np.int64)
    distance = max(1, round(_REFRACTORY_SECONDS * rate))
    return find_peaks(energy, height=_LEAST_HEIGHT * height, distance=distance)[0].astype(np.int64)


def electrical_axis(signal: np.ndarray, rate: float, beats: np.ndarray) -> Optional[float]:
    """Compute the direction of the QRS complexes in the frontal plane in degrees: 0 is lead I, 90 is aVF.

    It is computed from areas of the complexes in I and aVF above the baseline, medians over beats; aVF, an augmented
    lead, is multiplied by 2 / sqrt(3) for Einthoven's triangle.

    Args:
        signal: 12 x samples, mV; a missing aVF is computed from I and II.
        rate: Hz.
        beats: see `r_peaks`.

    Returns:
        -180 to 180; None without beats or without these leads.
    """
    one, avf = signal[_I], signal[_AVF]
    if not avf.any() and signal[_II].any():
        avf = combined(signal[[_I, _II]], _AVF)
    areas = [area for area in (_areas(one, avf, int(beat), rate) for beat in beats) if area is not None]
    if not areas or not one.any() or not avf.any():
        return None
    x, y = np.median(areas, axis=0)
    return None if x == y == 0 else float(np.degrees(np.arctan2(2 / np.sqrt(3) * y, x)))


def _areas(one: np.ndarray, avf: np.ndarray, beat: int, rate: float) -> Optional[Tuple[float, float]]:
    """Return areas of a complex in two leads, above the median around it; None for an incomplete complex."""
    half, around = round(_HALF_QRS * rate), round(_HALF_BASELINE * rate)
    if beat < half or beat + half >= len(one):
        return None
    start, stop = max(0, beat - around), beat + around
    areas = [(lead[beat - half : beat + half + 1] - np.median(lead[start:stop])).sum() for lead in (one, avf)]
    return float(areas[0]), float(areas[1])
