"""Text tables (`.csv`, `.tsv`): a column a lead, with or without a time column."""

import re
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.errors import NotSaidError, UserError
from fairseq_signals_ext.readers.counts import signal_and_counts
from fairseq_signals_ext.readers.facts import (
    LEADS_OPTION,
    RATE_OPTION,
    UNIT_OPTION,
    agreed_rate,
    millivolts,
    rows_of_leads,
    shown,
)
from fairseq_signals_ext.readers.recording import Recording
from fairseq_signals_ext.readers.sizes import check_values

_LONGEST_NAME = 64  # letters of a column's name that are looked at; what comes after them names no lead and no unit
_LONGEST_HEADER = 2**20  # letters
_MOST_COLUMNS = 1000
_WITH_UNIT = re.compile(r"(.*?)\s*(?:[(\[]\s*(\S+?)\s*[)\]]|[\s_/](\S*(?:v|volts?)))", re.IGNORECASE)
_TIME_UNIT = "(s|sec|seconds|ms|msec|milliseconds)"
_TIME = re.compile(
    rf"(?:time(?:stamp)?|t)(?:[\s_/]*[(\[]?\s*{_TIME_UNIT}\s*[)\]]?)?|{_TIME_UNIT}",
    re.IGNORECASE,
)
_EMPTY_CELL = {mark: re.compile(rf"(?:^|{mark})[ ]*(?:{mark}|\r?\n?$)") for mark in ",;\t"}
_SECONDS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "milliseconds": 1e-3}
_LIKELY_RATES = (50.0, 10000.0)  # Hz; a factor below 1000, so that of seconds and ms at most one fits


class _Layout(NamedTuple):
    encoding: str
    separator: str
    names: List[str]  # of the columns; empty without a header
    columns: int


def read_table(
    path: Path, sample_rate: Optional[float] = None, leads: Optional[Sequence[str]] = None, unit: Optional[str] = None
) -> Recording:
    """Read a table with a row a sample, columns separated by comma, semicolon or tab (with decimal commas as well).

    A header names the leads, in any order and case, each with its unit if it likes (`I (uV)`, `V1 [mV]`, `aVR_mV`).
    A column `time`, `t`, `time (ms)`, `time_s` ... gives the sample rate; without a unit it is in s or ms, whichever
    makes the rate one that an ECG can have. Other columns are ignored.

    Args:
        path: the file.
        sample_rate: Hz, for a table without a time column.
        leads: names of the columns in their order, for a table without a header.
        unit: a voltage, for columns that do not say it; mV is assumed if not all values are integers.

    Raises:
        UserError: a row has a missing, an additional or no numeric value, no column is a lead or two are the same,
            the time steps are not even, or something that has to be given is missing.
    """
    layout = _layout(path)
    if not layout.names and leads is None:
        raise NotSaidError(f"{path}: it has no header with lead names; add one or give them ({LEADS_OPTION})", "leads")
    if layout.columns > _MOST_COLUMNS:
        columns = f"{layout.columns:,} columns, more than {_MOST_COLUMNS:,}"
        raise UserError(f"{path}: it has {columns}; keep those of the leads")
    names = layout.names or [""] * layout.columns
    times = [column for column, name in enumerate(names) if _TIME.fullmatch(name)]
    if len(times) > 1:
        raise UserError(f"{path}: it has {len(times)} time columns; leave one")
    others = [column for column in range(layout.columns) if column not in times]
    pairs = [_name_and_unit(names[column]) for column in others]
    rows = rows_of_leads([name for name, _ in pairs], path, leads)
    values = _numbers(path, layout, [others[row] for row in rows.values()] + times)
    if values.shape[1] == 0:
        raise UserError(f"{path}: it holds no samples; get it again")
    if times:
        sample_rate = agreed_rate(path, _rate(path, values[-1], names[times[0]]), sample_rate)
    if sample_rate is None:
        raise NotSaidError(f"{path}: it has no time column; give its sample rate ({RATE_OPTION})", "sample_rate")
    samples = list(values[: len(rows)])
    scale = [_millivolts(path, pairs[row][1], unit, samples) for row in rows.values()]
    signal, stored = signal_and_counts(samples, scale, [0.0] * len(scale))
    has_units = unit is not None or all(pairs[row][1] for row in rows.values())
    return Recording(
        record_id=path.stem,
        physical=signal,
        leads=tuple(rows),
        sample_rate=float(sample_rate),
        stored=stored,
        assumed=() if has_units else ("unit",),
    )


