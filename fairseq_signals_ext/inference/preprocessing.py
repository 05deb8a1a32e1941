"""From a recording to a model's input, as training does it: the same counts, standardised by the same arithmetic.

Needs numpy only.
"""

from dataclasses import dataclass
from typing import List, Tuple

import numpy as np

from fairseq_signals_ext.checkpoints.description import Preprocessing
from fairseq_signals_ext.data.standardising import standardising, to_millivolts
from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.leads import LEADS
from fairseq_signals_ext.preparation.counts import Processing, to_counts
from fairseq_signals_ext.readers import Recording
from fairseq_signals_ext.readers.limb_leads import with_limb_leads

_LARGEST_MV = 1e9
# as in torch's layer_norm, with which training normalises a segment
_EPSILON = 1e-5


def segments_of(recording: Recording, preprocessing: Preprocessing) -> Tuple[np.ndarray, np.ndarray]:
    """All segments of a recording, as a model that was trained with prepared data was given them.

    The recording is rounded to counts and resampled as `prepare` does it. Whole segments follow each other from its
    start, what is left at its end is not used; one that is shorter than a segment is filled up with zeros.

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
    """A recording whose segments are made when they are wanted, so that 24 h of ECG need little memory.

    Attributes:
        counts: loaded leads that are there x samples, int16.
        gain, offset: float32, one a row of `counts`: `counts * gain + offset` is standardised, or mV where segments are
            normalised as a whole.
        columns: where the rows of `counts` go in the input.
        preprocessing: of the model.
    """

    counts: np.ndarray
    gain: np.ndarray
    offset: np.ndarray
    columns: List[int]
    preprocessing: Preprocessing

    @classmethod
    def of(cls, recording: Recording, preprocessing: Preprocessing, name: str = "") -> "SegmentedRecording":
        """A recording at the model's rate, with the leads that the model loads.

        Args:
            name: what messages call it; empty: by its record id.

        Raises:
            UserError: it has no samples, values that no ECG has, none of the leads that the model loads, or no signal
                in any of them.
        """
        name = name or f"recording {recording.record_id!r}"
        _check(recording, name)
        loaded = {LEADS.index(lead) for lead in preprocessing.loaded_leads}
        recording = with_limb_leads(recording)
        if not loaded & set(recording.leads):
            its, wanted = (", ".join(LEADS[lead] for lead in sorted(leads)) for leads in (recording.leads, loaded))
            raise UserError(f"{name}: its leads are {its or 'none'}, the model uses {wanted}; give one of these")
        # a shard's index has the rate as float32, and checkpoints have theirs from there
        rate = float(str(np.float32(preprocessing.sample_rate)))
        try:
            stored = to_counts(recording, Processing(rate))
        except UserError as error:
            raise UserError(f"{name}: {error}; give another recording") from None
        rows = [row for row, lead in enumerate(stored.leads) if lead in loaded]
        counts, scale, zero = stored.counts[rows], stored.scale[rows], stored.zero[rows]
        if (counts.min(axis=1) == counts.max(axis=1)).all():
            raise UserError(f"{name}: its leads never change, so there is no ECG in it; give another recording")
        if not (np.abs([scale, scale * zero]) <= _LARGEST_MV).all():
            raise UserError(f"{name}: its counts stand for values that no ECG has; correct its gain and baseline")
        by_lead = preprocessing.standardization == "lead"
        gain, offset = _standardising(counts, scale, zero) if by_lead else to_millivolts(scale, zero)
        columns = [preprocessing.leads.index(LEADS[stored.leads[row]]) for row in rows]
        return cls(counts, gain.astype(np.float32), offset.astype(np.float32), columns, preprocessing)

    def __len__(self) -> int:
        return max(1, self.counts.shape[1] // self.preprocessing.stride_samples)

    def batch(self, start: int, stop: int) -> Tuple[np.ndarray, np.ndarray]:
        """Segments `start` to `stop` (not included): source and padding_mask, as those of `segments_of`."""
        inputs = self.preprocessing
        samples = min(inputs.segment_samples, self.counts.shape[1])
        source = np.zeros((stop - start, len(inputs.leads), inputs.segment_samples), np.float32)
        for row, number in enumerate(range(start, stop)):
            first = number * inputs.stride_samples
            values = self.counts[:, first : first + samples] * self.gain[:, None] + self.offset[:, None]
            if inputs.standardization == "segment":
                values = (values - values.mean(dtype=np.float64)) / np.sqrt(values.var(dtype=np.float64) + _EPSILON)
            source[row, self.columns, :samples] = values
        padding = np.arange(inputs.segment_samples) >= samples
        return source, np.tile(padding, (stop - start, 1))


def _check(recording: Recording, name: str) -> None:
    if recording.samples == 0:
        raise UserError(f"{name}: it has no samples; give another recording")
    if recording.physical is None:
        return
    # these ignore NaN, which marks invalid samples, and give NaN only where there is nothing else
    low, high = np.fmin.reduce(recording.physical, axis=None), np.fmax.reduce(recording.physical, axis=None)
    if np.isinf(low) or np.isinf(high):
        raise UserError(f"{name}: it holds infinite values; mark invalid samples as NaN")
    if max(-low, high) > _LARGEST_MV:
        raise UserError(f"{name}: it has values of {max(-low, high):.2g} mV, which no ECG has; give it in mV")


def _standardising(counts: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """As `standardising`; mean and deviation are rounded to float32, as they are in a shard's index."""
    # row by row, as a float64 copy of all is four times the counts
    mean = ((np.array([lead.mean() for lead in counts]) - zero) * scale).astype(np.float32)
    std = (np.array([lead.std() for lead in counts]) * np.abs(scale)).astype(np.float32)
    return standardising(scale, zero, mean, std)
