"""Folders that appear whole or not at all."""

import contextlib
import os
import shutil
import uuid
from pathlib import Path
from typing import Collection, Iterator

from fairseq_signals_ext.errors import UserError


def check_free(folder: Path, names: Collection[str], overwrite: bool) -> None:
    """See that a folder may be made, or be replaced, which is only done to one with none but the files of an export.

    Args:
        names: of the files that an export may have.
        overwrite: replace it.

    Raises:
        UserError: it is a file or the current folder, or has content that may not be replaced.
    """
    given, folder = folder, folder.resolve()
    if folder == Path.cwd():
        raise UserError(
            f"{given}: is the current folder, which would be replaced by another; give a new one with --out"
        )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{given}: is a file; give a folder with --out")
    content = sorted(os.listdir(folder)) if folder.is_dir() else []
    if content and not overwrite:
        raise UserError(f"{given}: is not empty; give another folder with --out, or --overwrite")
    others = [name for name in content if name not in names]
    if others:
        raise UserError(f"{given}: has {others[0]!r}, which is no part of this export; give another folder with --out")


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when the block ends without an exception, else is gone.

    What was in `folder` is lost then, and only then; see `check_free`. A link stays, and leads to the new one.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
    temporary, former = (folder.with_name(f".{folder.name}.{mark}.{end}") for end in ("tmp", "former"))
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            folder.rename(former)  # a folder with files in it cannot be renamed over
        temporary.rename(folder)
    finally:
        if temporary.exists() and former.exists():
            former.rename(folder)
        for remains in (temporary, former):
            shutil.rmtree(remains, ignore_errors=True)
