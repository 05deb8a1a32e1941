"""Files that a command could not use: their summary on the terminal, and the exit status."""

import csv
from pathlib import Path
from typing import Dict, List

_SHOWN = 3


def read_rejected(file: Path) -> List[Dict[str, str]]:
    """Rows of a `rejected.csv`; none if there is no such file."""
    if not file.is_file():
        return []
    with open(file, encoding="utf-8", newline="") as rows:
        return list(csv.DictReader(rows))


def print_rejected(file: Path, rows: List[Dict[str, str]], name: str = "file") -> int:
    """Print the number of rejected files and the first three reasons; returns the exit status: 1 if there are any.

    Args:
        file: the `rejected.csv` with all of them.
        rows: the rows of this run.
        name: the column that names a file.
    """
    if not rows:
        return 0
    print(f"{file}: {len(rows)} rejected")
    for row in rows[:_SHOWN]:
        print(f"  {row[name]}: {row['reason']}")
    if len(rows) > _SHOWN:
        print(f"  and {len(rows) - _SHOWN} more")
    return 1
