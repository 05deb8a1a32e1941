"""Any mixture of ECG files, recognised by their content, with an optional table of what is known of them.

Every file is an item, so that one which is no ECG is rejected with the reason and nothing is left out in silence; the
signal files that WFDB headers name belong to these.
"""

from pathlib import Path

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.sources.record_table import with_table
from fairseq_signals_ext.sources.source import Item, Source, SourceOptions, read_file
from fairseq_signals_ext.sources.wfdb import files_of


def open_source(folder: Path, options: SourceOptions) -> Source:
    """All files below the folder, by name, apart from hidden ones and the table."""
    paths = [path for path in folder.rglob("*") if _is_file(path) and not _is_hidden(path.relative_to(folder))]
    belonging = {file for path in paths if path.suffix == ".hea" for file in files_of(path)}
    if options.table is not None:
        belonging.add(options.table.resolve())
    names = sorted(path.relative_to(folder).as_posix() for path in paths if path.resolve() not in belonging)
    if not names:
        raise UserError(f"{folder}: no files here or below; give the folder that holds the recordings")
    given = {"sample_rate": options.sample_rate, "unit": options.unit, "leads": options.leads}
    reading = {name: value for name, value in given.items() if value is not None}
    items = with_table([Item(name, reading=reading) for name in names], options.table)
    return Source(options.name or folder.resolve().name, folder, items, read_file)


def _is_file(path: Path) -> bool:
    # a link to nothing counts, so that it is rejected and not lost
    return path.is_file() or (path.is_symlink() and not path.exists())


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
