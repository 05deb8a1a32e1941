"""Write files and folders that appear complete or not at all, in a folder that only one process writes to."""

import contextlib
import errno
import fnmatch
import glob
import os
import re
import shutil
import tempfile
import unicodedata
import uuid
from pathlib import Path
from typing import Collection, Iterable, Iterator, Optional, Sequence, Set

from fairseq_signals_ext.common.errors import NO_SPACE, PLACE_HINTS, PlaceError, UserError

_LONGEST_NAME = 120
_KEPT_BY_WINDOWS = {"CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in range(10))}
# marks a prepared folder
PLAN_NAME = "plan.jsonl"
# file of a finished run in the folder of its results
FINISHED_NAME = ".finished.json"
LOCK_NAME = ".lock"
NOT_IN_THIS_LOCALE = "its name cannot be used in this locale; rename it, or set LC_ALL=C.UTF-8"
# names of incomplete files and folders of `atomic` and `atomic_folder`
_UNFINISHED = re.compile(r"\.(?P<name>.+)\.[\da-f-]+\.(?P<ending>tmp|former)", re.DOTALL)
# a disk with less free space counts as full
_LITTLE = 2**16
# network file systems may have no locks
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP)
# s; time in which workers that read data end after their parent process
_SECONDS_UNTIL_WORKERS_END = 15
_SECONDS_TO_WRITE_A_NUMBER = 0.2


