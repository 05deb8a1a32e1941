"""What a file is that is no checkpoint, and what to do about it."""

import zipfile

import pytest
import torch

from fairseq_signals_ext.checkpoints.file_kinds import what_is_wrong_with


@pytest.fixture()
def saved(tmp_path):
    torch.save({"model": {"a": torch.arange(3000.0)}}, tmp_path / "a.pt")
    return tmp_path / "a.pt"


def test_what_torch_writes(saved, tmp_path):
    assert what_is_wrong_with(saved) is None
    torch.save({"a": torch.zeros(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert what_is_wrong_with(tmp_path / "old.pt") is None


@pytest.mark.parametrize(
    "content, told",
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "is a pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>", "is a web page"),
        (b"task:\n  _name: ecg_pretraining\n", "is a text"),
        (b"PK\x03\x04 and no more", "is damaged or cut short"),
    ],
)
def test_other_files(tmp_path, content, told):
    (tmp_path / "a.pt").write_bytes(content)
    assert what_is_wrong_with(tmp_path / "a.pt").startswith(told)


def test_archive_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("readme", "hello")
    assert what_is_wrong_with(tmp_path / "a.pt").startswith("is a zip archive, not a checkpoint")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_cut_short(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * share)])
    assert what_is_wrong_with(saved).startswith("is damaged or cut short")


def test_flipped_bit(saved):
    content = bytearray(saved.read_bytes())
    at = content.index(torch.arange(3000.0)[1000:1010].numpy().tobytes())
    content[at] ^= 1
    saved.write_bytes(content)
    assert torch.load(saved, weights_only=True)["model"]["a"][1000] != 1000  # torch itself says nothing
    assert "the checksum of its part a/data/0 differs" in what_is_wrong_with(saved)
