"""Collections of recordings: which files they have, and what their tables say of them. One module a kind."""

import importlib
from pathlib import Path
from typing import Dict, Optional, Union

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.sources.source import Item, Source, SourceOptions

__all__ = ["KINDS", "Item", "Source", "SourceOptions", "open_source"]

# kind of source: what its folder holds; the work is in the module of that name
KINDS: Dict[str, str] = {
    "code15": "CODE-15%: exams.csv and exams_part*.hdf5",
    "files": "any mixture of ECG files, recognised by their content",
    "mimic_iv_ecg": "MIMIC-IV-ECG: record_list.csv, machine_measurements.csv and files/",
    "muse": "GE MUSE XML files",
    "physionet2021": "PhysioNet/CinC Challenge 2021: SOURCE/g*/X.hea and .mat, nested or flat",
    "ptbxl": "PTB-XL: ptbxl_database.csv and records500/ or records100/",
    "wfdb": "WFDB records (.hea)",
}
_WITHOUT_TABLES = ("files", "muse", "wfdb")


def open_source(kind: str, folder: Union[str, Path], options: Optional[SourceOptions] = None) -> Source:
    """The recordings of a folder, in the order in which they will be numbered; nothing is read but tables and names.

    Args:
        kind: one of `KINDS`.
        folder: that holds the collection.
        options: see `SourceOptions`.

    Raises:
        UserError: no such kind or folder, options that this kind does not take, a table that is missing or wrong, or no
            recordings.
    """
    if kind not in KINDS:
        raise UserError(f"{kind}: no such kind of source; use one of {', '.join(KINDS)}")
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: no such folder; give the folder that holds the recordings")
    options = options or SourceOptions()
    if options.table is not None and kind not in _WITHOUT_TABLES:
        raise UserError(f"{options.table}: {kind} has tables of its own; leave this one out, or prepare it as 'files'")
    if kind != "files" and (options.sample_rate, options.unit, options.leads) != (None, None, None):
        raise UserError(f"{folder}: the files of {kind} say their rate, unit and leads; leave these out")
    module = importlib.import_module(f"fairseq_signals_ext.sources.{kind}")
    return module.open_source(Path(folder), options)
