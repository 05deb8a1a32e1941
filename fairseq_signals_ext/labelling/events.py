"""Read events of patients, such as laboratory values, from a table; values are numbers, bounds or ranges."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.progress import Progress
from fairseq_signals_ext.labelling.link_settings import LinkSettings
from fairseq_signals_ext.sources.table_problems import TableProblems
from fairseq_signals_ext.sources.text_tables import as_keys, as_texts, place, places_of, read_chunks
from fairseq_signals_ext.sources.times import as_iso_time, is_in_doubt, not_a_time

if TYPE_CHECKING:
    import pandas as pd

# linear in the length of a text: no two neighbouring parts can match the same letters
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_VALUE = re.compile(rf"(<=|>=|<|>|=|≤|≥)?\s*([+-]?{_NUMBER})\s*%?")
_RANGE = re.compile(rf"({_NUMBER})\s*(?:%\s*)?(?:-|–|to)\s*({_NUMBER})\s*%?")
# not three digits, which may be thousands, unless a zero precedes them
_DECIMAL_COMMA = re.compile(r"(?<![\d.,])(\d+),(\d{1,2}|\d{4,}|(?<=(?<!\d)0,)\d{3})(?![\d.,])")
# bounds: the true value is below, at most, equal to, at least or above the number
BOUNDS = {"<": -2, "<=": -1, "": 0, ">=": 1, ">": 2}
_WRITTEN = {"≤": "<=", "≥": ">=", "=": "", None: ""}
# 2020-01-31, alone or with a time; a time with Z or +02:00
_DATE = r"\d{4}-\d\d-\d\d(?:[T ]|$)"
_TIMEZONE = r"[T ]\d.*(?:Z|[+-]\d\d(?::?\d\d)?)$"


@dataclass
class Events:
    """Events in the order of their file.

    Attributes:
        patient: int64, index of the patient in the list for `read_events`.
        time: int64, microseconds since 1970 on the ECGs' clocks.
        value: float64.
        bound: int8, see `BOUNDS`.
        limits: for each column with limits the limit of each event (float64, NaN if there is none).
        counts: numbers of used and left out events; plain data.
        examples: of unreadable values, with their place in the file.
    """

    patient: np.ndarray
    time: np.ndarray
    value: np.ndarray
    bound: np.ndarray
    limits: Dict[str, np.ndarray]
    counts: Dict[str, int]
    examples: Dict[str, str] = field(default_factory=dict)


def parse_values(values: "pd.Series") -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parse values as numbers.

    `<0.01` is the number 0.01 with a bound; `55-60%` is the middle of the range; a percent sign is ignored; `1,5` is
    1.5. Anything else, such as `1,500` (which may be 1500), `ca. 50` or `5 ng/mL`, is not a number.

    Returns:
        numbers (float64, NaN if there is none), bounds (int8, see `BOUNDS`), and which are ranges (bool).
    """
    import pandas as pd

    codes, texts = pd.factorize(as_texts(values))
    parsed = [_parse_value(text) for text in texts]
    numbers = np.array([number for number, _, _ in parsed], np.float64)
    bounds = np.array([bound for _, bound, _ in parsed], np.int8)
    return numbers[codes], bounds[codes], np.array([is_range for _, _, is_range in parsed], bool)[codes]


def _parse_value(text: str) -> Tuple[float, int, bool]:
    text = _DECIMAL_COMMA.sub(r"\1.\2", text)
    match = _VALUE.fullmatch(text)
    if match and np.isfinite(float(match[2])):
        return float(match[2]), BOUNDS[_WRITTEN.get(match[1], match[1])], False
    match = _RANGE.fullmatch(text)
    if match and float(match[1]) <= float(match[2]) < np.inf:
        return (float(match[1]) + float(match[2])) / 2, 0, True
    return np.nan, 0, False


def clock_times(values: "pd.Series", timezone: Optional[str], time_format: Optional[str] = None) -> "pd.Series":
    """Return times as datetime64 without timezone; NaT unless a complete date in ISO 8601 or a format of `as_iso_time`.

    Args:
        time_format: as for `datetime.strptime`; None: one of these formats.
        timezone: times with a timezone are converted to this one; other times are not changed.

    Raises:
        UserError: times have a timezone and `timezone` is None, or is not known.
    """
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(values):
        return values if values.dt.tz is None else _converted(values, timezone)
    texts = as_texts(values)
    if time_format is not None:
        return _by_format(texts, timezone, time_format)
    others = ~texts.str.match(_DATE)
    texts[others] = texts[others].map(as_iso_time)
    texts = texts.where(texts.str.match(_DATE), None)
    zoned = texts.str.contains(_TIMEZONE, na=False).astype(bool)
    times = pd.to_datetime(texts.where(~zoned, None), format="ISO8601", errors="coerce")
    if zoned.any():
        aware = pd.to_datetime(texts[zoned], format="ISO8601", errors="coerce", utc=True)
        times[zoned] = _converted(aware, timezone)
    return times


def _by_format(texts: "pd.Series", timezone: Optional[str], time_format: str) -> "pd.Series":
    import pandas as pd

    if "%z" not in time_format.replace("%%", ""):
        return pd.to_datetime(texts, format=time_format, errors="coerce")
    return _converted(pd.to_datetime(texts, format=time_format, errors="coerce", utc=True), timezone)


