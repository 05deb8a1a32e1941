"""Private folders for uploads, removed after the answer, or by a later service if this one was killed.

A folder is locked while it is in use. The system releases the lock when the process ends in any way, so an unlocked
folder belongs to a dead service. Process ids cannot show this, because the system reuses them.
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
except ImportError:  # not on Windows; there, later services remove nothing
    fcntl = None  # type: ignore[assignment]

PREFIX = "fairseq-signals-ext-upload-"
_PRIVATE = 0o700


@contextlib.contextmanager
def upload_folder() -> Iterator[Path]:
    """Make a temporary folder that only this user can read; it is removed with its contents.

    Raises:
        OSError: the disk is full.
    """
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    lock = _lock(folder)
    while lock is None and fcntl is not None:
        # another service that was starting removed the folder before it was locked
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = _lock(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def remove_left_folders() -> None:
    """Remove folders left by killed services of this user.

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
    """Lock a private folder of this user until the returned file is closed; None if that is impossible."""
    if fcntl is None:
        return None
    try:
        # in a folder that everybody can write to, a name may be another user's link
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
