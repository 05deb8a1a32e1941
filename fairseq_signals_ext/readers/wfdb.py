"""WFDB records (`.hea` with `.dat` or `.mat`): plain ones read here, all others with the `wfdb` library."""

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.errors import MissingPackageError, UserError
from fairseq_signals_ext.files import walk_files
from fairseq_signals_ext.leads import LEADS
from fairseq_signals_ext.readers.facts import age_of, millivolts, rows_of_leads, sex_of, shown
from fairseq_signals_ext.readers.recording import Recording, StoredCounts
from fairseq_signals_ext.readers.sizes import check_size
from fairseq_signals_ext.readers.wfdb_claims import MOST_BYTES, checked_header
from fairseq_signals_ext.readers.wfdb_header import parse_plain_header

# format 16 marks an invalid sample with its smallest number
_INVALID_16 = -(2**15)


def find_wfdb(folder: Union[str, Path], names: Optional[Iterable[str]] = None) -> List[str]:
    """Names of all `.hea` files below a folder, relative to it and sorted.

    Args:
        names: of all files below it, for who has them already.

    Raises:
        UserError: no such folder, or no `.hea` file in it.
    """
    top = os.fspath(folder)
    if not os.path.isdir(top):
        raise UserError(f"{folder}: no such folder; give the folder that holds the WFDB records")
    headers = sorted(name for name in (walk_files(Path(top)) if names is None else names) if name.endswith(".hea"))
    if not headers:
        raise UserError(f"{folder}: no .hea file here or below; give the folder that holds the WFDB records")
    return headers


def read_wfdb(path: Union[str, Path]) -> Recording:
    """Read one WFDB record.

    Leads are found by name in any case and put in standard order; other signals are ignored. Amplitudes become mV.
    A multi-segment record is joined as `wfdb` does it, its gaps are NaN.

    Args:
        path: the `.hea` file, or the record's path without suffix.

    Raises:
        UserError: the record cannot be read, its signal file has another length than its header says, it has no
            standard lead or one twice, a unit is no voltage, or its leads have different sample rates.
    """
    text = os.fspath(path)
    stem = text[: -len(".hea")] if text.endswith(".hea") else text
    header = Path(stem + ".hea")
    signals = _read_plain(header) or _read_with_wfdb(header, stem)
    positions = rows_of_leads(signals.names, header)
    factors = _millivolts(header, signals.units, positions)
    if signals.sample_rate <= 0:
        raise UserError(f"{header}: its sample rate is {signals.sample_rate}; write it in Hz in the first line")
    columns = list(positions.values())
    physical = None if signals.physical is None else _rows(signals.physical, columns) * factors[:, None]
    return Recording(
        record_id=os.path.basename(stem),
        physical=physical,
        leads=tuple(positions),
        sample_rate=signals.sample_rate,
        start_time=signals.start_time,
        stored=_stored_counts(signals, columns, factors),
        **_facts(signals.comments),
    )


@dataclass(frozen=True)
class _Signals:
    """A record's signals as they stand in its files: in their order, and their units."""

    names: Sequence[str]
    units: Sequence[str]
    sample_rate: float
    physical: Union[None, np.ndarray, List[np.ndarray]]  # NaN where invalid; None where no sample is
    counts: Union[None, np.ndarray, List[np.ndarray]]  # None where segments with gains of their own were joined
    gains: Sequence[float]
    baselines: Sequence[int]
    start_time: Optional[datetime]
    comments: Sequence[str]


def _read_plain(header: Path) -> Optional[_Signals]:
    """A record with a plain header; None where `wfdb` has to read it, or to say what is wrong."""
    try:
        plain = parse_plain_header(header.read_bytes()) if os.stat(header).st_size <= MOST_BYTES else None
        if plain is None:
            return None
        signals = os.path.join(os.path.dirname(header), plain.file_name)
        check_size(signals)
        with open(signals, "rb") as file:
            content = file.read()
    except OSError:
        return None
    number = len(plain.names)
    if len(content) != plain.offset + 2 * number * plain.samples:
        return None
    counts = np.frombuffer(content, "<i2", offset=plain.offset).reshape(plain.samples, number).T
    counts = np.ascontiguousarray(counts, np.int16)
    physical = None
    if counts.min() == _INVALID_16:
        physical = (counts - np.array(plain.baselines, np.float64)[:, None]) / np.array(plain.gains)[:, None]
        physical[counts == _INVALID_16] = np.nan
    return _Signals(
        plain.names,
        plain.units,
        plain.sample_rate,
        physical,
        counts,
        plain.gains,
        plain.baselines,
        plain.start_time,
        plain.comments,
    )


