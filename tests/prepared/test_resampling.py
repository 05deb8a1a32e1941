"""Resampling: ECG-FM's own files for the linear method, scipy and pure tones for the polyphase one."""

import numpy as np
import pytest
import scipy.io
import scipy.signal

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.prepared.counts import RESAMPLERS, resample_linear, resample_polyphase


def test_linear_equals_ecg_fm(ecg_data):
    folder = ecg_data / "code15_ecg_fm"
    files = sorted((folder / "preprocessed").glob("*.mat"))
    assert len(files) == 4
    for file in files:
        expected, source = scipy.io.loadmat(file), scipy.io.loadmat(folder / "org" / file.name)
        found = resample_linear(source["feats"], 400, 500)
        assert found.shape == expected["feats"].shape
        np.testing.assert_allclose(found.mean(axis=1), expected["mean"].ravel(), atol=1e-6)
        standardised = (found - expected["mean"]) / expected["std"]
        assert np.abs(standardised - expected["feats"]).max() < 1e-6


def test_length_of_linear():
    assert resample_linear(np.zeros((1, 2934)), 400, 500).shape == (1, 3667)
    assert resample_linear(np.zeros((2, 5000)), 1000, 500).shape == (2, 2500)
    line = resample_linear(np.arange(101.0)[None], 500, 250)
    np.testing.assert_allclose(line[0], np.linspace(0, 100, 50))


@pytest.mark.parametrize(("source", "target"), [(400, 500), (1000, 500), (257.2, 500), (500, 257.2), (360, 500)])
def test_polyphase_keeps_the_time_axis_and_the_offset(source, target):
    seconds = 10
    time = np.arange(int(seconds * source)) / source
    signal = 3 + np.sin(2 * np.pi * 5 * time)[None]
    found = resample_polyphase(signal, source, target)
    expected = 3 + np.sin(2 * np.pi * 5 * np.arange(found.shape[1]) / target)
    assert abs(found.shape[1] - len(time) * target / source) < 1
    middle = slice(int(target), -int(target))
    # the filter that scipy makes has a ripple of 0.26 % where it lets pass
    np.testing.assert_allclose(found[0, middle], expected[middle], atol=3e-3)
    assert np.abs(found - 3).max() < 1.2


def test_polyphase_refuses_rates_that_it_would_stretch():
    with pytest.raises(UserError, match="1e[+]06 Hz cannot be resampled to 50 Hz this way; use --resample linear"):
        resample_polyphase(np.zeros((1, 100)), 1e6, 50)


def test_only_polyphase_suppresses_aliases():
    time = np.arange(10_000) / 1000
    signal = np.sin(2 * np.pi * 400 * time)[None]  # beyond what 500 Hz can hold
    assert resample_linear(signal, 1000, 500).std() > 0.3
    assert resample_polyphase(signal, 1000, 500)[0, 500:-500].std() < 0.01


@pytest.mark.parametrize("name", RESAMPLERS)
def test_each_lead_by_itself(name):
    signal = np.random.default_rng(0).normal(size=(3, 1000))
    together = RESAMPLERS[name](signal, 400, 500)
    assert together.dtype == np.float64
    for lead, found in zip(signal, together):
        np.testing.assert_array_equal(RESAMPLERS[name](lead[None], 400, 500)[0], found)
