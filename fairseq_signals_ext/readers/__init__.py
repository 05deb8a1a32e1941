"""Read an ECG file in any supported format, as one `Recording` per ECG in it."""

import contextlib
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Sequence, Union

import numpy as np

from fairseq_signals_ext.common.errors import (
    MissingMetadataError,
    MissingPackageError,
    OneOfSeveralError,
    UserError,
    how_to_install,
    install_command,
)
from fairseq_signals_ext.readers.ends import without_ends
from fairseq_signals_ext.readers.facts import patient_of, start_of
from fairseq_signals_ext.readers.formats import GivenMetadata, format_of
from fairseq_signals_ext.readers.limb_leads import with_limb_leads
from fairseq_signals_ext.readers.recording import Recording, StoredCounts

__all__ = ["Recording", "StoredCounts", "read_ecg", "read_ecgs"]

# the warning filter is global to the process, so only one thread may read at a time
_READ_LOCK = threading.RLock()
_RATES = (1.0, 1e6)  # Hz


def read_ecg(
    path: Union[str, Path],
    *,
    sample_rate: Optional[float] = None,
    leads: Optional[Sequence[str]] = None,
    unit: Optional[str] = None,
    number: Optional[int] = None,
) -> Recording:
    """Read one ECG; the format is recognised by the file's content.

    `formats.supported()` lists the formats. Leads are found by their names, in any order, other signals are
    ignored, and amplitudes become mV. Calibration pulses and constant padding at the ends are cut off, see
    `Recording.cut`. Limb leads that are missing are computed from I and II and listed in `Recording.derived`.

    Args:
        path: the file; for WFDB the `.hea` file, its `.dat` or `.mat` file, or the record's path without suffix.
        sample_rate: Hz; only for files that do not contain it.
        leads: names of the signals in their order; only for files that do not name them.
        unit: `"mV"`, `"uV"`, `"nV"` or `"V"`; only for files that do not contain it.
        number: number of the ECG in the file, from 1; None: the only one. `Recording.ecgs` is the number of ECGs.

    Raises:
        UserError: the file does not exist, its format is not supported, its content is damaged or doubtful, required
            metadata is missing, given metadata differs from the file's, the file contains several ECGs, or it claims
            more samples than fit into the file or into memory (checked before memory is reserved).

    Examples:
        >>> import fairseq_signals_ext
        >>> recording = fairseq_signals_ext.read_ecg("ecgs/one.hea")
        >>> recording.signal.shape  # leads x samples, mV
        (12, 5000)
        >>> recording
        <Recording 'one': I, II, III, aVR, aVL, aVF, V1, V2, V3, V4, V5, V6; 500 Hz, 10 s; 1 code>
    """
    with _without_warnings():
        recordings = _read(path, sample_rate, leads, unit)
        if number is None and len(recordings) > 1:
            raise UserError(f"{path}: it contains {len(recordings)} ECGs; choose one with its number, from 1")
        if number is not None and not 1 <= number <= len(recordings):
            raise UserError(f"{path}: it contains {len(recordings)} ECGs, so none has the number {number}; correct it")
        return _complete(path, recordings, (number or 1) - 1)


def read_ecgs(
    path: Union[str, Path],
    *,
    sample_rate: Optional[float] = None,
    leads: Optional[Sequence[str]] = None,
    unit: Optional[str] = None,
) -> Iterator[Recording]:
    """Read all ECGs of one file, one after the other.

    Most files contain one. If there are several, the `record_id` of the second ends in `#2`, and so on.

    Args and Raises: as `read_ecg`.

    Examples:
        >>> import fairseq_signals_ext
        >>> [recording.record_id for recording in fairseq_signals_ext.read_ecgs("ecgs/one.hea")]
        ['one']
    """
    with _without_warnings():
        recordings = _read(path, sample_rate, leads, unit)
    for number in range(len(recordings)):
        with _without_warnings():
            recording = _complete(path, recordings, number)
        yield recording


def _read(
    path: Union[str, Path], sample_rate: Optional[float], leads: Optional[Sequence[str]], unit: Optional[str]
) -> Sequence[Recording]:
    """Return all ECGs of a file as stored; a long sequence may read each ECG only on access."""
    file = Path(path)
    try:
        return format_of(file).read(file, GivenMetadata(sample_rate, leads, unit))
    except ImportError as error:
        hint = how_to_install(error.name or "") or f"{error}: {install_command('formats')}"
        raise MissingPackageError(f"{path}: {' '.join(hint.split())}") from error


def _complete(path: Union[str, Path], recordings: Sequence[Recording], number: int) -> Recording:
    """Return one checked ECG of a file with limb leads and its own name; placeholders for "unknown" become None."""
    several = len(recordings)
    try:
        recording = recordings[number]
        _check(path, recording)
        recording = without_ends(recording)  # first, as a pulse has other heights in computed leads
        complete = with_limb_leads(recording)
        if complete.derived:  # computed leads may be infinite where I and II are finite
            _check(path, complete)
    except UserError as error:
        if several == 1 or isinstance(error, MissingMetadataError):
            raise
        reason = str(error).replace(f"{path}: ", "", 1)
        raise OneOfSeveralError(f"{path}: ECG {number + 1} of {several}: {reason}", several) from error
    changed: Dict[str, Any] = {}
    patient, start_time = patient_of(complete.patient), start_of(complete.start_time)
    if (patient, start_time) != (complete.patient, complete.start_time):
        changed.update(patient=patient, start_time=start_time)
    if several > 1:
        changed.update(number=number + 1, ecgs=several)
        if number and complete.record_id == Path(path).stem:  # a table beside the file may name its ECGs
            changed["record_id"] = f"{complete.record_id}#{number + 1}"
    return replace(complete, **changed) if changed else complete


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Suppress warnings: problems that matter are raised as errors."""
    with _READ_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check(path: Union[str, Path], recording: Recording) -> None:
    """Raise a `UserError` unless the recording has samples, finite values and a plausible sample rate."""
    if recording.samples == 0:
        raise UserError(f"{path}: it contains no samples; get it again")
    if recording.stored is None and np.isinf(recording.signal).any():
        raise UserError(f"{path}: it contains infinite values; mark invalid samples as NaN")
    if recording.physical is not None and np.isnan(recording.physical).all():
        raise UserError(f"{path}: all its samples are marked as missing, so there is no ECG; leave it out")
    if recording.stored is not None and not recording.stored.is_finite():
        raise UserError(f"{path}: its values would be infinite; correct the scale or the zero of its leads")
    low, high = _RATES
    if not low <= recording.sample_rate <= high:
        raise UserError(f"{path}: its sample rate is {recording.sample_rate:g} Hz, not {low:g} to {high:g}; correct it")
