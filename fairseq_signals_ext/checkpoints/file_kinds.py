"""Find out whether a file can be a checkpoint, from its first bytes and, in a zip archive, its checksums.

torch's safe loader creates only data, but any amount: a tuple of two tuples of two tuples ... as the key of a
dictionary takes hours to hash, and 100,000 nested levels crash the process. So opcodes of pickles are counted before
they are run.
"""

import functools
import pickletools
import zipfile
from pathlib import Path
from typing import IO, Any, Dict, List, NamedTuple, Optional

from fairseq_signals_ext.common.errors import first_line

_HEAD = 512
# first bytes of other file types
_OTHERS = {
    b"\x89PNG\r\n": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"%PDF-": "a PDF",
    b"\x89HDF\r\n": "an HDF5 file",
    b"\x93NUMPY": "a numpy array",
    b"PAR1": "a Parquet table",
    b"\x1f\x8b": "compressed by gzip",
}
# types with a mark at another position
_WITHIN = {(128, b"DICM"): "a DICOM file", (16, b"SCPECG"): "an ECG in SCP-ECG"}
_MOST_PARTS = 100_000
# pickles of the old format: magic number, version, system, the data, names of the tensors
_PICKLES = 5
# about 35 per tensor
_MOST_OPCODES = 1_000_000
_LARGEST_TUPLE = 100_000  # values, including values of nested tuples
_DEEPEST_TUPLE = 100


def what_is_wrong_with(path: Path) -> Optional[str]:
    """Return why a file cannot be from `torch.save`, with a hint if there is one; None if it can be.

    torch does not compare checksums: a file with a flipped bit would load as a different model.
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
    other = _other_kind(head)
    if other:
        return f"is {other}, not a checkpoint; give the .pt"
    if _is_text(head):
        return "is a text, not a checkpoint; give the .pt"
    return _what_is_wrong_with_pickles(path)


def _what_is_wrong_with_pickles(path: Path) -> Optional[str]:
    """Check the format of torch before 1.6: consecutive pickles, then the tensors."""
    try:
        with open(path, "rb") as file:
            for _ in range(_PICKLES):
                check_pickle(file)
    except ValueError as error:
        return f"is damaged or cut short, or no checkpoint ({first_line(error)}); copy or download it again"
    return None


def _other_kind(head: bytes) -> Optional[str]:
    """Return the type of another file from its first bytes; None if unknown."""
    marks = {**{(0, mark): kind for mark, kind in _OTHERS.items()}, **_WITHIN}
    return next((kind for (at, mark), kind in marks.items() if head[at : at + len(mark)] == mark), None)


def _is_text(head: bytes) -> bool:
    return head.isascii() and all(byte >= 32 or byte in b"\t\r\n" for byte in head)


@functools.lru_cache(maxsize=16)
def _what_is_wrong_with_archive(path: Path, modified: int, size: int) -> Optional[str]:
    """Check an archive; cached by time and size, because a training or an export reads its file repeatedly."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            pickles = [part for part in parts if part.filename.endswith("data.pkl")]
            if not pickles:
                return "is a zip archive, not a checkpoint; give the .pt, perhaps one that is in it"
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
                return "is compressed, which no training does, and could be of any size; give the file as it was saved"
            if sum(part.file_size for part in parts) > size or len(parts) > _MOST_PARTS:
                return "is damaged: it claims to contain more than fits into it; copy or download it again"
            for part in pickles:
                with archive.open(part) as file:
                    check_pickle(file)
            # torch can omit checksums
            has_sums = any(part.CRC for part in parts)
            damaged = archive.testzip() if has_sums else None
    except ValueError as error:
        return f"is damaged or cut short, or no checkpoint ({first_line(error)}); copy or download it again"
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError):
        return "is damaged or cut short; copy or download it again"
    return f"is damaged: the checksum of its part {damaged} differs; copy or download it again" if damaged else None


class _Made(NamedTuple):
    """The cost of hashing a value: number of values, and levels of tuples; anything but a tuple is one value."""

    values: int = 1
    depth: int = 0


_ONE = _Made()
_MARK = _Made(0)


def check_pickle(file: IO[bytes]) -> None:
    """Raise a `ValueError` if a pickle creates more than a checkpoint needs.

    Args:
        file: read from its current position to the end of the pickle.
    """
    stack: List[_Made] = []
    memo: Dict[Any, _Made] = {}
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if number >= _MOST_OPCODES:
            raise ValueError(f"it makes more than {_MOST_OPCODES:,} values")
        name = opcode.name
        if "PUT" in name or name == "MEMOIZE":
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1] if stack else _ONE
        elif "GET" in name:
            stack.append(memo.get(argument, _ONE))
        elif name == "DUP":
            stack += stack[-1:]
        else:
            _apply(opcode, stack)


def _apply(opcode: Any, stack: List[_Made]) -> None:
    """Apply an opcode to the stack: pop its arguments, push its result."""
    before, after = opcode.stack_before, opcode.stack_after
    taken: List[_Made] = []
    if pickletools.markobject in before:
        while stack and stack[-1] is not _MARK:
            taken.append(stack.pop())
        stack[-1:] = []
        before = before[: before.index(pickletools.markobject)]
    for _ in before:
        taken += [stack.pop()] if stack else []
    for made in after:
        if made is pickletools.markobject:
            stack.append(_MARK)
        elif made is pickletools.pytuple:
            stack.append(_tuple_of(taken))
        else:
            stack.append(_ONE)


def _tuple_of(parts: List[_Made]) -> _Made:
    made = _Made(1 + sum(part.values for part in parts), 1 + max((part.depth for part in parts), default=0))
    if made.values > _LARGEST_TUPLE or made.depth > _DEEPEST_TUPLE:
        raise ValueError("it has tuples in tuples without end")
    return made
