"""Read WFDB records: `.hea` with `.dat` or `.mat`, with one segment or several."""

import os
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

import numpy as np

from fairseq_signals_ext.common.errors import MissingMetadataError, UserError
from fairseq_signals_ext.common.files import walk_files
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.readers.facts import agreed_rate, millivolts, rows_of_leads, shown, start_of
from fairseq_signals_ext.readers.formats import Beginning, Format, GivenMetadata
from fairseq_signals_ext.readers.recording import Recording, StoredCounts
from fairseq_signals_ext.readers.wfdb_claims import MOST_BYTES, checked_frames, checked_segments, read_header
from fairseq_signals_ext.readers.wfdb_header import Header, Segment, Signal, named_files
from fairseq_signals_ext.readers.wfdb_remarks import facts_of
from fairseq_signals_ext.readers.wfdb_samples import invalid_count, read_counts

_Counts = Union[np.ndarray, List[np.ndarray]]


def find_wfdb(folder: Union[str, Path], names: Optional[Iterable[str]] = None) -> List[str]:
    """Return the names of all `.hea` files below a folder, relative to it and sorted.

    Args:
        names: of all files below it, if already known.

    Raises:
        UserError: no such folder, or no `.hea` file in it.
    """
    top = os.fspath(folder)
    if not os.path.isdir(top):
        raise UserError(f"{folder}: no such folder; give the folder with the WFDB records")
    headers = sorted(name for name in (walk_files(Path(top)) if names is None else names) if name.endswith(".hea"))
    if not headers:
        raise UserError(f"{folder}: no .hea file here or below; give the folder with the WFDB records")
    return headers


def read_wfdb(path: Union[str, Path]) -> Recording:
    """Read one WFDB record.

    Leads are found by name in any case and put in standard order; other signals are ignored. Amplitudes become mV.
    Segments are joined lead by lead; gaps, and segments without a lead, are NaN. Checksums and first values of headers
    are not checked, as many are wrong.

    Args:
        path: the `.hea` file, or the record's path without suffix.

    Raises:
        UserError: the record cannot be read, its signal file has another length than in its header, it has no
            standard lead or one twice, a unit is not a voltage, or its leads have different sample rates.
    """
    text = os.fspath(path)
    stem = text[: -len(".hea")] if text.endswith(".hea") else text
    file = stem + ".hea"
    header = read_header(file)
    if header.segments is None:
        leads, remarks = _read_leads(file, header, checked_frames(file, header)), header.remarks
    else:
        segments = checked_segments(file, header)
        leads = _joined(file, header, segments)
        remarks = (*header.remarks, *(remark for _, one in segments[:1] for remark in one.remarks))
    if leads.sample_rate <= 0:
        raise UserError(f"{file}: its sample rate is {leads.sample_rate:g}; write it in Hz in the first line")
    return Recording(
        record_id=os.path.basename(stem),
        physical=leads.physical,
        leads=leads.positions,
        sample_rate=leads.sample_rate,
        start_time=start_of(header.start_time),
        stored=leads.stored,
        **facts_of(remarks),
    )


class _Leads(NamedTuple):
    """The leads among a record's signals, in standard order."""

    positions: Tuple[int, ...]
    sample_rate: float
    physical: Optional[np.ndarray]  # in mV, NaN where invalid; None if `stored` defines the signal
    stored: Optional[StoredCounts]  # None for joined segments, as their gains may differ

    def millivolts(self) -> np.ndarray:
        if self.physical is None and self.stored is not None:
            return self.stored.millivolts()
        return np.asarray(self.physical)


def _read_leads(file: str, header: Header, frames: int) -> _Leads:
    """Read the leads of a record without segments, or of one segment."""
    rows, per_frame = _rows_of_leads(file, header)
    columns = list(rows.values())
    signals = [header.signals[row] for row in columns]
    known: Dict[str, float] = {}
    for lead, signal in zip(rows, signals):
        if signal.units not in known:
            known[signal.units] = _millivolts(file, signal, lead)
    scale = np.array([known[signal.units] for signal in signals])
    every = read_counts(file, header.signals, frames)
    counts = _rows(every, columns)
    gain = np.array([signal.gain for signal in signals], np.float64)
    zero = np.array([signal.baseline for signal in signals], np.float64)
    physical = None
    if {signal.fmt for signal in signals} != {"16"} or counts.min(initial=0) == invalid_count("16"):
        physical = (counts - zero[:, None]) / gain[:, None]
        for row, signal in enumerate(signals):
            marker = invalid_count(signal.fmt)
            if marker is not None:
                physical[row, counts[row] == marker] = np.nan
        physical *= scale[:, None]
    return _Leads(tuple(rows), header.frame_rate * per_frame, physical, StoredCounts(counts, scale / gain, zero))


