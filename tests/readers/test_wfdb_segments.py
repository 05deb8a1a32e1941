"""WFDB records of several segments are one recording, lead by lead."""

import numpy as np
import pytest

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.readers import read_ecg

SIX = (0, 1, 6, 7, 8, 9)  # I, II, V1-V4, so that no lead can be derived wrongly without notice


def write(folder, name, samples, leads, per_frame=1, rate=250, gain=200, units="mV", others=(), fmt="16"):
    """A segment; samples: leads x samples; others: (name, unit) of signals with one sample per frame."""
    frames = samples.shape[1] // per_frame
    lines = [f"{name}.dat {fmt}x{per_frame} {gain}/{units} 16 0 0 0 0 {LEADS[lead]}" for lead in leads]
    lines += [f"{name}.dat {fmt} 50/{unit} 16 0 0 0 0 {other}" for other, unit in others]
    rate = "" if rate is None else f" {rate} {frames}"
    (folder / f"{name}.hea").write_text("\n".join([f"{name} {len(lines)}{rate}", *lines, ""]))
    stored = [row.reshape(frames, per_frame) for row in samples]
    stored += [np.full((frames, 1), 77, int) for _ in others]
    np.concatenate(stored, axis=1).astype("<i2").tofile(folder / f"{name}.dat")


def counts(number, length, seed=0):
    return np.random.default_rng(seed).integers(-3000, 3000, (number, length))


def test_other_signals_may_have_another_rate(tmp_path):
    first, second = counts(6, 40, 1), counts(6, 60, 2)
    write(tmp_path, "a", first, SIX, 2, others=[("PLETH", "NU"), ("RESP", "Ohm")])
    write(tmp_path, "b", second, SIX, 2, gain=400, others=[("PLETH", "NU"), ("RESP", "Ohm")])
    (tmp_path / "m.hea").write_text("m/2 8 250 50\na 20\nb 30\n")
    recording = read_ecg(tmp_path / "m.hea")
    assert (recording.sample_rate, recording.samples) == (500, 100)
    rows = [recording.leads.index(lead) for lead in SIX]
    expected = np.concatenate([first / 200, second / 400], axis=1)
    np.testing.assert_allclose(recording.signal[rows], expected, rtol=1e-12)


def test_variable_layout_with_gaps_and_leads_that_come_and_go(tmp_path):
    first, second, third = counts(6, 40, 1), counts(3, 60, 2), counts(6, 20, 3)
    write(tmp_path, "a", first, SIX, 2, others=[("PLETH", "NU")])
    write(tmp_path, "b", second, (8, 1, 0), 2, units="uV")  # other leads, in another order and unit
    write(tmp_path, "c", third, SIX, 2)
    write(tmp_path, "p", counts(0, 20), (), 2, others=[("PLETH", "NU")])  # no lead at all
    layout = [f"~ 0x2 200/mV 16 0 0 0 0 {LEADS[lead]}" for lead in SIX] + ["~ 0 50/NU 16 0 0 0 0 PLETH"]
    (tmp_path / "l.hea").write_text("\n".join(["l 7 250 0", *layout, ""]))
    (tmp_path / "m.hea").write_text("m/7 7 250/250(0) 87\nl 0\na 20\n~ 7\nb 30\np 10\nc 10\na 10\n")
    with pytest.raises(UserError, match="its segment 'a' has 20 samples, not 10; fix it"):
        read_ecg(tmp_path / "m.hea")
    (tmp_path / "m.hea").write_text("m/7 7 250/250(0) 97\nl 0\na 20\n~ 7\nb 30\np 10\nc 10\na 20\n")
    recording = read_ecg(tmp_path / "m.hea")
    assert (recording.sample_rate, recording.samples) == (500, 2 * 97)
    expected = np.full((6, 2 * 97), np.nan)
    expected[:, :40] = expected[:, 154:] = first / 200
    expected[[4, 1, 0], 54:114] = second / 200 / 1000
    expected[:, 134:154] = third / 200
    rows = [recording.leads.index(lead) for lead in SIX]
    np.testing.assert_allclose(recording.signal[rows], expected, rtol=1e-12)


@pytest.mark.parametrize("fmt", ["61", "160"])
def test_segments_in_formats_that_wfdb_does_not_join(tmp_path, fmt):
    one = counts(6, 40)
    write(tmp_path, "a", one, SIX, fmt="16")
    header = (tmp_path / "a.hea").read_text().replace(" 16x1 ", f" {fmt} ")
    (tmp_path / "a.hea").write_text(header)
    stored = one.T.astype(">i2") if fmt == "61" else (one.T + 32768).astype("<u2")
    (tmp_path / "a.dat").write_bytes(stored.tobytes())
    (tmp_path / "m.hea").write_text("m/2 6 250 80\na 40\na 40\n")
    recording = read_ecg(tmp_path / "m.hea")
    rows = [recording.leads.index(lead) for lead in SIX]
    np.testing.assert_allclose(recording.signal[rows], np.tile(one / 200, 2), rtol=1e-12)


@pytest.mark.parametrize("first", ["m/2 6 250 80", "m/2 6", "m/2 6 250", "m/2 6 250/250(0) 80 10:00:00 01/02/2003"])
@pytest.mark.parametrize("names", ["a 40\nb 40\n", "sub/a 40\nsub/b.hea 40\n"])
def test_ways_to_write_it(tmp_path, first, names):
    write(tmp_path, "a", counts(6, 40, 1), SIX)
    write(tmp_path, "b", counts(6, 40, 2), SIX)
    (tmp_path / "m.hea").write_text(f"{first}\n{names}")
    recording = read_ecg(tmp_path / "m.hea")
    assert (recording.sample_rate, recording.samples) == (250, 80)


WRONG = {
    "different rates": ("a 40\nf 40\n", "its leads have different sample rates; resample them to one rate"),
    "different frames": ("a 40\nt 40\n", "its leads have different sample rates; resample them to one rate"),
    "no leads": ("p 40\np 40\n", r"none of its signals \(PLETH\) is a standard lead"),
    "missing": ("a 40\nx 40\n", "no such file, but a segment of a record; put it beside the record"),
    "unprintable": ("a 40\n\x7f 40\n", "the name of its segment 2 cannot be shown; correct it"),
    "of itself": ("a 40\nm 40\n", "it has segments, but is itself a segment; fix it"),
    "unit": ("a 40\nu 40\n", "lead I has the unit 'mmHg'; write mV, uV, nV or V in the header"),
    "length": ("a 40\na 50\n", "its first line claims 80 samples, its segments have 90; fix it"),
    "gap": ("a 40\n~ 40\n", r"a gap \('~'\) needs a first segment of length 0 that lists the signals"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_segments_are_one_clear_line(tmp_path, what):
    write(tmp_path, "a", counts(6, 40), SIX)
    write(tmp_path, "f", counts(6, 40), SIX, rate=500)
    write(tmp_path, "t", counts(6, 80), SIX, 2)
    write(tmp_path, "u", counts(6, 40), SIX, units="mmHg")
    write(tmp_path, "p", counts(0, 40), (), others=[("PLETH", "NU")])
    segments, message = WRONG[what]
    (tmp_path / "m.hea").write_text(f"m/2 6 250 80\n{segments}")
    with pytest.raises(UserError, match=message) as caught:
        read_ecg(tmp_path / "m.hea")
    assert "\n" not in str(caught.value)
