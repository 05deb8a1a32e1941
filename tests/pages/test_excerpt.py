"""Which samples the paper shows, and that thinning loses no peak."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from made_up import plain_recording, stored_recording

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.pages.excerpt import cut_excerpt, thinned

values = st.one_of(st.just(np.nan), st.floats(-100, 100))


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(float, st.integers(0, 3000), elements=values), st.integers(1, 10**6))
def test_thinning_keeps_extremes_and_order_and_makes_up_nothing(signal, rate):
    numbers, kept = thinned(signal, rate)
    np.testing.assert_array_equal(kept, signal[numbers])
    assert (np.diff(numbers) >= 0).all()
    assert len(kept) <= 1000 * len(signal) / rate + 2 or len(kept) == len(signal)
    if np.isfinite(signal).any():
        assert (np.nanmin(kept), np.nanmax(kept)) == (np.nanmin(signal), np.nanmax(signal))


def test_every_peak_of_a_fast_recording_stays():
    signal = np.zeros(1_000_000)
    signal[[17, 400_001, 999_999]] = 1, -2, 3
    numbers, kept = thinned(signal, 1e6)
    assert len(kept) <= 1000
    assert dict(zip(numbers[kept != 0], kept[kept != 0])) == {17: 1, 400_001: -2, 999_999: 3}


def test_a_gap_of_a_fast_recording_stays():
    signal = np.ones(100_000)
    signal[20_000:21_000] = np.nan
    numbers, kept = thinned(signal, 1e5)
    gap = np.flatnonzero(np.isnan(kept))
    before, after = numbers[gap[0] - 1] / 1e5, numbers[gap[-1] + 1] / 1e5
    assert 0.196 < before < 0.2 and 0.21 <= after < 0.214


@pytest.mark.parametrize("rate", [1, 250.5, 500, 1000])
@pytest.mark.parametrize("start", [0, 0.3, 7.123])
def test_ten_seconds_from_the_start_on(rate, start):
    times = np.arange(int(40 * rate)) / rate
    excerpt = cut_excerpt(plain_recording(times[None], rate), None, start)
    expected = times[(times >= start - 1e-9) & (times <= start + 10 + 1e-9)]
    np.testing.assert_allclose(excerpt.signal[0], expected - np.median(expected))
    np.testing.assert_allclose(excerpt.seconds_at(np.arange(len(expected))), expected - start, atol=1e-9)
    assert excerpt.seconds == 10


def test_counts_become_the_millivolts_of_the_recording():
    counts = np.random.default_rng(0).integers(-900, 900, (3, 20_000)).astype(np.int16)
    recording = stored_recording(counts, scale=0.002, zero=7.0)
    unread = dataclasses.replace(recording, physical=None)
    np.testing.assert_array_equal(cut_excerpt(unread, None, 3).signal, cut_excerpt(recording, None, 3).signal)
    assert "signal" not in vars(unread), "all of it was computed"


def test_the_recording_is_left_as_it_is():
    signal = np.array([[1.0, np.inf, 3.0]])
    excerpt = cut_excerpt(plain_recording(signal, 1), None, 0)
    np.testing.assert_array_equal(excerpt.signal, [[-1, np.nan, 1]])
    np.testing.assert_array_equal(signal, [[1, np.inf, 3]])


@pytest.mark.parametrize("start", [-0.1, 2.0, np.nan, np.inf])
def test_a_start_outside_is_refused(start):
    with pytest.raises(UserError, match="^r: start .* is outside; give 0 to less than 2 s$"):
        cut_excerpt(plain_recording(np.zeros((1, 1000))), None, start)


@pytest.mark.parametrize(
    "saliency, message",
    [
        (np.zeros((2, 1000)), "give leads x samples"),
        (np.zeros(999), "give leads x samples"),
        (np.full(1000, -0.1), "negative or infinite"),
        (np.full(1000, np.inf), "negative or infinite"),
    ],
)
def test_saliency_that_does_not_fit_is_refused(saliency, message):
    with pytest.raises(UserError, match=message):
        cut_excerpt(plain_recording(np.zeros((3, 1000))), saliency, 0)
