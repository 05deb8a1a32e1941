"""A folder of WFDB records."""

from pathlib import Path
from typing import List, Sequence, Set

from fairseq_signals_ext.files import walk_files
from fairseq_signals_ext.readers.formats import is_wfdb_record_line
from fairseq_signals_ext.readers.wfdb import find_wfdb
from fairseq_signals_ext.sources.record_table import with_table
from fairseq_signals_ext.sources.source import Item, Source, SourceOptions, read_file


def open_source(folder: Path, options: SourceOptions) -> Source:
    """All `.hea` files below the folder, by name; segments are read with the record that they belong to."""
    names = find_wfdb(folder)
    segments = _segments(folder, names)
    items = [Item(name) for name in names if name not in segments]
    notes = lone_signals(folder, names)
    items = with_table(items, options.table)
    return Source(options.name or folder.resolve().name, folder, items, read_file, notes=notes)


def lone_signals(folder: Path, headers: Sequence[str]) -> List[str]:
    """A note on signal files without a header of their name, if there are any."""
    stems = {name[: -len(".hea")] for name in headers}
    signals = (name for name in walk_files(folder) if name.endswith((".dat", ".mat")))
    lone = sorted(name for name in signals if name[: -len(".dat")] not in stems)
    said = f"{len(lone)} .dat or .mat files have no .hea of their name and are left out unless another names them"
    return [f"{said}; the first is {lone[0]}"] if lone else []


def _segments(folder: Path, names: List[str]) -> Set[str]:
    """Those headers that are segments of another record: by WFDB's convention its name, `_` and something.

    Only headers that may have such segments are looked into, as reading every header of millions takes long.
    """
    present = set(names)
    records = {name.rsplit("_", 1)[0] + ".hea" for name in names if "_" in name.rsplit("/", 1)[-1]}
    found = {file for record in sorted(records & present) for file in files_of(folder / record)}
    return {name for name in names if "_" in name and (folder / name).resolve() in found} if found else set()


def files_of(header: Path) -> Set[Path]:
    """Files that belong to a WFDB header: its signals, or the headers of its segments."""
    try:
        lines: List[str] = header.read_bytes().decode("latin-1").replace("\0", " ").splitlines()
    except OSError:  # reading the record will tell
        return set()
    lines = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not lines or not is_wfdb_record_line(lines[0]):
        return set()
    names = [line.split()[0] for line in lines]
    segments = "/" in names[0]
    found = {(header.parent / (f"{name}.hea" if segments else name)).resolve() for name in {*names[1:]} - {"~"}}
    return found - {header.resolve()}
