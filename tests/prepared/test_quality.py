"""Flags: each is set by its own problem only."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from made_up import RATE, made_up_counts, plain_recording, stored_recording

from fairseq_signals_ext.prepared import quality
from fairseq_signals_ext.prepared.counts import Processing, to_counts
from fairseq_signals_ext.prepared.quality import FLAGS, assess
from fairseq_signals_ext.readers import read_ecg


def beats(seconds=10):
    return made_up_counts(np.random.default_rng(1), seconds * RATE)


def assessed(recording, min_seconds=5.0, **processing):
    return assess(to_counts(recording, Processing(**processing)), RATE, min_seconds)


def test_a_good_recording_has_no_flags():
    found = assessed(stored_recording(beats()))
    assert (found.flags, found.constant) == ((), ())
    assert 0.1 < found.amplitude_mv < 2


def stand_still(counts):
    counts[4, 1000:1250] = counts[4, 1000]


def nearly_stand_still(counts):
    counts[4, 1000:1249] = counts[4, 1000]


def clip(counts):
    counts[7] = np.clip(counts[7] / np.abs(counts[7]).max() * 4000, -1500, 1500)


def clip_low(counts):  # less than 1 mV off the median: what a low resolution makes as well
    counts[7] = np.clip(counts[7] / np.abs(counts[7]).max() * 4000, -900, 900)


def constant_leads(counts):
    counts[[1, 6]] = 77


@pytest.mark.parametrize(
    ("spoil", "flags"),
    [
        (stand_still, ("flat",)),
        (nearly_stand_still, ()),
        (clip, ("clipped",)),
        (clip_low, ()),
        (constant_leads, ("constant",)),
        (lambda counts: counts.__imul__(0), ("constant", "amplitude")),
    ],
)
def test_flags_of_signals(spoil, flags):
    counts = beats()
    spoil(counts)
    assert assessed(stored_recording(counts)).flags == flags


def test_constant_leads_are_named():
    counts = beats()
    constant_leads(counts)
    assert assessed(stored_recording(counts)).constant == (1, 6)


def test_other_flags():
    signal = beats().astype(float) * 0.001
    assert assessed(plain_recording(signal[:, : 4 * RATE])).flags == ("short",)
    assert assessed(plain_recording(signal[:, : 4 * RATE]), min_seconds=4.0).flags == ()
    assert assessed(plain_recording(signal * 100)).flags == ("amplitude",)
    assert assessed(plain_recording(signal[:2]), fill_leads=True).flags == ("filled",)
    signal[2, 3] = np.nan
    assert assessed(plain_recording(signal)).flags == ("nan",)


def swap(first, second):
    def swapped(signal):
        signal[[first, second]] = signal[[second, first]]

    return swapped


def scale_each(signal):
    signal /= np.ptp(signal, axis=1, keepdims=True)


def negate_avr(signal):
    signal[3] *= -1


def delay_lead_two(signal):
    signal[1] = np.roll(signal[1], 10)


def round_to_ten_microvolts(signal):
    signal[:] = np.rint(signal * 100) / 100


def smooth(signal):
    signal[:] = np.apply_along_axis(np.convolve, 1, signal, np.ones(5) / 5, "same")


def shift_baselines(signal):
    signal += np.arange(12)[:, None] / 5


def drop_part_of_lead_one(signal):
    signal[0, 1000:2200] = np.nan


def turn_off_lead_three(signal):
    signal[2] = 0


WRONG = [swap(0, 1), swap(1, 2), swap(4, 5), swap(0, 6), scale_each, negate_avr, delay_lead_two]
HARMLESS = [round_to_ten_microvolts, smooth, shift_baselines, drop_part_of_lead_one, turn_off_lead_three, swap(6, 7)]


@pytest.mark.parametrize("change", [*WRONG, *HARMLESS])
def test_limb_leads_that_do_not_follow_from_i_and_ii_are_flagged(ecg_data, change):
    headers = sorted(ecg_data.glob("ptbxl/records500/**/*.hea"))[::6]
    assert len(headers) > 5
    flagged = []
    for header in headers:
        signal = read_ecg(header).signal.copy()
        change(signal)
        flagged.append("einthoven" in assessed(plain_recording(signal)).flags)
    # leads of one height stay as they were when each is scaled for itself
    assert np.mean(flagged) > 0.7 if change in WRONG else not any(flagged)


def test_no_recording_of_the_collections_breaks_einthovens_law(each_kind):
    headers = sorted(each_kind.rglob("*.hea"))
    assert len(headers) > 200
    found = {header: assess(to_counts(read_ecg(header), Processing()), RATE, 5.0).flags for header in headers}
    assert not [header for header, flags in found.items() if "einthoven" in flags]


def test_derived_and_filled_leads_and_those_without_i_or_ii_are_never_flagged():
    signal = beats() * 0.001
    for rows in ([0, 1], [1, 2, 3, 4, 5], [0, 2, 3], [6, 7]):
        leads = {"leads": tuple(rows)}
        assert "einthoven" not in assessed(plain_recording(signal[rows][::-1], **leads), fill_leads=True).flags


@given(arrays(np.int16, (6, 40)), st.sampled_from([1e-6, 0.001, 1.0]), st.sampled_from([1.0, 100.0, 500.0]))
def test_any_counts_can_be_assessed(counts, scale, rate):
    stored = to_counts(stored_recording(counts, scale), Processing())
    assert set(assess(stored, rate, 5.0).flags) <= set(FLAGS)


def test_amplitudes_do_not_overflow():
    counts = beats()
    counts[:, 100], counts[:, 101] = -32768, 32767
    assert assessed(stored_recording(counts)).amplitude_mv == pytest.approx(65.535)


def test_flags_come_in_one_order():
    counts = beats(3).astype(float)
    constant_leads(counts)
    counts[8, 10] = np.nan
    flags = assessed(plain_recording(counts[:9] * 0.1), fill_leads=True).flags
    assert flags == ("nan", "constant", "short", "amplitude", "filled")
    assert [flag for flag in FLAGS if flag in flags] == list(flags)


def longest_run(mask):
    """By a plain loop."""
    longest = run = 0
    for one in mask:
        run = run + 1 if one else 0
        longest = max(longest, run)
    return longest


def is_clipped(row, run, distance):
    low, high = int(row.min()), int(row.max())
    ends = [end for end in (low, high) if longest_run(row == end) >= run and abs(end - np.median(row)) >= distance]
    return bool(ends) and high - low >= distance


@given(
    arrays(np.int16, st.tuples(st.integers(1, 3), st.integers(2, 60)), elements=st.integers(-3, 3)),
    st.integers(2, 9),
    st.integers(0, 6),
)
def test_clipped_is_found_where_a_plain_loop_finds_it(counts, run, distance):
    low, high = (counts.min(axis=1).astype(np.int64), counts.max(axis=1).astype(np.int64))
    found = quality._any_clipped(counts, low, high, np.full(len(counts), distance), run)
    assert found == any(is_clipped(row, run, distance) for row in counts)
