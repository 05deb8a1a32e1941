"""CODE-15% (doi:10.5281/zenodo.4916206): exams in HDF5 files at 400 Hz, with patients and six abnormalities.

A tracing is 4096 samples x 12 leads in mV; shorter exams are padded with zeros at both ends, which are cut off here.
"""

import functools
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.readers import Recording
from fairseq_signals_ext.readers.facts import shown
from fairseq_signals_ext.sources.record_table import number, patient, read_csv
from fairseq_signals_ext.sources.source import Item, Source, SourceKind, SourceOptions

WHERE = "get exams.csv and exams_part*.zip from doi:10.5281/zenodo.4916206 and unpack them into one folder"

SAMPLE_RATE = 400.0
ABNORMALITIES = ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF")
# codes of exams with none of the six abnormalities
WITHOUT = NORMAL, NONE_OF_THEM = "normal_ecg", "none_of_the_six"
_SEX: Dict[Optional[float], str] = {1: "male", 0: "female"}

_TABLE = "exams.csv"
_FIRST_COLUMNS = ("exam_id", "patient_id", "age", "is_male", "trace_file", NORMAL, *ABNORMALITIES)


def open_source(folder: Path, options: SourceOptions) -> Source:
    """Return the exams of all existing `exams_part*.hdf5`, file by file; notes list exams whose files are missing."""
    table = read_csv(folder / _TABLE, ["exam_id", "patient_id", *ABNORMALITIES])
    if table["exam_id"].dtype.kind != "i" or not table["exam_id"].is_unique:
        raise UserError(f"{folder / _TABLE}: its exam_id are not whole numbers, each once; {WHERE}")
    rows: Dict[int, Dict[str, Any]] = {row["exam_id"]: row for row in table.to_dict("records")}
    files = sorted(folder.glob("*.hdf5"), key=lambda path: (len(path.name), path.name))
    if not files:
        raise UserError(f"{folder}: no exams_part*.hdf5 here; {WHERE}")
    items: List[Item] = []
    present: Set[int] = set()
    for path in files:
        # exam 0 fills up the end of a file
        exams = [exam for exam in _exams(path)[1] if exam or exam in rows]
        items += [Item(f"{path.name}#{exam}", facts=_facts(rows.get(exam, {}))) for exam in exams]
        present.update(exams)
    absent, unlisted = len(rows.keys() - present), len(present - rows.keys())
    notes = [f"{absent} of {len(rows)} exams in {_TABLE} are not in the trace files that are here"] if absent else []
    notes += [f"{unlisted} exams in the trace files are not in {_TABLE}"] if unlisted else []
    return Source(options.name or "code15", folder, items, read_exam, own_patients=True, notes=notes)


def _facts(row: Dict[str, Any]) -> Dict[str, Any]:
    if not row:
        return {}
    values = {name: number(row[name]) for name in ABNORMALITIES}
    found = [name for name, value in values.items() if value == 1]
    if not found and None not in values.values():
        found = [NORMAL if number(row.get(NORMAL)) == 1 else NONE_OF_THEM]
    further = {name: value for name, value in row.items() if name not in _FIRST_COLUMNS and "Unnamed" not in name}
    return {
        **further,
        "patient": patient(row.get("patient_id"), numbered=True),
        "age": number(row.get("age")),
        "sex": _SEX.get(number(row.get("is_male"))),
        "codes": tuple(found),
    }


# keep a file open while its exams are read one after the other
@functools.lru_cache(maxsize=1)
def _exams(path: Path) -> Tuple[Any, Dict[int, int]]:
    """Return the tracings of a file, and the row of each exam in them."""
    import h5py

    try:
        file = h5py.File(path, "r")
        exams, tracings = np.asarray(file["exam_id"]).astype(np.int64), file["tracings"]
        shape = tuple(tracings.shape)
    except (OSError, KeyError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a file of CODE-15% ({shown(error)}); {WHERE}") from error
    if shape[:1] + shape[2:] != (len(exams), len(LEADS)):
        raise UserError(f"{path}: tracings {shape} of {len(exams)} exams are not exams x samples x 12; {WHERE}")
    used = exams[exams != 0]
    if len(np.unique(used)) != len(used):
        raise UserError(f"{path}: an exam is in it twice; {WHERE}")
    return tracings, {int(exam): row for row, exam in enumerate(exams)}


def read_exam(folder: Path, item: Item) -> Recording:
    """Read one exam, `FILE#EXAM`, without the zeros around it."""
    name, exam = item.name.rsplit("#", 1)
    tracings, rows = _exams(folder / name)
    if int(exam) not in rows:
        raise UserError(f"{folder / item.name}: no such exam in this file")
    try:
        tracing = np.asarray(tracings[rows[int(exam)]], np.float64)
    except OSError as error:
        raise UserError(f"{folder / item.name}: cannot be read ({shown(error)}); get the file again") from error
    used = np.flatnonzero((tracing != 0).any(axis=1))
    if not len(used):
        raise UserError(f"{folder / item.name}: all its samples are zero")
    signal = np.ascontiguousarray(tracing[used[0] : used[-1] + 1].T)
    return Recording(exam, signal, tuple(range(len(LEADS))), SAMPLE_RATE)


KIND = SourceKind("code15", "CODE-15%: exams.csv and exams_part*.hdf5", open_source, where=WHERE)
