"""The folder of an export, which is replaced as a whole."""

import os
from pathlib import Path
from typing import Collection

from fairseq_signals_ext.errors import UserError


def check_replaceable(folder: Path, names: Collection[str], overwrite: bool) -> None:
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
