"""Manifests: every kind is read, and errors are reported with their line."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data.manifest import find_manifests, read_manifests


def read(folder, text, name="train.tsv"):
    (folder / name).write_text(text)
    return read_manifests([folder / name])


def test_shards(tmp_path):
    manifest = read(tmp_path, ".\nb.npy\t0\t5000\na.npy\t7\t100\nb.npy\t1\t4999\n")
    named = [manifest.shards[number].name for number in manifest.shard]
    assert named == ["b.npy", "a.npy", "b.npy"]
    assert manifest.row.tolist() == [0, 7, 1]
    assert manifest.samples.tolist() == [5000, 100, 4999]
    assert manifest.shards[0].parent == tmp_path


@given(rows=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 10**6), st.integers(0, 10**9 - 1)), min_size=1))
def test_any_shard_manifest_comes_back(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("manifest")
    text = "".join(f"shards/{shard:05d}.npy\t{row}\t{samples}\n" for shard, row, samples in rows)
    manifest = read(folder, "data\n" + text)
    numbers = [int(manifest.shards[position].stem) for position in manifest.shard]
    found = list(zip(numbers, manifest.row.tolist(), manifest.samples.tolist()))
    assert found == rows


def test_ecg_fm_files(tmp_path):
    manifest = read(tmp_path, "/elsewhere\na/one.mat\t2500\ntwo.mat\t1000\n")
    assert [str(files[0]) for files in manifest.files] == ["/elsewhere/a/one.mat", "/elsewhere/two.mat"]
    assert manifest.samples.tolist() == [2500, 1000]


def test_ecg_fm_cmsc(tmp_path):
    manifest = read(tmp_path, "/elsewhere\nmat\nrec\t2500\t0\t0,1\nrec\t2500\t0\t2,3\n")
    assert [[file.name for file in files] for files in manifest.files] == [
        ["rec_0.mat", "rec_1.mat"],
        ["rec_2.mat", "rec_3.mat"],
    ]
    assert manifest.samples.tolist() == [5000, 5000]


def test_pieces_of_a_split_follow_each_other(tmp_path):
    (tmp_path / "train-00001-of-00002.tsv").write_text(".\nb.npy\t0\t2\n")
    (tmp_path / "train-00000-of-00002.tsv").write_text(".\na.npy\t0\t1\nb.npy\t5\t3\n")
    manifest = read_manifests(find_manifests(tmp_path, "train"))
    assert manifest.samples.tolist() == [1, 3, 2]
    assert [manifest.shards[number].name for number in manifest.shard] == ["a.npy", "b.npy", "b.npy"]
    (tmp_path / "train-00000-of-00002.tsv").unlink()
    with pytest.raises(UserError, match="train-00000-of-00002.tsv: the set of 2 manifests is not whole"):
        find_manifests(tmp_path, "train")


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "the manifest is empty"),
        (".\n", "the manifest is empty"),
        (".\na.npy\t0\t5\na.npy\t1\n", "line 3 is malformed: 'a.npy.*1'"),
        (".\na.npy\t0\t5\na.npy\t1\t5\t9\n", "line 3 is malformed"),
        (".\na.npy\t0\t5\n\na.npy\t1\t5\n", "line 3 is malformed: ''"),
        (".\na.npy\t0\t5\na.npy\t-1\t5\n", "line 3 is malformed"),
        (".\na.npy\t0\t5\na.npy\tone\t5\n", "line 3 is malformed"),
        (".\na.npy\t0\t99999999999\n", "line 2 is malformed"),
        (".\na.npy\t0\t999999999999999999999999\n", "line 2 is malformed"),
        (".\na.npy\t0\t1.5\n", "line 2 is malformed"),
        (".\na.mat\t5\nb.mat\n", "line 3 is malformed"),
        (".\nmat\nrec\t5\t0\t0;1\n", "line 3 is malformed"),
        (".\na\tb\tc\td\te\n", "line 2: 5 columns"),
    ],
)
def test_malformed(tmp_path, text, message):
    with pytest.raises(UserError, match=f"train.tsv: {message}"):
        read(tmp_path, text)


def test_missing(tmp_path):
    (tmp_path / "valid.tsv").write_text(".\n")
    with pytest.raises(UserError, match=r"train.tsv: no such manifest \(manifests in this folder: valid.tsv\)"):
        find_manifests(tmp_path, "train")


def test_kinds_are_not_mixed(tmp_path):
    (tmp_path / "a.tsv").write_text(".\na.npy\t0\t1\n")
    (tmp_path / "b.tsv").write_text(".\na.mat\t1\n")
    with pytest.raises(UserError, match="different kinds"):
        read_manifests([tmp_path / "a.tsv", tmp_path / "b.tsv"])


def test_dtypes(tmp_path):
    manifest = read(tmp_path, ".\na.npy\t0\t5\n")
    assert {manifest.shard.dtype, manifest.row.dtype, manifest.samples.dtype} == {np.dtype(np.int32)}
