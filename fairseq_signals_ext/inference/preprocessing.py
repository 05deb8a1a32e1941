"""Convert a recording to a model's input, with the same counts and the same arithmetic as in training.

Needs numpy only.
"""

from dataclasses import dataclass
from typing import AbstractSet, List, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.checkpoints.description import Preprocessing
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.data.standardising import (
    columns_of,
    finish,
    gain_and_offset,
    place_counts,
    scale,
    to_millivolts,
)
from fairseq_signals_ext.data.stores import Signal, check_has_amplitude, coefficients
from fairseq_signals_ext.inference.recordings import RecordingFacts
from fairseq_signals_ext.prepared.counts import Counts, Processing, to_counts
from fairseq_signals_ext.prepared.quality import Quality, assess
from fairseq_signals_ext.prepared.signal_shape import shape_of
from fairseq_signals_ext.readers import Recording
from fairseq_signals_ext.readers.limb_leads import with_limb_leads

_LARGEST_MV = 1e9
_FLAGS_OF_MILLIVOLTS = ("clipped", "amplitude", "einthoven")
_AT_ONCE = 2**20


def segments_of(recording: Recording, preprocessing: Preprocessing) -> Tuple[np.ndarray, np.ndarray]:
    """All segments of a recording, the same as in training with prepared data.

    The recording is rounded to counts and resampled as in `prepare`. Whole segments follow each other from its start;
    the rest at its end is not used; a recording shorter than a segment is padded with zeros.

    Returns:
        source: float32, N x leads x samples; zeros for leads that are absent, constant or not loaded.
        padding_mask: bool, N x samples, True where a sample is padding.

    Raises:
        UserError: see `SegmentedRecording.of`.
    """
    segmented = SegmentedRecording.of(recording, preprocessing)
    return segmented.batch(0, len(segmented))


