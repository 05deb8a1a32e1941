"""The files of `labels/NAME/`."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.labelling.labels import Labels, write_labels


def made_up(values, names=None, idx=None):
    values = np.array(values, float)
    names = names or [f"l{column}" for column in range(values.shape[1])]
    return Labels(names, np.arange(len(values)) if idx is None else np.array(idx), values)


@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.lists(st.sampled_from([0.0, 1.0, np.nan]), min_size=width, max_size=width), min_size=1, max_size=12
        )
    ),
    st.data(),
)
@settings(max_examples=40, deadline=None)
def test_files_agree_with_each_other(tmp_path_factory, values, data):
    out = tmp_path_factory.mktemp("labels")
    idx = np.cumsum(data.draw(st.lists(st.integers(1, 3), min_size=len(values), max_size=len(values)))) - 1
    labels = made_up(values, idx=idx)
    if np.isnan(values).all():
        with pytest.raises(UserError, match="would have a label"):
            write_labels(out, "l", labels)
        return
    folder = write_labels(out, "l", labels)
    y = np.load(folder / "y.npy")
    assert y.dtype == np.float32 and y.shape == (idx[-1] + 1, labels.values.shape[1])
    np.testing.assert_array_equal(y[idx], labels.values)
    assert np.isnan(np.delete(y, idx, axis=0)).all()
    table = pd.read_csv(folder / "labels.csv", index_col="idx")
    assert list(table.index) == [number for number in idx if not np.isnan(y[number]).all()]
    np.testing.assert_array_equal(table.to_numpy(float), y[table.index])
    assert "." not in (folder / "labels.csv").read_text()
    definition = pd.read_csv(folder / "label_def.csv")
    weights = json.loads((folder / "pos_weight.txt").read_text())
    for column, (weight, row) in enumerate(zip(weights, definition.to_dict("records"))):
        known = [value for value in y[:, column].tolist() if value == value]
        positives, negatives = known.count(1.0), known.count(0.0)
        assert (row["pos_count_all"], row["known_count"]) == (positives, len(known))
        assert row["pos_percent_all"] == pytest.approx(positives / len(known) if known else 0, rel=1e-8)
        assert weight == pytest.approx(negatives / positives if positives and negatives else 1, rel=1e-5)


def test_weights_without_positives_are_told(tmp_path):
    labels = made_up([[0, 1, 1], [0, 1, 0], [np.nan, 1, 0]])
    folder = write_labels(tmp_path, "l", labels)
    assert (folder / "pos_weight.txt").read_text() == "[1,1,2]\n"
    assert labels.notes == [
        "warning: label 'l0' has no positives; its weight is 1",
        "warning: label 'l1' has no negatives; its weight is 1",
    ]
    assert json.loads((folder / "label.json").read_text())["notes"] == labels.notes


def test_weights_of_the_training_recordings(tmp_path):
    shards = ["shards/00000.npy", "shards/00000.npy", "shards/00001.npy", "shards/00001.npy"]
    table = pd.DataFrame({"idx": [0, 2, 4, 6], "shard": shards, "row": [0, 1, 0, 1]})
    table.to_parquet(tmp_path / "recordings.parquet")
    labels = made_up([[1], [0], [0], [0]], idx=[0, 2, 4, 6])
    split = tmp_path / "splits" / "s"
    split.mkdir(parents=True)
    pieces = ["shards/00001.npy\t1\t500\nshards/00000.npy\t0\t500\n", "shards/00001.npy\t0\t500\n"]
    for number, lines in enumerate(pieces):
        (split / f"train-0000{number}-of-00002.tsv").write_text(f"../..\n{lines}")
    folder = write_labels(tmp_path, "l", labels, train_manifest=split / "train.tsv")
    assert (folder / "pos_weight.txt").read_text() == "[2]\n"
    (split / "other.tsv").write_text("../..\nshards/00000.npy\t0\t500\nshards/00000.npy\t7\t500\n")
    with pytest.raises(UserError, match=r"other.tsv: line 3: not a recording of"):
        write_labels(tmp_path, "m", labels, train_manifest=split / "other.tsv")
    (split / "mat.tsv").write_text("../..\na.mat\t500\n")
    with pytest.raises(UserError, match="is a manifest of .mat files"):
        write_labels(tmp_path, "m", labels, train_manifest=split / "mat.tsv")


def test_same_input_same_bytes_and_names_are_kept(tmp_path):
    first = write_labels(tmp_path / "a", "l", made_up([[0, 1], [1, np.nan]]))
    second = write_labels(tmp_path / "b", "l", made_up([[0, 1], [1, np.nan]]))
    files = sorted(path.name for path in first.iterdir())
    assert files == ["checksums.json", "label.json", "label_def.csv", "labels.csv", "pos_weight.txt", "y.npy"]
    assert [(first / name).read_bytes() for name in files] == [(second / name).read_bytes() for name in files]
    with pytest.raises(UserError, match="exists already; choose another --name, or replace it with --overwrite"):
        write_labels(tmp_path / "a", "l", made_up([[1], [0]]))
    replaced = made_up([[1.5], [0]])
    replaced.regression = True
    (first / "notes.txt").write_text("mine")
    write_labels(tmp_path / "a", "l", replaced, overwrite=True)
    assert (first / "notes.txt").read_text() == "mine"
    assert not (first / "pos_weight.txt").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", ".hidden", "a\0b"])
def test_name_must_be_one_folder(tmp_path, name):
    with pytest.raises(UserError, match="it names a folder"):
        write_labels(tmp_path, name, made_up([[1], [0]]))


@pytest.mark.parametrize("names", [["a", "a"], ["a", "idx"]])
def test_labels_need_names_of_their_own(tmp_path, names):
    with pytest.raises(UserError, match="give each a different name, other than idx"):
        write_labels(tmp_path, "l", made_up([[1, 0]], names))
