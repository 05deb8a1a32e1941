"""Read plain arrays of one or many ECGs: `.npy`, `.mat` and HDF5. The user gives the metadata that they lack."""

import contextlib
import math
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import MissingMetadataError, UserError
from fairseq_signals_ext.common.leads import LEADS, parse_leads
from fairseq_signals_ext.readers.batches import Batch, table_beside
from fairseq_signals_ext.readers.facts import (
    LEADS_OPTION,
    RATE_OPTION,
    UNIT_OPTION,
    age_of,
    agreed_rate,
    millivolts,
    patient_of,
    sex_of,
    shown,
)
from fairseq_signals_ext.readers.formats import Beginning, Format, GivenMetadata, starts_with
from fairseq_signals_ext.readers.matlab import HDF5_MARK, MatFile, is_hdf5
from fairseq_signals_ext.readers.recording import Recording, signal_and_counts
from fairseq_signals_ext.readers.sizes import check_values

_CPSC_RATE = 500.0  # Hz


def read_npy(path: Path, given: GivenMetadata) -> Sequence[Recording]:
    """Read a NumPy file: leads x samples or samples x leads, integers or floats; or a batch of such arrays.

    A batch is N x leads x samples or N x samples x leads; each ECG is read on access. A table beside the file may
    contain its metadata, see `batches.table_beside`.

    Args:
        path: the file.
        given: the sample rate (required); names of the leads in their order (None: the twelve in standard order); the
            unit (required for integers; mV is assumed for floats).

    Raises:
        UserError: the file is damaged or holds Python objects, its shape does not fit the leads or fits them in both
            orders, or required metadata is missing.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy may raise any error on a damaged header
        raise UserError(f"{path}: cannot be read as a NumPy array ({shown(error)}); save it again") from error
    return _recordings(path, array.shape, lambda part: array[part], given)


def _recordings(
    path: Path, shape: Tuple[int, ...], read: Callable[[Any], np.ndarray], given: GivenMetadata
) -> Sequence[Recording]:
    """Return the ECGs of an array of two or three dimensions; `read` returns a part of it."""
    if len(shape) != 3:
        return [_recording(path, read(...), given)]
    _samples_first(path, shape[1:], len(parse_leads(given.leads)))  # reports a wrong shape before any ECG is read
    return Batch(path, shape[0], lambda number: _recording(path, read(number), given))


def read_hdf5(path: Path, given: GivenMetadata) -> Sequence[Recording]:
    """Read an HDF5 file: a batch, as `read_npy`, if its only array of three dimensions is one; else as `read_mat`.

    Args and Raises: as `read_npy`.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(MatFile(path))
        count = len(LEADS if given.leads is None else parse_leads(given.leads))
        is_single = any(name in ("feats", "val") or _fits(shape, count) for name, shape in file.shapes.items())
        batches = [name for name, shape in file.shapes.items() if len(shape) == 3]
        if is_single or file.is_of_matlab or not batches:
            return read_mat(path, given)
        if len(batches) > 1:
            listed = ", ".join(shown(name, 20) for name in batches[:20])
            raise UserError(f"{path}: {len(batches)} of its arrays have three dimensions ({listed}); leave one")
        shape = tuple(reversed(file.shapes[batches[0]]))  # HDF5's order, not MATLAB's
        found = _recordings(path, shape, lambda number: file.part(batches[0], number), given)
        stack.pop_all()  # it stays open while there is a batch
    return found


def read_mat(path: Path, given: GivenMetadata) -> Sequence[Recording]:
    """Read a MATLAB file (version 4 to 7.3) with one matrix of leads x samples or samples x leads.

    The matrix is `feats` (ECG-FM's files, in mV or standardised), `val` (the PhysioNet Challenges') or the only matrix
    that fits the leads, also in a struct, such as CPSC 2018's `ECG.data`. ECG-FM's `curr_sample_rate` is the sample
    rate. If the file holds `mean` and `std`, `feats` was standardised with them and is restored as
    `feats * std + mean`. CPSC 2018's files (a struct `ECG` of `sex`, `age` and `data`) do not contain their sample
    rate: 500 Hz is assumed, the rate of all recordings in this collection (doi:10.1166/jmihi.2018.2442).
    `patient_id`, `age` and `sex` beside the matrix are read; all else is ignored.

    Args:
        path: the file.
        given: as of `read_npy`; the sample rate has to be given if the file does not contain it.

    Raises:
        UserError: as `read_npy`, the sample rate differs from the file's, or `patient_id` is neither a number nor text.
    """
    with MatFile(path) as file:
        name = _signal_name(path, file.shapes, len(LEADS if given.leads is None else parse_leads(given.leads)))
        array = file.read(name)
        if "curr_sample_rate" in file.shapes:
            rate = agreed_rate(path, _number(path, file.read("curr_sample_rate")), given.sample_rate)
            given = given._replace(sample_rate=rate)
        if name == "feats" and {"mean", "std"} <= set(file.shapes):
            array = _original(path, array, file.read("mean"), file.read("std"))
        beside = name.rpartition(".")[0]
        facts = _facts(file, f"{beside}." if beside else "")
        is_cpsc = name == "ECG.data" and {"ECG.sex", "ECG.age"} <= file.texts | set(file.shapes)
    if given.sample_rate is None and is_cpsc:
        recording = _recording(path, array, given._replace(sample_rate=_CPSC_RATE))
        return [replace(recording, assumed=(*recording.assumed, "sample_rate"), **facts)]
    return [replace(_recording(path, array, given), **facts)]


