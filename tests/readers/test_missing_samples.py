"""Samples that a file marks as missing are NaN, and signal of the same value is not."""

import struct

import numpy as np
import pytest
from fuzz_seeds import mfer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_parts import UV, noise, wave, write_dicom

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.readers import read_ecg
from fairseq_signals_ext.readers.dicom import padding_mask


def missing(tmp_path, counts, padding, leads=LEADS):
    one = wave(1, leads)
    path = write_dicom(tmp_path / "m.dcm", [type(one)(counts.astype(np.int16), leads, padding=padding)])
    recording = read_ecg(path)
    first, last = (round(seconds * recording.sample_rate) for seconds in recording.cut)
    found = np.ones(counts.shape, bool)  # padding at the ends is cut off
    found[:, first : counts.shape[1] - last] = np.isnan(recording.signal)
    signal = np.full(counts.shape, np.nan)
    signal[:, first : counts.shape[1] - last] = recording.signal
    np.testing.assert_allclose(signal[~found], (counts * UV / 1000)[~found], atol=1e-9)
    return found


def smooth(seconds=10, leads=12, seed=0):
    """A signal that stays at no value for long, but is at 0 now and then."""
    counts = np.random.default_rng(seed).integers(-300, 300, (leads, seconds * 500))
    counts[:, ::17] = 0
    counts[:, 1::17] += counts[:, 1::17] == 0
    for row in range(leads):  # not in all leads at once
        counts[row] = np.roll(counts[row], row)
    return counts


def test_an_ishne_lead_that_was_off(cases):
    recording = read_ecg(cases / "ishne" / "i02_fault.ecg")
    truth = np.load(cases / "ishne" / "truth.npz")["truth"]
    raw = np.frombuffer((cases / "ishne" / "i02_fault.ecg").read_bytes()[522:], "<i2").reshape(-1, 12).T
    off = raw == -32768
    assert off.any()
    np.testing.assert_array_equal(np.isnan(recording.signal), off)
    np.testing.assert_allclose(recording.signal[~off], truth[~off], rtol=0, atol=0.00126)


def test_single_zeros_are_signal(tmp_path):
    counts = smooth()
    assert (counts == 0).sum() > 1000
    assert not missing(tmp_path, counts, 0).any()


def test_single_zeros_of_one_lead_are_signal(tmp_path):
    assert not missing(tmp_path, smooth(leads=1), 0, ("II",)).any()


@pytest.mark.parametrize("start", [0, 700, 4500])
def test_zeros_in_all_leads_at_once_are_padding(tmp_path, start):
    counts = smooth()
    counts[:, max(start - 1, 0) : start + 501] = 7
    counts[:, start : start + 500] = 0
    expected = np.zeros(counts.shape, bool)
    expected[:, start : start + 500] = True
    np.testing.assert_array_equal(missing(tmp_path, counts, 0), expected)


def test_a_lead_that_is_padded_for_a_while(tmp_path):
    counts = smooth()
    counts[3, 1000:2000] = 0
    counts[3, [999, 2000]] = 7
    found = missing(tmp_path, counts, 0)
    expected = np.zeros_like(found)
    expected[3, 1000:2000] = True
    np.testing.assert_array_equal(found, expected)


def test_a_flat_baseline_is_signal(tmp_path):
    """A filtered signal of few counts stays at 0 for long, and at its neighbours as well."""
    beat = np.repeat([0, 1, 2, 1, 0, -1, 0, 40, 0, -1, 0, 1], 30)
    counts = np.stack([np.roll(np.tile(beat, 15), 37 * row) for row in range(12)])
    assert not missing(tmp_path, counts, 0).any()


def test_single_samples_far_outside_are_padding(tmp_path):
    counts = smooth()
    counts[5, [10, 400]] = -32768
    found = missing(tmp_path, counts, -32768)
    assert found.sum() == 2
    assert found[5, [10, 400]].all()


def test_a_file_of_nothing_but_padding(tmp_path):
    with pytest.raises(UserError, match="all its samples are marked as missing"):
        missing(tmp_path, np.zeros((12, 500), int), 0)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    marker=st.integers(-200, 200),
    start=st.integers(0, 4999),
    length=st.integers(60, 3000),
    rows=st.sets(st.integers(0, 11), min_size=1),
    seed=st.integers(0, 50),
)
def test_runs_are_found_wherever_they_are(marker, start, length, rows, seed):
    counts = smooth(seed=seed)
    counts[counts == marker] += 1
    assert not padding_mask(counts, marker, 500.0).any()
    expected = np.zeros(counts.shape, bool)
    expected[sorted(rows), start : start + length] = True
    counts[expected] = marker
    found = padding_mask(counts, marker, 500.0)
    if expected.sum(axis=1).max() > 20:
        np.testing.assert_array_equal(found, expected)


def test_noise_without_its_marker_is_never_cut():
    assert not padding_mask(noise(10), 1.0, 500.0).any()


def test_the_value_for_no_data_of_mfer(tmp_path):
    path = tmp_path / "m.mwf"
    path.write_bytes(mfer())
    whole = read_ecg(path)
    marker = int(round(float(whole.signal[0, 3]) * 1000))
    path.write_bytes(mfer(b"\x12\x02" + struct.pack(">h", marker)))
    found = np.isnan(read_ecg(path).signal)
    assert found[0, 3]
