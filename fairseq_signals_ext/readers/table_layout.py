"""Find the layout of a text table: remarks, names of columns, a line of units, and the first line of numbers."""

import csv
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.readers.facts import lead_position, millivolts

LONGEST_NAME = 64  # letters of a column's name that are used
_LONGEST_LINE = 2**20  # letters
_MOST_LINES = 200  # before the numbers
_WITH_UNIT = re.compile(r"(.*?)\s*(?:[(\[]\s*(\S+?)\s*[)\]]|[\s_/](\S*(?:v|volts?)))", re.IGNORECASE)
_TIME_UNIT = "(s|sec|seconds|ms|msec|milliseconds)"
TIME = re.compile(
    rf"(?:elapsed[\s_]?)?(?:time(?:stamp)?|t)(?:[\s_/]*[(\[]?\s*{_TIME_UNIT}\s*[)\]]?)?|{_TIME_UNIT}",
    re.IGNORECASE,
)
# a time of the day or since the start, with or without a date before or after it; in square brackets (PhysioNet)
STAMP = re.compile(
    r"\[?(?:([0-9]{4})-([0-9]{2})-([0-9]{2})[ T])?(?:([0-9]{1,3}):)?([0-9]{1,2}):([0-9]{2}(?:[.,][0-9]{0,9})?)"
    r" ?(?:Z|[+-][0-9]{2}:?[0-9]{2})?(?: ([0-9]{2})/([0-9]{2})/([0-9]{4}))?\]?"
)
_NUMBER = re.compile(
    r"[-+\u2212]?(?:[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?(?:nan|inf(?:inity)?)", re.I
)
_REMARKED_RATE = re.compile(
    r"(?:sampl[a-z]{0,10}|abtast[a-z]{0,12}|\bfs)\b[^0-9]{0,40}([0-9]{1,6}(?:[.,][0-9]{1,6})?)", re.I
)
# names that may be shown in messages; any other cell may contain personal data
_SHOWN = re.compile(
    r".{0,3}|(?:ecg|ekg|lead|ch|chan|channel|signal|column|value|sample|index)s?[ _.-]?[0-9]{0,3}", re.I
)


@dataclass(frozen=True)
class Layout:
    """The layout of a table.

    Attributes:
        encoding, separator: of the text.
        names: of the columns, each with its unit if there is a line of units; empty without a header.
        columns: number of columns.
        skipped: number of lines before the first row of values.
        stamps: columns of time stamps.
        has_values: whether the first lines include a row of values.
        remarked_rate: sample rate in the remarks, Hz.
        start_time: start time in the remarks.
    """

    encoding: str
    separator: str
    names: List[str]
    columns: int
    skipped: int
    stamps: Tuple[int, ...] = ()
    has_values: bool = True
    remarked_rate: Optional[float] = None
    start_time: Optional[datetime] = None


def head_of(path: Path) -> Tuple[str, List[str]]:
    """Return the encoding of a text, and its first lines, including empty ones.

    Raises:
        UserError: a line is longer than any header, or all are empty.
    """
    with open(path, "rb") as file:
        utf_16 = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
    encoding, letters = "utf-16" if utf_16 else "utf-8-sig", 0
    lines: List[str] = []
    with open(path, encoding=encoding, errors="replace") as file:
        while len(lines) < _MOST_LINES and letters < _LONGEST_LINE and (line := file.readline(_LONGEST_LINE)):
            letters += len(line)
            lines.append(line.strip("\r\n"))
            if len(line) == _LONGEST_LINE:
                which = "its first line" if len(lines) == 1 else f"line {len(lines)}"
                raise UserError(f"{path}: {which} has more than {_LONGEST_LINE:,} letters; give a row per sample")
    if not any(line.strip() for line in lines):
        raise UserError(f"{path}: its first {len(lines)} lines are empty; remove them")
    return encoding, lines


def layout_of(encoding: str, lines: Sequence[str]) -> Layout:
    """Return the layout of a table from its first lines; at least one must not be empty."""
    used = [number for number, line in enumerate(lines) if line.strip()]
    separator = _separator(lines, used)
    rows = {number: cells_of(lines[number], separator) for number in used}
    first = next((number for number in used if is_row(rows[number], separator)), None)
    header = _header(rows, used, first)
    if first == used[0] or (header is None and first is not None):
        columns = rows[first] if first is not None else []
        rate = _rate_of(lines[: first or 0])
        return Layout(encoding, separator, [], len(columns), first or 0, _stamps(columns, separator), True, rate)
    header = used[0] if header is None else header
    after = [number for number in used if number > header]
    names, skipped = rows[header], header + 1
    if after and is_units(names, rows[after[0]]):
        names = [_joined(name, unit) for name, unit in zip(names, rows[after[0]])]
        skipped = after[0] + 1
        after = after[1:]
    stamps = _stamps(rows[after[0]], separator) if after and len(rows[after[0]]) == len(names) else ()
    rate = _rate_of(lines[:header])
    return Layout(encoding, separator, names, len(names), skipped, stamps, first is not None, rate)


