"""Plain WFDB headers: one segment, one signal file in format 16, in a fraction of the time that `wfdb` takes.

Reading a header with `wfdb` costs more than everything else that is done to a recording together. Most headers of ECG
collections look alike, so these are parsed here; for any other header `parse_plain_header` returns None and `wfdb`
reads it. The format is that of header(5) of the WFDB applications guide.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import List, Optional, Tuple

# every expression is linear in the length of its line: no two neighbours can match the same letters
_WHOLE = r"\d{1,15}"
_NUMBER = r"[-+]?(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})(?:[eE][-+]?\d{1,2})?"
_RECORD_LINE = re.compile(
    rf"[-\w]+[ \t]+(?P<signals>\d{{1,6}})[ \t]+(?P<rate>\d{{1,15}}(?:\.\d{{0,30}})?)[ \t]+(?P<samples>{_WHOLE})"
    r"(?:[ \t]+(?P<time>\d{1,2}:\d\d:\d\d(?:\.\d{1,6})?)[ \t]+(?P<date>\d{1,2}/\d{1,2}/\d{4}))?"
    # dates written in another order are the day of a conversion, and wfdb ignores them as well
    r"(?:[ \t]+\d{1,2}-[A-Za-z]{3}-\d{4}[ \t]+\d{1,2}:\d\d:\d\d)?[ \t]*"
)
_SIGNAL_LINE = re.compile(
    rf"(?P<file>[-\w.]+)[ \t]+16(?:x1)?(?:\+(?P<offset>{_WHOLE}))?"
    rf"[ \t]+(?P<gain>{_NUMBER})(?:\((?P<baseline>-?{_WHOLE})\))?(?:/(?P<units>\w+))?"
    rf"[ \t]+\d+[ \t]+(?P<zero>-?{_WHOLE})[ \t]+-?\d+[ \t]+-?\d+[ \t]+\d+[ \t]+(?P<name>\w[-\w ]*)"
)


@dataclass(frozen=True)
class PlainHeader:
    """What a plain header says.

    Attributes:
        file_name: of the signal file, beside the header.
        offset: bytes before the first sample.
        sample_rate: Hz.
        samples: per signal.
        names, units: one a signal, as written.
        gains: counts a unit.
        baselines: the count at 0.
        start_time: None where the header has no date.
        comments: without their `#`.
    """

    file_name: str
    offset: int
    sample_rate: float
    samples: int
    names: Tuple[str, ...]
    units: Tuple[str, ...]
    gains: Tuple[float, ...]
    baselines: Tuple[int, ...]
    start_time: Optional[datetime]
    comments: Tuple[str, ...]


def parse_plain_header(content: bytes) -> Optional[PlainHeader]:
    """The header, or None if it is anything but plain."""
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        return None
    lines: List[str] = []
    comments: List[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comments.append(stripped.strip("# \t"))
        elif stripped:
            lines.append(stripped)
    record = _RECORD_LINE.fullmatch(lines[0]) if lines else None
    signals = [_SIGNAL_LINE.fullmatch(line) for line in lines[1:]]
    if record is None or not signals or len(signals) != int(record["signals"]):
        return None
    found = [signal for signal in signals if signal is not None]
    files = {(signal["file"], signal["offset"]) for signal in found}
    if len(found) != len(signals) or len(files) != 1:
        return None
    gains = tuple(float(signal["gain"]) for signal in found)
    rate, samples = float(record["rate"]), int(record["samples"])
    start_time = _start_time(record["date"], record["time"])
    # wfdb reads 0 as "not known" and puts defaults in its place
    if 0 in gains or rate == 0 or samples == 0 or (record["date"] and start_time is None):
        return None
    return PlainHeader(
        file_name=found[0]["file"],
        offset=int(found[0]["offset"] or 0),
        sample_rate=rate,
        samples=samples,
        names=tuple(signal["name"] for signal in found),
        units=tuple(signal["units"] or "mV" for signal in found),
        gains=gains,
        baselines=tuple(int(signal["baseline"] or signal["zero"]) for signal in found),
        start_time=start_time,
        comments=tuple(comments),
    )


def _start_time(date: Optional[str], time: Optional[str]) -> Optional[datetime]:
    if date is None or time is None:
        return None
    day, month, year = (int(number) for number in date.split("/"))
    hour, minute, second = time.split(":")
    whole, _, fraction = second.partition(".")
    try:
        return datetime(year, month, day, int(hour), int(minute), int(whole), int(fraction.ljust(6, "0") or 0))
    except ValueError:
        return None
