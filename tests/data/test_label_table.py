"""Label files: their content, and errors in them."""

import numpy as np
import pytest

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data.label_table import (
    are_exclusive,
    check_classes,
    check_known,
    check_same_folder,
    one_class_labels,
    read_labels,
    read_weights,
)

Y = np.array([[1, 0], [0, np.nan], [np.nan, 1]], np.float32)


@pytest.fixture()
def folder(tmp_path):
    np.save(tmp_path / "y.npy", Y)
    (tmp_path / "label_def.csv").write_text("name,codes\nAF,164889003\nRBBB,713427006;59118001\n")
    return tmp_path


def test_file_and_folder_are_the_same(folder):
    for path in (folder, folder / "y.npy", str(folder / "y.npy")):
        table = read_labels(path)
        assert table.names == ("AF", "RBBB")
        assert table.codes == (["164889003"], ["713427006", "59118001"])
        np.testing.assert_array_equal(table.rows(np.array([2, 0])), Y[[2, 0]])


def test_labels_of_ecg_fm(ecg_data):
    table = read_labels(ecg_data / "code15_ecg_fm" / "labels" / "y.npy")
    assert table.names[:3] == ("is_male", "1dAVb", "RBBB") and len(table) == 10
    assert table.rows(np.array([1]))[0].tolist() == [1, 0, 1, 0, 0, 0, 0, 0]


def test_without_definition(tmp_path):
    np.save(tmp_path / "y.npy", np.array([1, 0, 1], bool))
    table = read_labels(tmp_path)
    assert table.names == ("label_0",) and table.rows(np.array([0, 1])).tolist() == [[1], [0]]


def test_recording_that_is_not_in_the_table(folder):
    for idx in (3, -1):
        with pytest.raises(
            UserError, match=rf"y.npy: has 3 rows, but there is a recording with idx {idx}; .*fairseq-signals-ext label"
        ):
            read_labels(folder).rows(np.array([0, idx]))


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="y.npy: no such label file"):
        read_labels(tmp_path)


@pytest.mark.parametrize("content", [b"text", b"\x93NUMPY\x01\x00", b""])
def test_not_a_label_file(tmp_path, content):
    (tmp_path / "y.npy").write_bytes(content)
    with pytest.raises(UserError, match="y.npy: not a label file"):
        read_labels(tmp_path)


@pytest.mark.parametrize("values", [np.zeros((2, 2, 2)), np.array([["a"]]), np.zeros((0, 3))])
def test_not_numbers_of_recordings(tmp_path, values):
    np.save(tmp_path / "y.npy", values)
    with pytest.raises(UserError, match="not numbers, recordings x labels"):
        read_labels(tmp_path)


def test_pickle_is_not_run(tmp_path):
    np.save(tmp_path / "y.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(UserError, match="y.npy: not a label file"):
        read_labels(tmp_path)


def test_definition_of_other_labels(folder):
    (folder / "label_def.csv").write_text("name\nAF\n")
    with pytest.raises(UserError, match="label_def.csv: defines 1 labels, but y.npy beside it has 2"):
        read_labels(folder)


def test_value_that_is_no_class(folder):
    table = read_labels(folder)
    check_classes(table, Y, np.array([0, 1, 2]))
    wrong = Y.copy()
    wrong[1, 0] = 0.5
    with pytest.raises(UserError, match="idx 7, label 'AF': 0.5 is neither 0, 1 nor unknown"):
        check_classes(table, wrong, np.array([5, 7, 9]))


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ([0, 1, 2, 3], "2 is neither .*class indices of 4 classes: give one column per class.*softmax"),
        ([1, 2, 3, np.nan], "2 is neither .*class indices of 4 classes"),
        ([1, 0, -1, 0], "-1 is neither .*-1 looks like a mark for unknown: write NaN"),
        ([1, 0, -999, 2], "-999 is neither .*-999 looks like a mark for unknown"),
        ([1, 0, -999, np.nan], "-999 is neither .*-999 looks like a mark for unknown"),
        ([1, 0, 0.5, 0], "0.5 is neither .*ecg_regression"),
        ([61, 62, 1, 0], "61 is neither .*ecg_regression"),
        ([np.inf, 1, 0, 0], "inf is neither .*ecg_regression"),
        ([1, -np.inf, 0, 0], "-inf is neither .*ecg_regression"),
    ],
)
def test_hints_on_wrong_values(tmp_path, column, told):
    np.save(tmp_path / "y.npy", np.array(column, float)[:, np.newaxis])
    table = read_labels(tmp_path)
    with pytest.raises(UserError, match=f"y.npy: idx \\d, label 'label_0': {told}"):
        check_classes(table, np.array(table.values), None)


