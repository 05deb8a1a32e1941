"""What a WFDB header claims, checked against its signal files and limits before `wfdb` believes it.

`wfdb` reserves memory for whatever a header says (skews, gaps, samples per frame), and its expressions take time with
the square or cube of a line's length. After these checks both are in proportion to the files.
"""

import math
import re
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, List, Sequence

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.readers.facts import shown
from fairseq_signals_ext.readers.sizes import check_claim, check_values

MOST_BYTES = 2**22  # of a header, which is mostly remarks if it is that long
_MOST_SIGNALS, _MOST_SEGMENTS = 1000, 2000
MOST_LINES = 1 + _MOST_SEGMENTS  # of a header, without its remarks
_LONGEST_LINE = 1000
# a name without blanks, and a number that follows it: where a line begins so, the expressions of wfdb do not go back
_BEGINNING = re.compile(r"\S{1,255}[ \t]+\d")
# format -> samples, and the bytes that hold them
_BYTES = {
    **{"8": (1, 1), "80": (1, 1), "16": (1, 2), "61": (1, 2), "160": (1, 2), "24": (1, 3), "32": (1, 4)},
    **{"212": (2, 3), "310": (3, 4), "311": (3, 4)},
}
_COMPRESSED = ("508", "516", "524")
_PADDING = 4  # bytes; writers fill up the last group of formats with several samples per group
_LARGEST = 2.0**53  # of a count; beyond it, numbers are no longer exact


def check_header_size(header: Path) -> None:
    """Raise a `UserError` for a header that is no file, empty, or far too long."""
    if not header.is_file():
        raise UserError(f"{header}: no such file; give a WFDB header (.hea) that exists")
    size = header.stat().st_size
    if not size:
        raise UserError(f"{header}: the file is empty; get it again")
    if size > MOST_BYTES:
        raise UserError(f"{header}: it has {size:,} bytes, too many for a WFDB header; get it again")


def checked_header(wfdb: ModuleType, header: Path) -> Any:
    """The `wfdb.Record` or `wfdb.MultiRecord` that a header describes, without signals, if its claims can be true.

    Raises:
        UserError: it has too many lines or too long ones, or claims what its files cannot hold.
        Exception: whatever `wfdb` raises where it cannot read it.
    """
    check_header_size(header)
    lines = _lines(header)
    return (_checked_segments if _has_segments(lines) else _checked_signals)(wfdb, header, lines)


def _has_segments(lines: Sequence[str]) -> bool:
    return bool(lines) and "/" in lines[0].split()[0]


def _checked_signals(wfdb: ModuleType, header: Path, lines: Sequence[str]) -> Any:
    _check_lines(header, lines, _MOST_SIGNALS, "signals")
    record = wfdb.rdheader(str(header.with_suffix("")))
    if record.n_sig != len(lines) - 1 or record.n_sig == 0:
        follow = f"{shown(record.n_sig, 20)} signals, but {len(lines) - 1} follow"
        raise UserError(f"{header}: its first line says {follow}; get it again")
    _check_numbers(header, record)
    _check_files(header, record)
    return record


def _lines(header: Path) -> List[str]:
    """Lines that are no remarks, as wfdb reads them."""
    text = header.read_bytes().decode("ascii", errors="ignore")
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _check_lines(header: Path, lines: Sequence[str], most: int, what: str) -> None:
    if len(lines) - 1 > most:
        raise UserError(f"{header}: it has {len(lines) - 1:,} {what}, more than {most:,}; cut it into several records")
    for line in lines:
        if len(line) > _LONGEST_LINE or not _BEGINNING.match(line):
            raise UserError(f"{header}: its line {shown(line, 40)!r} is no line of a WFDB header; mend it")


def _check_numbers(header: Path, record: Any) -> None:
    """Numbers that Python and numpy can calculate with."""
    numbers = {
        "sample rate": [record.fs],
        "number of samples": [record.sig_len],
        "gain": record.adc_gain,
        "baseline": record.baseline,
        "skew": record.skew,
        "byte offset": record.byte_offset,
        "number of samples per frame": record.samps_per_frame,
        "initial value": record.init_value,
    }
    for what, values in numbers.items():
        for value in values:
            if value is not None and not abs(value) <= _LARGEST:
                raise UserError(f"{header}: its {what} {shown(value, 30)} is too large; mend it")


