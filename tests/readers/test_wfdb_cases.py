"""WFDB records that once were refused or read wrongly, with the values that their makers gave."""

import numpy as np
import pytest

from fairseq_signals_ext.readers import read_ecg

NEAR = 1e-6  # mV; truths are float32


@pytest.fixture(scope="module")
def wfdb_cases(cases):
    return cases / "wfdb"


def truth_of(folder, file, name):
    with np.load(folder / file) as arrays:
        return arrays[name]


@pytest.mark.parametrize(
    ("record", "truth", "name", "age", "sex", "patient"),
    [
        ("fmt/f61", "fmt_truth.npz", "f61", None, None, None),
        ("w1/E90001", "truth.npz", "truth", 71, "female", None),
        ("w12/1", "truth.npz", "truth", 51, "female", None),
        ("w27/a", "truth2.npz", "truth", None, None, None),
        ("w28/I90", "truth.npz", "truth", 65, "female", "1"),
    ],
)
def test_cases(wfdb_cases, record, truth, name, age, sex, patient):
    recording = read_ecg(wfdb_cases / f"{record}.hea")
    assert recording.leads == tuple(range(12))
    assert recording.sample_rate == 500
    np.testing.assert_allclose(recording.signal, truth_of(wfdb_cases, truth, name), rtol=0, atol=NEAR)
    assert (recording.age, recording.sex, recording.patient, recording.start_time) == (age, sex, patient, None)


def test_segments_with_several_samples_per_frame_keep_every_one(wfdb_cases):
    parts = [read_ecg(wfdb_cases / f"w27/a_{number}.hea").signal for number in (1, 2)]
    np.testing.assert_array_equal(read_ecg(wfdb_cases / "w27/a.hea").signal, np.concatenate(parts, axis=1))
