"""WFDB records (`.hea` with `.dat` or `.mat`), read with the `wfdb` library."""

import math
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, List, Optional, Tuple, Union

import numpy as np

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.leads import LEADS
from fairseq_signals_ext.readers.recording import Recording, StoredCounts

_LEAD = {name.lower(): position for position, name in enumerate(LEADS)}
_MILLIVOLTS = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "v": 1e3, "nv": 1e-6}
_SEX = {"f": "female", "female": "female", "m": "male", "male": "male"}
_BYTES_A_SAMPLE = {"8": 1, "80": 1, "16": 2, "61": 2, "160": 2, "24": 3, "32": 4}
_COMMENT = re.compile(r"\s*([^:]+?)\s*:\s*(.*?)\s*")


def find_wfdb(folder: Union[str, Path]) -> List[Path]:
    """All `.hea` files below a folder, sorted by their path below it.

    Raises:
        UserError: no such folder, or no `.hea` file in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder that holds the WFDB records")
    headers = sorted(folder.rglob("*.hea"), key=lambda path: path.relative_to(folder).as_posix())
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
    record = _read_record(header, stem)
    positions = _find_leads(header, record)
    frames = {record.samps_per_frame[position] for position in positions.values()}
    if len(frames) != 1:
        raise UserError(f"{header}: its leads have different sample rates; resample them to one rate")
    sample_rate = float(record.fs or 0) * frames.pop()
    if sample_rate <= 0:
        raise UserError(f"{header}: its sample rate is {record.fs}; write the rate in Hz in the header's first line")
    factors = _millivolts(header, record, positions)
    columns = list(positions.values())
    if record.e_d_signal is None:
        physical, stored = record.e_p_signal, None
    else:
        physical = record.dac(expanded=True)
        stored = _stored_counts(record, columns, factors)
    signal = np.stack([physical[column] for column in columns]).astype(np.float64) * factors[:, None]
    return Recording(
        record_id=os.path.basename(stem),
        signal=signal,
        leads=tuple(positions),
        sample_rate=sample_rate,
        start_time=record.base_datetime,
        stored=None if np.isnan(signal).any() else stored,
        **_facts(record.comments),
    )


def _import_wfdb() -> ModuleType:
    try:
        import wfdb
    except ImportError as error:
        raise UserError(f"WFDB files need wfdb ({error}): pip install 'fairseq-signals-ext[formats]'") from error
    return wfdb


def _read_record(header: Path, stem: str) -> Any:
    """A `wfdb.Record` with `e_d_signal`, or with `e_p_signal` if it was made of segments, whose gains may differ."""
    wfdb = _import_wfdb()
    if not header.is_file():
        raise UserError(f"{header}: no such file; give a WFDB header (.hea) that exists")
    try:
        record = wfdb.rdrecord(stem, physical=False, smooth_frames=False, m2s=False)
        if isinstance(record, wfdb.MultiRecord):
            return wfdb.rdrecord(stem, physical=True, smooth_frames=False)
    except Exception as error:  # wfdb has no common class for what a damaged file makes it raise
        raise _explained(header, stem, error) from error
    wrong_length = _wrong_length(header, record)
    if wrong_length:
        raise UserError(wrong_length)
    return record


def _explained(header: Path, stem: str, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError) and error.filename:
        missing = os.path.basename(os.fspath(error.filename))
        return UserError(f"{header}: its file {missing!r} is missing; put it beside the header")
    try:
        wrong_length = _wrong_length(header, _import_wfdb().rdheader(stem))
    except Exception:  # noqa: BLE001 - the header itself is what cannot be read
        wrong_length = None
    if wrong_length:
        return UserError(wrong_length)
    reason = " ".join(str(error).split())[:200]
    return UserError(
        f"{header}: wfdb cannot read this record ({type(error).__name__}: {reason}); mend its header or get it again"
    )


def _wrong_length(header: Path, record: Any) -> Optional[str]:
    """What is wrong where a signal file is shorter or longer than the header says; wfdb ignores what is too long."""
    if len(record.file_name) != record.n_sig:
        return f"{header}: its first line says {record.n_sig} signals, but {len(record.file_name)} follow; get it again"
    sizes: Dict[str, int] = {}
    for name, fmt, frame, offset in zip(record.file_name, record.fmt, record.samps_per_frame, record.byte_offset):
        if fmt not in _BYTES_A_SAMPLE or record.sig_len is None:
            return None
        sizes[name] = sizes.get(name, offset or 0) + record.sig_len * frame * _BYTES_A_SAMPLE[fmt]
    for name, size in sizes.items():
        found = (header.parent / name).stat().st_size
        if found != size:
            return (
                f"{header}: its file {name!r} has {found} bytes, but {record.sig_len} samples a lead need {size}; "
                "get the record again"
            )
    return None


def _find_leads(header: Path, record: Any) -> Dict[int, int]:
    """Position in `LEADS` -> the record's column, in standard order."""
    found: Dict[int, int] = {}
    names = [str(name).strip() for name in record.sig_name or ()]
    for column, name in enumerate(names):
        position = _LEAD.get(name.lower())
        if position in found:
            raise UserError(f"{header}: lead {name!r} is there twice; rename or remove one in the header")
        if position is not None:
            found[position] = column
    if not found:
        listed = ", ".join(names) or "none"
        raise UserError(f"{header}: none of its signals ({listed}) is a standard lead; name them {', '.join(LEADS)}")
    return dict(sorted(found.items()))


def _millivolts(header: Path, record: Any, positions: Dict[int, int]) -> np.ndarray:
    """mV in the unit of each lead."""
    units = _units_as_written(header) or record.units
    factors = []
    for position, column in positions.items():
        unit = str(units[column])
        if unit.lower() not in _MILLIVOLTS:
            known = "mV, uV, nV or V"
            raise UserError(f"{header}: lead {LEADS[position]} has the unit {unit!r}; write {known} in the header")
        factors.append(_MILLIVOLTS[unit.lower()])
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


def _stored_counts(record: Any, columns: List[int], factors: np.ndarray) -> Optional[StoredCounts]:
    counts = np.stack([record.e_d_signal[column] for column in columns])
    limits = np.iinfo(np.int16)
    if counts.size == 0 or counts.min() < limits.min or counts.max() > limits.max:
        return None
    gain = np.array([record.adc_gain[column] for column in columns], np.float64)
    zero = np.array([record.baseline[column] for column in columns], np.float64)
    return StoredCounts(counts.astype(np.int16), factors / gain, zero)


def _facts(comments: List[str]) -> Dict[str, Any]:
    """Patient, age, sex and statements from lines such as `Age: 74`."""
    values: Dict[str, str] = {}
    for comment in comments:
        match = _COMMENT.fullmatch(comment)
        if match:
            values.setdefault(match.group(1).lower(), match.group(2))
    return {
        "patient": values.get("patient id") or values.get("patient") or None,
        "age": _age(values.get("age", "")),
        "sex": _SEX.get(values.get("sex", "").lower()),
        "statements": _statements(values.get("dx", "")),
    }


def _age(text: str) -> Optional[float]:
    try:
        age = float(text)
    except ValueError:
        return None
    return age if math.isfinite(age) and age >= 0 else None


def _statements(text: str) -> Tuple[str, ...]:
    statements = (statement.strip() for statement in text.split(","))
    return tuple(statement for statement in statements if statement and statement.lower() != "unknown")
