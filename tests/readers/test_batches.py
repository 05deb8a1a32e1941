"""Arrays of many ECGs, `.npy` and HDF5: all are read, each on access, with metadata from a table beside the file."""

import h5py
import numpy as np
import pandas as pd
import pytest

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.readers import _read, read_ecg, read_ecgs

SIGNALS = np.random.default_rng(0).normal(0, 0.3, size=(4, 12, 1000)).astype(np.float32)


def save_npy(folder, array):
    np.save(folder / "b.npy", array)
    return folder / "b.npy"


def save_hdf5(folder, array, **how):
    with h5py.File(folder / "b.h5", "w") as file:
        file.create_dataset("tracings", data=array, **how)
        file["exam_id"] = np.arange(len(array))
    return folder / "b.h5"


def save_compressed(folder, array):
    return save_hdf5(folder, array, chunks=(1, *array.shape[1:]), compression="gzip", shuffle=True)


SAVERS = [save_npy, save_hdf5, save_compressed]


@pytest.mark.parametrize("save", SAVERS)
@pytest.mark.parametrize("samples_first", [False, True])
def test_all_are_read(tmp_path, save, samples_first):
    path = save(tmp_path, SIGNALS.transpose(0, 2, 1) if samples_first else SIGNALS)
    found = list(read_ecgs(path, sample_rate=500))
    assert [recording.record_id for recording in found] == ["b", "b#2", "b#3", "b#4"]
    np.testing.assert_array_equal([recording.signal for recording in found], SIGNALS)
    with pytest.raises(UserError, match="it contains 4 ECGs; choose one with its number, from 1"):
        read_ecg(path, sample_rate=500)


@pytest.mark.parametrize("save", SAVERS)
def test_a_batch_of_one_ecg(tmp_path, save):
    np.testing.assert_array_equal(read_ecg(save(tmp_path, SIGNALS[:1]), sample_rate=500).signal, SIGNALS[0])


def test_integers_and_other_leads(tmp_path):
    path = save_npy(tmp_path, np.arange(5 * 3 * 50, dtype=np.int16).reshape(5, 50, 3))
    found = list(read_ecgs(path, sample_rate=500, leads=["V1", "I", "II"], unit="uV"))
    assert len(found) == 5
    np.testing.assert_array_equal(found[1].stored.counts[0], np.arange(5 * 150).reshape(5, 50, 3)[1, :, 1])


@pytest.mark.parametrize("save", SAVERS)
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 12, 12), "its shape is 12 x 12, so leads and samples cannot be distinguished"),
        ((3, 100, 5), "its shape is 100 x 5, which does not fit 12 leads"),
        ((0, 12, 100), "0 ECGs|claims more|no samples"),
        ((2, 12, 100, 1), "does not fit 12 leads|fit 12 leads"),
    ],
)
def test_shapes_that_do_not_fit(tmp_path, save, shape, message):
    if save is save_compressed and 0 in shape:
        pytest.skip("has no chunks")
    with pytest.raises(UserError, match=message):
        list(read_ecgs(save(tmp_path, np.zeros(shape, np.float32)), sample_rate=500))


def test_required_metadata_of_a_batch(tmp_path):
    with pytest.raises(UserError, match="its sample rate is missing"):
        list(read_ecgs(save_npy(tmp_path, SIGNALS)))
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"], file["b"] = SIGNALS, SIGNALS
    with pytest.raises(UserError, match=r"2 of its arrays have three dimensions \(a, b\); leave one"):
        list(read_ecgs(tmp_path / "two.h5", sample_rate=500))


def test_only_requested_ecgs_are_read(tmp_path):
    content = np.lib.format.open_memmap(tmp_path / "large.npy", "w+", np.float32, (200_000, 12, 5000))  # 48 GB of holes
    content[150_000] = 0.5
    recordings = _read(tmp_path / "large.npy", 500, None, None)
    assert len(recordings) == 200_000
    assert (recordings[150_000].signal == 0.5).all()


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("save", SAVERS)
def test_a_table_beside_it(tmp_path, save, suffix):
    path = save(tmp_path, SIGNALS)
    ids = ["p1", "X X X X", "p1", None]
    table = pd.DataFrame({"patient": ids, "age": ["45Y", "61", None, "90+"], "sex": ["F", "m", "", "male"], "x": 1})
    if suffix == ".parquet":
        table.to_parquet(path.with_suffix(suffix))
    else:
        table.to_csv(path.with_suffix(suffix), index=False, sep="," if suffix == ".csv" else "\t")
    found = list(read_ecgs(path, sample_rate=500))
    assert [(recording.patient, recording.age, recording.sex) for recording in found] == [
        *(("p1", 45, "female"), (None, 61, "male"), ("p1", None, None), (None, 90, "male"))
    ]


def test_names_in_the_table(tmp_path):
    path = save_npy(tmp_path, SIGNALS)
    (tmp_path / "b.csv").write_text("record_id\nr7\nr8\n\nr9\n")
    with pytest.raises(UserError, match="b.csv: it has 3 rows for 4 ECGs of b.npy"):
        list(read_ecgs(path, sample_rate=500))
    (tmp_path / "b.csv").write_text("record_id,n\nr7,\nr8,\n,\nr9,\n")
    assert [recording.record_id for recording in read_ecgs(path, sample_rate=500)] == ["r7", "r8", "b#3", "r9"]
    (tmp_path / "b.csv").write_text("I,II\n0.5,1\n")  # an ECG of its own
    assert len(list(read_ecgs(path, sample_rate=500))) == 4


def test_damaged_hdf5(tmp_path):
    path = save_compressed(tmp_path, SIGNALS)
    content = path.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(60):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 8):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(len(content) // 2, len(content) + 1)])
        try:
            list(read_ecgs(path, sample_rate=500))
        except UserError as error:
            assert "\n" not in str(error)
