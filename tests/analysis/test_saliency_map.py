"""A map on a recording's own samples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import plain_recording

from fairseq_signals_ext.analysis.saliency import Saliency, explain
from fairseq_signals_ext.common.errors import UserError


def map_of(values, leads=(), duration=1.0):
    return Saliency("gradient", "A", np.asarray(values, np.float32), leads, 500.0, duration)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 59))
def test_a_peak_stays_at_its_second(samples, of_recording, place):
    place %= samples
    values = np.zeros(samples)
    values[place] = -3
    rate = 100.0
    recording = plain_recording(np.zeros((1, of_recording)), rate)
    saliency = map_of(values, duration=(of_recording - 1) / rate)
    drawn = saliency.at(recording)
    assert drawn.shape == (of_recording,) and (drawn >= 0).all() and drawn.dtype == np.float32
    if samples >= of_recording:  # none is lost
        assert drawn.max() == 3
    if samples > 1 and of_recording > 1 and drawn.max() > 0:
        # half a sample of the coarser of both
        nearest = 1 / (2 * min(samples - 1, of_recording - 1))
        highest = np.flatnonzero(drawn == drawn.max()) / (of_recording - 1)
        assert abs(highest - place / (samples - 1)).min() <= nearest + 1e-9


def test_leads_are_found_by_name():
    saliency = map_of([[1, -2], [3, np.nan]], leads=("V1", "II"), duration=0.01)
    drawn = saliency.at(plain_recording(np.zeros((3, 2)), 100, leads=(1, 2, 6)))
    np.testing.assert_array_equal(drawn, np.array([[3, np.nan], [np.nan, np.nan], [1, 2]], np.float32))


def test_peak_is_by_magnitude_and_ignores_unknown_values():
    saliency = map_of([[0, np.nan, 1], [np.nan, -2, 0]], leads=("I", "V6"), duration=4)
    assert saliency.peak == ("V6", pytest.approx(2.0))
    assert map_of([0, 5, np.nan], duration=4).peak == ("", pytest.approx(2.0))


def test_a_recording_of_another_length_is_refused():
    saliency = map_of(np.ones(501), duration=1.0)
    for samples in (400, 502):
        saliency.at(plain_recording(np.zeros((1, 501)), 500))
        with pytest.raises(
            UserError, match=r"^recording 'r': lasts .* s, the map 1.000 s; give the recording that was"
        ):
            saliency.at(plain_recording(np.zeros((1, samples + 1)), 500))


def test_a_recording_shorter_than_a_segment(planted):
    recording = plain_recording(np.random.default_rng(0).standard_normal((12, 300)))
    gradient = explain(planted(3, 250), recording, "A", "gradient").values
    assert gradient.shape == (12, 300) and list(zip(*np.nonzero(gradient))) == [(3, 250)]
    attention = explain(planted(3, 250), recording).values
    assert np.isfinite(attention[:288]).all() and np.isnan(attention[288:]).all()
    assert np.nanargmax(attention) == 240
