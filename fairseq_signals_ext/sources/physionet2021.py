"""The PhysioNet/CinC Challenge 2021 (doi:10.13026/34va-7q14): WFDB records with SNOMED codes in their headers.

The records of a source are in `training/SOURCE/g1/`, `g2/`, ...; the folder of one source, or of records only, works as
well. Age, sex and codes are in the headers.
"""

import re
from pathlib import Path
from typing import List

from fairseq_signals_ext.sources.source import Database, Item, Source, SourceKind, SourceOptions, read_file
from fairseq_signals_ext.sources.wfdb import find_records

_GROUP = re.compile(r"g\d+")


def open_source(folder: Path, options: SourceOptions) -> Source:
    """Return all records below the folder, each with its source in the Challenge."""
    items: List[Item] = []
    above = folder.resolve()
    names, notes = find_records(folder)
    for name in names:
        folders = [above.name, *name.split("/")[:-1]]
        part = next((one for one in reversed(folders) if not _GROUP.fullmatch(one)), above.parent.name)
        items.append(Item(name, source=part))
    return Source(options.name or "physionet2021", folder, items, read_file, notes=notes)


KIND = SourceKind(
    "physionet2021",
    "PhysioNet/CinC Challenge 2021: SOURCE/g*/X.hea and .mat, nested or flat",
    open_source,
    database=Database("challenge-2021/1.0.3", (), (".hea", ".mat")),
)
