"""What a user gives as a recording, and what is said of it beside a model's answer."""

import os
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Dict, Optional, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS, parse_leads
from fairseq_signals_ext.readers import Recording, read_ecg
from fairseq_signals_ext.readers.facts import millivolts

# a path, a recording, or an array: leads x samples, mV
AnyRecording = Union[str, "os.PathLike[str]", Recording, np.ndarray]
# those of them that have a sample rate and leads of their own
FileOrRecording = Union[str, "os.PathLike[str]", Recording]
Leads = Union[None, str, Sequence[str]]
# what tables of results say of a recording beside its file, where that is known: attributes of `RecordingFacts`
ORIGIN_COLUMNS = {
    **{"idx": "int64", "source": "string", "source_file": "string", "patient": "string"},
    "start_time": "timestamp[us]",
}


class RecordingError(UserError):
    """A model gives no answer for a recording, but would for others."""


@dataclass(frozen=True)
class RecordingFacts:
    """What is known of a recording that a model was given.

    Attributes:
        record_id: the source's own name of it.
        seconds: its length.
        sample_rate: its own, Hz.
        segments: number of those that the model was given.
        missing_leads: names of leads that the model uses and it lacks; the model was given zeros for them.
        flags: what may be wrong with it, see `prepared.quality.FLAGS`: "short" is shorter than a segment, "filled"
            has missing leads.
        cut_start, cut_end: s that were cut off its start and end, see `Recording.cut`.
        idx, source, source_file: of a prepared folder's table; None: it is not from one.
        patient, start_time: as its file or that table contains them; None: unknown.
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
    # what is printed of a prediction does not tell whose it is
    patient: Optional[str] = field(default=None, repr=False)
    start_time: Optional[datetime] = field(default=None, repr=False)

    @property
    def row(self) -> Dict[str, Any]:
        """For a row of a table: plain values by the attributes' names, the time in ISO 8601."""
        time = None if self.start_time is None else self.start_time.isoformat()
        return {**vars(self), "start_time": time}

    @property
    def cut_in_words(self) -> str:
        """What was cut off, for a person to read; empty for nothing."""
        ends = [(self.cut_start, "start"), (self.cut_end, "end")]
        cut = " and ".join(f"{seconds:.4g} s at its {end}" for seconds, end in ends if seconds)
        return f"Cut off as calibration pulse or padding: {cut}." if cut else ""


def recording_of(
    given: Any, sample_rate: Optional[float] = None, leads: Leads = None, unit: Optional[str] = None
) -> Tuple[str, Recording]:
    """A recording, and what messages call it.

    Args:
        given: a file of any format that `readers.read_ecg` reads, a `Recording`, or an array: leads x samples, NaN or
            masked where a sample is invalid.
        sample_rate: Hz; of an array, or of a file that does not say it.
        leads: names, in order; of an array, unless it has the 12 standard leads in order, or of a file that does not
            name them.
        unit: such as "uV"; of an array, mV unless it holds integers, or of a file that does not say it.

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
    """See that a recording that a user made holds together."""
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