def _layout(path: Path) -> _Layout:
    with open(path, "rb") as file:
        utf_16 = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
    encoding = "utf-16" if utf_16 else "utf-8-sig"
    with open(path, encoding=encoding, errors="replace") as file:
        first = file.readline(_LONGEST_HEADER)
        while first and not first.strip():
            first = file.readline(_LONGEST_HEADER)
    if len(first) == _LONGEST_HEADER:
        raise UserError(f"{path}: its first line has more than {_LONGEST_HEADER:,} letters; give a row per sample")
    first = first.strip("\r\n")
    separator = max("\t;,", key=first.count)
    cells = [cell.strip().strip("\"'").strip()[:_LONGEST_NAME] for cell in first.lstrip("#").split(separator)]
    numeric = all(_is_number(cell if separator == "," else cell.replace(",", ".")) for cell in cells)
    return _Layout(encoding, separator, [] if numeric else cells, len(cells))


def _name_and_unit(name: str) -> Tuple[str, Optional[str]]:
    match = _WITH_UNIT.fullmatch(name)
    return (match.group(1), match.group(2) or match.group(3)) if match else (name, None)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(path: Path, layout: _Layout, columns: List[int]) -> np.ndarray:
    """columns x samples, float64."""
    check_values(path, len(columns) * _lines(path))
    with open(path, encoding=layout.encoding, errors="replace") as file:
        try:
            return np.loadtxt(
                _rows(path, file, layout),
                delimiter=layout.separator,
                usecols=columns,
                comments=None,
                unpack=True,
                ndmin=2,
            )
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{path}: it does not hold numbers throughout ({shown(error)}); correct it") from error


def _lines(path: Path) -> int:
    """At most so many lines are in a file, in a small part of the time that reading takes."""
    number = 1
    with open(path, "rb") as file:
        while block := file.read(2**20):
            number += block.count(b"\n") + block.count(b"\r")
    return number


def _rows(path: Path, lines: Iterator[str], layout: _Layout) -> Iterator[str]:
    """The lines with values, numbers with decimal points."""
    at_header = bool(layout.names)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if at_header:
            at_header = False
            continue
        found = line.count(layout.separator) + 1
        if found != layout.columns:
            raise UserError(f"{path}: line {number} has {found} values, not {layout.columns}; correct it")
        # an empty cell is a sample that is missing; a comma that does not separate is a decimal one
        if _EMPTY_CELL[layout.separator].search(line):
            line = layout.separator.join(cell.strip() or "nan" for cell in line.split(layout.separator))
        yield line if layout.separator == "," else line.replace(",", ".")


def _rate(path: Path, times: np.ndarray, name: str) -> float:
    """Hz, from even time steps; the nearest whole number if it fits the times as well."""
    steps = np.diff(times)
    if len(times) < 2 or not np.isfinite(times).all() or not steps.min() > 0:
        raise UserError(f"{path}: the times in column {shown(name)!r} do not increase; correct or remove them")
    usual, step = np.median(steps), (times[-1] - times[0]) / len(steps)
    if np.abs(steps - usual).max() > 0.6 * usual:  # times printed with few digits differ by up to half a step
        raise UserError(f"{path}: the steps in column {shown(name)!r} are not even; fill its gaps or remove it")
    seconds = _seconds(path, name, step)
    rate, count = 1 / (step * seconds), np.arange(len(times))
    error, whole_error = (
        np.abs(times - times[0] - count / (hertz * seconds)).max() for hertz in (rate, max(round(rate), 1))
    )
    return float(round(rate)) if rate >= 1 and whole_error <= 2 * error + 1e-9 * times.max() else rate


def _seconds(path: Path, name: str, step: float) -> float:
    """s in one unit of a time column."""
    match = _TIME.fullmatch(name)
    said = match and (match.group(1) or match.group(2))
    if said:
        return _SECONDS[said.lower()]
    fitting = [seconds for seconds in (1.0, 1e-3) if _LIKELY_RATES[0] <= 1 / (step * seconds) <= _LIKELY_RATES[1]]
    if not fitting:
        raise UserError(f"{path}: column {shown(name)!r} is neither in s nor in ms; name its unit, as in 'time (ms)'")
    return fitting[0]


def _millivolts(path: Path, said: Optional[str], given: Optional[str], samples: List[np.ndarray]) -> float:
    """mV in one unit of a column."""
    if said and given and millivolts(said) != millivolts(given):
        raise UserError(f"{path}: a column's unit is {shown(said)}, not {given}; leave the unit out or correct it")
    if not said and not given and all((np.isnan(row) | (np.rint(row) == row)).all() for row in samples):
        cure = f"write it in the header ('I (uV)') or give it ({UNIT_OPTION})"
        raise NotSaidError(f"{path}: it holds integers and no unit; {cure}", "unit")
    factor = millivolts(said or given or "mV")
    if factor is None:
        raise UserError(f"{path}: the unit {shown(said or given)!r} is no voltage; write mV, uV, nV or V")
    return factor
