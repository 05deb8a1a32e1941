"""`.npy` and `.mat` files: leads by the shape, required metadata, and ECG-FM's files."""

import pickle
import sys

import numpy as np
import pytest
import scipy.io
import wfdb

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.readers import read_ecg


@pytest.fixture
def signal():
    return np.random.default_rng(0).normal(size=(12, 50))


def save_npy(folder, array):
    np.save(folder / "r.npy", array)
    return folder / "r.npy"


def save_mat(folder, array, **others):
    scipy.io.savemat(folder / "r.mat", {"val": array, **others}, do_compression=True)
    return folder / "r.mat"


def save_mat4(folder, array):
    scipy.io.savemat(folder / "r.mat", {"val": array}, format="4")
    return folder / "r.mat"


def save_mat73(folder, array, name="val", **others):
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "r.mat", "w", userblock_size=512) as file:
        for key, value in {name: array, **others}.items():
            file[key] = np.asarray(value).T
    with open(folder / "r.mat", "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: test".ljust(124) + b"\0\2IM")
    return folder / "r.mat"


SAVERS = [save_npy, save_mat, save_mat4, save_mat73]


@pytest.mark.parametrize("save", SAVERS)
@pytest.mark.parametrize("transposed", [False, True])
def test_leads_are_the_dimension_of_twelve(tmp_path, signal, save, transposed):
    recording = read_ecg(save(tmp_path, signal.T if transposed else signal), sample_rate=250)
    np.testing.assert_array_equal(recording.signal, signal)
    assert (recording.record_id, recording.leads, recording.sample_rate) == ("r", tuple(range(12)), 250)
    assert recording.stored is None
    assert recording.derived == ()


@pytest.mark.parametrize("save", SAVERS)
def test_integers_keep_their_counts_and_need_a_unit(tmp_path, save):
    counts = np.random.default_rng(0).integers(-3000, 3000, (12, 50)).astype(np.int16)
    path = save(tmp_path, counts)
    with pytest.raises(UserError, match="it contains integers and no unit"):
        read_ecg(path, sample_rate=250)
    recording = read_ecg(path, sample_rate=250, unit="uV")
    np.testing.assert_allclose(recording.signal, counts / 1000, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(recording.stored.counts, counts)
    np.testing.assert_allclose(recording.stored.scale, 1e-3, rtol=1e-15)


@pytest.mark.parametrize("save", SAVERS)
def test_missing_or_contradicting_metadata(tmp_path, signal, save):
    path = save(tmp_path, signal)
    with pytest.raises(UserError, match="its sample rate is missing"):
        read_ecg(path)
    with pytest.raises(UserError, match=r"its shape is 12 x 50, which does not fit 2 leads|fit 2 leads|12 x 50"):
        read_ecg(path, sample_rate=250, leads=["I", "V1"])
    with pytest.raises(UserError, match="'mmHg' is not a voltage"):
        read_ecg(path, sample_rate=250, unit="mmHg")
    with pytest.raises(UserError, match="cannot be distinguished"):
        read_ecg(save(tmp_path, signal[:, :12]), sample_rate=250)


@pytest.mark.parametrize("rate", [0, -5, np.nan, np.inf, 0.5, 1e7])
def test_impossible_sample_rates(tmp_path, signal, rate):
    with pytest.raises(UserError, match="its sample rate is"):
        read_ecg(save_npy(tmp_path, signal), sample_rate=rate)


def test_given_leads_are_put_in_standard_order(tmp_path, signal):
    recording = read_ecg(save_npy(tmp_path, signal[:3]), sample_rate=250, leads=["V6", "avl", "V1"])
    assert [LEADS[lead] for lead in recording.leads] == ["aVL", "V1", "V6"]
    np.testing.assert_array_equal(recording.signal, signal[[1, 2, 0]])


def test_python_objects_are_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    pickled = save_npy(tmp_path, np.array([Bomb()] * 12, dtype=object))
    with pytest.raises(UserError, match="cannot be read as a NumPy array"):
        read_ecg(pickled, sample_rate=250)
    pickled.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError):
        read_ecg(pickled, sample_rate=250)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "array", [np.zeros((12, 5), complex), np.zeros((12, 5), bool), np.zeros((12, 5), "M8[s]"), np.zeros((12, 5), "U3")]
)
def test_other_kinds_of_values(tmp_path, array):
    with pytest.raises(UserError, match="not real numbers"):
        read_ecg(save_npy(tmp_path, array), sample_rate=250)


@pytest.mark.parametrize("shape", [(), (12,), (1, 12, 5, 1), (3, 4), (12, 0)])
def test_other_shapes(tmp_path, shape):
    with pytest.raises(UserError, match="its shape is|contains no samples"):
        read_ecg(save_npy(tmp_path, np.zeros(shape)), sample_rate=250)


def test_infinite_values(tmp_path, signal):
    signal[3, 4] = np.inf
    with pytest.raises(UserError, match="infinite values"):
        read_ecg(save_npy(tmp_path, signal), sample_rate=250)


