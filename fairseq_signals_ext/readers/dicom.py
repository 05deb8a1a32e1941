"""Read DICOM with `ecgdatakit`, one part per multiplex group.

Before that, the lengths, number, depth and channels of its elements are checked without reading values.
"""

import contextlib
import io
import struct
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.readers.clinical import Decoder, with_age
from fairseq_signals_ext.readers.formats import Beginning
from fairseq_signals_ext.readers.parts import Part

_MOST_ELEMENTS = 50_000  # an ECG has some thousand
_DEEPEST = 16
_MOST_CHANNELS = 256
_UNDEFINED = 0xFFFFFFFF
_CHANNELS = (0x003A, 0x0005)
_ITEM, _END_OF_ITEM, _END_OF_SEQUENCE = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
# types with a length of four bytes after two reserved bytes
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_BIG_ENDIAN = b"1.2.840.10008.1.2.2"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_HEAD = 8192  # bytes that show whether it is DICOM
_FIRST_GROUPS = (2, 8)  # file meta information, identification: every data set begins with one of these
_ELEMENTS_SEEN = 3
_LONGEST_SEEN = 4096  # bytes of an element with which a data set begins
_LONGEST_OFFSET = 1e9  # s
# for distinguishing padding from a signal that has the same value by chance
_LEADS_AT_ONCE = 3  # fewer leads may have the value at once by chance
_SHORTEST_RUN = 0.04  # s
_LONGER = 2  # than the signal stays at any other value nearby
_NEARBY = 5  # counts


def _check_dicom(path: Path) -> None:
    """Check that the elements are not longer than the file, too many, too deep, or for too many channels.

    Raises:
        ValueError: they are, or the file is deflated (which would be expanded without a limit).
    """
    _ElementChecker(path.read_bytes()).check()


def _data_set_start(head: bytes) -> Optional[int]:
    """Return where the elements of a DICOM file begin (after preamble and mark, if any); None if it is not DICOM.

    Args:
        head: its first bytes, `_HEAD` of a longer file.
    """
    if head[128:132] == b"DICM":
        return 132
    if head[:4] == b"DICM":
        return 4
    ways = (("<", True), ("<", False), (">", True))  # big-endian elements always contain their types
    return 0 if any(_begins(head, order, explicit) for order, explicit in ways) else None


def _has_mark(beginning: Beginning) -> bool:
    return beginning.head[128:132] == b"DICM"  # with any preamble


def _is_data_set(beginning: Beginning) -> bool:
    return _data_set_start(beginning.head) is not None


def _begins(head: bytes, order: str, explicit: bool) -> bool:
    """Return whether the bytes are elements of the first groups in the order of their tags."""
    at, last = 0, (0, 0)
    for number in range(_ELEMENTS_SEEN):
        if at + 8 > len(head):
            return False
        tag: Tuple[int, int] = struct.unpack_from(f"{order}HH", head, at)
        if tag <= last or (number == 0 and tag[0] not in _FIRST_GROUPS) or tag[0] > 0x20:
            return False
        if explicit and not (head[at + 4 : at + 6].isalpha() and head[at + 4 : at + 6].isupper()):
            return False
        is_long = explicit and head[at + 4 : at + 6] in _LONG
        start = at + (12 if is_long else 8)
        if start > len(head):
            return False
        place, kind = (at + 8, "I") if is_long else (at + 6, "H") if explicit else (at + 4, "I")
        (length,) = struct.unpack_from(f"{order}{kind}", head, place)
        if length > _LONGEST_SEEN or length % 2:
            return False
        at, last = start + length, tag
    return True


