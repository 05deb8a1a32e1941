"""A folder of WFDB records."""

from pathlib import Path
from typing import List, Set

from fairseq_signals_ext.readers import Recording, read_ecg
from fairseq_signals_ext.readers.wfdb import find_wfdb
from fairseq_signals_ext.sources.record_table import with_table
from fairseq_signals_ext.sources.source import Item, Source, SourceOptions


def open_source(folder: Path, options: SourceOptions) -> Source:
    """All `.hea` files below the folder, by name; those of segments are read with the record that they belong to."""
    paths = find_wfdb(folder)
    segments = {file for path in paths for file in files_of(path) if file.suffix == ".hea"}
    items = [Item(path.relative_to(folder).as_posix()) for path in paths if path.resolve() not in segments]
    return Source(options.name or folder.resolve().name, folder, with_table(items, options.table), read_file)


def files_of(header: Path) -> Set[Path]:
    """Files that belong to a WFDB header: its signals, or the headers of its segments."""
    try:
        lines: List[str] = header.read_bytes().decode("latin-1").replace("\0", " ").splitlines()
    except OSError:  # reading the record will tell
        return set()
    names = [line.split()[0] for line in lines if line.strip() and not line.lstrip().startswith("#")]
    segments = "/" in names[0] if names else False
    found = {(header.parent / (f"{name}.hea" if segments else name)).resolve() for name in {*names[1:]} - {"~"}}
    return found - {header.resolve()}


def read_file(folder: Path, item: Item) -> Recording:
    """Read an item that is a file by itself."""
    return read_ecg(folder / item.name)
