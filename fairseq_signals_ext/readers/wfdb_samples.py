"""Read the samples in WFDB signal files: every format of signal(5) of the WFDB applications guide.

`wfdb` reads them only together with its own parser of headers, which refuses many headers of archives. So bytes are
unpacked here with numpy, and FLAC is decoded by `soundfile`, as in `wfdb`.
"""

import contextlib
import math
import os
from typing import Any, Dict, Iterator, List, Optional, Sequence, Union

import numpy as np

from fairseq_signals_ext.common.errors import MissingPackageError, UserError, how_to_install
from fairseq_signals_ext.readers.facts import shown
from fairseq_signals_ext.readers.wfdb_header import Signal

# format -> (samples, bytes) per group
FORMATS = {
    **{"8": (1, 1), "80": (1, 1), "16": (1, 2), "61": (1, 2), "160": (1, 2), "24": (1, 3), "32": (1, 4)},
    **{"212": (2, 3), "310": (3, 4), "311": (3, 4)},
}
# format in FLAC -> bits
COMPRESSED = {"508": 8, "516": 16, "524": 24}
# formats of plain integers: stored type, and the value of 0
_WHOLE = {"16": ("<i2", 0), "61": (">i2", 0), "32": ("<i4", 0), "80": ("u1", 2**7), "160": ("<u2", 2**15)}
_BITS = {**COMPRESSED, "80": 8, "310": 10, "311": 10, "212": 12, "16": 16, "61": 16, "160": 16, "24": 24, "32": 32}
_FLAC = b"fLaC"  # how a file in FLAC begins
_SUBTYPES = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}
_AT_A_TIME = 2**20  # samples of FLAC; libsndfile fails with more than 2**24


def read_counts(path: str, signals: Sequence[Signal], frames: int) -> Union[np.ndarray, List[np.ndarray]]:
    """Return the counts of each signal: per_frame x frames, in the smallest integer type that holds its format.

    If all signals are in one file with one sample per frame and no skew, the result is one array, signals x samples.

    A signal with a skew is moved forward, and its end is marked as invalid.

    Args:
        path: the header; its files are in the same folder.
        signals: after the checks of `wfdb_claims`.

    Raises:
        UserError: a file in FLAC is damaged or differs from the header.
    """
    first = signals[0]
    alike = {(signal.file_name, signal.per_frame, signal.skew) for signal in signals} == {(first.file_name, 1, 0)}
    if alike and first.fmt != "8":
        return np.ascontiguousarray(_in_frames(path, first.file_name, signals, frames).T)
    rows: Dict[str, List[int]] = {}
    for row, signal in enumerate(signals):
        rows.setdefault(signal.file_name, []).append(row)
    found: Dict[int, np.ndarray] = {}
    for name, its_rows in rows.items():
        its = [signals[row] for row in its_rows]
        in_frames = _in_frames(path, name, its, frames)
        start = 0
        for row, signal in zip(its_rows, its):
            counts = in_frames[:, start : start + signal.per_frame].reshape(-1)
            start += signal.per_frame
            found[row] = _with_skew(_summed(counts, signal.initial) if signal.fmt == "8" else counts, signal)
    return [found[row] for row in range(len(signals))]


def _summed(differences: np.ndarray, initial: int) -> np.ndarray:
    """Return counts from differences; the first difference is to the header's initial value."""
    sums = np.cumsum(differences, dtype=np.int64) + initial
    return sums.astype(np.int32)  # overflows like `wfdb`


def invalid_count(fmt: str) -> Optional[int]:
    """Return the count that marks a sample as invalid; None for the format of differences, which has none."""
    return -(2 ** (_BITS[fmt] - 1)) if fmt in _BITS else None


def _with_skew(counts: np.ndarray, signal: Signal) -> np.ndarray:
    if not signal.skew:
        return counts
    late = signal.skew * signal.per_frame
    marker = invalid_count(signal.fmt)
    end = np.full(late, counts[-1] if marker is None else marker, counts.dtype)
    return np.concatenate([counts[late:], end])


def _in_frames(header: str, name: str, signals: Sequence[Signal], frames: int) -> np.ndarray:
    """Return all samples of a file: frames x samples per frame of all its signals."""
    per_frame = sum(signal.per_frame for signal in signals)
    if signals[0].fmt in COMPRESSED:
        return _from_flac(header, name, signals, frames)
    with open(_path(header, name), "rb", buffering=0) as opened:
        opened.seek(signals[0].offset)
        content = opened.read()
    return _unpacked(content, signals[0].fmt, frames * per_frame).reshape(frames, per_frame)


