"""Measures of a signal: they change with the sample rate and the signs, and with nothing else that is usual."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import skew

from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.prepared.signal_shape import shape_of

ALL = tuple(range(12))
SIGNS = {"I": 1, "II": 1, "aVR": -1, "V5": 1, "V6": 1}


def beats(samples=5000, rate=500, seed=0):
    """Narrow waves at a rate of 75 per minute with noise, upright in all leads but aVR: int16, 12 x samples."""
    times = np.arange(samples) / rate
    wave = np.exp(-((((times + 0.4) % 0.8 - 0.4) / 0.02) ** 2)) * 1000
    noise = np.random.default_rng(seed).normal(size=(12, samples)) * 5
    counts = wave + noise
    counts[LEADS.index("aVR")] = noise[3] - wave
    return counts.astype(np.int16)


@pytest.mark.parametrize("leads", [ALL, (0, 1), (3, 10), (1, 3, 5, 11)])
def test_values_are_those_of_the_definition(leads):
    counts = beats()[list(leads)]
    found = shape_of(counts, np.full(len(leads), 0.001), leads, 500)
    rows = [counts[row].astype(float) for row, lead in enumerate(leads) if LEADS[lead] in SIGNS]
    signs = [SIGNS[LEADS[lead]] for lead in leads if LEADS[lead] in SIGNS]
    ratios = [np.mean((x[4:] - x[:-4]) ** 2) / np.mean((x[40:] - x[:-40]) ** 2) for x in rows]
    assert found.steepness == pytest.approx(np.median(np.log(ratios)), abs=1e-4)
    assert found.polarity == pytest.approx(np.mean([skew(x) * sign for x, sign in zip(rows, signs)]), abs=1e-3)


@settings(deadline=None, max_examples=20)
@given(gain=st.floats(0.01, 10), offset=st.integers(-5000, 5000), seed=st.integers(0, 100))
def test_gain_and_offset_do_not_count(gain, offset, seed):
    counts = beats(seed=seed)
    expected = shape_of(counts, np.ones(12), ALL, 500)
    found = shape_of(counts + offset, np.full(12, gain), ALL, 500)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_signs_and_rates_count():
    counts, ones = beats(), np.ones(12)
    usual = shape_of(counts, ones, ALL, 500)
    for upside_down in (shape_of(-counts, ones, ALL, 500), shape_of(counts, -ones, ALL, 500)):
        assert upside_down.polarity == pytest.approx(-usual.polarity, abs=1e-4)
        assert upside_down.steepness == pytest.approx(usual.steepness, abs=1e-4)
    assert usual.polarity > 2
    # the same beats at a fifth of the samples, said to be as many per second
    assert shape_of(counts[:, ::5], ones, ALL, 500).steepness > usual.steepness + 1
    assert shape_of(counts[:, ::2], ones, ALL, 250).steepness == pytest.approx(usual.steepness, abs=0.1)


def test_a_long_recording_is_represented_by_parts():
    counts = np.tile(beats(), 200)
    found = shape_of(counts, np.ones(12), ALL, 500)
    starts = np.linspace(0, counts.shape[1] - 5000, 6).astype(int)
    parts = np.array([shape_of(counts[:, start : start + 5000], np.ones(12), ALL, 500) for start in starts])
    assert found.polarity == pytest.approx(parts[:, 1].mean(), abs=1e-4)
    assert parts[:, 0].min() <= found.steepness <= parts[:, 0].max()


@pytest.mark.parametrize(
    ("counts", "leads"),
    [(np.zeros((12, 5000), np.int16), ALL), (beats()[:, :30], ALL), (beats()[[6]], (6,)), (beats()[:0], ())],
    ids=["flat", "short", "other leads", "no leads"],
)
def test_what_is_not_known_is_nan(counts, leads):
    assert np.isnan(shape_of(counts, np.ones(len(leads)), leads, 500)).all()


def test_a_flat_lead_does_not_count():
    counts = beats()
    expected = shape_of(counts[[0, 1, 3, 10]], np.ones(4), (0, 1, 3, 10), 500)
    counts[11] = 7
    np.testing.assert_allclose(shape_of(counts, np.ones(12), ALL, 500), expected, atol=1e-6)
