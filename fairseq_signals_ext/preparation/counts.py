"""From a recording to what a shard stores: int16 counts at one rate, with a scale and a zero a lead."""

import math
from dataclasses import dataclass
from typing import NamedTuple, Optional, Tuple

import numpy as np

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.leads import LEADS
from fairseq_signals_ext.preparation.resampling import RESAMPLERS
from fairseq_signals_ext.readers import Recording

_INT16 = np.iinfo(np.int16)
# a lead with a smaller range than this (mV) is constant: its range divided into counts would no longer be exact
_SMALLEST_RANGE = 1e-12


@dataclass(frozen=True)
class Processing:
    """How recordings become counts.

    Attributes:
        rate: Hz; recordings of another rate are resampled.
        resample: "linear" (ECG-FM's) or "polyphase".
        fill_leads: store all twelve leads, zeros for those that a recording does not have.
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
    """A recording as a shard stores it. A count c of lead k stands for `(c - zero[k]) * scale[k]` mV."""

    counts: np.ndarray  # leads x samples, int16
    leads: Tuple[int, ...]  # positions in LEADS, ascending
    scale: np.ndarray  # leads, float64, mV per count
    zero: np.ndarray  # leads, float64
    rounding_error_mv: float  # largest; 0 where the source's own counts are kept
    nan_samples: int  # of all leads, interpolated
    filled: Tuple[int, ...]  # leads that are zeros because the recording does not have them


def to_counts(recording: Recording, processing: Processing, gain_fix: float = 1.0) -> Counts:
    """A recording as int16 counts at the rate asked for.

    At its own rate, a lead that comes with integers that fit keeps them. Any other lead is scaled to its own range;
    0 mV is always a whole count, and a constant lead is exact. Samples that are not finite are interpolated between
    their neighbours in the lead; a lead of which nothing is finite becomes 0 mV.

    Args:
        gain_fix: factor for amplitudes, where a source's gain is known to be wrong.

    Raises:
        UserError: no samples, or a rate that is none; the message has no file name.
    """
    _check(recording)
    signal, counts = recording.signal, recording.stored.counts if recording.stored else None
    invalid = ~np.isfinite(signal)
    nan_samples = int(np.count_nonzero(invalid))
    if nan_samples:
        signal = _interpolated(signal, invalid)
        zero = recording.stored.zero if recording.stored else None
        counts = None if counts is None else _interpolated(counts, invalid, zero)
    if gain_fix != 1:
        signal = signal * gain_fix
    if recording.sample_rate != processing.rate:
        signal = RESAMPLERS[processing.resample](signal, recording.sample_rate, processing.rate)
        counts = None
        if signal.shape[1] == 0:
            raise UserError(f"too short: nothing is left of it at {processing.rate:g} Hz")
    made = _own_counts(recording, counts, signal, gain_fix)
    stored = Counts(made[0], recording.leads, *made[1:], nan_samples=nan_samples, filled=())
    return _with_all_leads(stored) if processing.fill_leads else stored


def _check(recording: Recording) -> None:
    if recording.signal.size == 0:
        raise UserError("it has no samples")
    if not (math.isfinite(recording.sample_rate) and recording.sample_rate > 0):
        raise UserError(f"its sample rate is {recording.sample_rate} Hz")


def _interpolated(rows: np.ndarray, invalid: np.ndarray, all_invalid: Optional[np.ndarray] = None) -> np.ndarray:
    """Rows with invalid samples interpolated; a row of which all are invalid becomes `all_invalid`, default 0."""
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


def _own_counts(
    recording: Recording, counts: Optional[np.ndarray], signal: np.ndarray, gain_fix: float
) -> Tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Counts, scale, zero and rounding error: the recording's own counts where they fit, else those of its range."""
    if counts is None or recording.stored is None:
        return _ranged_counts(signal)
    scale, zero = recording.stored.scale * gain_fix, recording.stored.zero
    fits = (counts.min(axis=1) >= _INT16.min) & (counts.max(axis=1) <= _INT16.max) & np.isfinite(scale) & (scale != 0)
    if fits.all():
        return counts.astype(np.int16), scale, zero, 0.0
    made, scale, zero = np.empty(counts.shape, np.int16), scale.copy(), zero.copy()
    made[fits] = counts[fits]
    made[~fits], scale[~fits], zero[~fits], error = _ranged_counts(signal[~fits])
    return made, scale, zero, error


def _ranged_counts(signal: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Counts of leads scaled to their own range, scale, zero and the largest error of rounding in mV."""
    low, high = signal.min(axis=1), signal.max(axis=1)
    constant = high - low <= np.maximum(_SMALLEST_RANGE, 1e-9 * np.maximum(np.abs(low), np.abs(high)))
    # one count less than the range of int16 leaves room for the rounding of zero
    scale = np.where(constant, 1.0, (high - low) / 65533)
    zero = np.where(constant, -low, -32767 - np.floor(low / scale))
    counts = np.rint(np.where(constant[:, None], 0.0, signal / scale[:, None] + zero[:, None])).astype(np.int16)
    error = np.abs((counts - zero[:, None]) * scale[:, None] - signal).max()
    return counts, scale, zero, float(error)


def _with_all_leads(stored: Counts) -> Counts:
    filled = tuple(lead for lead in range(len(LEADS)) if lead not in stored.leads)
    present = list(stored.leads)
    counts = np.zeros((len(LEADS), stored.counts.shape[1]), np.int16)
    scale, zero = np.ones(len(LEADS)), np.zeros(len(LEADS))
    counts[present], scale[present], zero[present] = stored.counts, stored.scale, stored.zero
    return stored._replace(counts=counts, leads=tuple(range(len(LEADS))), scale=scale, zero=zero, filled=filled)
