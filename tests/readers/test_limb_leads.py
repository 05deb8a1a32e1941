"""Limb leads from I and II: Einthoven and Goldberger, exact in integers."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_wfdb import write_wfdb

from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.readers import Recording, StoredCounts, read_ecg
from fairseq_signals_ext.readers.limb_leads import with_limb_leads


def made_up(leads, counts=None, scale=None, zero=None):
    size = len(leads)
    counts = np.random.default_rng(0).integers(-2000, 2000, (size, 40)) if counts is None else counts
    stored = StoredCounts(
        counts.astype(np.int16),
        np.full(size, 0.005) if scale is None else scale,
        np.zeros(size) if zero is None else zero,
    )
    return Recording("r", physical(stored), tuple(leads), 500.0, stored=stored)


def physical(stored):
    return (stored.counts - stored.zero[:, None]) * stored.scale[:, None]


def row(recording, name):
    return recording.signal[recording.leads.index(LEADS.index(name))]


def check(recording, tolerance=1e-9):
    one, two = row(recording, "I"), row(recording, "II")
    np.testing.assert_allclose(row(recording, "III"), two - one, rtol=0, atol=tolerance)
    np.testing.assert_allclose(row(recording, "aVR"), -(one + two) / 2, rtol=0, atol=tolerance)
    np.testing.assert_allclose(row(recording, "aVL"), one - two / 2, rtol=0, atol=tolerance)
    np.testing.assert_allclose(row(recording, "aVF"), two - one / 2, rtol=0, atol=tolerance)


def test_eight_leads_become_twelve():
    eight = made_up((0, 1, 6, 7, 8, 9, 10, 11))
    recording = with_limb_leads(eight)
    assert recording.leads == tuple(range(12))
    assert recording.derived == (2, 3, 4, 5)
    check(recording)
    held = [recording.leads.index(lead) for lead in eight.leads]
    for before, after in (
        (eight.signal, recording.signal),
        (eight.stored.counts, recording.stored.counts),
        (eight.stored.scale, recording.stored.scale),
        (eight.stored.zero, recording.stored.zero),
    ):
        np.testing.assert_array_equal(after[held], before)


@given(
    st.lists(st.tuples(*[st.integers(-32768, 32767)] * 2), min_size=1, max_size=20),
    st.floats(1e-5, 0.1),
    st.tuples(*[st.integers(-32768, 32767)] * 2),
)
def test_derived_counts_are_exact(pairs, scale, zero):
    recording = with_limb_leads(made_up((0, 1), np.array(pairs).T, np.full(2, scale), np.array(zero, float)))
    stored, (one, two) = recording.stored, np.array(pairs).T.astype(object) - np.array(zero, object)[:, None]
    assert stored.counts.dtype.kind == "i"
    exact = {2: 2 * (two - one), 3: -(one + two), 4: 2 * one - two, 5: 2 * two - one}
    for lead, halves in exact.items():
        counts = stored.counts[lead].astype(object) - int(stored.zero[lead])
        assert stored.zero[lead] == int(stored.zero[lead])
        assert (counts * (2 if lead == 2 else 1) == halves).all()
        assert stored.scale[lead] == (scale if lead == 2 else scale / 2)
    check(recording)
    np.testing.assert_allclose(physical(stored), recording.signal, rtol=0, atol=1e-9)


@given(st.floats(1e-4, 0.1), st.floats(1e-4, 0.1))
def test_different_scales_round_to_a_quarter_of_the_finer(first, second):
    source = made_up((0, 1, 6), scale=np.array([first, second, 0.01]))
    recording = with_limb_leads(source)
    check(recording, min(first, second) * (0.5 if first == second else 0.2501))
    np.testing.assert_allclose(physical(recording.stored), recording.signal, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(recording.stored.counts[[0, 1, 6]], source.stored.counts)


def test_only_what_is_missing_is_derived():
    source = made_up((0, 1, 3, 6))
    recording = with_limb_leads(source)
    assert (recording.leads, recording.derived) == ((0, 1, 2, 3, 4, 5, 6), (2, 4, 5))
    np.testing.assert_array_equal(row(recording, "aVR"), row(source, "aVR"))


@pytest.mark.parametrize("leads", [(0, 2, 6), (1, 6), (6, 7), tuple(range(6))])
def test_nothing_is_derived_without_i_and_ii_or_if_complete(leads):
    source = made_up(leads)
    assert with_limb_leads(source) is source


def test_invalid_samples_stay_invalid():
    source = Recording("r", np.array([[1.0, np.nan, 3.0], [1.0, 2.0, np.nan]]), (0, 1), 500.0)
    recording = with_limb_leads(source)
    invalid = [[False, True, False], [False, False, True]] + [[False, True, True]] * 4
    assert np.isnan(recording.signal).tolist() == invalid
    assert recording.stored is None


def test_wfdb_records_get_them_too(tmp_path):
    counts = np.random.default_rng(0).integers(-3000, 3000, (50, 3))
    write_wfdb(tmp_path / "r", counts.T, ["V1", "II", "I"], gain=200.0, baseline=7)
    recording = read_ecg(tmp_path / "r.hea")
    assert [LEADS[lead] for lead in recording.leads] == [*LEADS[:6], "V1"]
    np.testing.assert_allclose(row(recording, "I"), (counts[:, 2] - 7) / 200, atol=1e-12)
    check(recording)
    np.testing.assert_allclose(physical(recording.stored), recording.signal, atol=1e-9)


@given(
    st.lists(st.tuples(*[st.integers(-32768, 32767)] * 2), min_size=1, max_size=20),
    st.integers(-100, 100),
    st.sampled_from([1, 4]),
)
def test_counts_alone_give_the_same(pairs, zero, divisor):
    """A recording without its signal in mV, as WFDB files are read, against the same one with it."""
    source = made_up((0, 1), np.array(pairs).T // divisor, None, np.array([zero, -zero], float))
    expected, found = with_limb_leads(source), with_limb_leads(replace(source, physical=None))
    assert found.physical is None and (found.leads, found.derived) == (expected.leads, expected.derived)
    assert found.stored.counts.dtype == expected.stored.counts.dtype
    for name in ("counts", "scale", "zero"):
        np.testing.assert_array_equal(getattr(found.stored, name), getattr(expected.stored, name))
    np.testing.assert_allclose(found.signal, expected.signal, rtol=1e-12, atol=1e-12)