def _rows_of_leads(file: str, header: Header) -> Tuple[Dict[int, int], int]:
    """Return position in `LEADS` -> signal, and their number of samples per frame."""
    rows = rows_of_leads([signal.name for signal in header.signals], file)
    per_frame = {header.signals[row].per_frame for row in rows.values()}
    if len(per_frame) > 1:
        raise _different_rates(file)
    return rows, per_frame.pop()


def _different_rates(file: str) -> UserError:
    return UserError(f"{file}: its leads have different sample rates; resample them to one rate")


def _rows(signals: _Counts, columns: List[int]) -> np.ndarray:
    """Return the signals in these columns as leads x samples, without a copy if possible."""
    if isinstance(signals, np.ndarray) and columns == list(range(len(signals))):
        return signals
    return np.stack([signals[column] for column in columns])


def _millivolts(file: str, signal: Signal, lead: int) -> float:
    """Return mV per unit of a lead."""
    factor = millivolts(signal.units)
    if factor is None:
        unit, known = shown(signal.units, 40), "mV, uV, nV or V"
        raise UserError(f"{file}: lead {LEADS[lead]} has the unit {unit!r}; write {known} in the header")
    return factor


def _joined(file: str, header: Header, segments: Sequence[Tuple[Segment, Header]]) -> _Leads:
    """Return the leads of all segments, concatenated."""
    with_leads = {segment.name: its for segment, its in segments if segment.length and _has_leads(file, its)}
    if not with_leads:  # which the first one has
        rows_of_leads([signal.name for signal in (segments[0][1] if segments else header).signals], file)
        raise UserError(f"{file}: its segments contain no samples; get it again")
    kinds = [_rows_of_leads(file, its) for its in with_leads.values()]
    rates = {one.rate for one in (header, *with_leads.values()) if one.rate is not None} or {header.frame_rate}
    per_frame = {number for _, number in kinds}
    if len(per_frame) != 1 or len(rates) != 1:
        raise _different_rates(file)
    frame = per_frame.pop()
    positions = sorted({position for rows, _ in kinds for position in rows})
    everything = header.segments or ()
    joined = np.full((len(positions), frame * sum(segment.length for segment in everything)), np.nan)
    start = 0
    for segment in everything:
        end = start + frame * segment.length
        if segment.name in with_leads and segment.length:
            leads = _read_leads(
                os.path.join(os.path.dirname(file), f"{segment.name}.hea"), with_leads[segment.name], segment.length
            )
            joined[np.searchsorted(positions, leads.positions), start:end] = leads.millivolts()
        start = end
    return _Leads(tuple(positions), rates.pop() * frame, joined, None)


def _has_leads(file: str, header: Header) -> bool:
    try:
        rows_of_leads([signal.name for signal in header.signals], file)
    except MissingMetadataError:
        return False
    return True


def header_of(path: Union[str, Path]) -> Optional[str]:
    """Return the `.hea` file of the WFDB record at this path; None if there is no record."""
    text = os.fspath(path)
    if text.endswith(".hea"):
        return text
    stem, suffix = os.path.splitext(text)
    if suffix in (".dat", ".mat") and os.path.isfile(stem + ".hea"):
        return stem + ".hea"
    return text + ".hea" if not os.path.exists(text) and os.path.isfile(text + ".hea") else None


def files_of(header: Path) -> Set[Path]:
    """Return the files that belong to a WFDB header: its signals, or the headers of its segments."""
    try:
        if header.stat().st_size > MOST_BYTES:  # reported when the record is read
            return set()
        content = header.read_bytes()
    except OSError:  # as well
        return set()
    found = {(header.parent / name).resolve() for name in named_files(content)}
    return found - {header.resolve()}


def _is_record(beginning: Beginning) -> bool:
    return header_of(beginning.path) is not None


def _read(path: Path, given: GivenMetadata) -> List[Recording]:
    header = header_of(path) or os.fspath(path)
    if given.unit is not None:
        raise UserError(f"{header}: a WFDB header contains its units; leave the unit out")
    recording = read_wfdb(header)
    agreed_rate(header, recording.sample_rate, given.sample_rate)
    if given.leads is not None:
        rows_of_leads([LEADS[lead] for lead in recording.leads], header, given.leads)
    return [recording]


WFDB = Format(
    "WFDB",
    (".hea",),
    _is_record,
    _read,
    "WFDB (.hea together with its .dat or .mat)",
    belonging=files_of,
    imports=("soundfile",),
)
