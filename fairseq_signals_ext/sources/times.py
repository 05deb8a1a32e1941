"""Parse times in tables from users: all unambiguous formats, or a format that the user gives."""

import re
from datetime import datetime
from typing import Optional

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.readers.facts import shown

_CLOCK = r"(?:[ T]+(?P<hour>\d{1,2})(?P<rest>:\d\d\S*))?"
_DAY_FIRST = re.compile(rf"(?P<day>\d{{1,2}})\.(?P<month>\d{{1,2}})\.(?P<year>\d{{4}}){_CLOCK}")
_YEAR_FIRST = re.compile(rf"(?P<year>\d{{4}})/(?P<month>\d{{1,2}})/(?P<day>\d{{1,2}}){_CLOCK}")
# with the year last, digits 5 and 6 would be 13 to 99 (years 1300 to 9999), which is no month
_DIGITS = re.compile(r"(\d{4})(\d\d)(\d\d)(?:(\d\d)(\d\d)(\d\d)?)?")
_ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]|$)")
_MONTH = r"(?:\d{1,2}|(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*)"
_THREE_PARTS = re.compile(rf"\s*\d{{1,4}}[^\w:]+{_MONTH}[^\w:]+\d{{1,4}}(?!\d)", re.IGNORECASE)
_SAMPLE = datetime(1987, 12, 31)
FORMAT_EXAMPLE = "%d/%m/%Y %H:%M"
_HOW_TO_WRITE = f"write it as 2024-12-31 23:59:59, or give its format, for example --time-format '{FORMAT_EXAMPLE}'"


def as_iso_time(text: str) -> str:
    """Convert a time in an unambiguous format to ISO 8601; return any other text unchanged.

    Such formats are `26.09.2019 12:00` (dates with dots have the day first in all locales), `2017/09/22`, and digits
    only, `20180220` or `20180220030000`. `03/04/2024` is ambiguous, so it is not changed.
    """
    digits = _DIGITS.fullmatch(text)
    if digits:
        year, month, day, hour, minute, second = (part or "00" for part in digits.groups())
        return f"{year}-{month}-{day} {hour}:{minute}:{second}"
    found = _DAY_FIRST.fullmatch(text) or _YEAR_FIRST.fullmatch(text)
    if found is None:
        return text
    clock = f" {found['hour']:0>2}{found['rest']}" if found["hour"] else ""
    return f"{found['year']}-{found['month']:0>2}-{found['day']:0>2}{clock}"


def is_iso_time(text: str) -> bool:
    """Return whether a text begins with a complete date in ISO 8601."""
    return _ISO_DATE.match(text) is not None


def is_in_doubt(text: str) -> bool:
    """Return whether a text looks like a date with an unknown order of day and month, such as `03/04/2024`."""
    return _THREE_PARTS.match(text) is not None and not is_iso_time(as_iso_time(text))


def check_time_format(time_format: str) -> None:
    """Raise a `UserError` unless this is a format of `datetime.strptime` with a complete date."""
    try:
        found = datetime.strptime(_SAMPLE.strftime(time_format), time_format)
    except (ValueError, re.error):
        found = None
    if found is None or found.date() != _SAMPLE.date():
        raise UserError(
            f"time format {time_format!r}: is not one of a whole date; write it as in Python, for example "
            f"'{FORMAT_EXAMPLE}'"
        )


def not_a_time(text: str, time_format: Optional[str] = None) -> str:
    """Return the problem of a text that cannot be read as a time, with a hint."""
    if time_format is not None:
        return f"{shown(text)!r} does not have the format {time_format!r}; correct it or --time-format"
    if is_in_doubt(text):
        return (
            f"{shown(text)!r} is ambiguous (which part is the day?); give its format, for example "
            f"--time-format '{FORMAT_EXAMPLE}'"
        )
    return f"{shown(text)!r} is not a time in a known format; {_HOW_TO_WRITE}"


def time_of(text: str, time_format: Optional[str] = None) -> Optional[datetime]:
    """Parse a time, with its time zone if it has one; None if it is no time or ambiguous.

    Args:
        time_format: as for `datetime.strptime`; None: see `as_iso_time`.
    """
    import pandas as pd

    try:
        if time_format is not None:
            return datetime.strptime(text, time_format)
        iso = as_iso_time(text)
        if not is_iso_time(iso):  # pandas accepts "now", and reads 2020 as its first day
            return None
        try:
            return datetime.fromisoformat(iso)  # twenty times faster
        except ValueError:
            return pd.to_datetime(iso, format="ISO8601").to_pydatetime()
    except ValueError:
        return None