@dataclass(frozen=True)
class SegmentedRecording:
    """A recording that makes its segments on demand, so that 24 h of ECG need little memory.

    Attributes:
        counts: available loaded leads x samples, int16.
        gain, offset: float32, one per row of `counts`; see `gain_and_offset`.
        columns: positions of the rows of `counts` among the input's leads.
        preprocessing: of the model.
        facts: about the recording.
    """

    counts: np.ndarray
    gain: np.ndarray
    offset: np.ndarray
    columns: List[int]
    preprocessing: Preprocessing
    facts: RecordingFacts

    @classmethod
    def of(
        cls, recording: Recording, preprocessing: Preprocessing, name: str = "", is_standardised: bool = False
    ) -> "SegmentedRecording":
        """Convert a recording to the model's rate and leads.

        Args:
            name: its name in messages; empty: its record id.
            is_standardised: its values are in standard deviations of each lead, and are not standardised again.

        Raises:
            UserError: it has no samples, impossible values, none of the leads that the model loads, or no signal in
                any of them; or it is standardised and the model needs its amplitude.
        """
        name = name or f"recording {recording.record_id!r}"
        check_has_amplitude(is_standardised, preprocessing.standardization, name)
        stored, quality = _stored(recording, preprocessing, name)
        if is_standardised:
            gain, offset = to_millivolts(stored.scale, stored.zero)
        else:
            gain, offset = _gain_and_offset(stored, preprocessing.standardization)
        facts = RecordingFacts(
            record_id=recording.record_id,
            seconds=recording.samples / recording.sample_rate,
            sample_rate=recording.sample_rate,
            segments=max(1, stored.counts.shape[1] // preprocessing.stride_samples),
            missing_leads=tuple(LEADS[lead] for lead in stored.filled),
            flags=tuple(flag for flag in quality.flags if not (is_standardised and flag in _FLAGS_OF_MILLIVOLTS)),
            cut_start=recording.cut[0],
            cut_end=recording.cut[1],
            patient=recording.patient,
            start_time=recording.start_time,
            shape=shape_of(stored.counts, stored.scale, stored.leads, preprocessing.sample_rate),
        )
        return cls._of(stored.counts, stored.leads, gain, offset, preprocessing, facts)

    @classmethod
    def of_stored(cls, signal: Signal, preprocessing: Preprocessing, record_id: str) -> "SegmentedRecording":
        """Convert a stored recording as in training: at the model's rate, standardised with its stored statistics.

        Recordings without any signal are accepted, as `evaluate` requires.

        Raises:
            UserError: it is standardised and the model needs its amplitude.
        """
        check_has_amplitude(signal.is_standardised, preprocessing.standardization, signal.name)
        rows = [row for row, lead in enumerate(signal.leads) if LEADS[lead] in preprocessing.loaded_leads]
        leads = [signal.leads[row] for row in rows]
        both = coefficients([signal], preprocessing.standardization, leads)
        gain, offset = (values[0, leads] for values in both)
        counts = signal.counts if len(rows) == len(signal.leads) else signal.counts[rows]
        samples, there = counts.shape[1], {LEADS[lead] for lead in leads}
        facts = RecordingFacts(
            record_id=record_id,
            seconds=samples / signal.sample_rate,
            sample_rate=signal.sample_rate,
            segments=max(1, samples // preprocessing.stride_samples),
            missing_leads=tuple(lead for lead in preprocessing.loaded_leads if lead not in there),
            flags=_flags_of_stored(signal, rows, preprocessing),
            shape=shape_of(counts, signal.scale[leads], leads, signal.sample_rate),
        )
        return cls._of(counts, leads, gain, offset, preprocessing, facts)

    @classmethod
    def _of(
        cls,
        counts: np.ndarray,
        leads: Sequence[int],
        gain: np.ndarray,
        offset: np.ndarray,
        preprocessing: Preprocessing,
        facts: RecordingFacts,
    ) -> "SegmentedRecording":
        columns = [preprocessing.leads.index(LEADS[lead]) for lead in leads]
        return cls(counts, gain.astype(np.float32), offset.astype(np.float32), columns, preprocessing, facts)

    def __len__(self) -> int:
        return self.facts.segments

    def batch(self, start: int, stop: int) -> Tuple[np.ndarray, np.ndarray]:
        """Source and padding mask of segments `start` to `stop` (not included), see `segments_of`."""
        inputs = self.preprocessing
        source = np.empty((stop - start, len(inputs.leads), inputs.segment_samples), np.float32)
        padding = np.empty((stop - start, inputs.segment_samples), bool)
        for row, number in enumerate(range(start, stop)):
            self.write_segment(number, source[row], padding[row])
        return source, padding

    def write_segment(self, number: int, source: np.ndarray, padding: np.ndarray) -> None:
        """Write a segment into a row of a batch.

        Args:
            source: float32, leads x samples, with any content.
            padding: bool, samples.
        """
        inputs = self.preprocessing
        first = number * inputs.stride_samples
        counts = self.counts[:, first : first + inputs.segment_samples]
        samples, columns = counts.shape[1], columns_of(self.columns, len(source))
        place_counts(source, counts, columns)
        values = source[columns, :samples]
        scale(values, self.gain, self.offset)
        if not isinstance(columns, slice):  # then `values` is a copy
            source[columns, :samples] = values
        finish(inputs.standardization, source, columns, samples)
        padding[:samples] = False
        padding[samples:] = True


def _stored(recording: Recording, preprocessing: Preprocessing, name: str) -> Tuple[Counts, Quality]:
    """The loaded leads of a recording at the model's rate, and their quality."""
    _check(recording, name)
    loaded = {LEADS.index(lead) for lead in preprocessing.loaded_leads}
    recording = with_limb_leads(recording)
    if not loaded & set(recording.leads):
        its, wanted = (", ".join(LEADS[lead] for lead in sorted(leads)) for leads in (recording.leads, loaded))
        raise UserError(f"{name}: its leads are {its or 'none'}, the model uses {wanted}; give one of these")
    # shard indexes store the rate as float32, and checkpoints copy it from there
    rate = float(str(np.float32(preprocessing.sample_rate)))
    try:
        stored = _of_leads(to_counts(recording, Processing(rate)), loaded)
    except UserError as error:
        raise UserError(f"{name}: {error}; give another recording") from None
    if not (np.abs([stored.scale, stored.scale * stored.zero]) <= _LARGEST_MV).all():
        raise UserError(f"{name}: its values are impossible for an ECG; correct its gain and baseline")
    quality = assess(stored, rate, preprocessing.segment_samples / rate)
    if len(quality.constant) == len(stored.leads):
        raise UserError(f"{name}: its leads never change, so there is no ECG in it; give another recording")
    return stored, quality


def _flags_of_stored(signal: Signal, rows: Sequence[int], preprocessing: Preprocessing) -> Tuple[str, ...]:
    """Quality flags of these rows, without those for invalid samples and missing leads, which are not stored.

    A recording that is already standardised has no known flags.
    """
    if signal.counts.dtype != np.int16 or not rows:
        return ()
    leads = tuple(signal.leads[row] for row in rows)
    scale, zero = (np.asarray(values, np.float64)[list(leads)] for values in (signal.scale, signal.zero))
    counts = signal.counts if len(rows) == len(signal.leads) else signal.counts[list(rows)]
    stored = Counts(counts, leads, scale, zero, 0.0, 0, ())
    return assess(stored, signal.sample_rate, preprocessing.segment_samples / signal.sample_rate).flags


def _of_leads(stored: Counts, loaded: AbstractSet[int]) -> Counts:
    """Drop leads that are not loaded; missing leads are recorded as filled, because the input fills them."""
    missing = tuple(sorted(loaded - {*stored.leads}))
    rows = [row for row, lead in enumerate(stored.leads) if lead in loaded]
    if len(rows) < len(stored.leads):
        leads = tuple(stored.leads[row] for row in rows)
        arrays = (stored.counts[rows], leads, stored.scale[rows], stored.zero[rows])
        stored = Counts(*arrays, stored.rounding_error_mv, stored.nan_samples, ())
    return stored._replace(filled=missing)


def _check(recording: Recording, name: str) -> None:
    if recording.samples == 0:
        raise UserError(f"{name}: it has no samples; give another recording")
    if recording.physical is None:
        return
    # these ignore NaN (invalid samples) and return NaN only if all values are NaN
    low, high = np.fmin.reduce(recording.physical, axis=None), np.fmax.reduce(recording.physical, axis=None)
    if np.isinf(low) or np.isinf(high):
        raise UserError(f"{name}: it contains infinite values; mark invalid samples as NaN")
    if max(-low, high) > _LARGEST_MV:
        raise UserError(f"{name}: it has values of {max(-low, high):.2g} mV, which no ECG has; give it in mV")


def _gain_and_offset(stored: Counts, way: str) -> Tuple[np.ndarray, np.ndarray]:
    """`gain_and_offset` of the stored leads; mean and deviation are rounded to float32 as in a shard's index."""
    means, deviations = _means_and_deviations(stored.counts)
    mean = ((means - stored.zero) * stored.scale).astype(np.float32)
    std = (deviations * np.abs(stored.scale)).astype(np.float32)
    # use all twelve leads, because the last bits of sums over leads depend on their number
    facts = np.zeros((4, 1, len(LEADS)))
    facts[:, 0, [*stored.leads]] = stored.scale, stored.zero, mean, std
    gain, offset = (values[0, [*stored.leads]] for values in gain_and_offset(way, *facts))
    return gain, offset


def _means_and_deviations(counts: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each lead, three times as fast as numpy's functions."""
    if counts.size > _AT_ONCE and len(counts) > 1:
        # row by row, because a float64 copy needs four times the memory of the counts
        of_leads = [_means_and_deviations(lead[None]) for lead in counts]
        means, deviations = (np.concatenate(values) for values in zip(*of_leads))
        return means, deviations
    values = counts.astype(np.float64)
    means = values.mean(axis=1)
    values -= means[:, None]
    return means, np.sqrt(np.einsum("ls,ls->l", values, values) / counts.shape[1])
