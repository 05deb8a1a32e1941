"""Recognise files that are no ECG, or that contain one in an archive or document, and give a hint for each."""

import re
from pathlib import Path
from typing import Optional, Tuple

_TAIL = 65536  # bytes; a zip archive lists its files at its end
_UNPACK = "unpack it and give the file in it"
_AS_DATA = "export the ECG as data, such as DICOM, aECG XML, SCP-ECG or a .csv with lead names"
_BEGINNINGS = {
    b"\x1f\x8b": ("a file compressed with gzip", _UNPACK),
    b"BZh": ("a file compressed with bzip2", _UNPACK),
    b"\xfd7zXZ\0": ("a file compressed with xz", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("a file compressed with zstd", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _UNPACK),
    b"Rar!\x1a\x07": ("a RAR archive", _UNPACK),
    b"\x89PNG\r\n\x1a\n": ("a picture (PNG)", _AS_DATA),
    b"\xff\xd8\xff": ("a picture (JPEG)", _AS_DATA),
    b"GIF8": ("a picture (GIF)", _AS_DATA),
    b"II*\0": ("a picture (TIFF)", _AS_DATA),
    b"MM\0*": ("a picture (TIFF)", _AS_DATA),
    b"{\\rtf": ("a text document (RTF)", _AS_DATA),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": (
        "an old Office document, such as an Excel workbook",
        "save the sheet as .csv with lead names",
    ),
    b"\xffBIOSEMI": ("a BDF file (BioSemi)", "convert it to EDF"),
    b"PAR1": ("a Parquet table", "save its columns as .csv with lead names"),
    b"SQLite format 3\0": ("an SQLite database", "export the ECG as .csv with lead names"),
    b"version https://git-lfs": ("a pointer to a file that Git LFS keeps", "get the file itself with git lfs pull"),
}
_PICKLE = re.compile(rb"\x80[\x02-\x05][\x8a-\x95c}\](]")
_WEB_PAGE = re.compile(
    rb"\s*(?:<\?xml[^>]{0,500}>\s*)?(?:<!--.{0,2000}?-->\s*)?<(?:!doctype\s+html|html|head|body)\b",
    re.IGNORECASE | re.DOTALL,
)
_PDF_WITHIN = 1024  # bytes before a PDF's mark
_BOM = b"\xef\xbb\xbf"


def what_helps(path: Path, head: bytes) -> Optional[str]:
    """Return `"this is ...; ..."`: the kind of a file and a hint; None if it is not known.

    Args:
        path: the file; the end of a zip archive is read.
        head: its first bytes.
    """
    known = next((known for beginning, known in _BEGINNINGS.items() if head.startswith(beginning)), None)
    if known is None:
        known = _other(path, head)
    return f"this is {known[0]}; {known[1]}" if known else None


def _other(path: Path, head: bytes) -> Optional[Tuple[str, str]]:
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return _in_zip(path, head)
    if head[257:262] == b"ustar":
        return "a tar archive", _UNPACK
    if b"%PDF-" in head[:_PDF_WITHIN]:
        return "a PDF document", _AS_DATA
    if head[:2] == b"BM" and int.from_bytes(head[2:6], "little") == path.stat().st_size:
        return "a picture (BMP)", _AS_DATA
    if (head[:4], head[8:12]) == (b"RIFF", b"WEBP") or head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
        return "a picture", _AS_DATA
    if _PICKLE.match(head):
        return "a Python pickle, which could run any program", "save its array as .npy or .csv"
    if _WEB_PAGE.match(head[len(_BOM) :] if head.startswith(_BOM) else head):
        return "a web page, not what it links to", "log in where the file is kept and download it again"
    return None


def _in_zip(path: Path, head: bytes) -> Tuple[str, str]:
    """Return kind and hint of a zip archive by the names in it; Office documents and `.npz` are zip archives too."""
    with open(path, "rb") as file:
        file.seek(max(path.stat().st_size - _TAIL, 0))
        names = head + file.read(_TAIL)
    if b"xl/workbook" in names:
        return "an Excel workbook", "save the sheet as .csv with lead names"
    if b"word/document" in names or b"ppt/presentation" in names:
        return "an Office document", _AS_DATA
    if b"content.xml" in names and b"opendocument.spreadsheet" in names:
        return "a spreadsheet (ODS)", "save the sheet as .csv with lead names"
    if b".npy" in names:
        return "a NumPy archive (.npz)", "save one array as .npy, with numpy.save"
    return "a zip archive", "unpack it and give the files in it"
