"""Heart rate: known rates, signals without a rate, and agreement with wfdb's detector on real recordings."""

import numpy as np
import pytest
import wfdb
import wfdb.processing
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_signals_ext.pages.verify_figures import heart_rate


def beats(per_minute, rate, seconds=10.0, amplitude=1.0, noise=0.02):
    """R peaks and T waves of a quarter of their height at a steady rate, in mV."""
    phase = np.arange(round(seconds * rate)) / rate * per_minute / 60 % 1 * 60 / per_minute  # s since the beat began
    r = np.exp(-(((phase - 0.1) / 0.015) ** 2))
    t = 0.25 * np.exp(-(((phase - 0.3) / 0.05) ** 2))
    return amplitude * (r + t + np.random.default_rng(0).normal(0, noise, len(phase)))


@settings(max_examples=40, deadline=None)
@given(
    per_minute=st.floats(40, 180),
    rate=st.sampled_from([100, 250, 400, 500, 1000]),
    amplitude=st.sampled_from([0.05, 1, -1, 1000]),
)
def test_known_rates_come_back_in_any_unit(per_minute, rate, amplitude):
    assert heart_rate(beats(per_minute, rate, amplitude=amplitude), rate) == pytest.approx(per_minute, rel=0.03)


@pytest.mark.parametrize(
    ("signal", "rate"),
    [
        (np.zeros(5000), 500),
        (np.full(5000, 3.0), 500),
        (np.zeros(0), 500),
        (np.arange(3.0), 500),
        (beats(60, 500, seconds=1.2), 500),
        (beats(60, 40), 40),
    ],
)
def test_no_rate(signal, rate):
    assert heart_rate(signal, rate) is None


def test_agrees_with_wfdb_on_real_recordings(ecg_data):
    apart = []
    for header in sorted((ecg_data / "cinc2021").glob("*/*.hea"))[::4]:
        record = wfdb.rdrecord(str(header.with_suffix("")))
        lead = record.p_signal[:, 1]
        peaks = wfdb.processing.xqrs_detect(lead, record.fs, verbose=False)
        apart.append(abs(heart_rate(lead, record.fs) - 60 * record.fs / np.median(np.diff(peaks))))
    assert len(apart) > 30 and np.percentile(apart, 90) < 5