class BusyError(UserError):
    """Another process is writing to a folder."""


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block ends without an exception, else is removed.

    Raises:
        PlaceError: the disk is full, or the folder cannot be written to.
    """
    temporary = _beside(path, "tmp")
    try:
        with _explaining_places(temporary):
            yield temporary
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `folder` when the block ends without an exception, else is removed.

    The former content of `folder` is lost only then. A link stays, and points to the new folder.

    Raises:
        PlaceError: as `atomic`.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary, former = _beside(folder, "tmp"), _beside(folder, "former")
    try:
        with _explaining_places(temporary):
            temporary.mkdir()
            yield temporary
            if folder.exists():
                folder.rename(former)  # a folder with files in it cannot be renamed over
            temporary.rename(folder)
    finally:
        if temporary.exists() and former.exists():
            former.rename(folder)
        for remains in (temporary, former):
            shutil.rmtree(remains, ignore_errors=True)


@contextlib.contextmanager
def atomic_files(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield a temporary folder; its files are moved to `folder` when the block ends without an exception.

    For a folder that also has other files. After an exception the temporary files are removed.

    Args:
        names: all possible names of the files; the first one is moved last. Existing files with these names that are
            not written again are removed.

    Raises:
        PlaceError: as `atomic`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = _beside(folder / "files", "tmp")
    try:
        with _explaining_places(temporary):
            temporary.mkdir()
            yield temporary
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    (folder / name).unlink()
            for name in reversed(names):
                if (temporary / name).exists():
                    (temporary / name).replace(folder / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path, ending: str) -> Path:
    # workers on different machines of a cluster may have the same process number
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.{ending}")


@contextlib.contextmanager
def _explaining_places(temporary: Path) -> Iterator[None]:
    """Turn errors of a temporary file or folder into a `PlaceError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - libraries raise different errors for a full disk
        number = _number(error, temporary.parent)
        named, target = (getattr(error, name, None) for name in ("filename", "filename2"))
        # errors of writing name no file; others without one are not of a place, such as a network's
        is_here = number in PLACE_HINTS if named is None else temporary.name in Path(os.fsdecode(named)).parts
        if number is None or not is_here:
            raise
        place = temporary.parent if target is None else os.fsdecode(target)
        raise PlaceError(number, os.strerror(number), os.fspath(place)) from error


def _number(error: Exception, folder: Path) -> Optional[int]:
    """Return the system's error number, also from a library's message; None if it is no error of the system."""
    number = getattr(error, "errno", None)
    if isinstance(number, int):
        return number
    matching = [one for one in NO_SPACE if os.strerror(one) in str(error) or f"(os error {one})" in str(error)]
    if matching:
        return matching[0]
    # libraries that remove their file on a full disk name the reason
    return None if _has_room(folder) else errno.ENOSPC


def _has_room(folder: Path) -> bool:
    try:
        require_room(folder, _LITTLE)
    except PlaceError:
        return False
    return True


def require_room(folder: Path, size: int) -> None:
    """Raise a `PlaceError` if a folder has no space for so many bytes."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:  # other errors are reported when writing
        if error.errno in NO_SPACE:
            raise PlaceError(error.errno, os.strerror(error.errno), os.fspath(folder)) from error


@contextlib.contextmanager
def only_one(target: Path, beside: bool = False, names: Iterable[str] = ("*",)) -> Iterator[None]:
    """Lock a folder against other processes, and remove unfinished files of a process that was killed.

    The lock ends with the process that holds it, even if it is killed; its file `.lock` contains the process number.

    Args:
        target: the folder; it is created if necessary.
        beside: the folder will be replaced as a whole, so the lock is beside it, `.NAME.lock`; its parent is created.
        names: of files in the folder that only this process may write; see `remove_unfinished`.

    Raises:
        UserError: another process is writing.
        PlaceError: the place cannot be written to.
    """
    folder = target.resolve().parent if beside else target
    # the same lock for links and paths with dots
    path = folder / (f".{target.resolve().name}{LOCK_NAME}" if beside else LOCK_NAME)
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlaceError(error.errno, error.strerror, os.fspath(folder)) from error
    try:
        with _locked(path, target):
            remove_unfinished(folder, [glob.escape(target.resolve().name)] if beside else names)
            yield
    finally:
        for one in made:
            with contextlib.suppress(OSError):  # it is no longer empty
                one.rmdir()


@contextlib.contextmanager
def _locked(path: Path, target: Path) -> Iterator[None]:
    from filelock import FileLock, SoftFileLock, Timeout

    lock = FileLock(path, timeout=0)
    try:
        try:
            lock.acquire(timeout=_SECONDS_TO_WRITE_A_NUMBER)
        except Timeout:
            # workers of a killed process may hold its lock for a moment
            lock.acquire(timeout=_SECONDS_UNTIL_WORKERS_END if _is_gone(_holder(path)) else 0)
    except Timeout:
        holder = f" (process {_holder(path)})" if _holder(path) else ""
        raise BusyError(f"{target}: another run is writing to this folder{holder}; wait for it to end") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise PlaceError(error.errno, error.strerror, os.fspath(path)) from error
    try:
        if lock.is_locked and not isinstance(lock, SoftFileLock):  # which has the number in it
            with contextlib.suppress(OSError):
                path.write_text(f"{os.getpid()}\n", encoding="ascii")
        yield
    finally:
        if lock.is_locked:
            # while it is held: a process that has opened the file meanwhile notices that it was removed
            with contextlib.suppress(OSError):
                path.unlink()
            lock.release()


def _holder(path: Path) -> Optional[int]:
    """Return the process number in a lock file."""
    try:
        return int(path.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _is_gone(process: Optional[int]) -> bool:
    """Return whether a process has ended for certain; False for a process on another machine."""
    if not process or os.name != "posix":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def check_free(folder: Path, names: Iterable[str], overwrite: bool) -> None:
    """Raise a `UserError` if a folder has one of these files already, unless `overwrite`."""
    present = [name for name in names if (folder / name).exists()]
    if present and not overwrite:
        raise UserError(f"{folder / present[0]}: exists already; give another --out, or replace it with --overwrite")


def check_not_source(out: Path, sources: Iterable[Path]) -> None:
    """Raise a `UserError` if results would overwrite their source: one of these files or folders."""
    place = out.resolve()
    for source in sources:
        if source.exists() and source.resolve() == place:
            what = "folder" if place.is_dir() else "file"
            raise UserError(f"--out {out}: is the same {what} as the input {source}; give the results another")


def check_not_prepared(out: Path) -> None:
    """Raise a `UserError` if a folder is a prepared one, as results have some of the same file names."""
    if (out / PLAN_NAME).is_file():
        raise UserError(f"--out {out}: is a prepared folder; give the results a folder of their own")


def named_folder(parent: Path, name: str, overwrite: bool) -> Path:
    """Return the folder of results with the user's name.

    Raises:
        UserError: it exists already, unless `overwrite`, or the name is not valid.
    """
    check_folder_name(name)
    folder = parent / name
    if folder.exists() and not overwrite:
        raise UserError(f"{folder}: exists already; choose another --name, or replace it with --overwrite")
    return folder


def safe_name(text: str, default: str = "recording") -> str:
    """Return a name for a file or folder from any text, such as the name of a label.

    It has letters and digits of any script, `_`, `-` and `.`, no folders, at most 120 bytes, is not hidden, and not
    reserved by a system. Different texts may have the same name.
    """
    name = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", text)).lstrip(".-").rstrip(".")
    name = name.encode()[:_LONGEST_NAME].decode(errors="ignore") or default
    return f"_{name}" if name.split(".")[0].upper() in _KEPT_BY_WINDOWS else name


def is_no_text(name: str) -> bool:
    """Return whether the name of a file has bytes that are not text in this locale."""
    return any("\ud800" <= letter <= "\udfff" for letter in name)


def check_text(path: Path) -> None:
    """Raise a `UserError` if the name of a file or folder is not text, which some libraries need."""
    if is_no_text(str(path)):
        raise UserError(f"{path}: {NOT_IN_THIS_LOCALE}")


def check_folder_name(name: str) -> None:
    """Raise a `UserError` unless this is a valid name of a folder on any system, and not hidden."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"name {name!r}: use letters, digits, '_', '-' and '.' only; it names a folder")


def walk_files(top: Path, without: Collection[str] = ()) -> Iterator[str]:
    """Yield all files below a folder, relative to it, in no order; links are followed, each folder is read once.

    Args:
        without: folders that contain a file with one of these names are left out.
    """
    entered: Set[str] = set()
    for at, folders, files in os.walk(top, followlinks=True):
        real = os.path.realpath(at)
        if real in entered or not set(without).isdisjoint(files):
            folders.clear()
            continue
        entered.add(real)
        below = "" if at == str(top) else os.path.relpath(at, top).replace(os.sep, "/") + "/"
        yield from (below + name for name in files)


def remove_unfinished(folder: Path, names: Iterable[str] = ("*",)) -> None:
    """Remove unfinished files and folders of a killed process from a folder.

    Args:
        names: patterns of their final names.
    """
    wanted = re.compile("|".join(map(fnmatch.translate, names)) or "$.")
    for path in folder.iterdir() if folder.is_dir() else ():
        found = _UNFINISHED.fullmatch(path.name)
        if found is None or not wanted.fullmatch(found["name"]):
            continue
        former = path.with_name(found["name"])
        if found["ending"] == "former" and not former.exists():
            path.rename(former)  # the process was killed before the new one took its place
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