def test_claimed_sizes_are_checked_before_memory_is_reserved(tmp_path):
    path = tmp_path / "r.npy"
    claims = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (12, 1000000000), }"
    path.write_bytes(claims.ljust(127) + b"\n" + b"\0" * 900)
    with pytest.raises(UserError, match="cannot be read as a NumPy array"):
        read_ecg(path, sample_rate=250)
    mat = tmp_path / "r.mat"
    mat.write_bytes(np.array([0, 12, 10**9, 0, 4], "<i4").tobytes() + b"val\0" + b"\0" * 900)
    with pytest.raises(UserError, match="claims more samples than fit into the file"):
        read_ecg(mat, sample_rate=250)


def test_mat_files_of_ecg_fm(ecg_data):
    folder = ecg_data / "code15_ecg_fm"
    for path in sorted((folder / "org").glob("*.mat")):
        reference = scipy.io.loadmat(path)
        recording = read_ecg(path)
        np.testing.assert_array_equal(recording.signal, reference["feats"])
        assert recording.sample_rate == 400
        assert recording.record_id == path.stem


def test_standardised_files_of_ecg_fm_become_millivolts(ecg_data):
    folder = ecg_data / "code15_ecg_fm"
    paths = sorted((folder / "preprocessed").glob("*.mat"))
    assert paths
    for path in paths:
        recording, original = read_ecg(path), read_ecg(folder / "org" / path.name)
        assert recording.sample_rate == 500
        # ECG-FM resamples linearly, with the first and last samples kept in place
        new, old = recording.signal.shape[1], original.signal.shape[1]
        at = np.linspace(0, old - 1, new)
        expected = [np.interp(at, np.arange(old), row) for row in original.signal]
        np.testing.assert_allclose(recording.signal, expected, rtol=0, atol=1e-6)
        segment = read_ecg(folder / "segmented" / f"{path.stem}_0.mat")
        np.testing.assert_allclose(segment.signal, recording.signal[:, :2500], atol=1e-6)


def test_a_rate_that_differs_from_the_file(ecg_data):
    path = sorted((ecg_data / "code15_ecg_fm" / "org").glob("*.mat"))[0]
    assert read_ecg(path, sample_rate=400).sample_rate == 400
    with pytest.raises(UserError, match="its sample rate is 400 Hz, not 500 Hz"):
        read_ecg(path, sample_rate=500)


@pytest.mark.parametrize("save", [save_mat, save_mat73])
def test_standardisation_of_feats_is_reverted(tmp_path, signal, save):
    mean, std = np.arange(12.0)[:, None], np.arange(1.0, 13)[:, None]
    others = {"feats": signal, "mean": mean, "std": std, "curr_sample_rate": np.array([[100]])}
    if save is save_mat:
        scipy.io.savemat(tmp_path / "r.mat", others)
    else:
        save_mat73(tmp_path, others.pop("feats"), "feats", **others)
    recording = read_ecg(tmp_path / "r.mat")
    np.testing.assert_allclose(recording.signal, signal * std + mean, rtol=1e-12)
    assert recording.sample_rate == 100


def test_the_only_matrix_that_fits_is_the_signal(tmp_path, signal):
    scipy.io.savemat(tmp_path / "r.mat", {"ecg": signal, "note": "text", "cells": np.array([1, "a"], dtype=object)})
    np.testing.assert_array_equal(read_ecg(tmp_path / "r.mat", sample_rate=250).signal, signal)
    scipy.io.savemat(tmp_path / "r.mat", {"ecg": signal, "other": signal})
    with pytest.raises(UserError, match=r"2 of its matrices \(ecg, other\) fit 12 leads"):
        read_ecg(tmp_path / "r.mat", sample_rate=250)


def test_challenge_matrix_with_and_without_its_header(tmp_path, ecg_data):
    header = sorted((ecg_data / "cinc2021").rglob("*.hea"))[0]
    source = header.with_suffix(".mat")
    reference = wfdb.rdrecord(str(header)[:-4])
    np.testing.assert_allclose(read_ecg(source).signal, reference.p_signal.T, atol=1e-9)
    alone = tmp_path / source.name
    alone.write_bytes(source.read_bytes())
    with pytest.raises(UserError, match="its sample rate is missing"):
        read_ecg(alone)
    assert set(reference.adc_gain) == {1000}
    recording = read_ecg(alone, sample_rate=reference.fs, unit="uV")
    np.testing.assert_allclose(recording.signal, reference.p_signal.T, atol=1e-9)


def test_links_to_other_files_are_not_followed(tmp_path, signal):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "other.mat", "w") as file:
        file["val"] = signal.T
    with h5py.File(tmp_path / "r.mat", "w") as file:
        file["val"] = h5py.ExternalLink("other.mat", "val")
    with pytest.raises(UserError, match="0 of its matrices"):
        read_ecg(tmp_path / "r.mat", sample_rate=250)


def test_without_h5py(tmp_path, monkeypatch):
    path = tmp_path / "r.mat"
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[formats\]' in a clone, or"):
        read_ecg(path, sample_rate=250)