def _converted(times: "pd.Series", timezone: Optional[str]) -> "pd.Series":
    if timezone is None:
        raise UserError("times have a timezone, start times of ECGs have none; give the ECGs' with --timezone, as UTC")
    try:
        return times.dt.tz_convert(timezone).dt.tz_localize(None)
    except (KeyError, ValueError) as error:  # zoneinfo's and pytz's own errors are KeyErrors
        raise UserError(f"timezone {timezone!r}: not known; give one such as UTC or Europe/Berlin") from error


def read_events(path: Union[str, Path], settings: LinkSettings, patients: Sequence[str]) -> Events:
    """Read the events of these patients that have a time and a value, and pass the filter.

    Args:
        path: table with one row per event: csv, csv.gz or parquet.
        settings: names of columns, filter and timezone.
        patients: ids, each once; see `as_keys`.

    Raises:
        UserError: the file, a column or a timezone cannot be used, times are ambiguous (all are counted), or no event
            is of one of the patients.
    """
    import pandas as pd

    known = pd.Index(np.array(patients, object))
    counts = dict.fromkeys(_COUNTED, 0)
    examples: Dict[str, str] = {}
    chunks = Progress("events", None, "piece", delay=5).each(read_chunks(path, settings.columns))
    problems = TableProblems()
    parts = [_read_part(path, chunk, settings, known, counts, examples, problems) for chunk in chunks]
    problems.check(path)
    if not counts["of_patients"]:
        found = f"{counts['passed']} of {counts['rows']} events pass the filter, none is of a patient with an ECG"
        raise UserError(f"{path}: {found}; check --filter, and the ids in --patient-column")
    if examples.get("no_time") and not sum(len(part["time"]) for part in parts):
        hint = "write times as 2020-01-31 10:00:00"
        raise UserError(f"{path}: no event has a time that can be read ({examples['no_time']}); {hint}")
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    patient, time, value, bound = (joined.pop(key) for key in ("patient", "time", "value", "bound"))
    limits = {key[len(_LIMIT) :]: limit for key, limit in joined.items()}
    return Events(patient, time, value, bound, limits, counts, examples)


# rows of the file; that pass the filter; of patients with ECGs; left out: without a time, without a value, with a value
# that is not a number; used: as a bound (<0.01), as the middle of a range
_COUNTED = ("rows", "passed", "of_patients", "no_time", "no_value", "not_a_number", "bounds", "ranges")


# prefix for the user's columns of limits, as they may have the names of ours
_LIMIT = "limit "


def _read_part(
    path: Union[str, Path],
    chunk: "pd.DataFrame",
    settings: LinkSettings,
    known: "pd.Index",
    counts: Dict[str, int],
    examples: Dict[str, str],
    problems: TableProblems,
) -> Dict[str, np.ndarray]:
    """Return the events of a piece of the table, by column; adds to the counts, examples and problems."""
    counts["rows"] += len(chunk)
    for column, wanted in settings.filter.items():
        chunk = chunk[as_keys(chunk[column]).isin(wanted)]
    counts["passed"] += len(chunk)
    patient = places_of(as_keys(chunk[settings.patient_column]), known)
    chunk, patient = chunk[patient >= 0], patient[patient >= 0]
    counts["of_patients"] += len(chunk)
    raw_times, raw_values = chunk[settings.time_column], chunk[settings.value_column]
    time = _times(path, raw_times, settings, problems)
    value, bound, is_range = parse_values(raw_values)
    has_time, is_number = time.notna().to_numpy(), ~np.isnan(value)
    empty = (as_texts(raw_values) == "").to_numpy()
    used = has_time & is_number
    left_out = {"no_time": ~has_time, "no_value": has_time & empty, "not_a_number": has_time & ~empty & ~is_number}
    for reason, rows in {**left_out, "bounds": used & (bound != 0), "ranges": used & is_range}.items():
        counts[reason] += int(rows.sum())
    for reason, raw in (("no_time", raw_times), ("not_a_number", raw_values)):
        if left_out[reason].any() and reason not in examples:
            first = raw[left_out[reason]].iloc[:1]
            examples[reason] = f"{place(path, int(first.index[0]))}: {as_texts(first).iloc[0]!r}"
    columns: Dict[str, Any] = {"patient": patient, "value": value, "bound": bound}
    columns["time"] = time.to_numpy("datetime64[us]").astype(np.int64)
    for column in _limit_columns(settings):
        limit, limit_bound, _ = parse_values(chunk[column])
        columns[_LIMIT + column] = np.where(limit_bound == 0, limit, np.nan)
    return {name: column[used] for name, column in columns.items()}


def _times(path: Union[str, Path], values: "pd.Series", settings: LinkSettings, problems: TableProblems) -> "pd.Series":
    column = settings.time_column
    try:
        times = clock_times(values, settings.timezone, settings.time_format)
    except UserError as error:
        raise UserError(f"{path}: column {column!r}: {error}") from error
    if settings.time_format is None:
        unread = as_texts(values[times.isna()])
        in_doubt = unread[unread.map(is_in_doubt).astype(bool)]
        if len(in_doubt):
            first = in_doubt.iloc[0]
            problems.add(column, f"{place(path, int(in_doubt.index[0]))}: {column}: {not_a_time(first)}", len(in_doubt))
    return times


def _limit_columns(settings: LinkSettings) -> List[str]:
    return list(dict.fromkeys(limit.limit for limit in settings.limits if isinstance(limit.limit, str)))
