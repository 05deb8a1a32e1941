"""Read text tables (`.csv`, `.tsv`): one column per lead, with or without a time column; and exports of one lead."""

import re
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional, Sequence

import numpy as np

from fairseq_signals_ext.common.errors import MissingMetadataError, UserError
from fairseq_signals_ext.readers.facts import (
    LEADS_OPTION,
    RATE_OPTION,
    UNIT_OPTION,
    agreed_rate,
    lead_position,
    millivolts,
    rows_of_leads,
    shown,
)
from fairseq_signals_ext.readers.formats import Beginning, Format, GivenMetadata
from fairseq_signals_ext.readers.recording import Recording, signal_and_counts
from fairseq_signals_ext.readers.single_lead import single_lead_layout
from fairseq_signals_ext.readers.sizes import check_values
from fairseq_signals_ext.readers.table_layout import STAMP, Layout, as_shown, cells_of, head_of, layout_of
from fairseq_signals_ext.readers.table_layout import TIME as _TIME
from fairseq_signals_ext.readers.table_layout import name_and_unit as _name_and_unit

_MOST_COLUMNS = 1000
_EMPTY_CELL = {mark: re.compile(rf"(?:^|{mark})[ ]*(?:-[ ]*)?(?:{mark}|\r?\n?$)") for mark in ",;\t"}
_SECONDS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "milliseconds": 1e-3}
_COLUMN = re.compile(r"column ([0-9]+)")  # in numpy's message about a cell
_LINE = re.compile(r"[^,;\t]*[,;\t].*|#?[\w\s.()\[\]/+-]{1,24}")  # a separator, or one short name or number
_NUMBERS = re.compile(r"[\d.eE+\s-]*")
_SEPARATOR, _LONGEST_ROW = re.compile(r"[,;\t]"), 1000
_HALF_A_DAY = 43200.0  # s
_LAST_DAY = date(9000, 1, 1).toordinal()
_LIKELY_RATES = (50.0, 10000.0)  # Hz; a factor below 1000, so at most one of s and ms fits


def read_table(path: Path, given: GivenMetadata) -> List[Recording]:
    """Read a table with one row per sample, columns separated by comma, semicolon or tab (with decimal commas as well).

    A header names the leads, in any order and case, optionally with units (`I (uV)`, `V1 [mV]`, `aVR_mV`) or with a
    line of units below it (PhysioNet's export). Remarks may precede it; a sample rate in them is used. A column `time`,
    `t`, `time (ms)`, `time_s` ... gives the sample rate; without a unit it is in s or ms, depending on which gives a
    plausible rate. A column of time stamps such as `2024-12-31T23:59:59.004` or `0:00.004` gives it as well, and the
    start. Other columns are ignored. Empty cells and `-` are missing samples (NaN).

    Exports of one lead, such as Apple's, have lines of metadata (`Sample Rate,512 hertz`, `Lead,Lead I`, `Unit,µV`, in
    any language) above a column of numbers.

    Args:
        path: the file.
        given: the sample rate, for a table without a time column; names of the columns in their order, for a table
            without a header; the unit, for columns without one (mV is assumed if not all values are integers).

    Returns:
        A list with one recording.

    Raises:
        UserError: a row has a missing, additional or non-numeric value, no column is a lead or two are the same, the
            time steps are not even, or required metadata is missing.
    """
    encoding, lines = head_of(path)
    layout = single_lead_layout(encoding, lines) or layout_of(encoding, lines)
    _check_layout(path, layout, given)
    time = _time_column(path, layout)
    columns = _columns_of_leads(path, layout, time, given)
    places = [column.place for column in columns]
    values = _numbers(path, layout, places if time is None else [*places, time])
    if values.shape[1] == 0:
        raise UserError(f"{path}: it contains no samples; get it again")
    sample_rate = _sample_rate(path, layout, time, values[-1], given)
    samples = list(values[: len(columns)])
    scale = [_millivolts(path, column.unit, given.unit, samples) for column in columns]
    signal, stored = signal_and_counts(samples, scale, [0.0] * len(scale))
    has_units = given.unit is not None or all(column.unit for column in columns)
    recording = Recording(
        record_id=path.stem,
        physical=signal,
        leads=tuple(column.lead for column in columns),
        sample_rate=float(sample_rate),
        stored=stored,
        assumed=() if has_units else ("unit",),
        start_time=layout.start_time or _first_time(lines[layout.skipped :], layout),
    )
    return [recording]


class _Column(NamedTuple):
    """A lead, the index of its column in the table, and its unit in the header."""

    lead: int
    place: int
    unit: Optional[str]


def _check_layout(path: Path, layout: Layout, given: GivenMetadata) -> None:
    if not layout.names and given.leads is None:
        raise MissingMetadataError(
            f"{path}: it has no header with lead names; add one or give them ({LEADS_OPTION})", "leads"
        )
    if not layout.has_values and not any(_is_lead(name) for name in layout.names):
        missing = "it has neither columns named as leads nor lines of numbers"
        raise UserError(f"{path}: it is not an ECG, as {missing}; leave it out")
    if layout.columns > _MOST_COLUMNS:
        many = f"{layout.columns:,} columns, more than {_MOST_COLUMNS:,}"
        raise UserError(f"{path}: it has {many}; keep those of the leads")


