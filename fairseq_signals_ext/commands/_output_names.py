"""How the files are called that commands leave for each recording."""

import os
import re
from pathlib import Path
from typing import Dict, List, Sequence


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
        safe = re.sub(r"[^\w.-]+", "_", name).lstrip(".-") or "recording"
        distinct, number = safe, last.get(safe.lower(), 1)
        while distinct.lower() in found:
            number += 1
            distinct = f"{safe}-{number}"
        found[distinct.lower()], last[safe.lower()] = distinct, number
    # the same on disk in a locale that has not all letters
    return [os.fsdecode(name.encode("utf-8")) for name in found.values()]
