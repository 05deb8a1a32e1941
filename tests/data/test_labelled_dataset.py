"""Segments with labels: joined by idx, one or all segments of a recording."""

import numpy as np
import pytest
import scipy.io
import torch
from made_up import RATE, open_dataset, write_mat_7_3, write_shards

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data.ecg_dataset import LabelledEcgDataset
from fairseq_signals_ext.data.label_table import LabelTable
from fairseq_signals_ext.data.manifest import find_manifests, read_manifests
from fairseq_signals_ext.data.segments import SegmentSettings
from fairseq_signals_ext.data.shards import patient_key
from fairseq_signals_ext.data.stores import open_store

LENGTHS = [2500, 5000, 7600, 12500, 2500]


def table(recordings, labels=3):
    values = np.random.default_rng(0).integers(0, 2, (recordings, labels)).astype(np.float32)
    values[0, 0] = np.nan
    return LabelTable("y.npy", values, [f"label {number}" for number in range(labels)], [[]] * labels)


def dataset(folder, labels, training=True, **settings):
    store = open_store(read_manifests(find_manifests(folder, "train")))
    return LabelledEcgDataset(
        store, SegmentSettings(**settings), training=training, labels=labels, num_labels=3, classes=True
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, LENGTHS)
    return folder


def test_every_segment_has_the_label_of_its_recording(shards):
    labels = table(5)
    data = dataset(shards, labels)
    assert len(data) == sum(length // 2500 for length in LENGTHS)
    batch = data.collater([data[index] for index in range(len(data))])
    idx = batch["idx"].numpy()
    assert np.bincount(idx).tolist() == [1, 2, 3, 5, 1]
    np.testing.assert_array_equal(batch["label"].numpy(), labels.values[idx])
    assert torch.isnan(batch["label"][0, 0])


def test_random_segment_is_one_of_all(shards):
    everything = dataset(shards, table(5), training=False)
    items = [everything[index] for index in range(len(everything))]
    known = {(item.signal.idx, item.start) for item in items}
    drawn = dataset(shards, table(5), segment="random")
    seen = set()
    for epoch in range(1, 60):
        drawn.set_epoch(epoch)
        now = [(drawn[index].signal.idx, drawn[index].start) for index in range(len(drawn))]
        assert [idx for idx, _ in now] == [0, 1, 2, 3, 4]  # each recording once an epoch
        seen.update(now)
    assert seen == known  # every segment has its turn, and nothing else
    drawn.set_epoch(3)
    again = [drawn[index].start for index in range(len(drawn))]
    assert again == [drawn[index].start for index in range(len(drawn))]


def test_random_is_for_training_only(shards):
    validation = dataset(shards, table(5), training=False, segment="random")
    assert len(validation) == 12


def test_random_with_recordings_shorter_than_a_segment(tmp_path):
    write_shards(tmp_path, [1000, 7500])
    data = dataset(tmp_path, table(2), segment="random", pad=True)
    batch = data.collater([data[0], data[1]])
    assert batch["net_input"]["padding_mask"].sum(-1).tolist() == [1500, 0]


def test_unknown_choice(shards):
    with pytest.raises(UserError, match="segment='some': use one of all, random"):
        dataset(shards, table(5), segment="some")


def write_mats(folder, idx, **more):
    feats = np.random.default_rng(0).normal(size=(12, 2500)).astype(np.float32)
    lines = ["."]
    for number in idx:
        content = {"feats": feats, "curr_sample_rate": RATE, "idx": number, **more}
        scipy.io.savemat(folder / f"{number}.mat", content)
        lines.append(f"{number}.mat\t2500")
    (folder / "train.tsv").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(("patient", "number"), [(7, 7), ("p7", patient_key("p7")), ("7", 7), (7.0, 7)])
def test_the_patient_of_a_mat_file_is_the_one_that_it_names(tmp_path, patient, number):
    write_mats(tmp_path, [3, 0], patient_id=patient)
    signals = [open_store(read_manifests([tmp_path / "train.tsv"])).read(row) for row in (0, 1)]
    assert [(signal.idx, signal.patient, signal.pair) for signal in signals] == [(3, number, 3), (0, number, 0)]


@pytest.mark.parametrize("more", [{}, {"patient_id": "X X X X"}, {"patient_id": 0}, {"patient_id": np.nan}])
def test_a_mat_file_without_patient_is_a_separate_patient(tmp_path, more):
    write_mats(tmp_path, [3, 4], **more)
    data = dataset(tmp_path, table(5))
    first, second = data.collater([data[0], data[1]])["patient_id"].tolist()
    assert len({first, second, 3, 4}) == 4  # nor is it the patient whose number is its idx


@pytest.mark.parametrize("pairs", ["none", "fixed"])
def test_patients_are_for_metrics_and_idx_for_pairs(tmp_path, pairs):
    write_mats(tmp_path, [3, 4], patient_id=9)
    data = open_dataset(tmp_path, pairs=pairs, segment_seconds=2.5)
    batch = data.collater([data[index] for index in range(len(data))])
    assert batch["patient_id"].tolist() == ([9] * 4 if pairs == "none" else [3, 3, 4, 4])


def test_a_mat_file_of_version_7_3(tmp_path):
    feats = np.random.default_rng(0).normal(size=(12, 2500))
    write_mat_7_3(tmp_path / "0.mat", feats=feats, curr_sample_rate=500.0, idx=3.0, patient_id="p7")
    (tmp_path / "train.tsv").write_text(".\n0.mat\t2500\n")
    signal = open_store(read_manifests([tmp_path / "train.tsv"])).read(0)
    assert (signal.idx, signal.patient, signal.sample_rate) == (3, patient_key("p7"), 500)
    np.testing.assert_array_equal(signal.counts, feats.astype(np.float32))


@pytest.mark.parametrize(
    "more", [{"patient_id": [1, 2]}, {"patient_id": np.array(["p", 3], object)}, {"label": "many"}]
)
def test_a_mat_file_with_other_content_is_one_line(tmp_path, more):
    write_mats(tmp_path, [3], **more)
    with pytest.raises(UserError, match=r"3\.mat: not a \.mat file of ECG-FM"):
        open_store(read_manifests([tmp_path / "train.tsv"])).read(0)


def test_mat_files_are_joined_by_their_idx(tmp_path):
    write_mats(tmp_path, [3, 0])
    labels = table(5)
    data = dataset(tmp_path, labels)
    batch = data.collater([data[0], data[1]])
    assert batch["idx"].tolist() == [3, 0]
    np.testing.assert_array_equal(batch["label"].numpy(), labels.values[[3, 0]])


def test_mat_file_beyond_the_table(tmp_path):
    write_mats(tmp_path, [5])
    data = dataset(tmp_path, table(5))
    with pytest.raises(UserError, match="has 5 rows, but there is a recording with idx 5"):
        data.collater([data[0]])


def test_label_in_a_mat_file(tmp_path):
    write_mats(tmp_path, [0], label=np.array([1.0, 0.0, 1.0]))
    data = dataset(tmp_path, None)
    assert data.collater([data[0]])["label"].tolist() == [[1, 0, 1]]
    write_mats(tmp_path, [0], label=np.array([1.0]))
    data = dataset(tmp_path, None)
    with pytest.raises(UserError, match="0.mat: 1 labels where model.num_labels=3"):
        data.collater([data[0]])


def test_label_in_a_mat_file_that_is_no_class(tmp_path):
    write_mats(tmp_path, [0], label=np.array([1.0, 0.0, 3.0]))
    data = dataset(tmp_path, None)
    with pytest.raises(UserError, match=r"0.mat: label \[1.0, 0.0, 3.0\] is not of 0, 1 and NaN"):
        data.collater([data[0]])


def test_mat_files_without_idx_are_recordings_of_their_own(tmp_path):
    write_mats(tmp_path, [0, 1], label=np.array([1.0, 0.0, 1.0]))
    for number in (0, 1):
        content = {"feats": np.ones((12, 2500)), "curr_sample_rate": RATE, "label": np.array([1.0, 0.0, 1.0])}
        scipy.io.savemat(tmp_path / f"{number}.mat", content)
    data = dataset(tmp_path, None)
    assert len(set(data.collater([data[0], data[1]])["idx"].tolist())) == 2


def test_predictions_for_a_short_recording_do_not_depend_on_its_batch(tmp_path):
    write_shards(tmp_path, [1000, 1800])
    data = dataset(tmp_path, table(2), pad=True)
    alone, together = data.collater([data[0]])["net_input"], data.collater([data[0], data[1]])["net_input"]
    assert alone["source"].shape == (1, 12, 2500)
    for key in ("source", "padding_mask"):
        assert torch.equal(alone[key][0], together[key][0])


def test_mat_file_without_label_or_idx(tmp_path):
    write_mats(tmp_path, [0])
    data = dataset(tmp_path, None)
    with pytest.raises(UserError, match="0.mat: no label; set task.label_file"):
        data.collater([data[0]])
    scipy.io.savemat(tmp_path / "0.mat", {"feats": np.ones((12, 2500)), "curr_sample_rate": RATE, "patient_id": 4})
    data = dataset(tmp_path, table(5))
    with pytest.raises(UserError, match="0.mat: has no idx"):
        data.collater([data[0]])