class _ElementChecker:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self._left = _MOST_ELEMENTS

    def check(self) -> None:
        at, syntax = _data_set_start(self._content[:_HEAD]) or 0, b""
        # the first group is always little-endian with types
        while at + 8 <= len(self._content) and struct.unpack_from("<H", self._content, at)[0] == 2:
            tag, _, start, length = self._element(at, "<", True)
            if tag == (2, 0x10):
                syntax = self._content[start : start + length].rstrip(b"\0 ")
            at = start + length
        if syntax == _DEFLATED:
            raise ValueError("a deflated DICOM file is not supported, store it uncompressed")
        order = ">" if syntax == _BIG_ENDIAN or (not syntax and self._begins_big_endian(at)) else "<"
        self._elements(at, len(self._content), order, self._is_explicit(at), 0)

    def _begins_big_endian(self, at: int) -> bool:
        """Return whether the first group is small only in big-endian order; pydicom uses this if no syntax is given."""
        return self._is_explicit(at) and self._content[at + 1 : at + 2] > b"\3"

    def _is_explicit(self, at: int) -> bool:
        """Return whether an element contains its type; pydicom checks this with any transfer syntax."""
        return b"AA" <= self._content[at + 4 : at + 6] <= b"ZZ"

    def _element(self, at: int, order: str, explicit: bool) -> Tuple[Tuple[int, int], bytes, int, int]:
        """Return tag, type, start of the value and its length for the element at this place."""
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"it has more than {_MOST_ELEMENTS:,} elements")
        content = self._content
        if at + 8 > len(content):
            raise ValueError("an element is cut short")
        tag: Tuple[int, int] = struct.unpack_from(f"{order}HH", content, at)
        kind, start = b"", at + 8
        if not explicit or tag[0] == 0xFFFE or not self._is_explicit(at):
            (length,) = struct.unpack_from(f"{order}I", content, at + 4)
            kind = b"" if tag[0] == 0xFFFE else _kind(tag)
        else:
            kind = content[at + 4 : at + 6]
            (length,) = struct.unpack_from(f"{order}H", content, at + 6)
            if kind in _LONG:
                if at + 12 > len(content):
                    raise ValueError("an element is cut short")
                (length,), start = struct.unpack_from(f"{order}I", content, at + 8), at + 12
        if length != _UNDEFINED and start + length > len(content):
            raise ValueError(f"element {tag[0]:04x},{tag[1]:04x} is longer than the file")
        return tag, kind, start, length

    def _elements(self, at: int, end: int, order: str, explicit: bool, depth: int) -> int:
        """Check the elements up to `end` or the end of an item; return where they end."""
        explicit = explicit and self._is_explicit(at)
        while at + 8 <= end:  # fewer bytes are no element
            tag, kind, start, length = self._element(at, order, explicit)
            if tag in (_END_OF_ITEM, _END_OF_SEQUENCE):
                return start
            if tag == _CHANNELS:
                self._check_channels(kind, self._content[start : start + length], order)
            if length == _UNDEFINED and kind in (b"OB", b"OW"):  # a picture in pieces, not elements
                at = self._pieces(start, end, order)
            elif length == _UNDEFINED:
                # a sequence in a value of unknown type is implicit
                at = self._items(start, end, order, explicit and kind != b"UN", depth + 1)
            else:
                at = start + length
                if kind == b"SQ":
                    self._items(start, at, order, explicit, depth + 1)
        return at

    def _pieces(self, at: int, end: int, order: str) -> int:
        while at + 8 <= end:
            tag, _, start, length = self._element(at, order, True)
            at = start if length == _UNDEFINED else start + length
            if tag != _ITEM:
                break
        return at

    def _items(self, at: int, end: int, order: str, explicit: bool, depth: int) -> int:
        if depth > _DEEPEST:
            raise ValueError(f"it has more than {_DEEPEST} sequences within one another")
        while at + 8 <= end:
            tag, _, start, length = self._element(at, order, explicit)
            if tag != _ITEM:
                return start
            if length == _UNDEFINED:
                at = self._elements(start, end, order, explicit, depth)
            else:
                self._elements(start, start + length, order, explicit, depth)
                at = start + length
        return at

    @staticmethod
    def _check_channels(kind: bytes, value: bytes, order: str) -> None:
        text = value.strip(b"\0 ")
        if kind in (b"IS", b"DS") or text.isdigit():
            number = float(text[:20] or b"0")
        else:
            number = int.from_bytes(value[:8], "little" if order == "<" else "big")
        if number > _MOST_CHANNELS:
            raise ValueError(f"it has more than {_MOST_CHANNELS} channels")


def _kind(tag: Tuple[int, int]) -> bytes:
    """Return the type of an element that does not contain it."""
    from pydicom.datadict import dictionary_has_tag, dictionary_VR

    number = tag[0] << 16 | tag[1]
    return dictionary_VR(number).encode() if dictionary_has_tag(number) else b""


def _dicom_parts(parser: Any, path: Path) -> Any:
    """Return a parser of DICOM files, with or without preamble, that collects a part per multiplex group."""

    class Parts(parser):
        def parse(self, file: Path) -> Any:
            self.parts: List[Part] = []
            data = _read_dicom(file)
            _refuse_without_waveform(path, data)
            return self._parse_dataset(data, file)

        def _read_patient(self, data: Any, acquired: Optional[datetime], meta: Dict[str, Any]) -> Any:
            stated = super()._read_patient(data, None, meta)
            return with_age(stated, lambda: super(Parts, self)._read_patient(data, acquired, meta), meta)

        def _read_group(self, group: Any, index: int, little_endian: bool) -> Any:
            padding = _remove_padding_value(group, little_endian)
            read = super()._read_group(group, index, little_endian)
            if read is None:
                return None
            leads, rate = read["leads"], read["sampling_frequency"]
            if padding is not None:
                _mark(leads, padding, rate)
            words = f"{read['label']} {group.get('WaveformOriginality') or ''}"
            original = "DERIVED" not in str(group.get("WaveformOriginality") or "").upper()
            self.parts.append(Part(leads, rate, _group_start(group), words=words, original=original))
            return read

    return Parts()


