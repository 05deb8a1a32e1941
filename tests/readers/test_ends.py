"""Calibration pulses and constant padding at the ends of a recording, in any format: cut off, and nothing else ever."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_wfdb import write_wfdb

from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.readers import Recording, StoredCounts, read_ecg
from fairseq_signals_ext.readers.ends import without_ends

RATES = (100, 250, 500, 1000)
IN_ONE_FOLDER = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def ecgs(draw, least_leads=3):
    """Leads, rate (Hz), and beats with noise: leads x samples, mV, in steps of a count; and that count."""
    rate = draw(st.sampled_from(RATES))
    leads = sorted(draw(st.sets(st.integers(0, 11), min_size=least_leads)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    time = np.arange(int(rate * draw(st.floats(2, 8)))) / rate
    beat = np.exp(-(((time * rng.uniform(0.7, 2.5) + rng.uniform()) % 1 - 0.5) ** 2) / 0.001)
    noise = draw(st.sampled_from([0.01, 0.03, 0.2]))
    signal = rng.uniform(-2, 2, (len(leads), 1)) * beat + rng.normal(0, noise, (len(leads), len(time)))
    count = draw(st.sampled_from([0.001, 0.00488, 0.005]))
    return leads, rate, np.rint(signal / count) * count, count


@st.composite
def pulses(draw, rate):
    """A rectangle, or only parts of it: samples, mV."""
    height = draw(st.floats(0.1, 10)) * draw(st.sampled_from([1, -1]))
    base = draw(st.floats(-0.5, 0.5))
    before, after = (draw(st.one_of(st.just(0.0), st.floats(0.04, 0.4))) for _ in range(2))
    plateau = max(3, round(draw(st.floats(0.06, 1)) * rate))
    # a plateau alone is one of 0 mV and its height
    base = base if before or after else 0.0
    parts = [(base, round(before * rate)), (base + height, plateau), (base, round(after * rate))]
    return np.concatenate([np.full(samples, value) for value, samples in parts])


@st.composite
def with_pulses(draw):
    leads, rate, signal, count = draw(ecgs())
    places = draw(st.sampled_from([(1, 0), (0, 1), (1, 1)]))
    at_start, at_end = (draw(pulses(rate)) if place else np.zeros(0) for place in places)
    rounded = [np.tile(np.rint(pulse / count) * count, (len(leads), 1)) for pulse in (at_start, at_end)]
    return leads, rate, signal, rounded, count


@given(with_pulses())
@IN_ONE_FOLDER
def test_a_pulse_of_any_length_height_and_place_is_cut(tmp_path, made):
    leads, rate, signal, (at_start, at_end), count = made
    np.save(tmp_path / "a.npy", np.concatenate([at_start, signal, at_end], axis=1))
    names = [LEADS[lead] for lead in leads]
    recording = read_ecg(tmp_path / "a.npy", sample_rate=rate, leads=names, unit="mV")
    rows = [recording.leads.index(lead) for lead in leads]
    np.testing.assert_array_equal(recording.signal[rows], signal)
    assert recording.cut == (at_start.shape[1] / rate, at_end.shape[1] / rate)


@given(ecgs(least_leads=1))
@IN_ONE_FOLDER
def test_an_ecg_without_a_pulse_is_never_cut(tmp_path, made):
    leads, rate, signal, _ = made
    np.save(tmp_path / "a.npy", signal)
    recording = read_ecg(tmp_path / "a.npy", sample_rate=rate, leads=[LEADS[lead] for lead in leads], unit="mV")
    assert recording.cut == (0, 0) and recording.samples == signal.shape[1]


@given(ecgs(least_leads=1), st.data())
@IN_ONE_FOLDER
def test_steps_that_an_ecg_may_have_are_not_cut(tmp_path, made, data):
    leads, rate, signal, count = made
    kind = data.draw(st.sampled_from(["noiseless", "clipped", "paced", "one lead held", "a gap", "one flat lead"]))
    signal = signal.copy()
    tenth = rate // 10
    if kind == "noiseless":  # stands still in all leads between its beats
        phase = np.arange(signal.shape[1]) / rate * data.draw(st.floats(0.5, 2)) + data.draw(st.floats(0, 1))
        beat = np.exp(-(((phase % 1) - 0.5) ** 2) / 0.001)
        signal = np.rint(np.linspace(-2, 2, len(leads) + 1)[1:, None] * beat / count) * count
    elif kind == "clipped":
        signal = np.clip(signal * 5, -0.5, 0.5)
    elif kind == "paced":
        signal[:, :: rate // 2] += 3
        signal[:, -tenth : -tenth + 2] += 5
    elif kind == "one lead held":
        signal[0, rate:] = signal[0, rate]
        if len(leads) == 1:
            signal[0, -tenth:] += np.arange(tenth)
    elif kind == "a gap":
        signal[:, rate : rate + 5 * tenth] = np.nan
    elif len(leads) > 1:
        signal[0] = 0
    np.save(tmp_path / "a.npy", signal)
    recording = read_ecg(tmp_path / "a.npy", sample_rate=rate, leads=[LEADS[lead] for lead in leads], unit="mV")
    assert recording.cut == (0, 0) and recording.samples == signal.shape[1]


@given(ecgs(), st.floats(0.21, 3), st.sampled_from(["zeros", "held", "invalid"]), st.booleans())
@IN_ONE_FOLDER
def test_padding_is_cut_at_either_end(tmp_path, made, seconds, kind, is_start):
    leads, rate, signal, _ = made
    side = signal[:, :1] if is_start else signal[:, -1:]
    padding = np.repeat(side * {"zeros": 0, "held": 1, "invalid": np.nan}[kind], int(np.ceil(seconds * rate)), axis=1)
    padded = np.concatenate([padding, signal] if is_start else [signal, padding], axis=1)
    np.save(tmp_path / "a.npy", padded)
    recording = read_ecg(tmp_path / "a.npy", sample_rate=rate, leads=[LEADS[lead] for lead in leads], unit="mV")
    # a value that is held is the ECG's last as well
    expected = signal if kind != "held" else signal[:, 1:] if is_start else signal[:, :-1]
    rows = [recording.leads.index(lead) for lead in leads]
    np.testing.assert_array_equal(recording.signal[rows], expected)
    assert recording.cut[is_start] == 0 and recording.cut[not is_start] == (padded.shape[1] - expected.shape[1]) / rate


def noisy(leads=12, seconds=4, rate=500):
    return np.random.default_rng(1).normal(0, 0.2, (leads, seconds * rate))


def in_counts(signal, scale, start=None):
    counts = np.rint(signal / np.asarray(scale)[:, None]).astype(np.int16)
    stored = StoredCounts(counts, np.asarray(scale, float), np.zeros(len(counts)))
    return Recording("r", None, tuple(range(len(counts))), 500.0, start_time=start, stored=stored)


def rectangle(leads=12, height=1.0):
    return np.tile(height * np.repeat([0, 1, 0], [50, 100, 50]), (leads, 1))


def test_counts_and_start_time_are_cut_too():
    start = datetime(2020, 1, 2, 3, 4, 5)
    signal = noisy()
    recording = without_ends(in_counts(np.concatenate([rectangle(), signal], axis=1), [0.001] * 12, start))
    expected = in_counts(signal, [0.001] * 12)
    assert recording.start_time == start + timedelta(seconds=0.4)
    assert recording.cut == (0.4, 0.0) and recording.samples == 2000
    np.testing.assert_array_equal(recording.stored.counts, expected.stored.counts)


def test_a_pulse_is_cut_with_different_gains(tmp_path):
    gains = [200, 204.8, 1000, 333, 100, 512, 200, 204.8, 1000, 333, 100, 512]
    signal = np.concatenate([noisy(), rectangle()], axis=1)
    write_wfdb(tmp_path / "a", gain=gains, baseline=range(12), p_signal=signal.T)
    assert read_ecg(tmp_path / "a").cut == (0.0, 0.4)


@pytest.mark.parametrize("derived", ["as a pulse", "as they follow from I and II"])
def test_limb_leads_that_the_device_computed_may_have_their_own_step(derived):
    pulse = rectangle()
    if derived != "as a pulse":
        pulse[2], pulse[3], pulse[4], pulse[5] = 0 * pulse[0], -pulse[0], pulse[0] / 2, pulse[0] / 2
    recording = without_ends(in_counts(np.concatenate([noisy(), pulse], axis=1), [0.001] * 12))
    assert recording.cut == (0.0, 0.4)


def test_a_lead_that_is_absent_has_no_pulse():
    signal = np.concatenate([noisy(), rectangle()], axis=1)
    signal[7] = 0
    assert without_ends(in_counts(signal, [0.001] * 12)).cut == (0.0, 0.4)


def test_the_pulse_of_eight_stored_leads_is_cut_before_the_others_are_derived(tmp_path):
    names = ["I", "II", *LEADS[6:]]
    np.save(tmp_path / "a.npy", np.concatenate([noisy(8), rectangle(8)], axis=1))
    recording = read_ecg(tmp_path / "a.npy", sample_rate=500, leads=names, unit="mV")
    assert recording.cut == (0.0, 0.4) and recording.samples == 2000 and len(recording.derived) == 4


def test_a_pulse_within_padding_and_padding_around_a_pulse_are_cut_together():
    zeros = np.zeros((12, 400))
    signal = np.concatenate([zeros, rectangle(), noisy(), rectangle(height=-0.5), zeros + 0.3, zeros], axis=1)
    assert without_ends(in_counts(signal, [0.001] * 12)).cut == (1.2, 2.0)


@pytest.mark.parametrize("leads", [1, 2])
def test_of_few_leads_only_a_complete_rectangle_is_a_pulse(leads):
    signal = noisy(leads)
    whole = np.concatenate([signal, rectangle(leads)], axis=1)
    assert without_ends(in_counts(whole, [0.001] * leads)).cut == (0.0, 0.4)
    assert without_ends(in_counts(whole[:, :-60], [0.001] * leads)).cut == (0.0, 0.0)


def test_a_step_that_differs_between_leads_is_a_signal():
    step = rectangle() * np.linspace(0.5, 2, 12)[:, None]
    assert without_ends(in_counts(np.concatenate([noisy(), step], axis=1), [0.001] * 12)).cut == (0.0, 0.0)


def test_constant_and_too_short_recordings_are_not_cut():
    constant = in_counts(np.ones((12, 2000)), [0.001] * 12)
    assert without_ends(constant) is constant
    short = in_counts(np.concatenate([noisy()[:, :400], np.zeros((12, 2000))], axis=1), [0.001] * 12)
    assert without_ends(short) is short


def test_the_constant_end_of_ptb_xl_is_too_short_for_padding(ecg_data):
    headers = sorted(ecg_data.glob("ptbxl/records500/**/*.hea"))
    assert headers and all(read_ecg(header).samples == 5000 for header in headers)


def test_no_recording_of_the_collections_is_cut(each_kind):
    headers = sorted(each_kind.rglob("*.hea"))
    assert len(headers) > 200
    assert not [header for header in headers if read_ecg(header).cut != (0.0, 0.0)]


def test_philips_files_give_the_ecg_alone(cases: Path, ecg_data: Path):
    truth = np.load(cases / "philips" / "truth.npz")["truth"]
    for name, cut in (("p01_with_pulse.xml", 0.4), ("p02_same_without_pulse.xml", 0.0)):
        recording = read_ecg(cases / "philips" / name)
        assert recording.cut == (0.0, cut) and recording.signal.shape == (12, 5300)
        np.testing.assert_allclose(recording.signal, truth, atol=1e-6)
        np.testing.assert_allclose(recording.signal.std(axis=1), truth.std(axis=1), rtol=1e-6)
    assert read_ecg(ecg_data / "formats" / "philips_sierra_1_04.xml").cut == (0.0, 0.4)