def _facts(file: MatFile, beside: str) -> Dict[str, Any]:
    """Return patient, age and sex from the variables beside the signal; a malformed age or sex becomes None."""
    known = {name: beside + name for name in ("age", "sex") if beside + name in file.texts | set(file.shapes)}
    single = {
        name: file.written(place) for name, place in known.items() if math.prod(file.shapes.get(place, (1,))) == 1
    }
    return {
        "patient": patient_of(file.written(f"{beside}patient_id")),
        "age": age_of(single.get("age")),
        "sex": sex_of(single.get("sex")),
    }


def _recording(path: Path, array: np.ndarray, given: GivenMetadata) -> Recording:
    rate, leads, unit = given
    positions = parse_leads(leads)
    if array.dtype.kind not in "iuf":
        raise UserError(f"{path}: it holds {shown(array.dtype, 40)}, not real numbers; save integers or floats")
    if rate is None:
        raise MissingMetadataError(f"{path}: its sample rate is missing; give it ({RATE_OPTION})", "sample_rate")
    if unit is None and array.dtype.kind != "f":
        raise MissingMetadataError(
            f"{path}: it contains integers and no unit; give that of one count ({UNIT_OPTION})", "unit"
        )
    factor = millivolts(unit or "mV")
    if factor is None:
        raise UserError(f"{path}: the unit {shown(unit, 40)!r} is not a voltage; give mV, uV, nV or V")
    check_values(path, array.size)
    rows = _leads_first(path, array, len(positions))
    order = np.argsort(positions)
    signal, stored = signal_and_counts([rows[row] for row in order], [factor] * len(order), [0.0] * len(order))
    return Recording(
        record_id=path.stem,
        physical=signal,
        leads=tuple(sorted(positions)),
        sample_rate=float(rate),
        stored=stored,
        assumed=tuple(name for name, given in (("leads", leads), ("unit", unit)) if given is None),
    )


def _leads_first(path: Path, array: np.ndarray, leads: int) -> np.ndarray:
    """Return the array as leads x samples; the dimension of the leads is found by their number."""
    return array.T if _samples_first(path, array.shape, leads) else array


def _samples_first(path: Path, sizes: Tuple[int, ...], leads: int) -> bool:
    """Return whether an array of this shape is samples x leads."""
    shape = " x ".join(map(str, sizes)) or "that of a single number"
    if len(sizes) != 2 or leads not in sizes:
        hint = f"give the leads it has ({LEADS_OPTION})"
        raise MissingMetadataError(f"{path}: its shape is {shape}, which does not fit {leads} leads; {hint}", "leads")
    if sizes[0] == sizes[1]:
        raise UserError(f"{path}: its shape is {shape}, so leads and samples cannot be distinguished; use a .csv file")
    return sizes[0] != leads


def _signal_name(path: Path, shapes: Dict[str, Tuple[int, ...]], leads: int) -> str:
    """Return the name of the variable that holds the signal."""
    for name in ("feats", "val"):
        if name in shapes:
            return name
    fitting = [name for name, shape in shapes.items() if _fits(shape, leads)]
    if len(fitting) != 1:
        listed = ", ".join(shown(name, 20) for name in list(shapes)[:20]) or "none"
        fit = f"{len(fitting)} of its matrices ({listed}) fit {leads} leads"
        raise MissingMetadataError(f"{path}: {fit}; name the one 'val', or give the leads ({LEADS_OPTION})", "leads")
    return fitting[0]


def _fits(shape: Tuple[int, ...], leads: int) -> bool:
    return len(shape) == 2 and leads in shape and max(shape) > 1


def _number(path: Path, value: np.ndarray) -> float:
    if value.size != 1:
        raise UserError(f"{path}: its curr_sample_rate is not one number; save the file again")
    return float(value.ravel()[0])


def _original(path: Path, array: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    if array.ndim != 2 or not len(array) == mean.size == std.size:
        raise UserError(f"{path}: its feats, mean and std do not fit each other; save it again")
    check_values(path, array.size)
    return array * std.reshape(-1, 1).astype(np.float64) + mean.reshape(-1, 1)


def _tables(path: Path) -> List[Path]:
    table = table_beside(path)
    return [] if table is None else [table]


def _largest(path: Path) -> int:
    with MatFile(path) as file:
        return max(map(math.prod, file.shapes.values()), default=0)


def _is_matlab_4(beginning: Beginning) -> bool:
    """Recognise MATLAB 4, which has no magic bytes, by its header: type, rows, columns, 0 (real), length of name."""
    head = beginning.head
    if len(head) < 20:
        return False
    kind, rows, columns, imaginary, length = struct.unpack_from("<5i", head)
    name = head[20 : 20 + length] if 1 < length <= 64 else b""
    sizes = rows > 0 and columns > 0
    return 0 <= kind < 60 and sizes and imaginary in (0, 1) and re.fullmatch(rb"[A-Za-z]\w*\0", name) is not None


NUMPY = Format(
    "NumPy", (".npy",), starts_with(b"\x93NUMPY"), read_npy, "NumPy (.npy)", one_person=False, belonging=_tables
)
HDF5 = Format(
    "MATLAB 7.3",
    (".h5", ".hdf5"),
    starts_with(HDF5_MARK),
    read_hdf5,
    "HDF5 (.h5)",
    one_person=False,
    belonging=_tables,
    largest=_largest,
    imports=("h5py",),
)
MATLAB_7_3 = replace(HDF5, suffixes=(".mat",), sniff=lambda beginning: is_hdf5(beginning.head), belonging=None)
MATLAB = Format(
    "MATLAB", (".mat",), starts_with(b"MATLAB"), read_mat, "MATLAB (.mat)", one_person=False, largest=_largest
)
MATLAB_4 = replace(MATLAB, sniff=_is_matlab_4)