def _is_lead(name: str) -> bool:
    return lead_position(_name_and_unit(name)[0]) is not None


def _time_column(path: Path, layout: Layout) -> Optional[int]:
    """Return the index of the time column, preferably of time stamps; None if there is none."""
    times = [column for column, name in enumerate(layout.names) if _TIME.fullmatch(name)]
    times = list(layout.stamps) or times
    if len(times) > 1:
        raise UserError(f"{path}: it has {len(times)} time columns; keep one")
    return times[0] if times else None


def _columns_of_leads(path: Path, layout: Layout, time: Optional[int], given: GivenMetadata) -> List[_Column]:
    """Return the columns of the leads in the order of the leads."""
    names = layout.names or [""] * layout.columns
    others = [column for column in range(layout.columns) if column != time and column not in layout.stamps]
    pairs = [_name_and_unit(names[column]) for column in others]
    columns = [name for name, _ in pairs]
    rows = rows_of_leads(columns, path, given.leads, as_shown(columns))
    return [_Column(lead, others[row], pairs[row][1]) for lead, row in rows.items()]


def _sample_rate(path: Path, layout: Layout, time: Optional[int], times: np.ndarray, given: GivenMetadata) -> float:
    """Return the sample rate in Hz from the times, else from the remarks, else from the user."""
    if time is not None:
        name = "s" if layout.stamps else layout.names[time]
        return agreed_rate(path, _rate(path, times, name, f"column {time + 1}"), given.sample_rate)
    if layout.remarked_rate is not None:
        return agreed_rate(path, layout.remarked_rate, given.sample_rate)
    if given.sample_rate is None:
        raise MissingMetadataError(
            f"{path}: it has no time column; give its sample rate ({RATE_OPTION})", "sample_rate"
        )
    return given.sample_rate


def _numbers(path: Path, layout: Layout, columns: List[int]) -> np.ndarray:
    """Return the values of some columns: columns x samples, float64."""
    check_values(path, len(columns) * _lines(path))
    rows = _Rows(path, layout)
    with open(path, encoding=layout.encoding, errors="replace") as file:
        try:
            return np.loadtxt(
                rows.of(file),
                delimiter=layout.separator,
                usecols=columns,
                comments=None,
                unpack=True,
                ndmin=2,
            )
        except UserError:
            raise
        except ValueError as error:
            # without the value, which may be personal data
            where = f"line {rows.number}" + (
                f", column {found.group(1)}" if (found := _COLUMN.search(str(error))) else ""
            )
            raise UserError(f"{path}: it contains values that are not numbers ({where}); correct it") from error


def _lines(path: Path) -> int:
    """Return an upper limit for the number of lines, much faster than reading them."""
    number = 1
    with open(path, "rb") as file:
        while block := file.read(2**20):
            number += block.count(b"\n") + block.count(b"\r")
    return number


class _Rows:
    """The lines with values, with decimal points and stamps in seconds; `number` is the number of the last line."""

    def __init__(self, path: Path, layout: Layout):
        self._path, self._layout = path, layout
        self.number = 0
        self._day: Optional[int] = None
        self._last = 0.0

    def of(self, lines: Iterator[str]) -> Iterator[str]:
        separator, stamps = self._layout.separator, self._layout.stamps
        for self.number, line in enumerate(lines, start=1):
            if self.number <= self._layout.skipped or not line.strip():
                continue
            is_quoted = '"' in line or "'" in line
            cells = cells_of(line, separator) if is_quoted or stamps else None
            found = line.count(separator) + 1 if cells is None else len(cells)
            if found != self._layout.columns:
                raise UserError(
                    f"{self._path}: line {self.number} has {found} values, not {self._layout.columns}; correct it"
                )
            # an empty cell is a missing sample; a comma that is not the separator is a decimal comma
            if cells is None and _EMPTY_CELL[separator].search(line):
                cells = line.split(separator)
            if cells is not None:
                line = separator.join(self._value(column, cell.strip()) for column, cell in enumerate(cells))
            yield (line if separator == "," else line.replace(",", ".")).replace("\u2212", "-")

    def _value(self, column: int, cell: str) -> str:
        if column in self._layout.stamps:
            return repr(self._seconds(cell))
        return "nan" if cell in ("", "-") else cell.replace(",", ".")

    def _seconds(self, cell: str) -> float:
        """Return s since the start of the first day; a time without a date that jumps back is of the next day."""
        match = STAMP.fullmatch(cell)
        if match is None:
            return float("nan")
        hours, minutes, seconds = (float((text or "0").replace(",", ".")) for text in match.group(4, 5, 6))
        day = _day_of(match)
        self._day = day if self._day is None else self._day
        found = 3600 * hours + 60 * minutes + seconds + (86400 * (day - self._day) if day and self._day else 0)
        while day is None and found < self._last - _HALF_A_DAY:
            found += 2 * _HALF_A_DAY
        self._last = found
        return found


