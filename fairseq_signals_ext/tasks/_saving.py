"""Checkpoints that are written whole or not at all; a full disk ends a training with one line."""

import contextlib
import functools
import os
from pathlib import Path
from typing import Any, Iterator, Optional, Union

import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager

from fairseq_signals_ext.common.files import atomic


def mend_saving_of_checkpoints() -> None:
    """Make fairseq write, and copy, a checkpoint beside its place and move it there when it is whole.

    fairseq copies in place: a full disk, or a process that is killed, left a `checkpoint_last.pt` that is cut short.
    And it tries three times to write to a full disk. Calling this again is harmless.
    """
    save = checkpoint_utils.torch_persistent_save
    if getattr(save, "writes_whole", False):
        return

    @functools.wraps(save)
    def torch_persistent_save(obj: Any, filename: str, async_write: bool = False) -> None:
        if async_write or PathManager.path_requires_pathmanager(filename):
            save(obj, filename, async_write=async_write)
            return
        with _in_one_line(filename), atomic(Path(filename)) as temporary, open(temporary, "wb") as file:
            torch.save(obj, file)
            _to_disk(file.fileno())

    torch_persistent_save.writes_whole = True  # type: ignore[attr-defined]
    checkpoint_utils.torch_persistent_save = torch_persistent_save
    _mend_copying()
    _mend_looking_at_the_folder()


def _mend_copying() -> None:
    copy = PathManager.copy

    @functools.wraps(copy)
    def copy_whole(src_path: str, dst_path: str, overwrite: bool = False) -> Any:
        if PathManager.path_requires_pathmanager(dst_path):
            return copy(src_path, dst_path, overwrite=overwrite)
        with _in_one_line(dst_path), atomic(Path(dst_path)) as temporary:
            done = copy(src_path, str(temporary), overwrite=overwrite)
            with open(temporary, "rb") as file:
                _to_disk(file.fileno())
        return done

    PathManager.copy = staticmethod(copy_whole)


def _mend_looking_at_the_folder() -> None:
    """The same line for a folder that cannot be written to, which fairseq tries before anything else."""
    look = checkpoint_utils.verify_checkpoint_directory

    @functools.wraps(look)
    def verify_checkpoint_directory(save_dir: str) -> None:
        with _in_one_line(save_dir):
            look(save_dir)

    checkpoint_utils.verify_checkpoint_directory = verify_checkpoint_directory


def _to_disk(descriptor: int) -> None:
    """See that what was written is there: a network's file system says only then that it is full."""
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
            f"whole: make room, or mend the folder, and give the same command again to go on"
        ) from error


def _of_file_system(error: Optional[BaseException]) -> Optional[OSError]:
    """What the file system said, of which torch makes an error of its own."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error
