"""What files of devices claim, checked before a library reads them: none may take minutes or gigabytes.

The libraries reserve memory for what a file says, or take memory per element or time with the square of a length.
Each check here is linear in the size of the file, and a small part of the time that reading it takes. Where a file is
damaged, the reader says what is wrong.
"""

import base64
import binascii
import contextlib
import struct
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import numpy as np

from fairseq_signals_ext.readers.dicom_claims import check_dicom
from fairseq_signals_ext.readers.mfer_claims import check_mfer
from fairseq_signals_ext.readers.sizes import check_claim, check_size

# what reading takes at most, in sizes of the file (measured with files of nothing but the shortest values)
_COPIES = {"EDF": 50.0, "ISHNE": 50.0, "SCP-ECG": 50.0, "Mortara XML": 125.0}
_USUAL_COPIES = 100.0
_MOST_ELEMENTS = 300_000  # tags and attributes of an XML file, brackets of a JSON file
_MOST_LEADS = 64  # of an SCP-ECG record
_MOST_SAMPLES = 4_000_000  # of all its leads together, as each takes microseconds


def check_claims(path: Path, kind: str) -> None:
    """Refuse a file whose reading would take far more memory or time than its size.

    Args:
        kind: its format, a key of `clinical.PARSERS`.

    Raises:
        UserError: it is too large for the memory.
        ValueError: it claims more than it can hold, or has far more parts than an ECG.
    """
    check_size(path, _COPIES.get(kind, _USUAL_COPIES))
    check = _CHECKS.get(kind, _check_markup)
    if check is not None:
        check(path)


def _check_json(path: Path) -> None:
    content = path.read_bytes()
    _check_number("brackets", content.count(b"[") + content.count(b"{"), _MOST_ELEMENTS)


def _check_markup(path: Path) -> None:
    content = path.read_bytes()
    # each byte of the signs is the same in all encodings that a header can be recognised in
    _check_number("elements and attributes", content.count(b"<") + content.count(b"="), _MOST_ELEMENTS)
    if b"<!ATTLIST" in content.replace(b"\0", b""):  # given to each element anew, however long
        raise ValueError("declarations of attributes are not allowed")


def _check_number(what: str, number: int, most: int) -> None:
    if number > most:
        raise ValueError(f"it has {number:,} {what}, more than {most:,}")


# --- Philips: base64 of LZW with codes of 10 bits, in which 1 kB can stand for 600 kB ---

_CODES = 1 << 10


def check_xli(path: Path, element: Any) -> None:
    """Refuse a Philips file whose compressed samples expand to far more than the file is large.

    Args:
        element: that holds the samples, as `xmltodict` gives it.

    Raises:
        UserError: they do.
    """
    expanded = 0
    for text in _texts(element):
        # samples in digits, or damaged ones, are left to the reader
        with contextlib.suppress(binascii.Error, ValueError):
            raw = base64.b64decode("".join(text.split()), validate=True)
            expanded += sum(_expanded(chunk) for chunk in _chunks(raw))
    check_claim(path, expanded // 2, path.stat().st_size)


def _texts(element: Any) -> Iterator[str]:
    if isinstance(element, str):
        yield element
    elif isinstance(element, (dict, list)):
        for part in element.values() if isinstance(element, dict) else element:
            yield from _texts(part)


def _chunks(raw: bytes) -> Iterator[bytes]:
    """What may be the leads of an XLI payload."""
    at = 0
    while at + 8 <= len(raw):
        size = struct.unpack_from("<i", raw, at)[0]
        if not 0 < size <= len(raw) - at - 8:
            return
        yield raw[at + 8 : at + 8 + size]
        at += 8 + size


def _expanded(chunk: bytes) -> int:
    """Bytes that a chunk of LZW codes expands to, from the lengths of its strings alone."""
    bits = np.unpackbits(np.frombuffer(chunk, np.uint8))
    codes = bits[: len(bits) // 10 * 10].reshape(-1, 10) @ (1 << np.arange(9, -1, -1))
    lengths: List[int] = [1] * 256
    total = previous = 0
    for code in codes.tolist():
        if code > _CODES - 2 or (code >= len(lengths) and not previous):
            break
        length = lengths[code] if code < len(lengths) else previous + 1
        if previous and len(lengths) < _CODES - 1:
            lengths.append(previous + 1)
        total, previous = total + length, length
    return total


# --- SCP-ECG: sections by number and place, leads of at most 65,535 bytes each ---


def _check_scp(path: Path) -> None:
    content = path.read_bytes()
    sections = _scp_sections(content)
    three, four = sections.get(3, b""), sections.get(4, b"")
    leads = three[0] if three else 0
    _check_number("leads", leads, _MOST_LEADS)
    if len(three) < 2 + 9 * leads:
        return
    ranges = [struct.unpack_from("<II", three, 2 + 9 * lead) for lead in range(leads)]
    samples = [max(end - start + 1, 0) for start, end in ranges]
    _check_sizes(sections.get(6, b""), samples)
    _check_number("samples", sum(samples), _MOST_SAMPLES)
    beat = 0
    if len(four) >= 6 and len(sections.get(5, b"")) >= 6:
        milliseconds, _, beats = struct.unpack_from("<HHH", four)
        microseconds = struct.unpack_from("<H", sections[5], 2)[0] or 1
        beat = round(milliseconds * 1000 / microseconds)
        _check_sizes(sections[5], [beat] * leads)
        # each beat is added to each lead
        _check_number("samples in beats", beats * leads * max(beat, 1000), 2 * 10**9)


def _scp_sections(content: bytes) -> Dict[int, bytes]:
    """Contents of sections 3 to 6."""
    found: Dict[int, bytes] = {}
    length = struct.unpack_from("<I", content, 10)[0] if len(content) >= 14 else 0
    for at in range(22, min(6 + length, len(content)) - 9, 10):
        number, size, start = struct.unpack_from("<HII", content, at)
        if not 3 <= number <= 6 or not size or not start:
            continue
        if number in found:
            raise ValueError(f"section {number} is there twice")
        found[number] = content[start - 1 + 16 : start - 1 + size]
    return found


def _check_sizes(section: bytes, samples: List[int]) -> None:
    """A sample takes a bit at least."""
    if len(section) < 6 + 2 * len(samples):
        return
    sizes = struct.unpack_from(f"<{len(samples)}H", section, 6)
    for size, number in zip(sizes, samples):
        if number > 8 * size:
            raise ValueError(f"a lead claims {number:,} samples in {size:,} bytes")


_CHECKS: Dict[str, Optional[Callable[[Path], None]]] = {
    "DICOM": check_dicom,
    "SCP-ECG": _check_scp,
    "MFER": check_mfer,
    "Kardia JSON": _check_json,
    "EDF": None,  # a signal's samples are as many as the file holds
    "ISHNE": None,
}
