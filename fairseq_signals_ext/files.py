"""Files that appear whole or not at all."""

import contextlib
import errno
import os
import re
import unicodedata
import uuid
from pathlib import Path
from typing import Iterable, Iterator, Set

from fairseq_signals_ext.errors import UserError

_LONGEST_NAME = 120
_KEPT_BY_WINDOWS = {"CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in range(10))}
# marks a prepared folder
PLAN_NAME = "plan.jsonl"


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an exception, else is gone."""
    # workers of a cluster may have the same process number
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if re.search(r"requested and \d+ written", str(error)):  # numpy's words for a full disk
            error.errno, error.strerror = errno.ENOSPC, os.strerror(errno.ENOSPC)
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path.parent)
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def check_free(folder: Path, names: Iterable[str], overwrite: bool) -> None:
    """Raise a `UserError` if a folder has one of these files already, unless `overwrite`."""
    present = [name for name in names if (folder / name).exists()]
    if present and not overwrite:
        raise UserError(f"{folder / present[0]}: exists already; give another --out, or replace it with --overwrite")


def safe_name(text: str, default: str = "recording") -> str:
    """A name for a file or folder of ours from any text, such as a label's.

    Letters and digits of any script, `_`, `-` and `.`; no folders, not hidden, at most 120 bytes, none that a system
    keeps for itself. Different texts may have the same name.
    """
    name = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", text)).lstrip(".-").rstrip(".")
    name = name.encode()[:_LONGEST_NAME].decode(errors="ignore") or default
    return f"_{name}" if name.split(".")[0].upper() in _KEPT_BY_WINDOWS else name


def check_folder_name(name: str) -> None:
    """Raise a `UserError` unless this can name a folder on any machine, and one that is not hidden."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"name {name!r}: use letters, digits, '_', '-' and '.' only; it names a folder")


def walk_files(top: Path, without: str = "") -> Iterator[str]:
    """Names of all files below a folder, relative to it, in no order; links are followed, each folder is entered once.

    Args:
        without: folders that hold a file of this name are left out.
    """
    entered: Set[str] = set()
    for at, folders, files in os.walk(top, followlinks=True):
        real = os.path.realpath(at)
        if real in entered or without in files:
            folders.clear()
            continue
        entered.add(real)
        below = "" if at == str(top) else os.path.relpath(at, top).replace(os.sep, "/") + "/"
        yield from (below + name for name in files)


def remove_unfinished(folder: Path, names: Iterable[str] = ("*",)) -> None:
    """Remove what a process that was killed left of the files, maybe only those of some names, that it was writing."""
    for name in names:
        for temporary in folder.glob(f".{name}.*.tmp"):
            temporary.unlink()
