"""Folders for uploads: private, gone when an upload is answered, and removed later if the service was killed.

A folder is locked while it is in use. The system drops the lock of a process that dies in whatever way, so this tells
the folders of a dead service from those of a living one, which a process number could not, as it is used again.
"""

import contextlib
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Iterator, Optional

from fairseq_signals_ext.common.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has none; there nothing is removed later
    fcntl = None  # type: ignore[assignment]

PREFIX = "fairseq-signals-ext-upload-"
_PRIVATE = 0o700


@contextlib.contextmanager
def upload_folder() -> Iterator[Path]:
    """A new folder among the temporary files, for this user only; it is removed with all that is in it.

    Raises:
        OSError: there is no room for it.
    """
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    lock = _lock(folder)
    while lock is None and fcntl is not None:
        # a service that starts took it for one that was left
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = _lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def remove_left_folders() -> None:
    """Remove the folders that killed services of this user have left.

    Raises:
        UserError: there is no folder for temporary files.
    """
    try:
        temporary = Path(tempfile.gettempdir())
    except OSError as error:
        raise UserError(f"TMPDIR: {error.strerror}; name a folder that has room and can be written to") from None
    for folder in temporary.glob(f"{PREFIX}*"):
        lock = _lock(folder)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> Optional[int]:
    """The lock of a private folder of this user, which holds until it is closed; None if there is none to be had."""
    if fcntl is None:
        return None
    try:
        # in a folder that all may write to, a name may be somebody else's link to something else
        found = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(found)
        is_ours = status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == _PRIVATE
        if is_ours and os.path.samestat(status, os.lstat(folder)):
            return found
    except OSError:
        pass
    os.close(found)
    return None
