"""Files that appear whole or not at all."""

import contextlib
import os
from pathlib import Path
from typing import Iterator


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an exception, else is gone."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def remove_unfinished(folder: Path) -> None:
    """Remove what a process that was killed left of the files that it was writing to `folder`."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink()
