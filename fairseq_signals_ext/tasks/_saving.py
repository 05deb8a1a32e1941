"""Write checkpoints completely or not at all; end a training with one line if the disk is full."""

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
    """Make fairseq write, and copy, a checkpoint to a temporary file and rename it when it is complete.

    fairseq copies in place: after a full disk, or a killed process, `checkpoint_last.pt` was incomplete. It also tries
    three times to write to a full disk. Calling this again is harmless.
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

    # fairseq checks the folder before anything else
    @wrapping(checkpoint_utils, "verify_checkpoint_directory")
    def look_in_one_line(look: Any, save_dir: str) -> None:
        with _in_one_line(save_dir):
            look(save_dir)


def _to_disk(descriptor: int) -> None:
    """Flush a file to disk: only then does a network file system report that it is full."""
    os.fsync(descriptor)


@contextlib.contextmanager
def _in_one_line(path: Union[str, Path]) -> Iterator[None]:
    """End the program if the file system reports an error.

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
    """Return the error of the file system, which torch wraps in its own."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error
