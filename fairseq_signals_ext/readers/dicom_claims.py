"""The elements of a DICOM file, gone through without reading values: lengths, number, depth and channels."""

import struct
from pathlib import Path
from typing import Optional, Tuple

_MOST_ELEMENTS = 50_000  # an ECG has some thousand
_DEEPEST = 16
_MOST_CHANNELS = 256
_UNDEFINED = 0xFFFFFFFF
_CHANNELS = (0x003A, 0x0005)
_ITEM, _END_OF_ITEM, _END_OF_SEQUENCE = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
# those whose length has four bytes and stands behind two that are reserved
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_BIG_ENDIAN = b"1.2.840.10008.1.2.2"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
HEAD = 8192  # bytes that tell whether it is DICOM
_FIRST_GROUPS = (2, 8)  # of the file itself, and of what it identifies: every data set begins with one of these
_ELEMENTS_SEEN = 3
_LONGEST_SEEN = 4096  # bytes of an element with which a data set begins


def check_dicom(path: Path) -> None:
    """Refuse a file whose elements are longer than it, or too many, too deep, or for too many channels.

    Raises:
        ValueError: it is one of these, or deflated: such a data set is expanded without a limit.
    """
    _Walk(path.read_bytes()).all()


def data_set_start(head: bytes) -> Optional[int]:
    """Where the elements of a DICOM file begin: behind its preamble, its mark, or at once; None if it is no such file.

    Args:
        head: its first bytes, `HEAD` of a longer file.
    """
    if head[128:132] == b"DICM":
        return 132
    if head[:4] == b"DICM":
        return 4
    ways = (("<", True), ("<", False), (">", True))  # big-endian ones always say their types
    return 0 if any(_begins(head, order, explicit) for order, explicit in ways) else None


def _begins(head: bytes, order: str, explicit: bool) -> bool:
    """Whether elements of the first groups follow each other, in the order of their tags."""
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


class _Walk:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self._left = _MOST_ELEMENTS

    def all(self) -> None:
        at, syntax = data_set_start(self._content[:HEAD]) or 0, b""
        # the first group is always little-endian and says its types
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
        """Whether the first group is only small read so; pydicom goes by that where no syntax is given."""
        return self._is_explicit(at) and self._content[at + 1 : at + 2] > b"\3"

    def _is_explicit(self, at: int) -> bool:
        """Whether an element says its type; pydicom goes by that as well, whatever the syntax says."""
        return b"AA" <= self._content[at + 4 : at + 6] <= b"ZZ"

    def _element(self, at: int, order: str, explicit: bool) -> Tuple[Tuple[int, int], bytes, int, int]:
        """Tag, type, place of the value and its length of the element at this place."""
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
        """Go through the elements up to a place or the end of an item; where they end."""
        explicit = explicit and self._is_explicit(at)
        while at + 8 <= end:  # what is shorter comes after the last element
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
    """Type of an element that does not say it."""
    from pydicom.datadict import dictionary_has_tag, dictionary_VR

    number = tag[0] << 16 | tag[1]
    return dictionary_VR(number).encode() if dictionary_has_tag(number) else b""
