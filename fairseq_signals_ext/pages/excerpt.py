"""The ten seconds of a recording that fit on the paper."""

from typing import NamedTuple, Optional, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.readers import Recording, StoredCounts

PAPER_SECONDS = 10.0
# tolerance for rounding of times, in samples
_ROUNDING = 1e-6
# above this rate, signals are thinned
_MOST_POINTS_A_SECOND = 1000


class Excerpt(NamedTuple):
    """At most ten seconds of a recording.

    Attributes:
        leads: positions of the rows in `leads.LEADS`.
        signal: leads x samples, float64, mV, with a median of 0 per lead; NaN: unknown.
        saliency: leads x samples, float64, 0 or more, or None; NaN: unknown.
        sample_rate: Hz.
        offset: s, from the left end of the paper to the first sample, less than a sample.
        seconds: duration of the samples.
    """

    leads: Tuple[int, ...]
    signal: np.ndarray
    saliency: Optional[np.ndarray]
    sample_rate: float
    offset: float
    seconds: float

    def samples_between(self, start: float, stop: float) -> slice:
        """The samples from `start` to `stop`, both included, in s from the left end of the paper."""
        first = int(np.ceil((start - self.offset) * self.sample_rate - _ROUNDING))
        last = int(np.floor((stop - self.offset) * self.sample_rate + _ROUNDING))
        return slice(max(0, first), max(0, last + 1))

    def seconds_at(self, samples: np.ndarray) -> np.ndarray:
        """Times of samples, or of fractions between them, in s from the left end of the paper."""
        return self.offset + samples / self.sample_rate


def cut_excerpt(recording: Recording, saliency: Optional[np.ndarray], start: float) -> Excerpt:
    """Cut the part of a recording that the paper shows from `start` (s) on.

    Args:
        saliency: leads x samples, or samples with the same values for all leads.

    Raises:
        UserError: `start` is outside the recording, or the saliency does not fit it or has negative or infinite values.
    """
    rate, duration = recording.sample_rate, recording.samples / recording.sample_rate
    if not 0 <= start < duration:
        raise UserError(
            f"{recording.record_id}: start {start:.10g} s is outside; give 0 to less than {duration:.10g} s"
        )
    first = int(np.ceil(start * rate - _ROUNDING))
    first = min(first, recording.samples - 1)
    # one sample more than 10 s have, so that the trace reaches the end of the paper
    window = slice(first, min(recording.samples, int(np.floor((start + PAPER_SECONDS) * rate + _ROUNDING)) + 1))
    signal = _millivolts(recording, window)
    signal[~np.isfinite(signal)] = np.nan
    seconds = min(PAPER_SECONDS, duration - start)
    shown = None if saliency is None else _fitting(recording, saliency)[:, window]
    return Excerpt(recording.leads, signal - _medians(signal), shown, rate, max(0.0, first / rate - start), seconds)


def _millivolts(recording: Recording, window: slice) -> np.ndarray:
    """A copy of some samples, without computing the rest of a long recording."""
    if recording.physical is not None or recording.stored is None:
        return np.array(recording.signal[:, window], dtype=np.float64)
    stored = recording.stored
    return StoredCounts(stored.counts[:, window], stored.scale, stored.zero).millivolts()


def _medians(signal: np.ndarray) -> np.ndarray:
    known = [lead[np.isfinite(lead)] for lead in signal]
    return np.array([[np.median(lead)] if len(lead) else [0.0] for lead in known]).reshape(len(signal), 1)


def _fitting(recording: Recording, saliency: np.ndarray) -> np.ndarray:
    """The saliency as leads x samples, checked."""
    values = np.asarray(saliency, dtype=np.float64)
    shape = (len(recording.leads), recording.samples)
    if values.shape not in (shape, shape[1:]):
        raise UserError(
            f"{recording.record_id}: saliency of shape {values.shape}; "
            f"give leads x samples {shape}, or samples {shape[1:]} for all leads"
        )
    if np.isinf(values).any() or (values < 0).any():
        raise UserError(
            f"{recording.record_id}: saliency has negative or infinite values; give 0 or more, NaN: unknown"
        )
    return np.broadcast_to(values, shape)


def thinned(values: np.ndarray, sample_rate: float) -> Tuple[np.ndarray, np.ndarray]:
    """Thin a signal to at most about 1000 points per second; the height of every peak is kept.

    Above 1000 Hz only the lowest and the highest value of every few samples are kept, each at its own time.

    Args:
        values: samples, float; NaN: unknown.
        sample_rate: Hz.

    Returns:
        Numbers of the samples that are kept (int64), and their values.
    """
    if sample_rate <= _MOST_POINTS_A_SECOND or not len(values):
        return np.arange(len(values)), values
    size = int(np.ceil(2 * sample_rate / _MOST_POINTS_A_SECOND))
    bins = np.full((-(-len(values) // size), size), np.nan)
    bins.flat[: len(values)] = values
    unknown = np.isnan(bins)
    lowest = np.where(unknown, np.inf, bins).argmin(axis=1)
    highest = np.where(unknown, -np.inf, bins).argmax(axis=1)
    within = np.sort([lowest, highest], axis=0)
    numbers = (np.arange(len(bins)) * size + within).T.ravel()
    return numbers, bins.flat[numbers]
