"""Checkpoints that are written whole or not at all; a full disk ends a training with one line."""

import contextlib
import os
from pathlib import Path
from typing import Any, Iterator, Optional, Union

import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager

from fairseq_signals_ext.common.files import atomic
from fairseq_signals_ext.tasks._wrapping import wrapping


def patch_checkpoint_saving() -> None:
    """Make fairseq write, and copy, a checkpoint beside its place and move it there when it is whole.

    fairseq copies in place: a full disk, or a process that is killed, left a `checkpoint_last.pt` that is cut short.
    And it tries three times to write to a full disk. Calling this again is harmless.
    """

    @wrapping(checkpoint_utils, "torch_persistent_save")
    def save_whole(save: Any, obj: Any, filename: str, async_write: bool = False) -> None:
        if async_write or PathManager.path_requires_pathmanager(filename):
            save(obj, filename, async_write=async_write)
            return
        with _in_one_line(filename), atomic(Path(filename)) as temporary, open(temporary, "wb") as file:
            torch.save(obj, file)
            _to_disk(file.fileno())

    @wrapping(PathManager, "copy")
    def copy_whole(copy: Any, src_path: str, dst_path: str, overwrite: bool = False) -> Any:
        if PathManager.path_requires_pathmanager(dst_path):
            return copy(src_path, dst_path, overwrite=overwrite)
        with _in_one_line(dst_path), atomic(Path(dst_path)) as temporary:
            done = copy(src_path, str(temporary), overwrite=overwrite)
            with open(temporary, "rb") as file:
                _to_disk(file.fileno())
        return done

    # fairseq looks at the folder before anything else
    @wrapping(checkpoint_utils, "verify_checkpoint_directory")
    def look_in_one_line(look: Any, save_dir: str) -> None:
        with _in_one_line(save_dir):
            look(save_dir)


def _to_disk(descriptor: int) -> None:
    """See that what was written is there: a network's file system reports only then that it is full."""
    os.fsync(descriptor)


@contextlib.contextmanager
def _in_one_line(path: Union[str, Path]) -> Iterator[None]:
    """Turn an error of the file system into the end of the program.

    Raises:
        SystemExit: with one line.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = _of_file_system(error)
        if cause is None:
            raise
        raise SystemExit(
            f"error: {path}: cannot be written ({cause.strerror or cause}); checkpoints that are there already stay "
            f"whole: make room, or fix the folder, then repeat the command to continue"
        ) from error


def _of_file_system(error: Optional[BaseException]) -> Optional[OSError]:
    """The file system's message, which torch wraps in its own error."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error
