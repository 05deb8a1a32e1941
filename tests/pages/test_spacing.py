"""Rows that are moved together: height, scale and the note at the bottom, measured in the SVG."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import plain_recording
from test_ecg_paper import GRID, MM, Drawing, beats, check_texts_are_apart, covers, steps, texts_of

from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.pages.ecg_paper import draw_ecg
from fairseq_signals_ext.pages.figures import svg_text
from fairseq_signals_ext.readers import read_ecg

# one rhythm strip: rows 15 mm apart with pulses and names
LEAST_HEIGHT = 91


def least_distance(drawing, aside=0.0):
    """Of traces of different rows at one moment, or so many mm aside, looked at each 0.005 mm; below 0 they cross."""
    traces = [(row, drawing.trace(row, name)) for row, names in zip(drawing.rows(), GRID) for name in names]
    least = np.inf
    for number, (row, one) in enumerate(traces):
        for other_row, other in traces[:number]:
            start, end = max(one[0, 0], other[0, 0]), min(one[-1, 0], other[-1, 0])
            if row != other_row and end > start:
                x = np.arange(start, end, 0.005)
                least = min(least, (np.interp(x, *other.T) - np.interp(x + aside, *one.T)).min())
    return least


def check(figure, most):
    """Height, scale, the edges of the paper, names that can be read, and the truth of the foot."""
    drawing = Drawing(figure)
    assert drawing.size[0] == 270 and drawing.size[1] <= most
    level = np.array(drawing.paths("grid-5"))
    level = level[np.ptp(level[:, :, 1], axis=1) < MM][:, 0, 1]
    baselines = [drawing.baseline(row) for row in drawing.rows()]
    assert (-np.diff(baselines) >= 15 - MM).all()
    for row, names in zip(drawing.rows(), GRID):
        np.testing.assert_allclose(np.diff(drawing.calibration(row)[:, 1]), [0, 10, 0, -10, 0], atol=MM)
        assert np.abs(level - baselines[row]).min() < 2 * MM
        for name in names:
            heights = drawing.trace(row, name)[:, 1]
            assert level.min() < heights.min() and heights.max() < level.max(), "a trace leaves the paper"
    foot = next(text for text in drawing.texts() if text.startswith("25 mm/s · 10 mm/mV"))
    # lines side by side look like crossing ones; lines that only just touch may count as either
    if foot.endswith("rows overlap"):
        assert min(least_distance(drawing, aside) for aside in (0, -0.25, 0.25, -0.5, 0.5)) < 0.01
    else:
        assert least_distance(drawing) > -0.01
    check_texts_are_apart(figure)
    names, boxes = texts_of(figure)
    for name, box in zip(names, boxes):
        assert name not in LEADS or level.min() < box[1] and box[3] < level.max()
    return drawing


def test_without_need_nothing_changes():
    recording = plain_recording(beats())
    free = draw_ecg(recording)
    height = Drawing(free).size[1]
    assert svg_text(draw_ecg(recording, most_height=height)) == svg_text(free)
    assert svg_text(draw_ecg(recording, most_height=None)) == svg_text(free)


@pytest.mark.parametrize("most", [115, 124.9])
def test_height_is_kept_and_scale_stays(most):
    recording = plain_recording(steps() * np.linspace(-2.52, 2.4, 12)[:, None])
    free = Drawing(draw_ecg(recording))
    drawing = check(draw_ecg(recording, most_height=most), most)
    assert free.size[1] > 130
    # no more than needed
    assert drawing.size[1] > most - 5
    for row, names in zip(drawing.rows(), GRID):
        for name in names:
            moved = drawing.trace(row, name) - (0, drawing.baseline(row))
            expected = free.trace(row, name) - (0, free.baseline(row))
            np.testing.assert_allclose(moved, expected, atol=2 * MM)


def distances(figure):
    drawing = Drawing(figure)
    return -np.diff([drawing.baseline(row) for row in drawing.rows()])


def test_rows_are_evenly_spaced():
    signal = beats()
    signal[LEADS.index("V1"), 2700:2720] = -1.5  # the first row needs more room than the others
    recording = plain_recording(signal)
    free = draw_ecg(recording)
    for figure in (free, draw_ecg(recording, most_height=Drawing(free).size[1] - 10)):
        assert np.ptp(distances(figure)) < 2 * MM
    # not where one high row would make the paper much higher
    signal[LEADS.index("V1"), 2700:2720] = -7
    assert np.ptp(distances(draw_ecg(plain_recording(signal)))) > 10


def test_rows_come_closer_without_crossing_where_complexes_are_not_above_each_other():
    signal = np.zeros((12, 5000))
    signal[LEADS.index("V1"), 2700:2720] = -3.5
    signal[LEADS.index("V2"), 3200:3220] = 3.5
    recording = plain_recording(signal)
    free = Drawing(draw_ecg(recording)).size[1]
    drawing = check(draw_ecg(recording, most_height=free - 30), free - 30)
    assert least_distance(drawing) >= 1 - MM and not any("rows overlap" in text for text in drawing.texts())


def test_names_stand_where_no_trace_is():
    signal = np.zeros((12, 5000))
    # from the row above through the usual place of V2's name, and what brings the rows together
    signal[LEADS.index("V1"), 2520:2540] = -0.9
    signal[LEADS.index("III"), 1000:1010] = 3
    figure = draw_ecg(plain_recording(signal), most_height=LEAST_HEIGHT)
    drawing = check(figure, LEAST_HEIGHT)
    assert drawing.baseline(0) - drawing.baseline(1) == pytest.approx(15, abs=MM)
    traces = [drawing.trace(row, name) for row, names in zip(drawing.rows(), GRID) for name in names]
    for name, box in zip(*texts_of(figure)):
        assert name not in LEADS or not any(covers(box, trace) for trace in traces), name


def test_a_lead_of_which_nothing_is_known_touches_nothing():
    signal = beats(height=4)
    signal[LEADS.index("V2")] = np.nan
    figure = draw_ecg(plain_recording(signal), most_height=100)
    texts = Drawing(figure).texts()
    assert Drawing(figure).size[1] <= 100 and any("rows overlap" in text for text in texts)
    alone = np.full((12, 5000), np.nan)
    alone[1] = 0
    # in the strip only
    alone[1, 3000] = 5
    texts = Drawing(draw_ecg(plain_recording(alone), most_height=LEAST_HEIGHT)).texts()
    assert not any("rows overlap" in text for text in texts)


def test_traces_without_room_are_clipped_and_noted():
    signal = beats(height=1)
    signal[LEADS.index("V2"), 2700] = -9.5
    drawing = check(draw_ecg(plain_recording(signal), most_height=110), 110)
    red = np.concatenate(drawing.paths("row-1-V2-clipped"))
    assert np.nanmin(red[:, 1]) < 15, "at the lower edge"
    assert "Red: beyond 10 mV or the paper, clipped." in drawing.texts()
    assert any(text.startswith("clipped: -9.5 to") for text in drawing.texts())
    # with enough room it is drawn whole
    whole = Drawing(draw_ecg(plain_recording(signal), most_height=160))
    assert not any("clipped" in text for text in whole.texts())


@settings(max_examples=6, deadline=None)
@given(st.lists(st.floats(-12, 12), min_size=12, max_size=12), st.integers(0, 9), st.integers(LEAST_HEIGHT, 140))
def test_any_amplitudes_fit(heights, phase, most):
    time = np.arange(1000) / 100 + phase / 10
    beat = np.exp(-(((time % 0.8) - 0.4) ** 2) / 0.001)
    check(draw_ecg(plain_recording(np.array(heights)[:, None] * beat, 100), most_height=most), most)


def test_real_recordings_stay_under_a_limit(ecg_data):
    files = [
        *sorted((ecg_data / "cinc2021").glob("*/*.hea"))[::40],
        *sorted((ecg_data / "code15_wfdb").glob("*.hea"))[::12],
    ]
    files += [ecg_data / "formats" / name for name in ("dicom_12lead_1000hz.dcm", "ge_muse_8lead.xml", "example.scp")]
    said = [check(draw_ecg(read_ecg(path), most_height=110), 110).texts() for path in files]
    overlapping = sum(any("rows overlap" in text for text in texts) for texts in said)
    assert 0 < overlapping < len(said)
