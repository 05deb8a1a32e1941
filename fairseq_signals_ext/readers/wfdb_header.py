"""Parse WFDB headers: record line, signal lines, segment lines and remarks.

The format is described in header(5) of the WFDB applications guide. Deviations that occur in archives are read as well:
a record name with a suffix or a folder, invalid dates, invalid checksums, and characters that are not ASCII. No file is
opened here, and parsing time is linear in the header's length.
"""

import functools
import math
import re
from datetime import datetime
from typing import List, NamedTuple, Optional, Sequence, Tuple

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.readers.facts import shown

MOST_SIGNALS, MOST_SEGMENTS = 1000, 2000
MOST_LINES = 1 + MOST_SEGMENTS  # of a header, without its remarks
NO_FILE = "~"  # in place of a file: a gap between segments, or a signal that is only described
_LONGEST_LINE, _LONGEST_NAME = 1000, 255
_GAIN, _RATE = 200.0, 250.0  # defaults if a header has none, or 0
# every expression takes linear time: no two neighbouring parts can match the same letters
_WHOLE = r"\d{1,15}"
_NUMBER = r"[-+]?(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})(?:[eE][-+]?\d{1,3})?"
_RECORD_LINE = re.compile(
    rf"(?P<name>\S{{1,{_LONGEST_NAME}}})[ \t]+(?P<signals>{_WHOLE})"
    # rate, with the rate and the value of a counter
    rf"(?:[ \t]+(?P<rate>{_NUMBER})(?:/{_NUMBER})?(?:\({_NUMBER}\))?(?:[ \t]+(?P<samples>{_WHOLE}))?)?"
    r"(?:[ \t]+(?P<rest>\S.*))?"
)
# in this order and with slashes; dates in other notations are usually days of a conversion
_TIME = re.compile(
    r"(?P<hour>\d{1,2}):(?P<minute>\d{1,2}):(?P<second>\d{1,2})(?:\.(?P<fraction>\d{1,6})\d{0,12})?[ \t]+"
    r"(?P<day>\d{1,2})/(?P<month>\d{1,2})/(?P<year>\d{4})(?:[ \t].*)?"
)
_FORMAT = re.compile(rf"(?P<fmt>\d{{1,4}})(?:x(?P<frame>{_WHOLE}))?(?::(?P<skew>{_WHOLE}))?(?:\+(?P<offset>{_WHOLE}))?")
_SCALE = re.compile(rf"(?P<gain>{_NUMBER})(?:\((?P<baseline>[-+]?{_WHOLE})\))?(?:/(?P<units>\S*))?")
# resolution, zero, initial value, checksum and block size of a signal, all optional; its name follows
_WHAT_FOLLOWS = re.compile(
    r"(?:\d{1,15}(?:[ \t]+|$)(?:(?P<zero>-?\d{1,15})(?:[ \t]+|$)(?:(?P<initial>[-+]?\d{1,15})(?:[ \t]+|$)"
    r"(?:(?:[-+]?[\d.]{1,20}|[nN][aA][nN]|[-?])(?:[ \t]+|$)(?:\d{1,15}(?:[ \t]+|$))?)?)?)?)?"
)
_SEGMENT_LINE = re.compile(rf"(?P<name>\S{{1,{_LONGEST_NAME}}})[ \t]+(?P<length>{_WHOLE})")
_FOLDERS = re.compile(r"[/\\]")
# for recognising a header: record name (with segments), number of signals, rate, samples, up to four words
_LIKE_A_RECORD_LINE = re.compile(
    r"[\w./\\~-]+\s+\d{1,15}(?:\s+\d[\d.e+-]*(?:/[\d.()+-]+)?(?:\s+\d{1,15}(?:\s+[\w:./-]+){0,4})?)?"
)


class Signal(NamedTuple):
    """A signal line.

    Attributes:
        file_name: of its signal file, beside the header.
        fmt: the number of its format.
        per_frame: samples per frame.
        skew: frames by which the signal is delayed.
        offset: bytes before the file's first sample.
        gain: counts per unit.
        baseline: the count at 0.
        units: as written.
        initial: the first count according to the header.
        name: as written.
    """

    file_name: str
    fmt: str
    per_frame: int
    skew: int
    offset: int
    gain: float
    baseline: int
    units: str
    initial: int
    name: str