def test_classes_that_exclude_one_another():
    nan = np.nan
    values = np.array([[1, 0, 0], [nan, nan, nan], [0, nan, nan], [1, nan, nan], [0, 0, 0], [1, 1, 0], [1, 1, nan]])
    assert are_exclusive(values).tolist() == [True, True, True, True, False, False, False]


def test_label_that_is_always_unknown(folder):
    table = read_labels(folder)
    check_known(table.names, Y, "train.tsv")
    with pytest.raises(UserError, match="label 'RBBB': not known of any recording of train.tsv"):
        check_known(table.names, Y[1:2], "train.tsv")


def test_one_class_labels(folder):
    table = read_labels(folder)
    assert one_class_labels(table, Y) == ()
    assert one_class_labels(table, Y[:2]) == ("RBBB",)


def test_weights(tmp_path):
    path = tmp_path / "pos_weight.txt"
    path.write_text("[12.3,4]\n")
    assert read_weights(path, 2, "pos_weight") == read_weights([12.3, 4], 2, "pos_weight") == [12.3, 4.0]
    for text in ("12.3", "[1, -2]", "[1, ", '["a", "b"]', "[Infinity, 1]", "[1, NaN]", "{}", "[1]"):
        path.write_text(text)
        with pytest.raises(UserError, match="pos_weight.txt: "):
            read_weights(path, 2, "pos_weight")
    for numbers, said in (
        (3.2, "not a list"),
        ([1, 0], "not a list"),
        (["a", "b"], "not a list"),
        ([1], "1 numbers for 2"),
    ):
        with pytest.raises(UserError, match=said):
            read_weights(numbers, 2, "pos_weight")
    with pytest.raises(UserError, match="pos_weight.txt"):
        read_weights(tmp_path / "none" / "pos_weight.txt", 2, "pos_weight")


def test_two_labels_of_one_name(folder):
    (folder / "label_def.csv").write_text("name\nAF\nAF\n")
    with pytest.raises(UserError, match="label_def.csv: label 'AF' occurs twice"):
        read_labels(folder)


def test_workers_that_are_not_forked_open_the_file_themselves(folder):
    import pickle

    table = read_labels(folder)
    again = pickle.loads(pickle.dumps(table))
    np.testing.assert_array_equal(again.values, table.values)
    assert len(pickle.dumps(table)) < 1000 and isinstance(again.values, np.memmap)


def prepared(folder, recordings):
    """Write the mark of a prepared folder, and its table."""
    import pandas as pd

    folder.mkdir()
    (folder / "plan.jsonl").touch()
    pd.DataFrame({"idx": np.arange(recordings)}).to_parquet(folder / "recordings.parquet")
    return folder / "shards" / "00000.npy"


def labels_in(folder, rows):
    (folder / "labels" / "l").mkdir(parents=True)
    np.save(folder / "labels" / "l" / "y.npy", np.zeros((rows, 1)))
    return read_labels(folder / "labels" / "l")


def test_labels_of_another_folder(tmp_path):
    shard, other = prepared(tmp_path / "a", 4), prepared(tmp_path / "b", 4)
    table = labels_in(tmp_path / "a", 4)
    check_same_folder(table, shard)
    with pytest.raises(UserError, match=r"labels of .*/a, but the recordings are of .*/b; give those of one"):
        check_same_folder(table, other)


def test_longer_than_the_recordings(tmp_path):
    shard = prepared(tmp_path / "a", 4)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(
        UserError, match="has 5 rows, but .*/a has idx 0 to 3; the label file belongs to other recordings"
    ):
        check_same_folder(labels_in(elsewhere, 5), shard)
