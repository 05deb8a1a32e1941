"""A folder of WFDB records."""

from pathlib import Path
from typing import Iterable, List, Set, Tuple

from fairseq_signals_ext.common.files import walk_files
from fairseq_signals_ext.readers.wfdb import files_of, find_wfdb
from fairseq_signals_ext.sources.record_table import with_table
from fairseq_signals_ext.sources.source import TABLE, Item, Source, SourceKind, SourceOptions, read_file

_SIGNALS = (".dat", ".mat")


def open_source(folder: Path, options: SourceOptions) -> Source:
    """Return all `.hea` files below the folder by name; segments are read together with their record."""
    names, notes = find_records(folder)
    items = with_table([Item(name) for name in names], options.table, options.time_format, notes)
    return Source(options.name or folder.resolve().name, folder, items, read_file, notes=notes)


def find_records(folder: Path) -> Tuple[List[str], List[str]]:
    """Return the sorted names of headers below a folder that are whole records, and notes on files that are left out.

    Reading millions of headers takes long, so segments are searched only in headers without a signal file of the same
    name, and in headers beside signal files that seem to have no header.

    Raises:
        UserError: see `find_wfdb`.
    """
    names = list(walk_files(folder))
    headers = find_wfdb(folder, names)
    signals = {name.rpartition(".")[0]: name for name in names if name.endswith(_SIGNALS)}
    stems = {name[: -len(".hea")] for name in headers}
    named = _files_of_all(folder / f"{stem}.hea" for stem in stems - signals.keys())
    records = [name for name in headers if not named or (folder / name).resolve() not in named]
    lone = [signals[stem] for stem in signals.keys() - stems if (folder / signals[stem]).resolve() not in named]
    folders = {name.rpartition("/")[0] for name in lone}
    beside = (name for name in headers if lone and name.rpartition("/")[0] in folders)
    named = _files_of_all(folder / name for name in beside)
    lone = sorted(name for name in lone if (folder / name).resolve() not in named)
    return records, [f"{len(lone)} .dat or .mat files have no header, the first is {lone[0]}: left out"] if lone else []


def belonging_to(paths: Iterable[Path]) -> Set[Path]:
    """Return those paths that belong to a WFDB header among them: its signal files, and headers of its segments.

    As in `find_records`, headers are read only where it can matter.
    """
    paths = list(paths)
    headers = [path for path in paths if path.suffix == ".hea"]
    if len(headers) == len(paths):
        headers = [path for path in headers if not any(path.with_suffix(one).exists() for one in _SIGNALS)]
    return _files_of_all(headers)


def _files_of_all(headers: Iterable[Path]) -> Set[Path]:
    return {file for header in headers for file in files_of(header)}


KIND = SourceKind("wfdb", "WFDB records (.hea)", open_source, (TABLE,))
