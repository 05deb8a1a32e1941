"""Convert a recording to int16 counts at one rate, with a scale and a zero per lead, for a shard."""

import dataclasses
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Callable, Dict, Iterable, Iterator, NamedTuple, Optional, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.readers import Recording

_INT16 = np.iinfo(np.int16)
# most values of a recording after resampling: 24 h of 12 leads at 500 Hz, which needs 4 GB of memory
_LARGEST = 2**29
# a lead with a smaller range than this (mV) is constant: its range divided into counts would no longer be exact
_SMALLEST_RANGE = 1e-12
# relative; less than a sample in an hour at 500 Hz
_LARGEST_STRETCH = 5e-7
Resampler = Callable[[np.ndarray, float, float], np.ndarray]


@dataclass(frozen=True)
class Processing:
    """How recordings become counts.

    Attributes:
        rate: Hz; recordings of another rate are resampled.
        resample: "linear" (ECG-FM's) or "polyphase".
        fill_leads: store all twelve leads, with zeros for missing ones.
        min_seconds: shorter recordings are flagged.
    """

    rate: float = 500.0
    resample: str = "linear"
    fill_leads: bool = False
    min_seconds: float = 5.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise UserError(f"rate {self.rate}: give a sample rate in Hz above 0")
        if self.resample not in RESAMPLERS:
            raise UserError(f"resample {self.resample!r}: use one of {', '.join(RESAMPLERS)}")
        if not self.min_seconds >= 0:
            raise UserError(f"min-seconds {self.min_seconds}: give a length in s, 0 for none")


class Counts(NamedTuple):
    """A recording for a shard. A count c of lead k stands for `(c - zero[k]) * scale[k]` mV."""

    counts: np.ndarray  # leads x samples, int16
    leads: Tuple[int, ...]  # positions in LEADS, ascending
    scale: np.ndarray  # leads, float64, mV per count
    zero: np.ndarray  # leads, float64
    rounding_error_mv: float  # largest; 0 if the counts of the source are kept
    nan_samples: int  # of all leads, interpolated
    filled: Tuple[int, ...]  # missing leads, stored as zeros


def to_counts(recording: Recording, processing: Processing, gain_fix: float = 1.0) -> Counts:
    """Convert a recording to int16 counts at the wanted rate.

    Without resampling, a lead keeps its integers if they fit. Any other lead is scaled to its own range; 0 mV is always
    a whole count, and a constant lead is exact. Samples that are not finite are interpolated from their neighbours; a
    lead without finite samples becomes 0 mV.

    Args:
        gain_fix: factor for amplitudes, if a source's gain is known to be wrong.

    Raises:
        UserError: no samples, or an invalid rate; the message has no file name.
    """
    _check(recording)
    recording, nan_samples = _without_invalid(recording)
    if recording.sample_rate == processing.rate:
        counts, scale, zero, error = _own_counts(recording)
    else:
        counts, scale, zero, error = _ranged_counts(_resampled(recording, processing))
    stored = Counts(counts, recording.leads, scale * gain_fix, zero, error * gain_fix, nan_samples, filled=())
    return _with_all_leads(stored) if processing.fill_leads else stored


def _check(recording: Recording) -> None:
    if recording.samples == 0:
        raise UserError("it has no samples")
    if not (math.isfinite(recording.sample_rate) and recording.sample_rate > 0):
        raise UserError(f"its sample rate is {recording.sample_rate} Hz")


def _without_invalid(recording: Recording) -> Tuple[Recording, int]:
    """Return the recording with its invalid samples interpolated, and their number."""
    if recording.physical is None:
        return recording, 0
    invalid = ~np.isfinite(recording.physical)
    if not invalid.any():
        return recording, 0
    stored = recording.stored
    if stored is not None:
        stored = dataclasses.replace(stored, counts=_interpolated(stored.counts, invalid, stored.zero))
    signal = _interpolated(recording.physical, invalid)
    return dataclasses.replace(recording, physical=signal, stored=stored), int(np.count_nonzero(invalid))


def _interpolated(rows: np.ndarray, invalid: np.ndarray, all_invalid: Optional[np.ndarray] = None) -> np.ndarray:
    """Interpolate invalid samples; a row of only invalid samples becomes `all_invalid`, default 0."""
    rows = rows.copy()
    at = np.arange(rows.shape[1])
    for number in np.flatnonzero(invalid.any(axis=1)):
        wrong = invalid[number]
        if wrong.all():
            rows[number] = 0 if all_invalid is None else np.rint(all_invalid[number])
            continue
        values = np.interp(at[wrong], at[~wrong], rows[number, ~wrong])
        rows[number, wrong] = values if rows.dtype.kind == "f" else np.rint(values)
    return rows


