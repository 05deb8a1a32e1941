"""Check the claims of a WFDB header against its signal files and limits before memory is reserved.

Skews, gaps and samples per frame may claim any size. After these checks memory is in proportion to the files.
"""

import math
import os
import stat
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple, Union

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.readers.facts import shown
from fairseq_signals_ext.readers.sizes import check_claim, check_values
from fairseq_signals_ext.readers.wfdb_header import MOST_SIGNALS, NO_FILE, Header, Segment, Signal, parse_header
from fairseq_signals_ext.readers.wfdb_samples import COMPRESSED, FORMATS, flac_samples

MOST_BYTES = 2**22  # of a header; long ones consist mostly of remarks
_PADDING = 4  # bytes; writers fill up the last group of formats with several samples per group


def read_header(path: Union[str, Path]) -> Header:
    """Read the header in a file.

    Raises:
        UserError: it is not a file, empty, far too long, or no header.
    """
    size = _size_of(path)
    if size is None:
        raise UserError(f"{path}: no such file; give a WFDB header (.hea) that exists")
    if size > MOST_BYTES:
        raise UserError(f"{path}: it has {size:,} bytes, too many for a WFDB header; get it again")
    try:
        with open(path, "rb", buffering=0) as file:
            content = file.read(size)
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror}); check the path and its permissions") from error
    if not content:
        raise UserError(f"{path}: the file is empty; get it again")
    return parse_header(content, path)


def checked_frames(path: str, header: Header) -> int:
    """Return the number of frames of a record without segments, after a check of the sizes of its files.

    A file may be up to four bytes longer in formats that put several samples into one group of bytes. Files in FLAC
    are only compared with a limit.

    Raises:
        UserError: a file is missing, has another length than in the header, or the header claims too much.
    """
    files = _files(path, header.signals)
    sizes = {name: _size(path, name) for name in files}
    first = header.signals[0].file_name
    frames = _frames(path, files[first], sizes[first]) if header.frames is None else header.frames
    total = 0
    for name, signals in files.items():
        samples = frames * sum([signal.per_frame for signal in signals])
        total += samples
        if signals[0].fmt in COMPRESSED:
            check_claim(path, samples, sizes[name])
        elif header.frames is not None or name != first:
            _check_length(path, signals[0], frames, samples, sizes[name])
    largest = max([signal.skew for signal in header.signals])
    if largest and largest >= frames:
        raise UserError(f"{path}: its skew of {largest} samples is longer than its signals; fix it")
    check_values(path, 2 * total if largest else total)
    return frames


def _files(path: str, signals: Sequence[Signal]) -> Dict[str, List[Signal]]:
    """Return the signals of each file; a `UserError` if the formats in a file differ or are unknown."""
    files: Dict[str, List[Signal]] = {}
    for signal in signals:
        if signal.file_name not in files:
            files[signal.file_name] = []
        files[signal.file_name].append(signal)
    for name, those in files.items():
        formats = {signal.fmt for signal in those}
        if len(formats) > 1:
            raise UserError(f"{path}: its file {shown(name, 60)!r} has several formats; correct the header")
        fmt = formats.pop()
        if fmt not in FORMATS and fmt not in COMPRESSED:
            raise UserError(f"{path}: signal format {fmt!r} is not known; get the record in another one")
    return files


def _size_of(path: Union[str, Path]) -> Optional[int]:
    """Return the size of a file in bytes; None if there is none. A single system call, as records may be millions."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # not a valid name
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _size(path: str, name: str) -> int:
    size = _size_of(os.path.join(os.path.dirname(path), name))
    if size is None:
        raise UserError(f"{path}: its file {shown(name, 60)!r} is missing; put it beside the header")
    return size


def _frames(path: str, signals: Sequence[Signal], size: int) -> int:
    """Return the number of frames from the size of the first signal file."""
    if signals[0].fmt in COMPRESSED:
        return flac_samples(path, signals[0].file_name, signals[0].offset) // signals[0].per_frame
    group, bytes_of_it = FORMATS[signals[0].fmt]
    per_frame = sum(signal.per_frame for signal in signals)
    return max(size - signals[0].offset, 0) * group // (bytes_of_it * per_frame)


def _check_length(path: str, signal: Signal, frames: int, samples: int, found: int) -> None:
    group, bytes_of_it = FORMATS[signal.fmt]
    size = signal.offset + math.ceil(samples * bytes_of_it / group)
    if found != size and not (group > 1 and size < found <= size + _PADDING):
        raise UserError(
            f"{path}: its file {shown(signal.file_name, 60)!r} has {found} bytes, but {shown(frames, 30)} samples "
            f"per lead need {shown(size, 30)}; get the record again"
        )


def checked_segments(path: str, header: Header) -> List[Tuple[Segment, Header]]:
    """Return the segments of a record (without gaps) with their headers, after a check of the sizes of their files.

    A layout segment (the first, without samples, which lists the signals) is included.

    Raises:
        UserError: they do not fit the record or each other, see also `checked_frames`.
    """
    segments = header.segments or ()
    total = sum(segment.length for segment in segments)
    if not 0 < header.width <= MOST_SIGNALS:
        raise UserError(f"{path}: its first line does not fit the {len(segments)} segments that follow; fix it")
    if header.frames is not None and header.frames != total:
        claims = f"{shown(header.frames, 30)} samples, its segments have {shown(total, 30)}"
        raise UserError(f"{path}: its first line claims {claims}; fix it")
    is_variable = bool(segments) and segments[0].length == 0
    if not is_variable and any(segment.name == NO_FILE for segment in segments):
        layout = "a gap ('~') needs a first segment of length 0 that lists the signals"
        raise UserError(f"{path}: {layout}; write it as a record of variable layout")
    found: Dict[str, Header] = {}
    folder, held = os.path.dirname(path), 0
    for number, segment in enumerate(segments):
        name = segment.name
        if name == NO_FILE:
            continue
        if not name.isprintable():
            raise UserError(f"{path}: the name of its segment {number + 1} cannot be shown; correct it")
        is_layout = is_variable and number == 0
        if name not in found:
            found[name] = _segment(os.path.join(folder, f"{name}.hea"), is_layout)
            held += 0 if is_layout else _held(folder, found[name])
        _check_segment(path, header, segment, found[name], is_layout)
    per_frame = max((sum(signal.per_frame for signal in one.signals) for one in found.values()), default=1)
    check_claim(path, total * max(per_frame, header.width), held)
    return [(segment, found[segment.name]) for segment in segments if segment.name != NO_FILE]


def _segment(path: str, layout: bool) -> Header:
    if _size_of(path) is None:
        raise UserError(f"{path}: no such file, but a segment of a record; put it beside the record")
    header = read_header(path)
    if header.segments is not None:
        raise UserError(f"{path}: it has segments, but is itself a segment; fix it")
    return header if layout else header._replace(frames=checked_frames(path, header))


def _held(folder: str, header: Header) -> int:
    return sum(_size_of(os.path.join(folder, name)) or 0 for name in header.files)


def _check_segment(path: str, header: Header, segment: Segment, its: Header, layout: bool) -> None:
    if not layout and its.frames != segment.length:
        difference = f"segment {shown(segment.name, 40)!r} has {its.frames} samples, not {shown(segment.length, 30)}"
        raise UserError(f"{path}: its {difference}; fix it")
    if layout and len(its.signals) != header.width:
        raise UserError(f"{path}: its layout {shown(segment.name, 40)!r} has not its {header.width} signals; fix it")
