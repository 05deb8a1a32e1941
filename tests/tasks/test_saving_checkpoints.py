"""Checkpoints are whole whatever happens while they are written: a full disk, a limit, a kill."""

import contextlib
import multiprocessing
import os
import resource
import shutil
import signal
import time

import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager

from fairseq_signals_ext.checkpoints.file_kinds import what_is_wrong_with
from fairseq_signals_ext.tasks._saving import patch_checkpoint_saving

MEGABYTE = 1 << 20


def state(megabytes=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"model": {"a": torch.randn(int(megabytes * MEGABYTE / 4), generator=generator)}}


@pytest.fixture(autouse=True)
def mended(registered):
    patch_checkpoint_saving()  # a second time


@pytest.fixture()
def checkpoint(tmp_path):
    """A whole checkpoint that is to be written again."""
    path = tmp_path / "checkpoint_last.pt"
    checkpoint_utils.torch_persistent_save(state(), str(path))
    return path


def content(path):
    assert what_is_wrong_with(path) is None
    return torch.load(path, weights_only=True)["model"]["a"]


def assert_is_first(path):
    assert torch.equal(content(path), state()["model"]["a"])
    assert [file.name for file in path.parent.iterdir() if file.suffix == ".tmp"] == []


def write(path):
    checkpoint_utils.torch_persistent_save(state(4, seed=1), str(path))


def copy(path):
    other = path.parent / "checkpoint_1_4.pt"
    if not other.exists():
        torch.save(state(4, seed=1), other)
    assert PathManager.copy(str(other), str(path), overwrite=True)


@pytest.mark.parametrize("change", [write, copy])
def test_what_is_written(checkpoint, change):
    change(checkpoint)
    assert torch.equal(content(checkpoint), state(4, seed=1)["model"]["a"])
    assert os.stat(checkpoint).st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def largest_file(size):
    """As a disk quota: a file cannot become larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("change", [write, copy])
def test_limit_of_files(checkpoint, change):
    if change is copy:
        torch.save(state(4, seed=1), checkpoint.parent / "checkpoint_1_4.pt")
    line = "checkpoint_last.pt: cannot be written .*too large"
    with largest_file(2 * MEGABYTE), pytest.raises(SystemExit, match=line):
        change(checkpoint)
    assert_is_first(checkpoint)


@pytest.mark.parametrize("change", [write, copy])
def test_full_disk(small_disk, change, tmp_path):
    path = small_disk / "checkpoint_last.pt"
    checkpoint_utils.torch_persistent_save(state(), str(path))
    source = tmp_path / "other.pt"
    torch.save(state(6, seed=1), source)
    with pytest.raises(SystemExit, match="checkpoint_last.pt: cannot be written .*No space left on device"):
        if change is write:
            checkpoint_utils.torch_persistent_save(state(6, seed=1), str(path))
        else:
            PathManager.copy(str(source), str(path), overwrite=True)
    assert_is_first(path)


def _copy_slowly(path):
    def copyfile(source, target):
        with open(source, "rb") as file:
            content = file.read()
        with open(target, "wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            (path.parent / "half").touch()
            time.sleep(60)

    shutil.copyfile = copyfile
    copy(path)


def test_kill_in_mid_copy(checkpoint):
    process = multiprocessing.get_context("fork").Process(target=_copy_slowly, args=(checkpoint,))
    process.start()
    deadline = time.monotonic() + 30
    while not (checkpoint.parent / "half").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert (checkpoint.parent / "half").exists()
    assert torch.equal(content(checkpoint), state()["model"]["a"])


def test_error_that_is_none_of_the_file_system(tmp_path):
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        checkpoint_utils.torch_persistent_save({"a": (number for number in range(3))}, str(tmp_path / "a.pt"))
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="file/run: cannot be written"):
        checkpoint_utils.verify_checkpoint_directory(str(tmp_path / "file" / "run"))
    checkpoint_utils.verify_checkpoint_directory(str(tmp_path / "run"))