def _own_counts(recording: Recording) -> Tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return counts, scale, zero and rounding error: a lead's stored counts if they fit, else those of its range."""
    stored = recording.stored
    if stored is None:
        return _ranged_counts(recording.signal)
    fits = np.isfinite(stored.scale) & (stored.scale != 0)
    if stored.counts.dtype != np.int16:
        fits &= (stored.counts.min(axis=1) >= _INT16.min) & (stored.counts.max(axis=1) <= _INT16.max)
    if fits.all():
        return stored.counts.astype(np.int16, copy=False), stored.scale, stored.zero, 0.0
    counts, scale, zero = np.empty(stored.counts.shape, np.int16), stored.scale.copy(), stored.zero.copy()
    counts[fits] = stored.counts[fits]
    counts[~fits], scale[~fits], zero[~fits], error = _ranged_counts(recording.signal[~fits])
    return counts, scale, zero, error


def _resampled(recording: Recording, processing: Processing) -> Iterator[np.ndarray]:
    """Resample one lead at a time, as all leads of a day of ECG need many GB."""
    values = len(recording.leads) * recording.samples * processing.rate / recording.sample_rate
    if values > _LARGEST:
        raise UserError(
            f"too long: {recording.samples} samples at {recording.sample_rate:g} Hz would be {values:.2g} numbers at "
            f"{processing.rate:g} Hz; cut it into pieces, or correct its sample rate"
        )
    for row in range(len(recording.leads)):
        lead = recording.lead_signal(row)[None]
        (resampled,) = RESAMPLERS[processing.resample](lead, recording.sample_rate, processing.rate)
        if len(resampled) == 0:
            raise UserError(f"too short: nothing is left of it at {processing.rate:g} Hz")
        yield resampled


def _ranged_counts(leads: Iterable[np.ndarray]) -> Tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return counts of leads scaled to their own range, scale, zero and the largest rounding error in mV."""
    counts, scale, zero, error = zip(*map(_ranged_lead, leads))
    return np.stack(counts), np.array(scale), np.array(zero), max(error)


def _ranged_lead(lead: np.ndarray) -> Tuple[np.ndarray, float, float, float]:
    low, high = float(lead.min()), float(lead.max())
    if high - low <= max(_SMALLEST_RANGE, 1e-9 * max(abs(low), abs(high))):
        return np.zeros(len(lead), np.int16), 1.0, -low, float(np.abs(low - lead).max())
    # one count less than the range of int16 leaves room for the rounding of zero
    scale = (high - low) / 65533
    zero = -32767 - math.floor(low / scale)
    values = lead / scale
    values += zero
    counts = np.rint(values, out=values).astype(np.int16)
    values -= zero
    values *= scale
    values -= lead
    return counts, scale, float(zero), float(max(values.max(), -values.min()))


def _with_all_leads(stored: Counts) -> Counts:
    filled = tuple(lead for lead in range(len(LEADS)) if lead not in stored.leads)
    present = list(stored.leads)
    counts = np.zeros((len(LEADS), stored.counts.shape[1]), np.int16)
    scale, zero = np.ones(len(LEADS)), np.zeros(len(LEADS))
    counts[present], scale[present], zero[present] = stored.counts, stored.scale, stored.zero
    return stored._replace(counts=counts, leads=tuple(range(len(LEADS))), scale=scale, zero=zero, filled=filled)


def resample_linear(signal: np.ndarray, source_rate: float, target_rate: float) -> np.ndarray:
    """Resample linearly as ECG-FM: int(samples * target / source) points from the first sample to the last.

    The first and the last sample do not change, and the points between are evenly spaced, as in ECG-FM's
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
    """Resample with an anti-aliasing filter (`scipy.signal.resample_poly`); keeps the time axis exactly.

    Beyond its ends a lead is continued along the line through its first and last sample, so that an offset of the
    baseline makes no transient.

    Args:
        signal: leads x samples.
        source_rate, target_rate: Hz; their ratio is taken as a fraction with a denominator of at most 10,000.

    Returns:
        leads x new samples, float64.

    Raises:
        UserError: the denominator is larger.
    """
    from scipy.signal import resample_poly

    ratio = Fraction(target_rate / source_rate).limit_denominator(10_000)
    if abs(float(ratio) * source_rate / target_rate - 1) > _LARGEST_STRETCH:
        raise UserError(f"{source_rate:g} Hz cannot be resampled to {target_rate:g} Hz this way; use --resample linear")
    return resample_poly(signal, ratio.numerator, ratio.denominator, axis=1, padtype="line")


RESAMPLERS: Dict[str, Resampler] = {"linear": resample_linear, "polyphase": resample_polyphase}
