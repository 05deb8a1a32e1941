"""Counts: a source's own come back exactly, all others to half a step of the lead's range."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from made_up import plain_recording, stored_recording

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.prepared.counts import RESAMPLERS, Processing, to_counts
from fairseq_signals_ext.readers import StoredCounts

AS_IT_IS = Processing()


def millivolts(stored):
    return (stored.counts - stored.zero[:, None]) * stored.scale[:, None]


@settings(max_examples=200)
@given(
    signal=arrays(
        np.float64,
        st.tuples(st.integers(1, 3), st.integers(1, 30)),
        elements=st.floats(-1e6, 1e6, allow_subnormal=True),
    )
)
def test_any_signal_is_stored_to_half_a_count(signal):
    stored = to_counts(plain_recording(signal), AS_IT_IS)
    assert stored.counts.dtype == np.int16
    spread, largest = np.ptp(signal, axis=1), np.abs(signal).max(axis=1)
    allowed = spread / 65533 * 0.5001 + 2e-9 * largest + 1e-12
    assert (np.abs(millivolts(stored) - signal).max(axis=1) <= allowed).all()
    assert stored.rounding_error_mv == np.abs(millivolts(stored) - signal).max()


def test_constant_leads_and_zeros_are_exact():
    signal = np.array([[1.7] * 5, [0.0] * 5, [0.0, 0.3, -1.1, 0.0, 2.0]])
    stored = to_counts(plain_recording(signal), AS_IT_IS)
    back = millivolts(stored)
    assert (back[:2] == signal[:2]).all()
    assert stored.scale[:2].tolist() == [1, 1]
    assert back[2, [0, 3]].tolist() == [0, 0]
    assert int(stored.counts[2].max()) - int(stored.counts[2].min()) >= 65532


@pytest.mark.parametrize("resample", RESAMPLERS)
def test_stored_counts_are_kept_unless_the_rate_changes(resample):
    counts = np.random.default_rng(0).integers(-100, 100, (12, 40)).astype(np.int16)
    recording = stored_recording(counts, zero=3.0, sample_rate=400.0)
    kept = to_counts(recording, Processing(rate=400, resample=resample))
    assert (kept.counts == counts).all()
    assert (set(kept.scale), set(kept.zero), kept.rounding_error_mv) == ({0.001}, {3.0}, 0.0)
    made = to_counts(recording, Processing(rate=500, resample=resample))
    assert made.counts.shape == (12, 50)
    assert 0 < made.rounding_error_mv < 0.2 / 65533
    expected = RESAMPLERS[resample](recording.signal, 400, 500)
    np.testing.assert_allclose(millivolts(made), expected, atol=made.rounding_error_mv)


def test_each_lead_keeps_its_own_counts_if_they_fit():
    counts = np.random.default_rng(0).integers(-(2**15), 2**15, (3, 50))
    counts[1] *= 1000
    recording = stored_recording(counts, zero=5.0)
    stored = to_counts(recording, AS_IT_IS)
    assert (stored.counts[[0, 2]] == counts[[0, 2]]).all()
    assert stored.zero[[0, 2]].tolist() == [5, 5]
    assert 0 < stored.rounding_error_mv < 65e3 / 65533
    np.testing.assert_allclose(millivolts(stored), recording.signal, atol=stored.rounding_error_mv)


@pytest.mark.parametrize("with_counts", [True, False])
def test_invalid_samples_are_interpolated_and_counted(with_counts):
    counts = np.array([[0, 10, 20, -32768, -32768, 50], [-32768, 7, 8, 9, 10, -32768], [-32768] * 6])
    signal = np.where(counts == -32768, np.nan, (counts - 2) * 0.5)
    signal[1, 5] = np.inf
    own = StoredCounts(counts, np.full(3, 0.5), np.full(3, 2.0)) if with_counts else None
    stored = to_counts(plain_recording(signal, stored=own), AS_IT_IS)
    assert stored.nan_samples == 10
    expected = np.array([[0, 10, 20, 30, 40, 50], [7, 7, 8, 9, 10, 10], [2] * 6])
    np.testing.assert_allclose(millivolts(stored), (expected - 2) * 0.5, atol=1e-3)
    if with_counts:
        assert (stored.counts == expected).all()


def test_a_wrong_gain_is_corrected_without_changing_counts():
    counts = np.random.default_rng(0).integers(-100, 100, (2, 40)).astype(np.int16)
    recording = stored_recording(counts, zero=7.0)
    fixed = to_counts(recording, AS_IT_IS, gain_fix=4.88)
    assert (fixed.counts == counts).all()
    np.testing.assert_allclose(millivolts(fixed), recording.signal * 4.88, rtol=1e-12)
    resampled = to_counts(recording, Processing(rate=250), gain_fix=4.88)
    plain = to_counts(recording, Processing(rate=250))
    np.testing.assert_allclose(millivolts(resampled), millivolts(plain) * 4.88, atol=1e-4)


def test_absent_leads_are_zeros_only_if_requested():
    recording = plain_recording(np.arange(10.0).reshape(2, 5), leads=(1, 7))
    assert to_counts(recording, AS_IT_IS).leads == (1, 7)
    filled = to_counts(recording, Processing(fill_leads=True))
    assert filled.leads == tuple(range(len(LEADS)))
    assert filled.filled == (0, 2, 3, 4, 5, 6, 8, 9, 10, 11)
    back = millivolts(filled)
    np.testing.assert_allclose(back[[1, 7]], recording.signal, atol=1e-4)
    assert (back[list(filled.filled)] == 0).all()


@pytest.mark.parametrize(
    ("recording", "message"),
    [
        (plain_recording(np.zeros((2, 0))), "it has no samples"),
        (plain_recording(np.ones((2, 9)), rate=0.0), "its sample rate is 0.0 Hz"),
        (plain_recording(np.ones((2, 9)), rate=float("nan")), "its sample rate is nan Hz"),
        (plain_recording(np.ones((2, 1)), rate=5000.0), "too short: nothing is left of it at 500 Hz"),
    ],
)
def test_nothing_to_store(recording, message):
    with pytest.raises(UserError, match=message):
        to_counts(recording, AS_IT_IS)


@pytest.mark.parametrize("wrong", [{"rate": 0.0}, {"rate": float("nan")}, {"resample": "cubic"}, {"min_seconds": -1.0}])
def test_wrong_settings(wrong):
    with pytest.raises(UserError, match=next(iter(wrong)).replace("_", "-")):
        Processing(**wrong)
