"""A folder of WFDB records."""

from pathlib import Path
from typing import List, Set, Tuple

from fairseq_signals_ext.files import walk_files
from fairseq_signals_ext.readers.formats import is_wfdb_record_line
from fairseq_signals_ext.readers.wfdb import find_wfdb
from fairseq_signals_ext.readers.wfdb_claims import MOST_BYTES, MOST_LINES
from fairseq_signals_ext.sources.record_table import with_table
from fairseq_signals_ext.sources.source import Item, Source, SourceOptions, read_file


def open_source(folder: Path, options: SourceOptions) -> Source:
    """All `.hea` files below the folder, by name; segments are read with the record that they belong to."""
    names, notes = find_records(folder)
    items = with_table([Item(name) for name in names], options.table)
    return Source(options.name or folder.resolve().name, folder, items, read_file, notes=notes)


def find_records(folder: Path) -> Tuple[List[str], List[str]]:
    """Names of the headers below a folder that are records by themselves, sorted, and notes on what is left out.

    Only headers without a signal file of their own name are looked into for segments, as reading every header of
    millions takes long.

    Raises:
        UserError: see `find_wfdb`.
    """
    names = list(walk_files(folder))
    headers = find_wfdb(folder, names)
    signals = {name[: -len(".dat")]: name for name in names if name.endswith((".dat", ".mat"))}
    stems = {name[: -len(".hea")] for name in headers}
    named = {file for stem in sorted(stems - signals.keys()) for file in files_of(folder / f"{stem}.hea")}
    records = [name for name in headers if not named or (folder / name).resolve() not in named]
    lone = sorted(signals[stem] for stem in signals.keys() - stems if (folder / signals[stem]).resolve() not in named)
    return records, [f"{len(lone)} .dat or .mat files have no header, the first is {lone[0]}: left out"] if lone else []


def files_of(header: Path) -> Set[Path]:
    """Files that belong to a WFDB header: its signals, or the headers of its segments."""
    try:
        if header.stat().st_size > MOST_BYTES:  # reading the record will tell
            return set()
        lines: List[str] = header.read_bytes().decode("latin-1").replace("\0", " ").splitlines()
    except OSError:  # as well
        return set()
    lines = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not lines or len(lines) > MOST_LINES or not is_wfdb_record_line(lines[0]):
        return set()
    names = [line.split()[0] for line in lines]
    segments = "/" in names[0]
    found = {(header.parent / (f"{name}.hea" if segments else name)).resolve() for name in {*names[1:]} - {"~"}}
    return found - {header.resolve()}
