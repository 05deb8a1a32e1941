"""Files that appear whole or not at all."""

import contextlib
import os
from pathlib import Path
from typing import Iterator


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an exception."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    yield temporary
    os.replace(temporary, path)
