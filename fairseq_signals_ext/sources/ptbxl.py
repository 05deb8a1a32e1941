"""PTB-XL (doi:10.13026/kfzx-aw45): WFDB records at 500 and 100 Hz, with folds, patients, reports and SCP codes."""

import ast
import re
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.readers.wfdb import find_wfdb
from fairseq_signals_ext.sources.record_table import number, patient, read_csv, text, texts, time
from fairseq_signals_ext.sources.source import Database, Item, Source, SourceKind, SourceOptions, read_file

_TABLE = "ptbxl_database.csv"
_FIRST_COLUMNS = (
    *("ecg_id", "patient_id", "age", "sex", "recording_date", "report", "scp_codes"),
    *("filename_lr", "filename_hr"),
)
# ages over 89 are given as 300; 90 keeps them the highest
OVER_89, OLDEST = 300, 90.0
_SEX: Dict[Optional[float], str] = {0: "male", 1: "female"}
_RECORD = re.compile(r"0*(\d+)_[hl]r")


def ecg_id_of(record: str) -> str:
    """Return the `ecg_id` of a record from its file name: `40` for `00040_hr`; other names are returned unchanged."""
    return _RECORD.sub(r"\1", record) if _RECORD.fullmatch(record) else record


def _is_wanted(record: str, rate: float) -> bool:
    """Return whether a record is needed for a rate (Hz): each ECG exists at 500 and at 100 Hz."""
    return record.startswith("records100/" if rate <= 100 else "records500/")


def open_source(folder: Path, options: SourceOptions) -> Source:
    """Return the records of `ptbxl_database.csv` in its order, then others in the folder; all by their `ecg_id`.

    Records at 100 Hz are used if this is enough for the wanted rate, or if there are no others.
    """
    table = read_csv(folder / _TABLE, _FIRST_COLUMNS)
    low = (folder / "records100").is_dir() and (options.rate <= 100 or not (folder / "records500").is_dir())
    column, records = ("filename_lr", "records100") if low else ("filename_hr", "records500")
    present = {f"{records}/{name}" for name in find_wfdb(folder / records)}
    by_file_name = {name.rsplit("/", 1)[-1]: name for name in sorted(present)}
    items: List[Item] = []
    for row in table.to_dict("records"):
        listed = f"{row[column]}.hea"
        name = listed if listed in present else by_file_name.get(listed.rsplit("/", 1)[-1], listed)
        items.append(Item(name, facts=_facts(folder / _TABLE, row)))
    others = present - {item.name for item in items}
    absent = sum(item.name not in present for item in items)
    notes = [f"{absent} of {len(items)} records in {_TABLE} have no file in {records}/"] if absent else []
    notes += [f"{len(others)} records in {records}/ are not in {_TABLE}"] if others else []
    items += [Item(name, facts={"record_id": ecg_id_of(Path(name).stem)}) for name in sorted(others)]
    return Source(options.name or "ptbxl", folder, items, read_file, own_patients=True, notes=notes)


def _facts(path: Path, row: Dict[str, Any]) -> Mapping[str, Any]:
    age = number(row["age"])
    known = {
        "record_id": text(row["ecg_id"]),
        "patient": patient(row["patient_id"], numbered=True),
        "age": OLDEST if age == OVER_89 else age,
        "sex": _SEX.get(number(row["sex"])),
        "start_time": time(row["recording_date"], f"{path}: ecg_id {row['ecg_id']}: recording_date"),
        "codes": _codes(path, row),
        "statements": texts(row["report"]),
    }
    further = {name: value for name, value in row.items() if name not in _FIRST_COLUMNS and "Unnamed" not in name}
    return {**further, **known}


def _codes(path: Path, row: Dict[str, Any]) -> Tuple[str, ...]:
    """Return `NORM:100` for `{'NORM': 100.0}`."""
    try:
        codes = ast.literal_eval(row["scp_codes"])
        return tuple(f"{code}:{float(likelihood):g}" for code, likelihood in codes.items())
    except (ValueError, SyntaxError, AttributeError, TypeError, MemoryError, RecursionError) as error:
        raise UserError(
            f"{path}: ecg_id {row['ecg_id']}: scp_codes {row['scp_codes']!r:.60} is not a list of codes; "
            "get the file again"
        ) from error


KIND = SourceKind(
    "ptbxl",
    "PTB-XL: ptbxl_database.csv and records500/ or records100/",
    open_source,
    database=Database("ptb-xl/1.0.3", (_TABLE, "scp_statements.csv"), (".hea", ".dat"), _is_wanted),
)
