"""MIMIC-IV-ECG (doi:10.13026/4nqg-sb35): WFDB records with patients, times and the machine's reports.

Its files store aVF before aVL; readers find leads by name.
"""

from pathlib import Path
from typing import Any, Dict, List

from fairseq_signals_ext.readers.wfdb import find_wfdb
from fairseq_signals_ext.sources.record_table import patient, read_csv, text, texts, time
from fairseq_signals_ext.sources.source import Database, Item, Source, SourceKind, SourceOptions, read_file

_RECORDS, _MEASUREMENTS = "record_list.csv", "machine_measurements.csv"


def open_source(folder: Path, options: SourceOptions) -> Source:
    """Return the records of `record_list.csv` in its order, with reports of `machine_measurements.csv` if present."""
    records = read_csv(folder / _RECORDS, ["subject_id", "study_id", "ecg_time", "path"])
    notes: List[str] = []
    measured: Dict[Any, Dict[str, Any]] = {}
    if (folder / _MEASUREMENTS).is_file():
        table = read_csv(folder / _MEASUREMENTS, ["study_id"]).drop_duplicates("study_id")
        measured = {row["study_id"]: row for row in table.to_dict("records")}
    else:
        notes.append(f"{_MEASUREMENTS} is not there: recordings are without statements")
    items = [
        Item(f"{row['path']}.hea", facts=_facts(folder / _RECORDS, row, measured.get(row["study_id"], {})))
        for row in records.to_dict("records")
    ]
    others = set(find_wfdb(folder)) - {item.name for item in items}
    notes += [f"{len(others)} records in this folder are not in {_RECORDS}: left out"] if others else []
    return Source(options.name or "mimic_iv_ecg", folder, items, read_file, own_patients=True, notes=notes)


def _facts(path: Path, row: Dict[str, Any], measured: Dict[str, Any]) -> Dict[str, Any]:
    further = {
        name: value
        for name, value in measured.items()
        if not name.startswith("report_") and name not in ("subject_id", "study_id", "ecg_time", "path")
    }
    return {
        **further,
        "record_id": text(row["study_id"]),
        "patient": patient(row["subject_id"], numbered=True),
        "start_time": time(row["ecg_time"], f"{path}: study {row['study_id']}: ecg_time"),
        "statements": texts([value for name, value in measured.items() if name.startswith("report_")]),
    }


KIND = SourceKind(
    "mimic_iv_ecg",
    "MIMIC-IV-ECG: record_list.csv, machine_measurements.csv and files/",
    open_source,
    database=Database("mimic-iv-ecg/1.0", (_RECORDS, _MEASUREMENTS), (".hea", ".dat")),
)
