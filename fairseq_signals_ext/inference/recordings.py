"""Recordings as a user gives them, and facts about a recording that accompany a prediction."""

import os
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Dict, Optional, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS, parse_leads
from fairseq_signals_ext.prepared.signal_shape import UNKNOWN_SHAPE, SignalShape
from fairseq_signals_ext.readers import Recording, read_ecg
from fairseq_signals_ext.readers.facts import millivolts

# a path, a recording, or an array: leads x samples, mV
AnyRecording = Union[str, "os.PathLike[str]", Recording, np.ndarray]
# these have their own sample rate and leads
FileOrRecording = Union[str, "os.PathLike[str]", Recording]
Leads = Union[None, str, Sequence[str]]
# columns with a recording's origin in tables of results: attributes of `RecordingFacts`
ORIGIN_COLUMNS = {
    **{"idx": "int64", "source": "string", "source_file": "string", "patient": "string"},
    "start_time": "timestamp[us]",
}


class RecordingError(UserError):
    """A model cannot predict this recording, but could predict others."""


@dataclass(frozen=True)
class RecordingFacts:
    """Facts about a model's input recording.

    Attributes:
        record_id: its name in the source.
        seconds: its length.
        sample_rate: its original rate in Hz.
        segments: number of segments given to the model.
        missing_leads: names of leads that the model uses and that are missing; they were replaced by zeros.
        flags: possible quality problems, see `prepared.quality.FLAGS`: "short" is shorter than a segment, "filled"
            has missing leads.
        cut_start, cut_end: s that were cut off its start and end, see `Recording.cut`.
        idx, source, source_file: from a prepared folder's table; None: it is not from one.
        patient, start_time: from its file or that table; None: unknown.
        shape: measures by which a calibrated model recognises signals that are unlike ECGs.
    """

    record_id: str
    seconds: float
    sample_rate: float
    segments: int
    missing_leads: Tuple[str, ...]
    flags: Tuple[str, ...]
    cut_start: float = 0.0
    cut_end: float = 0.0
    idx: Optional[int] = None
    source: Optional[str] = None
    source_file: Optional[str] = None
    # a printed prediction must not identify the patient
    patient: Optional[str] = field(default=None, repr=False)
    start_time: Optional[datetime] = field(default=None, repr=False)
    shape: SignalShape = field(default=UNKNOWN_SHAPE, repr=False)

    @property
    def row(self) -> Dict[str, Any]:
        """For a row of a table: plain values by the attributes' names, the time in ISO 8601."""
        time = None if self.start_time is None else self.start_time.isoformat()
        return {**{name: value for name, value in vars(self).items() if name != "shape"}, "start_time": time}

    @property
    def cut_in_words(self) -> str:
        """A sentence about the parts that were cut off; empty if there are none."""
        ends = [(self.cut_start, "start"), (self.cut_end, "end")]
        cut = " and ".join(f"{seconds:.4g} s at its {end}" for seconds, end in ends if seconds)
        return f"Cut off as calibration pulse or padding: {cut}." if cut else ""


def recording_of(
    given: Any, sample_rate: Optional[float] = None, leads: Leads = None, unit: Optional[str] = None
) -> Tuple[str, Recording]:
    """Return the name for messages and the recording.

    Args:
        given: a file in any format that `readers.read_ecg` reads, a `Recording`, or an array: leads x samples, NaN or
            masked where a sample is invalid.
        sample_rate: Hz; for an array, or for a file without it.
        leads: names, in order; for an array, unless it has the 12 standard leads in order, or for a file without
            lead names.
        unit: such as "uV"; for an array (default mV; required for integers), or for a file without it.

    Raises:
        UserError: it cannot be read, or rate, leads or unit are missing, or do not fit.
    """
    if isinstance(given, (str, os.PathLike)):
        names = None if leads is None else [LEADS[position] for position in parse_leads(leads)]
        path = os.fspath(given)
        return path, read_ecg(path, sample_rate=sample_rate, leads=names, unit=unit)
    if isinstance(given, Recording):
        name = f"recording {given.record_id!r}"
        if (sample_rate, leads, unit) != (None, None, None):
            raise UserError(f"{name}: has a sample rate, leads and mV of its own; leave these out")
        _check(given, name)
        return name, given
    return "array", _recording_of_array(given, sample_rate, leads, unit)


def _check(recording: Recording, name: str) -> None:
    """Check that a user's `Recording` is consistent."""
    signal = recording.signal if recording.stored is None else recording.stored.counts
    leads = [lead for lead in recording.leads if isinstance(lead, (int, np.integer)) and 0 <= lead < len(LEADS)]
    if list(recording.leads) != sorted({*leads}):
        raise UserError(f"{name}: leads {recording.leads}; give positions in leads.LEADS, ascending, as 0 for I")
    if signal.ndim != 2 or len(signal) != len(leads):
        shape = " x ".join(map(str, signal.shape))
        raise UserError(f"{name}: its shape is {shape}, but it has {len(leads)} leads; give leads x samples")


def _recording_of_array(given: Any, sample_rate: Optional[float], leads: Leads, unit: Optional[str]) -> Recording:
    is_masked = isinstance(given, np.ma.MaskedArray)
    array = given.astype(np.float64).filled(np.nan) if is_masked else np.asarray(given)
    shape = " x ".join(str(size) for size in array.shape) or "that of a single number"
    if array.ndim != 2 or array.dtype.kind not in "iuf":
        raise UserError(f"array: is of {array.dtype} and its shape is {shape}; give numbers, leads x samples, in mV")
    if unit is None and array.dtype.kind != "f":
        raise UserError("array: contains integers; give the unit of one count with unit='uV', 'mV', ...")
    factor = millivolts(unit or "mV")
    if factor is None:
        raise UserError(f"array: the unit {unit!r} is not a voltage; give mV, uV, nV or V")
    if sample_rate is None:
        raise UserError("array: its sample rate is missing; give sample_rate in Hz, or a Recording")
    if leads is None and len(array) != len(LEADS):
        hint = "give its transpose" if array.shape[1] == len(LEADS) else "name its leads with leads=['I', ...]"
        raise UserError(f"array: its shape is {shape}, not 12 leads x samples; {hint}")
    positions = parse_leads(leads)
    if len(positions) != len(array):
        raise UserError(f"array: its shape is {shape}, but {len(positions)} leads are named; name each row")
    order = np.argsort(positions)
    signal = array[order].astype(np.float64, copy=False) * factor
    return Recording("array", signal, tuple(sorted(positions)), float(sample_rate))