class Segment(NamedTuple):
    """A segment line: the name of its header without suffix, `~` for a gap, and its length in frames."""

    name: str
    length: int


class Header(NamedTuple):
    """The content of a header.

    Attributes:
        rate: frames per second (Hz); None if not given.
        frames: number of frames; None if not given.
        start_time: None if missing or invalid.
        signals: the signals of a record without segments.
        segments: the segments; None if the record has none.
        width: number of signals according to the record line.
        remarks: without their `#`.
    """

    rate: Optional[float]
    frames: Optional[int]
    start_time: Optional[datetime]
    signals: Tuple[Signal, ...]
    segments: Optional[Tuple[Segment, ...]]
    width: int
    remarks: Tuple[str, ...]

    @property
    def frame_rate(self) -> float:
        """Frames per second (Hz), or the format's default if not given."""
        return _RATE if self.rate is None else self.rate

    @property
    def files(self) -> Tuple[str, ...]:
        """Names of its files in the same folder: signal files, or headers of segments."""
        if self.segments is None:
            names = [signal.file_name for signal in self.signals]
        else:
            names = [f"{segment.name}.hea" for segment in self.segments if segment.name != NO_FILE]
        return tuple(dict.fromkeys(name for name in names if name != NO_FILE))


def parse_header(content: bytes, where: object) -> Header:
    """Parse the header of a record.

    Args:
        content: of its file.
        where: the file, for the start of messages.

    Raises:
        UserError: a line is too long or not valid, or there are too many lines or another number than the first states.
    """
    lines, remarks = _lines(content)
    record = _RECORD_LINE.fullmatch(lines[0]) if lines and len(lines[0]) <= _LONGEST_LINE else None
    if record is None:
        raise _no_line(lines[0] if lines else "", where)
    following = lines[1:]
    signals: Tuple[Signal, ...] = ()
    segments: Optional[Tuple[Segment, ...]] = None
    if _has_segments(lines):
        segments = _segments(following, where)
        _check_number(record["name"].rpartition("/")[2], len(segments), "segments", where)
    else:
        signals = _signals(following, where)
        _check_number(record["signals"], len(signals), "signals", where)
    rate, samples = record["rate"], record["samples"]
    return Header(
        rate=None if rate is None else float(rate),
        frames=int(samples or 0) or None,
        start_time=_start_time(record["rest"]),
        signals=signals,
        segments=segments,
        width=int(record["signals"]),
        remarks=tuple(remarks),
    )


def named_files(content: bytes) -> Tuple[str, ...]:
    """Return the names of the files of a header: signal files, or headers of segments.

    Like `Header.files`, but only the first word of each line is used, so that it works for damaged headers as well.
    Empty if it is not a header.
    """
    lines, _ = _lines(content)
    if not lines or len(lines) > MOST_LINES or not is_record_line(lines[0]):
        return ()
    names = {_beside(_first_word(line)) for line in lines[1:] if "\0" not in line} - {NO_FILE}
    return tuple(sorted(f"{_stem(name)}.hea" for name in names) if _has_segments(lines) else sorted(names))


def has_segments(content: bytes) -> bool:
    """Return whether a header is that of a record with segments."""
    lines, _ = _lines(content)
    return bool(lines) and _has_segments(lines)


def is_record_line(line: str) -> bool:
    """Return whether a line may be the first of a WFDB header."""
    return len(line) <= _LONGEST_LINE and _LIKE_A_RECORD_LINE.fullmatch(line.strip()) is not None


