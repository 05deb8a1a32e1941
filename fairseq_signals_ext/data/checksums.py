"""Checksums of the files that our commands write, compared whenever these files are read.

`checksums.json` lists each file that a command wrote to its folder, with CRC-32 and size. Each shard has its own
record, as shards are written by different processes: `NNNNN.checksums.json` lists its index and its part of the table
(the CRC-32 of its counts are in the index). A file without a record is not checked: it was made by an older version,
by ECG-FM, or by hand.
"""

import contextlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from fairseq_signals_ext.common.errors import UserError, first_line
from fairseq_signals_ext.common.files import atomic
from fairseq_signals_ext.common.hints import command_line

CHECKSUMS_NAME = "checksums.json"
UPDATE_OPTION = "--update-checksums"
# command that wrote a file: how to make it again
_AGAIN = {
    "prepare": "prepare again with --resume, which writes it again",
    "split": "make the split again with fairseq-signals-ext split --overwrite",
    "label": "make the labels again with fairseq-signals-ext label --overwrite",
}
_COPY_AGAIN = "copy it again"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Record:
    """Checksums of the files of a folder.

    Attributes:
        command: that wrote them: prepare, split or label; another word if unknown.
        checksums: by name of the file; several while it is being replaced.
    """

    command: str
    checksums: Mapping[str, Sequence[str]]


def checksum(path: Path) -> str:
    """Return CRC-32 and size of a file, such as "1a2b3c4d of 120 bytes"."""
    crc, size, buffer = 0, 0, memoryview(bytearray(_CHUNK))
    with open(path, "rb", buffering=0) as file:
        while True:
            count = file.readinto(buffer) or 0
            if not count:
                return f"{crc:08x} of {size} bytes"
            crc, size = zlib.crc32(buffer[:count], crc), size + count


def record_of_shard(shard: Path) -> Path:
    """Return `.../00003.checksums.json` for `.../00003.npy`."""
    return shard.with_suffix(f".{CHECKSUMS_NAME}")


def check(path: Path, record: Optional[Path] = None, again: Optional[str] = None) -> None:
    """Compare a file with its record, if it has one.

    Args:
        record: default: the record of the file's folder.
        again: how to make the file again; default: by the command that wrote it.

    Raises:
        UserError: its checksum differs, it is missing although it is recorded, or the record is damaged.
    """
    record = record or path.parent / CHECKSUMS_NAME
    problem = problem_of(path, record, again)
    # a command may have replaced both in between
    problem = problem and problem_of(path, record, again)
    if problem:
        raise UserError(problem)


def problems_of(record: Path) -> List[str]:
    """Return the problems of the files in a record, one line each; none if there is no such record."""
    try:
        known = read_record(record)
    except UserError as error:
        return [str(error)]
    names = sorted(known.checksums) if known else []
    return [line for line in (problem_of(record.with_name(name), record) for name in names) if line]


def problem_of(path: Path, record: Path, again: Optional[str] = None) -> str:
    """Return the problem of a file; None if it is unchanged or not recorded.

    Raises:
        UserError: the record is damaged.
    """
    known, is_shard = read_record(record), record.name != CHECKSUMS_NAME
    if known is None or not (is_shard or path.name in known.checksums):
        return ""
    again = again or _AGAIN.get(known.command, _COPY_AGAIN)
    # shards are never edited by hand
    accept = f"or, if this is meant, accept it: {command_line('verify', path.parent, UPDATE_OPTION)}"
    accept = "" if is_shard else accept
    stored = known.checksums.get(path.name)
    if stored is None:
        return _line(path, f"{record.name} is of another shard", again, accept)
    if not path.is_file():
        return _line(path, f"no such file, though {record.name} names it", again, accept)
    try:
        found = checksum(path)
    except OSError as error:
        return _line(path, f"cannot be read ({error.strerror or error})", again, "")
    if found in stored:
        return ""
    return _line(path, f"checksum differs (stored {stored[-1]}, read {found})", again, accept)


def _line(path: Path, what: str, again: str, accept: str) -> str:
    return f"{path}: {what}; {again}{accept and ', '}{accept}"


def read_record(record: Path) -> Optional[Record]:
    """Read a record; None if there is no such file.

    Raises:
        UserError: it is damaged.
    """
    try:
        content = json.loads(record.read_bytes())
        found = Record(content["command"], content["checksums"])
        if content["crc32"] == _own_checksum(found) and _is_plain(found):
            return found
        problem = "the record of checksums is damaged"
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        problem = f"the record of checksums cannot be read ({first_line(error)})"
    folder = record.parent if record.name == CHECKSUMS_NAME else record.parent.parent
    hint = f"copy it again, or record it again: {command_line('verify', folder, UPDATE_OPTION)}"
    raise UserError(f"{record}: {problem}; {hint}")


def _is_plain(record: Record) -> bool:
    """Return whether it lists only files of its own folder, each with texts of one line."""
    if not (isinstance(record.command, str) and isinstance(record.checksums, dict)):
        return False
    return all(
        Path(name).name == name not in ("", "..")
        and name.isprintable()
        and isinstance(stored, list)
        and stored
        and all(isinstance(one, str) and one.isprintable() for one in stored)
        for name, stored in record.checksums.items()
    )


def _own_checksum(record: Record) -> str:
    content = json.dumps([record.command, record.checksums], sort_keys=True)
    return f"{zlib.crc32(content.encode()):08x}"


def _write_record(path: Path, record: Record) -> None:
    content: Dict[str, Any] = {"command": record.command, "checksums": record.checksums}
    content["crc32"] = _own_checksum(record)  # of all the others
    with atomic(path) as temporary:
        temporary.write_bytes((json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def record_files(record: Path, command: str, files: Mapping[str, Path]) -> None:
    """Write a record, or replace an existing one.

    Args:
        command: that wrote the files.
        files: by the names that they have, or will have, in the record's folder.
    """
    _write_record(record, Record(command, {name: [checksum(path)] for name, path in files.items()}))


def record_folder(folder: Path, command: str) -> None:
    """Write the record of all files of a folder, without hidden files and subfolders."""
    record_files(folder / CHECKSUMS_NAME, command, {path.name: path for path in recordable(folder)})


def recordable(folder: Path) -> List[Path]:
    """Return the files of a folder that its record may list."""
    found = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return sorted(path for path in found if path.name != CHECKSUMS_NAME)


@contextlib.contextmanager
def replacing(folder: Path, names: Sequence[str], command: str = "prepare") -> Iterator[Tuple[Path, ...]]:
    """Yield temporary paths for files of a folder, which replace the files when the block ends without an exception.

    The folder's record always fits the existing files, even if the process is killed: while files are replaced, it has
    both the old and the new checksums.
    """
    record = folder / CHECKSUMS_NAME
    with contextlib.ExitStack() as stack:
        temporaries = tuple(stack.enter_context(atomic(folder / name)) for name in names)
        yield temporaries
        known = read_record(record)
        former = dict(known.checksums) if known else {}
        after = {name: [checksum(path)] for name, path in zip(names, temporaries)}
        both = {name: [*_former(former, folder / name), *new] for name, new in after.items()}
        _write_record(record, Record(command, {**former, **both}))
    _write_record(record, Record(command, {**former, **after}))


def _former(known: Mapping[str, Sequence[str]], path: Path) -> Sequence[str]:
    """Return the checksums that a file may have before it is replaced."""
    if path.name in known:
        return known[path.name]
    return [checksum(path)] if path.is_file() else []
