"""The same exams prepared here and by ECG-FM's own processing: the model's inputs are the same."""

import numpy as np
import pandas as pd
import pytest
import scipy.io

from fairseq_signals_ext import cli
from fairseq_signals_ext.data.ecg_dataset import EcgDataset
from fairseq_signals_ext.data.manifest import find_manifests, read_manifests
from fairseq_signals_ext.data.segments import SegmentSettings
from fairseq_signals_ext.data.shards import open_shard
from fairseq_signals_ext.data.stores import coefficients, open_store


def main(arguments):
    return cli.main(["prepare", *arguments])


LARGEST_DIFFERENCE = 0.002  # standard deviations


@pytest.fixture(scope="module", params=["raw", "flac"])
def prepared(ecg_data, tmp_path_factory, request):
    """`org/` at 500 Hz, the table, and a store of the recordings."""
    out = tmp_path_factory.mktemp("prepared")
    folder = ecg_data / "code15_ecg_fm" / "org"
    assert main(["files", str(folder), "--out", str(out), "--rate", "500", "--storage", request.param]) == 0
    table = pd.read_parquet(out / "recordings.parquet")
    assert len(table) == 10
    return out, table, open_store(read_manifests(find_manifests(out, "all")))


def assert_alike(found, expected):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= LARGEST_DIFFERENCE
    for lead, reference in zip(found, expected):
        assert np.corrcoef(lead, reference)[0, 1] > 0.99999


def test_whole_recordings(prepared, ecg_data):
    _, table, store = prepared
    files = sorted((ecg_data / "code15_ecg_fm" / "preprocessed").glob("*.mat"))
    assert len(files) == 4
    for file in files:
        signal = store.read(table.index[table["source_file"] == file.name][0])
        gain, offset = coefficients([signal], "lead", range(12))
        assert_alike(signal.counts * gain[0, :, None] + offset[0, :, None], scipy.io.loadmat(file)["feats"])


def test_segments(prepared, ecg_data):
    _, table, store = prepared
    dataset = EcgDataset(store, SegmentSettings(pairs="none"), training=False)
    listed = pd.read_csv(ecg_data / "code15_ecg_fm" / "segmented.csv")
    numbers = np.repeat(np.arange(len(store)), store.samples // 2500)
    assert len(listed) == len(dataset) == 14
    loaded = dataset.collater([dataset[index] for index in range(len(dataset))])["net_input"]["source"].numpy()
    order = np.argsort([f"{table['record_id'][number]}" for number in numbers], kind="stable")
    for row, index in zip(listed.itertuples(), order):
        assert row.save_file == table["source_file"][numbers[index]]
        expected = scipy.io.loadmat(ecg_data / "code15_ecg_fm" / "segmented" / row.path)["feats"]
        assert_alike(loaded[index], expected)


def test_means_and_deviations(ecg_data, tmp_path):
    """`meta.csv` has those of the exams as they are, at 400 Hz."""
    folder = ecg_data / "code15_ecg_fm"
    assert main(["files", str(folder / "org"), "--out", str(tmp_path), "--rate", "400"]) == 0
    meta = pd.read_csv(folder / "meta.csv").set_index("save_file")
    for row in pd.read_parquet(tmp_path / "recordings.parquet").itertuples():
        index = open_shard(tmp_path / row.shard)[1][row.row]
        expected = meta.loc[row.source_file]
        mean, std = (expected[[f"{name}_{lead}" for lead in range(12)]].to_numpy(float) for name in ("mean", "std"))
        np.testing.assert_allclose(index["mean"], mean, rtol=0, atol=1e-5 * std.max())
        np.testing.assert_allclose(index["std"], std, rtol=1e-5)


def test_means_and_deviations_of_resampled_exams(prepared, ecg_data):
    out, table, _ = prepared
    for file in (ecg_data / "code15_ecg_fm" / "preprocessed").glob("*.mat"):
        row = next(row for row in table.itertuples() if row.source_file == file.name)
        index, expected = open_shard(out / row.shard)[1][row.row], scipy.io.loadmat(file)
        np.testing.assert_allclose(index["mean"], expected["mean"].ravel(), rtol=0, atol=1e-5 * expected["std"].max())
        np.testing.assert_allclose(index["std"], expected["std"].ravel(), rtol=1e-5)
