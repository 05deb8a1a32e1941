"""What a file is that is given as a checkpoint, from its first bytes and, in a zip archive, its checksums."""

import functools
import zipfile
from pathlib import Path
from typing import Optional

_HEAD = 512


def what_is_wrong_with(path: Path) -> Optional[str]:
    """Why a file cannot be what `torch.save` wrote, with the cure where there is one; None if it may be.

    torch does not compare checksums: a file with a flipped bit would be a model that computes something else.
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    if not head:
        return "is empty; copy or download it again"
    if not any(head):
        return "is damaged: it begins with zeros, as after a loss of power; copy or download it again"
    if head.startswith(b"PK"):
        stat = path.stat()
        return _what_is_wrong_with_archive(path, stat.st_mtime_ns, stat.st_size)
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file itself; fetch it with git lfs pull"
    if head.lstrip()[:15].lower().startswith((b"<!doctype", b"<html")):
        return "is a web page, not a checkpoint; download the file itself"
    if _is_text(head):
        return "is a text, not a checkpoint; give the .pt"
    return None


def _is_text(head: bytes) -> bool:
    return head.isascii() and all(byte >= 32 or byte in b"\t\r\n" for byte in head)


@functools.lru_cache(maxsize=16)
def _what_is_wrong_with_archive(path: Path, modified: int, size: int) -> Optional[str]:
    """Of an archive as it is at this time; a training, an export read theirs more than once."""
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("data.pkl") for name in archive.namelist()):
                return "is a zip archive, not a checkpoint; give the .pt, perhaps one that is in it"
            # torch can be told to leave checksums out
            has_sums = any(part.CRC for part in archive.infolist())
            damaged = archive.testzip() if has_sums else None
    except (zipfile.BadZipFile, OSError, EOFError, ValueError):
        return "is damaged or cut short; copy or download it again"
    return f"is damaged: the checksum of its part {damaged} differs; copy or download it again" if damaged else None
