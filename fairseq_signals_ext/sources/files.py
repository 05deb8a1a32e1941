"""Any mixture of ECG files, recognised by their content, with an optional table of metadata.

Every file is an item, so that a file that is no ECG is rejected with a reason and not ignored. Files that belong to
another file, such as the signal files of WFDB headers, are no items.
"""

from pathlib import Path
from typing import List

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import FINISHED_NAME, PLAN_NAME, walk_files
from fairseq_signals_ext.readers.formats import belonging_to_files
from fairseq_signals_ext.sources.record_table import with_table
from fairseq_signals_ext.sources.source import READING, TABLE, Item, Source, SourceKind, SourceOptions, read_file

# marks of folders that our commands have written, which hold no ECG files
_RESULTS = (PLAN_NAME, FINISHED_NAME)


def open_source(folder: Path, options: SourceOptions) -> Source:
    """Return all files below the folder by name, except hidden ones, the table, and results of our commands."""
    present = [name for name in sorted(walk_files(folder, _RESULTS)) if not _is_hidden(name)]
    belonging = {file.resolve() for file in belonging_to_files(present, folder)}
    if options.table is not None:
        belonging.add(options.table.resolve())
    names = [name for name in present if _is_file(folder / name) and (folder / name).resolve() not in belonging]
    if not names:
        raise UserError(f"{folder}: no files here or below; give the folder with the recordings")
    given = {"sample_rate": options.sample_rate, "unit": options.unit, "leads": options.leads}
    defaults = {name: value for name, value in given.items() if value is not None}
    notes: List[str] = []
    items = with_table([Item(name, defaults=defaults) for name in names], options.table, options.time_format, notes)
    return Source(options.name or folder.resolve().name, folder, items, read_file, notes=notes)


def _is_file(path: Path) -> bool:
    # a broken link is an item, so that it is rejected and not ignored
    return path.is_file() or (path.is_symlink() and not path.exists())


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


KIND = SourceKind("files", "any mixture of ECG files, recognised by their content", open_source, (TABLE, *READING))
