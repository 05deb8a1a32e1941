"""Which format an ECG file is, told by its content and never by its name."""

import re
import struct
from pathlib import Path
from typing import Optional

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.readers.dicom_claims import data_set_start
from fairseq_signals_ext.readers.facts import shown
from fairseq_signals_ext.readers.other_files import what_helps
from fairseq_signals_ext.readers.wfdb_header import is_record_line

_BLOCK = 1 << 20  # bytes
_HEAD = 8192  # bytes
_XML_HEAD = 1 << 18  # bytes; comments and a document type may stand before the root of an XML file
_MAGIC = {
    b"\x93NUMPY": "NumPy",
    b"\x89HDF\r\n\x1a\n": "MATLAB 7.3",
    b"0       ": "EDF",
    b"ISHNE1.0": "ISHNE",
}
_ROOTS = {
    "restingecg": "GE MUSE XML",
    "restingecgdata": "Philips Sierra XML",
    "annotatedecg": "HL7 aECG",
    "ecg": "Mortara XML",
}
_BEFORE_ROOT = re.compile(r"\s*(?:<!--.*?-->|<\?.*?\?>|<![A-Za-z][^<>\[]*(?:\[[^\]]*\]\s*)?>)", re.DOTALL)
_ROOT = re.compile(r"\s*<(?:[\w.-]+:)?([\w.-]+)")
_NUMBERS = re.compile(r"[\d.eE+\s-]*")
_TABLE_LINE = re.compile(r"[^,;\t]*[,;\t].*|#?[\w\s.()\[\]/+-]{1,24}")  # a separator, or one short name or number
_SEPARATOR, _LONGEST_ROW = re.compile(r"[,;\t]"), 1000
_SUPPORTED = (
    "give WFDB (the record's .hea file), DICOM, SCP-ECG, GE MUSE, Philips or Mortara XML, HL7 aECG, EDF, ISHNE, "
    "MFER, Kardia JSON, .mat, .npy, .h5 or a .csv with lead names"
)


def format_of(path: Path) -> str:
    """Name of the format of a file, such as `"DICOM"`; `"table"` is text with numbers in columns.

    A table is only recognised as text with separators or numbers: its header decides whether it is an ECG.

    Raises:
        UserError: the file is empty, cannot be opened, or is of no supported kind.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror}); check the path and its permissions") from error
    if not head:
        raise UserError(f"{path}: the file is empty; get it again")
    name = _binary_format(head)
    if name is None:
        other = what_helps(path, head)
        if other is not None:
            raise UserError(f"{path}: {other}")
        name = _text_format(path, head)
    if name is None:
        raise UserError(f"{path}: this kind of file is not supported; {_SUPPORTED}")
    return name


def _binary_format(head: bytes) -> Optional[str]:
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    if head[128:132] == b"DICM":  # whatever the preamble looks like
        return "DICOM"
    if head.startswith(b"MATLAB"):
        # a v7.3 file is HDF5 behind a block of 512 bytes
        return "MATLAB 7.3" if head[512:520] == b"\x89HDF\r\n\x1a\n" else "MATLAB"
    if head[:1] == b"\x40" and head[2:6] == b"MFR ":
        return "MFER"
    if _is_scp(head):
        return "SCP-ECG"
    if _is_matlab_4(head):
        return "MATLAB"
    return "DICOM" if data_set_start(head) is not None else None


def _is_scp(head: bytes) -> bool:
    """Section 0 comes first, and its first pointer says that it starts at byte 7 (EN 1064, 5.3)."""
    if len(head) < 32:
        return False
    section, length = struct.unpack_from("<HI", head, 8)
    pointer, start = struct.unpack_from("<H4xI", head, 22)
    return section == 0 and length >= 26 and pointer == 0 and start == 7


def _is_matlab_4(head: bytes) -> bool:
    """MATLAB 4 has no magic: kind, rows, columns, 0 (real) and the length of the name that follows."""
    if len(head) < 20:
        return False
    kind, rows, columns, imaginary, length = struct.unpack_from("<5i", head)
    name = head[20 : 20 + length] if 1 < length <= 64 else b""
    sizes = rows > 0 and columns > 0
    return 0 <= kind < 60 and sizes and imaginary in (0, 1) and re.fullmatch(rb"[A-Za-z]\w*\0", name) is not None


def _text_format(path: Path, head: bytes) -> Optional[str]:
    text = _decoded(head).lstrip("\ufeff \t\r\n")
    if text.startswith("<"):
        with open(path, "rb") as file:
            return _xml_format(path, _decoded(file.read(_XML_HEAD)).lstrip("\ufeff \t\r\n"))
    if text.startswith("{"):
        return "Kardia JSON" if _holds(path, head, '"recordedAt"') else None
    lines = [line for line in text.splitlines() if line.strip()]
    remarks_end = next((line for line in lines if not line.startswith("#")), "")
    if is_record_line(remarks_end) and not _NUMBERS.fullmatch(remarks_end):
        raise UserError(f"{path}: this is a WFDB header; give it the suffix .hea, with its signal file beside it")
    if "\0" in text or not lines:
        return None
    return "table" if _TABLE_LINE.fullmatch(lines[0]) or any(map(_is_row, lines)) else None


def _is_row(line: str) -> bool:
    """Whether these are numbers, maybe behind a time, as they stand below remarks of any kind."""
    cells = _SEPARATOR.split(line[:_LONGEST_ROW])[1:]
    return any(cell.strip() for cell in cells) and all(_NUMBERS.fullmatch(cell) for cell in cells)


def _holds(path: Path, head: bytes, word: str) -> bool:
    """Whether a word stands anywhere in a text file: keys of JSON may stand behind all samples."""
    encoding = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}.get(head[:2], "utf-8")
    sought, before = word.encode(encoding), b""
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            if sought in before + block:
                return True
            before = block[-len(sought) :]
    return False


def _decoded(head: bytes) -> str:
    utf_16 = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    return head.decode("utf-16" if utf_16 else "utf-8", errors="replace")


def _xml_format(path: Path, text: str) -> str:
    at = 0
    while before := _BEFORE_ROOT.match(text, at):
        at = before.end()
    root = _ROOT.match(text, at)
    kind = root.group(1) if root else ""
    if kind.lower() not in _ROOTS:
        said = f"XML of the kind <{shown(kind, 40)}>" if kind else "XML without a root element"
        raise UserError(f"{path}: {said} is not supported; {_SUPPORTED}")
    return _ROOTS[kind.lower()]
