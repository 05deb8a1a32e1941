"""A folder of GE MUSE XML files: eight leads are stored, the other four are derived."""

from pathlib import Path
from typing import List

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import walk_files
from fairseq_signals_ext.sources.record_table import with_table
from fairseq_signals_ext.sources.source import TABLE, Item, Source, SourceKind, SourceOptions, read_file


def open_source(folder: Path, options: SourceOptions) -> Source:
    """Return all `.xml` files below the folder by name; patient, time and statements are in the files."""
    names = sorted(name for name in walk_files(folder) if name.lower().endswith(".xml"))
    if not names:
        raise UserError(f"{folder}: no .xml file here or below; give the folder with the exported ECGs")
    notes: List[str] = []
    items = with_table([Item(name) for name in names], options.table, options.time_format, notes)
    return Source(options.name or folder.resolve().name, folder, items, read_file, notes=notes)


KIND = SourceKind("muse", "GE MUSE XML files", open_source, (TABLE,))
