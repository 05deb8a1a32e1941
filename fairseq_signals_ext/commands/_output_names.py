"""How the files are called that commands leave for each recording."""

import os
from pathlib import Path
from typing import Dict, List, Sequence

from fairseq_signals_ext.files import safe_name


def stem_of(name: str) -> str:
    """What the files of an input are called, such as `A0001` for `records/A0001.hea`."""
    path = Path(name)
    # what follows a shard's name is no suffix
    return path.name if "#" in path.name else path.stem


def distinct_names(names: Sequence[str]) -> List[str]:
    """The same names, fit for files, each another in any case of its letters."""
    found: Dict[str, str] = {}
    last: Dict[str, int] = {}
    for name in names:
        safe = safe_name(name)
        distinct, number = safe, last.get(safe.casefold(), 1)
        while distinct.casefold() in found:
            number += 1
            distinct = f"{safe}-{number}"
        found[distinct.casefold()], last[safe.casefold()] = distinct, number
    # the same on disk in a locale that has not all letters
    return [os.fsdecode(name.encode("utf-8")) for name in found.values()]