def _read_with_wfdb(header: Path, stem: str) -> _Signals:
    record, physical = _read_record(header, stem)
    names = [name or "" for name in record.sig_name]
    per_frame = record.samps_per_frame or [1] * len(names)
    frames = {per_frame[column] for column in rows_of_leads(names, header).values()}
    joined = record.e_d_signal is None
    if record.units is None:  # wfdb joins them all the same
        raise UserError(f"{header}: its segments have signals of one name in different units; write them in one")
    if len(frames) != 1 or (joined and frames != {1}):
        raise UserError(f"{header}: its leads have different sample rates; resample them to one rate")
    return _Signals(
        names=names,
        units=_units_as_written(header) or record.units,
        sample_rate=float(record.fs or 0) * frames.pop(),
        physical=physical,
        counts=record.e_d_signal,
        gains=record.adc_gain or (),
        baselines=record.baseline or (),
        start_time=record.base_datetime,
        comments=record.comments,
    )


def _rows(signals: Union[np.ndarray, List[np.ndarray]], columns: List[int]) -> np.ndarray:
    """The signals in these columns as leads x samples, without a copy where they are that already."""
    if isinstance(signals, np.ndarray) and columns == list(range(len(signals))):
        return signals
    return np.stack([signals[column] for column in columns])


def _import_wfdb() -> ModuleType:
    try:
        import wfdb
    except ImportError as error:
        cure = "pip install 'fairseq-signals-ext[formats]'"
        raise MissingPackageError(f"this WFDB file needs wfdb ({error}): {cure}") from error
    return wfdb


def _read_record(header: Path, stem: str) -> Tuple[Any, List[np.ndarray]]:
    """A `wfdb.Record` and its signals; without `e_d_signal` if it was made of segments, whose gains may differ."""
    wfdb = _import_wfdb()
    try:
        if isinstance(checked_header(wfdb, header), wfdb.MultiRecord):
            record = wfdb.rdrecord(stem, physical=True)
            return record, list(record.p_signal.T)
        record = wfdb.rdrecord(stem, physical=False, smooth_frames=False)
        return record, record.dac(expanded=True)
    except UserError:
        raise
    except Exception as error:  # wfdb has no common class for what a damaged file makes it raise
        raise _explained(header, error) from error


def _explained(header: Path, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError) and error.filename:
        missing = os.path.basename(os.fspath(error.filename))
        return UserError(f"{header}: its file {shown(missing)!r} is missing; put it beside the header")
    reason = f"{type(error).__name__}: {shown(error)}"
    return UserError(f"{header}: wfdb cannot read this record ({reason}); mend its header or get it again")


def _millivolts(header: Path, units: Sequence[str], positions: Dict[int, int]) -> np.ndarray:
    """mV in the unit of each lead."""
    factors = []
    for position, column in positions.items():
        factor = millivolts(str(units[column]))
        if factor is None:
            unit, known = shown(units[column], 40), "mV, uV, nV or V"
            raise UserError(f"{header}: lead {LEADS[position]} has the unit {unit!r}; write {known} in the header")
        factors.append(factor)
    return np.array(factors)


def _units_as_written(header: Path) -> Optional[List[str]]:
    """Units of a header that is not ASCII: wfdb drops such characters, and µV becomes V."""
    raw = header.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if all(field.isascii() for line in lines for field in line):
        return None
    if "/" in lines[0][0]:
        raise UserError(f"{header}: characters that are not ASCII in a header of segments; write it in ASCII")
    return [line[2].split("/", 1)[1] if len(line) > 2 and "/" in line[2] else "mV" for line in lines[1:]]


def _stored_counts(signals: _Signals, columns: List[int], factors: np.ndarray) -> Optional[StoredCounts]:
    if signals.counts is None:
        return None
    counts = _rows(signals.counts, columns)
    gain = np.array([signals.gains[column] for column in columns], np.float64)
    zero = np.array([signals.baselines[column] for column in columns], np.float64)
    return StoredCounts(counts, factors / gain, zero)


def _facts(comments: Sequence[str]) -> Dict[str, Any]:
    """Patient, age, sex and codes from lines such as `Age: 74`."""
    values: Dict[str, str] = {}
    for comment in comments:
        name, colon, value = comment.partition(":")
        if colon and name.strip():
            values.setdefault(name.strip().lower(), value.strip())
    return {
        "patient": values.get("patient id") or values.get("patient") or None,
        "age": age_of(values.get("age")),
        "sex": sex_of(values.get("sex")),
        "codes": _codes(values.get("dx", "")),
    }


def _codes(text: str) -> Tuple[str, ...]:
    codes = (code.strip() for code in text.split(","))
    return tuple(code for code in codes if code and code.lower() != "unknown")