def _day_of(match: "re.Match[str]") -> Optional[int]:
    """Return the day of a stamp as an ordinal number; None if it has no valid date."""
    year, month, day = match.group(1, 2, 3) if match.group(1) else match.group(9, 8, 7)
    try:
        return date(int(year), int(month), int(day)).toordinal() if year else None
    except ValueError:
        return None


def _first_time(rows: Sequence[str], layout: Layout) -> Optional[datetime]:
    """Return the time of the first stamp; None if it has no date."""
    row = next((row for row in rows if row.strip()), None)
    if row is None or not layout.stamps:
        return None
    match = STAMP.fullmatch(cells_of(row, layout.separator)[layout.stamps[0]])
    day = _day_of(match) if match else None
    if match is None or day is None:
        return None
    hours, minutes, seconds = (float((text or "0").replace(",", ".")) for text in match.group(4, 5, 6))
    start = datetime.fromordinal(day)
    return start + timedelta(hours=hours, minutes=minutes, seconds=seconds) if day < _LAST_DAY else None


def _rate(path: Path, times: np.ndarray, name: str, column: str) -> float:
    """Return the rate in Hz from even time steps; the nearest whole number if it fits the times as well."""
    steps = np.diff(times)
    if len(times) < 2 or not np.isfinite(times).all() or not steps.min() > 0:
        raise UserError(f"{path}: the times in {_column(name, column)} do not increase; correct or remove them")
    usual, step = np.median(steps), (times[-1] - times[0]) / len(steps)
    if np.abs(steps - usual).max() > 0.6 * usual:  # times printed with few digits differ by up to half a step
        odd = int(np.abs(steps - usual).argmax())
        found = f"{steps[odd]:.6g} from sample {odd + 1} to the next, elsewhere {usual:.6g}"
        hint = "write a row with empty cells for each sample that is missing, or remove the column and give the rate"
        raise UserError(f"{path}: the steps in {_column(name, column)} are not even ({found}); {hint}")
    seconds = _seconds(path, name, step)
    rate, count = 1 / (step * seconds), np.arange(len(times))
    error, whole_error = (
        np.abs(times - times[0] - count / (hertz * seconds)).max() for hertz in (rate, max(round(rate), 1))
    )
    return float(round(rate)) if rate >= 1 and whole_error <= 2 * error + 1e-9 * times.max() else rate


def _column(name: str, place: str) -> str:
    return f"column {name!r}" if _TIME.fullmatch(name) and name != "s" else place


def _seconds(path: Path, name: str, step: float) -> float:
    """Return s per unit of a time column."""
    match = _TIME.fullmatch(name)
    stated = match and (match.group(1) or match.group(2))
    if stated:
        return _SECONDS[stated.lower()]
    fitting = [seconds for seconds in (1.0, 1e-3) if _LIKELY_RATES[0] <= 1 / (step * seconds) <= _LIKELY_RATES[1]]
    if not fitting:
        raise UserError(f"{path}: column {shown(name)!r} is neither in s nor in ms; name its unit, as in 'time (ms)'")
    return fitting[0]


def _millivolts(path: Path, stated: Optional[str], given: Optional[str], samples: List[np.ndarray]) -> float:
    """Return mV per unit of a column."""
    if stated and given and millivolts(stated) != millivolts(given):
        raise UserError(f"{path}: a column's unit is {shown(stated)}, not {given}; leave the unit out or correct it")
    if not stated and not given and all((np.isnan(row) | (np.rint(row) == row)).all() for row in samples):
        hint = f"write it in the header ('I (uV)') or give it ({UNIT_OPTION})"
        raise MissingMetadataError(f"{path}: it contains integers and no unit; {hint}", "unit")
    factor = millivolts(stated or given or "mV")
    if factor is None:
        raise UserError(f"{path}: the unit {shown(stated or given)!r} is not a voltage; write mV, uV, nV or V")
    return factor


def _is_table(beginning: Beginning) -> bool:
    if not beginning.lines or "\0" in beginning.text or beginning.text.startswith(("<", "{")):
        return False
    lines = beginning.lines
    is_likely = _LINE.fullmatch(lines[0]) is not None or any(map(_is_row, lines))
    return is_likely and not beginning.is_wfdb_header


def _is_row(line: str) -> bool:
    """Return whether all cells after the first are numbers, as in rows below remarks."""
    cells = _SEPARATOR.split(line[:_LONGEST_ROW])[1:]
    return any(cell.strip() for cell in cells) and all(_NUMBERS.fullmatch(cell) for cell in cells)


TABLE = Format(
    "table", (".csv", ".tsv", ".txt"), _is_table, read_table, "a table (.csv) with lead names", one_person=False
)