def _lines(content: bytes) -> Tuple[List[str], List[str]]:
    """Return the lines that are not remarks, and the remarks without `#`."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    lines: List[str] = []
    remarks: List[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            remarks.append(stripped.strip("# \t"))
        elif stripped:
            lines.append(stripped)
    return lines, remarks


def _first_word(line: str) -> str:
    return line[: _LONGEST_NAME + 1].split(None, 1)[0]


def _has_segments(lines: Sequence[str]) -> bool:
    """Return whether a record name `a/2` means two segments; if signal lines follow, it is record 2 in folder `a`."""
    stem, _, number = _first_word(lines[0]).rpartition("/")
    if not (stem and number.isdecimal()):
        return False
    return all(len(line[:_LONGEST_LINE].split(None, 3)) < 3 for line in lines[1:])


def _segments(lines: Sequence[str], where: object) -> Tuple[Segment, ...]:
    _check_most(lines, MOST_SEGMENTS, "segments", where)
    found = []
    for line in lines:
        fields = _SEGMENT_LINE.fullmatch(line) if len(line) <= _LONGEST_LINE else None
        if fields is None:
            raise _no_line(line, where)
        found.append(Segment(_stem(_beside(fields["name"])), int(fields["length"])))
    return tuple(found)


def _signals(lines: Sequence[str], where: object) -> Tuple[Signal, ...]:
    _check_most(lines, MOST_SIGNALS, "signals", where)
    found = []
    for line in lines:
        signal = _signal(line) if len(line) <= _LONGEST_LINE else None
        if signal is None:
            raise _no_line(line, where)
        found.append(signal)
    return tuple(found)


def _signal(line: str) -> Optional[Signal]:
    fields = line.split(None, 3)
    if len(fields) < 2 or len(fields[0]) > _LONGEST_NAME:
        return None
    described = _description(*fields[:3])
    following = fields[3] if len(fields) > 3 else ""
    if described is None:
        # a name may replace the gain, but not an invalid number
        described = _description(*fields[:2]) if len(fields) > 2 and fields[2][0].isalpha() else None
        following = " ".join(fields[2:])
    if described is None:
        return None
    name, fmt, per_frame, skew, offset, gain, baseline, units = described
    numbers = _WHAT_FOLLOWS.match(following)
    zero, initial, end = (numbers[1], numbers[2], numbers.end()) if numbers else (None, None, 0)
    if baseline is None:
        baseline = int(zero or 0)
    return Signal(name, fmt, per_frame, skew, offset, gain, baseline, units, int(initial or 0), following[end:])


@functools.lru_cache(maxsize=1000)
def _description(
    name: str, kind: str, scale: str = f"{_GAIN}"
) -> Optional[Tuple[str, str, int, int, int, float, Optional[int], str]]:
    """Parse the first words of a signal line; cached, as they are the same in most lines of a header.

    The baseline is None if it is the zero of the converter.
    """
    found, scaled = _FORMAT.fullmatch(kind), _SCALE.fullmatch(scale)
    if found is None or scaled is None or not math.isfinite(float(scaled["gain"])):
        return None
    numbers = int(found["frame"] or 0) or 1, int(found["skew"] or 0), int(found["offset"] or 0)
    baseline = None if scaled["baseline"] is None else int(scaled["baseline"])
    return _beside(name), found["fmt"], *numbers, float(scaled["gain"]) or _GAIN, baseline, scaled["units"] or "mV"


def _beside(name: str) -> str:
    """Return the last part of a path: files are in the folder of their header, even if it names another folder."""
    return _FOLDERS.split(name)[-1]


def _stem(name: str) -> str:
    return name[: -len(".hea")] if name.endswith(".hea") else name


def _check_most(lines: Sequence[str], most: int, what: str, where: object) -> None:
    if len(lines) > most:
        raise UserError(f"{where}: it has {len(lines):,} {what}, more than {most:,}; cut it into several records")


def _check_number(stated: str, found: int, what: str, where: object) -> None:
    if stated.lstrip("0") != str(found):  # also if both are 0, as this is no ECG
        raise UserError(
            f"{where}: its first line claims {shown(stated, 20)} {what}, but {found} follow; get the header again"
        )


def _no_line(line: str, where: object) -> UserError:
    return UserError(f"{where}: its line {shown(line, 40)!r} is not a line of a WFDB header; fix it")


def _start_time(text: Optional[str]) -> Optional[datetime]:
    found = _TIME.fullmatch(text) if text else None
    if found is None:
        return None
    year, month, day = (int(found[name]) for name in ("year", "month", "day"))
    hour, minute, second = (int(found[name]) for name in ("hour", "minute", "second"))
    try:
        return datetime(year, month, day, hour, minute, second, int((found["fraction"] or "").ljust(6, "0")))
    except ValueError:  # such as the month 13
        return None