def _check_files(header: Path, record: Any) -> None:
    """Raise a `UserError` unless each signal file is as long as the header says, and what it holds fits the memory.

    A file may be up to four bytes longer in formats that put several samples into one group of bytes. Files in FLAC
    are only compared with a limit.
    """
    files = [header.parent / name for name in record.file_name]
    sizes = {file: file.stat().st_size for file in files}
    needed: Dict[Path, int] = {}
    frames = record.sig_len if record.sig_len is not None else _frames(record, files[0], sizes[files[0]])
    per_frame = [frame or 1 for frame in record.samps_per_frame]
    for file, fmt, frame in zip(files, record.fmt, per_frame):
        if fmt not in _BYTES and fmt not in _COMPRESSED:
            raise UserError(f"{header}: signal format {shown(fmt, 20)!r} is not known; get the record in another one")
        needed[file] = needed.get(file, 0) + frames * frame
    for file, fmt, offset in dict(zip(files, zip(files, record.fmt, record.byte_offset))).values():
        if fmt in _COMPRESSED:
            check_claim(header, needed[file], sizes[file])
        elif record.sig_len is not None:
            _check_length(header, record, file, fmt, needed[file], offset or 0, sizes[file])
    largest = max(skew or 0 for skew in record.skew)
    if largest and largest >= frames:
        raise UserError(f"{header}: its skew of {largest} samples is longer than its signals; mend it")
    check_values(header, 2 * frames * sum(per_frame) if largest else frames * sum(per_frame))


def _frames(record: Any, file: Path, size: int) -> int:
    """How many there are where the header leaves it to the first signal file, as wfdb does it."""
    samples, bytes_of_them = _BYTES.get(record.fmt[0], (1, 1))
    of_this = sum(
        frame or 1 for name, frame in zip(record.file_name, record.samps_per_frame) if name == record.file_name[0]
    )
    return max(size - (record.byte_offset[0] or 0), 0) * samples // (bytes_of_them * of_this)


def _check_length(header: Path, record: Any, file: Path, fmt: str, samples: int, offset: int, found: int) -> None:
    group, bytes_of_it = _BYTES[fmt]
    size = offset + math.ceil(samples * bytes_of_it / group)
    if found != size and not (group > 1 and size < found <= size + _PADDING):
        raise UserError(
            f"{header}: its file {shown(file.name, 60)!r} has {found} bytes, but {shown(record.sig_len, 30)} samples "
            f"a lead need {shown(size, 30)}; get the record again"
        )


def _checked_segments(wfdb: ModuleType, header: Path, lines: Sequence[str]) -> Any:
    _check_lines(header, lines, _MOST_SEGMENTS, "segments")
    record = wfdb.rdheader(str(header.with_suffix("")))
    total = sum(record.seg_len)
    if record.n_seg != len(lines) - 1 or not 0 < record.n_sig <= _MOST_SIGNALS:
        raise UserError(f"{header}: its first line does not fit the {len(lines) - 1} segments that follow; mend it")
    if record.sig_len is not None and record.sig_len != total:
        claims = f"{shown(record.sig_len, 30)} samples, its segments have {shown(total, 30)}"
        raise UserError(f"{header}: its first line says {claims}; mend it")
    if record.layout == "fixed" and "~" in record.seg_name:
        layout = "a gap ('~') needs a first segment of length 0 that lists the signals"
        raise UserError(f"{header}: {layout}; write it as a record of variable layout")
    held = _check_each_segment(wfdb, header, record)
    check_claim(header, total * record.n_sig, held)
    return record


def _check_each_segment(wfdb: ModuleType, header: Path, record: Any) -> int:
    """Bytes of all signal files."""
    checked: Dict[str, Any] = {}
    held = 0
    for number, (name, length) in enumerate(zip(record.seg_name, record.seg_len)):
        if name == "~":
            continue
        layout = number == 0 and record.layout == "variable"
        segment = checked.get(name)
        if segment is None:
            segment = checked[name] = _checked_segment(wfdb, header.parent / f"{name}.hea", layout)
            if not layout:
                held += sum((header.parent / file).stat().st_size for file in set(segment.file_name))
        if not layout and segment.sig_len is not None and segment.sig_len != length:
            said = f"segment {shown(name, 40)!r} has {segment.sig_len} samples, not {shown(length, 30)}"
            raise UserError(f"{header}: its {said}; mend it")
        if layout and len(segment.sig_name or ()) != record.n_sig:
            raise UserError(f"{header}: its layout {shown(name, 40)!r} has not its {record.n_sig} signals; mend it")
    return held


def _checked_segment(wfdb: ModuleType, header: Path, layout: bool) -> Any:
    if not header.is_file():
        raise UserError(f"{header}: no such file, but a segment of a record; put it beside the record")
    check_header_size(header)
    lines = _lines(header)
    if _has_segments(lines):
        raise UserError(f"{header}: it has segments, but is itself a segment; mend it")
    if not layout:
        return _checked_signals(wfdb, header, lines)
    _check_lines(header, lines, _MOST_SIGNALS, "signals")
    return wfdb.rdheader(str(header.with_suffix("")))