def _unpacked(content: bytes, fmt: str, samples: int) -> np.ndarray:
    """Return a number of samples of a format of fixed width."""
    if fmt == "8":
        return np.frombuffer(content, "i1", samples)
    if fmt in _WHOLE:
        kind, zero = _WHOLE[fmt]
        stored = np.frombuffer(content, kind, samples)
        kept = np.dtype(f"i{stored.dtype.itemsize}")
        # the overflow is intended: it converts unsigned to signed
        return stored.astype(kept, copy=False) - kept.type(-zero) if zero else stored.astype(kept, copy=False)
    group, size = FORMATS[fmt]
    groups = math.ceil(samples / group)
    whole = np.frombuffer(content.ljust(groups * size, b"\0"), "u1", groups * size).reshape(groups, size)
    fields = {"24": _of_24, "212": _of_212, "310": _of_310, "311": _of_311}[fmt](whole.astype(np.int32))
    high = 1 << (_BITS[fmt] - 1)
    signed = (fields.reshape(-1)[:samples] ^ high) - high
    return signed.astype(np.int32 if fmt == "24" else np.int16)


def _of_24(stored: np.ndarray) -> np.ndarray:
    return stored[:, 0] | stored[:, 1] << 8 | stored[:, 2] << 16


def _of_212(stored: np.ndarray) -> np.ndarray:
    first, shared, second = stored.T
    return np.stack([first | (shared & 0x0F) << 8, second | (shared & 0xF0) << 4], axis=1)


def _of_310(stored: np.ndarray) -> np.ndarray:
    """Unpack two words of 16 bits: ten bits of each are a sample, five bits of each are half of the third sample."""
    low, high = stored[:, 0] | stored[:, 1] << 8, stored[:, 2] | stored[:, 3] << 8
    return np.stack([low >> 1 & 0x3FF, high >> 1 & 0x3FF, low >> 11 | high >> 11 << 5], axis=1)


def _of_311(stored: np.ndarray) -> np.ndarray:
    """Unpack a word of 32 bits: three samples of ten bits; the two highest bits are not used."""
    word = stored[:, 0] | stored[:, 1] << 8 | stored[:, 2] << 16 | (stored[:, 3] & 0x3F) << 24
    return np.stack([word & 0x3FF, word >> 10 & 0x3FF, word >> 20 & 0x3FF], axis=1)


def _from_flac(header: str, name: str, signals: Sequence[Signal], frames: int) -> np.ndarray:
    per_frame = signals[0].per_frame
    if any(signal.per_frame != per_frame for signal in signals):
        raise _damaged(header, name, "its signals have different numbers of samples per frame")
    with _opened(header, name) as stream:
        bits = _SUBTYPES.get(stream.subtype, 32)
        if bits > COMPRESSED[signals[0].fmt] or stream.channels != len(signals):
            raise _damaged(header, name, f"{stream.channels} signals of {bits} bits")
        stream.seek(signals[0].offset)
        counts = np.empty((frames * per_frame, len(signals)), np.int32 if bits == 24 else np.int16)
        for start in range(0, len(counts), _AT_A_TIME):
            wanted = counts[start : start + _AT_A_TIME]
            if len(stream.read(out=wanted)) < len(wanted):
                raise _damaged(header, name, "it ends too soon")
    if bits != 16:
        counts >>= 8  # soundfile stores smaller numbers in the high bits
    counts = counts.astype(np.int8) if bits == 8 else counts
    return counts.reshape(frames, per_frame, len(signals)).transpose(0, 2, 1).reshape(frames, -1)


def flac_samples(header: str, name: str, offset: int) -> int:
    """Return the samples per signal that a FLAC file claims to hold, after the first `offset`.

    Raises:
        UserError: it is damaged.
    """
    with _opened(header, name) as stream:
        return max(int(stream.frames) - offset, 0)


@contextlib.contextmanager
def _opened(header: str, name: str) -> Iterator[Any]:
    """Open a `soundfile.SoundFile`; its errors become `UserError`s with the header and the file."""
    try:
        import soundfile
    except ImportError as error:
        raise MissingPackageError(f"{header}: {how_to_install('soundfile')}") from error
    try:
        with open(_path(header, name), "rb") as file:
            is_flac = file.read(len(_FLAC)) == _FLAC
        if not is_flac:  # libsndfile would try other formats, and print messages
            raise _damaged(header, name, "it is not FLAC")
        with soundfile.SoundFile(_path(header, name)) as stream:
            yield stream
    except UserError:
        raise
    except (RuntimeError, OSError, ValueError) as error:  # soundfile's own error is a RuntimeError
        raise _damaged(header, name, shown(error)) from error


def _path(header: str, name: str) -> str:
    return os.path.join(os.path.dirname(header), name)


def _damaged(header: str, name: str, reason: str) -> UserError:
    return UserError(f"{header}: its file {shown(name, 60)!r} cannot be read ({reason}); get the record again")