def _read_dicom(path: Path) -> Any:
    import pydicom

    content = path.read_bytes()
    mark = 4 if content.startswith(b"DICM") else 0  # a mark without its preamble
    return pydicom.dcmread(io.BytesIO(content[mark:] if mark else content), force=True)


def _group_start(group: Any) -> Optional[float]:
    """Return the start of a group in s after the start of the acquisition."""
    with contextlib.suppress(TypeError, ValueError):
        offset = float(group.get("MultiplexGroupTimeOffset")) / 1000
        return offset if abs(offset) < _LONGEST_OFFSET else None
    return None


def _remove_padding_value(group: Any, little_endian: bool) -> Optional[float]:
    """Remove and return the padding value of a group: ecgdatakit would mark all samples with this value."""
    value, kind = group.get("WaveformPaddingValue"), str(group.get("WaveformSampleInterpretation") or "SS").upper()
    size = int(group.get("WaveformBitsAllocated") or 0) // 8
    if not isinstance(value, (bytes, bytearray)) or not 0 < size <= len(value) or kind in ("MB", "AB"):
        return None
    del group.WaveformPaddingValue
    return float(int.from_bytes(value[:size], "little" if little_endian else "big", signed=kind.startswith("S")))


def _mark(leads: List[Any], padding: float, sample_rate: float) -> None:
    mask = padding_mask(np.stack([lead.samples for lead in leads]), padding, sample_rate)
    for lead, missing in zip(leads, mask):
        lead.samples[missing] = np.nan


def _refuse_without_waveform(path: Path, data: Any) -> None:
    """Raise a `UserError` for a DICOM file of a document, a picture or a list of files."""
    if data.get("WaveformSequence"):
        return
    hint = "export the ECG as a DICOM waveform, not as a report"
    if "EncapsulatedDocument" in data:
        is_pdf = "pdf" in str(data.get("MIMETypeOfEncapsulatedDocument") or "").lower()
        raise UserError(f"{path}: this DICOM file contains a {'PDF' if is_pdf else 'document'}, not samples; {hint}")
    if "PixelData" in data or "Rows" in data:
        raise UserError(f"{path}: this DICOM file contains a picture, not samples; {hint}")
    if "DirectoryRecordSequence" in data:
        raise UserError(f"{path}: this DICOMDIR is a list of other files; give those files")
    raise UserError(f"{path}: this DICOM file contains no waveform; {hint}")


def padding_mask(counts: np.ndarray, marker: float, sample_rate: float) -> np.ndarray:
    """Return which samples are padding, in a file that gives a padding value.

    A value far outside the signal's range always marks padding. A value within the range also occurs in the signal, so
    it marks padding only where all leads (at least three) have it at once, or where one lead has it for at least 0.04 s
    and much longer than any nearby value.

    Args:
        counts: leads x samples, as the file stores them.
        marker: the padding value.
        sample_rate: Hz.

    Returns:
        leads x samples, bool.
    """
    marked = counts == marker
    if not marked.any():
        return marked
    rest = counts[~marked]
    rest = rest[np.isfinite(rest)]
    if rest.size == 0:
        return marked
    low, high = float(rest.min()), float(rest.max())
    if max(low - marker, marker - high) > high - low:
        return marked
    found = np.zeros_like(marked)
    if len(counts) >= _LEADS_AT_ONCE:
        found |= marked.all(axis=0)
    for row, lead in zip(found, counts):
        nearby = (_longest_run(lead == marker + step) for step in range(-_NEARBY, _NEARBY + 1) if step)
        least = max(_SHORTEST_RUN * sample_rate, _LONGER * max(nearby))
        for start, end in _runs(lead == marker):
            if end - start > least:
                row[start:end] = True
    return found


def _runs(where: np.ndarray) -> np.ndarray:
    """Start and end of each run of True, a row each."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], where, [False]))))
    return edges.reshape(-1, 2)


def _longest_run(where: np.ndarray) -> int:
    runs = _runs(where)
    return int((runs[:, 1] - runs[:, 0]).max()) if len(runs) else 0


_DECODER = Decoder("DICOM", "DICOMWaveformParser", _dicom_parts, _check_dicom, starts_together=True)
DICOM = _DECODER.format((".dcm",), _has_mark, "pydicom")
WITHOUT_PREAMBLE = replace(DICOM, sniff=_is_data_set)  # tried later, as it is recognised less surely