def _separator(lines: Sequence[str], used: List[int]) -> str:
    """Return the separator of the first row of numbers, or of the first line if there is no such row."""
    for mark in "\t;,":
        found = next((place for place, number in enumerate(used) if is_row(cells_of(lines[number], mark), mark)), None)
        if found is not None and lines[used[found]].count(mark):
            above = lines[used[found - 1]].strip("#\"' ") if found else ""
            is_name = lead_position(name_and_unit(above[:LONGEST_NAME])[0]) is not None or millivolts(above)
            return "\t" if is_name and mark not in above else mark  # one column with decimal commas
    return max("\t;,", key=lines[used[0]].count)


def cells_of(line: str, separator: str) -> List[str]:
    """Return the cells of a line without quotes, cut to `LONGEST_NAME`."""
    plain = line.strip().lstrip("#").strip() if line.lstrip().startswith("#") else line
    if '"' in plain:
        try:
            cells = next(csv.reader([plain], delimiter=separator, skipinitialspace=True))
        except (csv.Error, StopIteration):
            cells = plain.split(separator)
    else:
        cells = plain.split(separator)
    return [cell.strip().strip("\"'").strip()[:LONGEST_NAME] for cell in cells]


def is_number(cell: str, separator: str) -> bool:
    """Return whether a cell is a number; a decimal comma is allowed if commas do not separate columns."""
    return (separator != "," or "," not in cell) and _NUMBER.fullmatch(cell) is not None


def is_row(cells: Sequence[str], separator: str) -> bool:
    """Return whether these are values of a sample: numbers, times, and marks of missing values."""
    numbers = sum(is_number(cell, separator) for cell in cells)
    others = sum(cell in ("", "-") or STAMP.fullmatch(cell) is not None for cell in cells)
    return numbers > 0 and numbers + others == len(cells)


def is_units(names: Sequence[str], cells: Sequence[str]) -> bool:
    """Return whether a line below the names of the columns contains the units of the leads."""
    units = [unit for name, unit in zip(names, cells) if lead_position(name_and_unit(name)[0]) is not None]
    return len(names) == len(cells) and bool(units) and all(millivolts(unit.strip("()[]")) for unit in units)


def name_and_unit(name: str) -> Tuple[str, Optional[str]]:
    """Split a column's name into the name and the unit (None if it has none)."""
    match = _WITH_UNIT.fullmatch(name)
    return (match.group(1), match.group(2) or match.group(3)) if match else (name, None)


def as_shown(names: Sequence[str]) -> List[str]:
    """Return names of columns for a message: leads and words for signals; others become `column 3`."""
    return [
        name if _SHOWN.fullmatch(name) or lead_position(name) is not None or TIME.fullmatch(name) else f"column {place}"
        for place, name in enumerate(names, start=1)
    ]


def _header(rows: "dict[int, List[str]]", used: List[int], first: Optional[int]) -> Optional[int]:
    """Return the header line: the first line with the name of a lead and as many cells as the first row."""
    before = [number for number in used if first is None or number < first]
    leads = {
        number: sum(lead_position(name_and_unit(cell)[0]) is not None for cell in rows[number]) for number in before
    }
    fitting = [number for number in before if first is None or len(rows[number]) == len(rows[first])]
    # a row that does not fit the names is reported as an error later
    candidates = [number for number in fitting if leads[number]] or [number for number in before if leads[number] > 1]
    if candidates:
        return candidates[0]
    # names of other signals stand right above the values
    return fitting[-1] if first is not None and fitting and fitting[-1] == before[-1] else None


def _stamps(cells: Sequence[str], separator: str) -> Tuple[int, ...]:
    found = (column for column, cell in enumerate(cells) if STAMP.fullmatch(cell))
    return tuple(column for column in found if not is_number(cells[column], separator))


def _joined(name: str, unit: str) -> str:
    plain = unit.strip("()[]")
    is_known = millivolts(plain) is not None or TIME.fullmatch(plain)
    return f"{name} ({plain})" if plain and is_known and name_and_unit(name)[1] is None else name


def _rate_of(remarks: Sequence[str]) -> Optional[float]:
    """Return the rate in Hz from a line such as `Sampling rate: 500 Hz`; None if there is none or several."""
    found = {
        float(match.group(1).replace(",", ".")) for line in remarks if (match := _REMARKED_RATE.search(line[:1000]))
    }
    return found.pop() if len(found) == 1 else None
