"""The drawn ECG, measured in its SVG: scale, places, and that nothing runs into anything."""

import dataclasses
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import plain_recording
from matplotlib.backends.backend_agg import FigureCanvasAgg

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.pages.ecg_paper import draw_ecg
from fairseq_signals_ext.pages.figures import save_figure, svg_text
from fairseq_signals_ext.readers import read_ecg

SVG = "{http://www.w3.org/2000/svg}"
GRID = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"), ("II",))
# coordinates are cut at 0.001 points
MM = 0.001
FORMATS = ("dicom_12lead_1000hz.dcm", "ge_muse_8lead.xml", "philips_sierra_1_04.xml", "hl7_aecg.xml", "example.scp")


class Drawing:
    """A picture, measured in mm from the lower left corner."""

    def __init__(self, figure):
        self.root = ElementTree.fromstring(svg_text(figure))
        width, height = (float(re.fullmatch(r"([\d.]+)mm", self.root.get(side))[1]) for side in ("width", "height"))
        box = [float(number) for number in self.root.get("viewBox").split()]
        np.testing.assert_allclose([width / box[2], height / box[3]], 25.4 / 72, rtol=1e-6)
        self.size = width, height
        self.prefix = self.root.get("id") + "-"
        self.groups = {
            group.get("id")[len(self.prefix) :]: group for group in self.root.iter(f"{SVG}g") if group.get("id")
        }

    def paths(self, name):
        """Pieces (points x 2) of the path of a group."""
        path = self.groups[name].find(f"{SVG}path")
        pieces = [re.findall(r"[\d.e-]+", piece) for piece in path.get("d").split("M")[1:]]
        return [np.array(piece, float).reshape(-1, 2) * 25.4 / 72 * (1, -1) + (0, self.size[1]) for piece in pieces]

    def trace(self, row, lead):
        return np.concatenate(self.paths(f"row-{row}-{lead}"))

    def calibration(self, row):
        return self.paths(f"row-{row}-calibration")[0]

    def baseline(self, row):
        return self.calibration(row)[0, 1]

    def origin(self):
        """Where second 0 stands: on the grid, after the pulse."""
        return 17.5

    def rows(self):
        return [number for number in range(12) if f"row-{number}-calibration" in self.groups]

    def texts(self):
        return ["".join(text.itertext()) for text in self.root.iter(f"{SVG}text")]


def texts_of(figure):
    """Texts that are seen, with their rectangles in mm: x0, y0, x1, y1."""
    canvas = FigureCanvasAgg(figure)
    seen = [text for text in figure.axes[0].texts if text.get_text().strip()]
    boxes = [text.get_window_extent(canvas.get_renderer()).extents * 25.4 / figure.dpi for text in seen]
    return [text.get_text() for text in seen], np.array(boxes)


def covers(box, points):
    """Whether a line goes through a rectangle: of each piece, the part between the box's sides, at 50 places."""
    x0, y0, x1, y1 = box
    near = (np.minimum(points[:-1, 0], points[1:, 0]) < x1) & (np.maximum(points[:-1, 0], points[1:, 0]) > x0)
    share = np.linspace(0, 1, 50)[:, None, None]
    x, y = np.moveaxis(points[:-1][near] * (1 - share) + points[1:][near] * share, -1, 0)
    return bool(((x > x0) & (x < x1) & (y > y0) & (y < y1)).any())


def check_rows_are_apart(figure):
    """No trace comes near another row's trace, pulse or names, and none touches its own name."""
    drawing = Drawing(figure)
    lines = {
        number: [line for name in drawing.groups if name.startswith(f"row-{number}-") for line in drawing.paths(name)]
        for number in drawing.rows()
    }
    boxes = {number: np.concatenate(found)[:, 1] for number, found in lines.items()}
    for upper, lower in zip(drawing.rows(), drawing.rows()[1:]):
        assert boxes[upper].min() >= boxes[lower].max() + 1, "rows overlap"
    names, rectangles = texts_of(figure)
    places = [box for name, box in zip(names, rectangles) if name in LEADS or name.startswith(("clipped", "note"))]
    assert len(places) >= 13
    for box in places:
        assert not any(covers(box, line) for found in lines.values() for line in found), "a trace runs into a name"
    assert min(box.min() for box in boxes.values()) > 12 and max(box.max() for box in boxes.values()) < drawing.size[1]


def check_texts_are_apart(figure):
    names, boxes = texts_of(figure)
    width, height = figure.get_size_inches() * 25.4
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all(), names
    for one in range(len(names)):
        for other in range(one):
            apart = (boxes[one, :2] >= boxes[other, 2:]) | (boxes[other, :2] >= boxes[one, 2:])
            assert apart.any(), (names[one], names[other])


def steps(rate=500, seconds=10.0, leads=12):
    """0 mV, and 1 mV from 0.4 to 0.8 s of every second."""
    within = (np.arange(round(rate * seconds)) / rate) % 1
    return np.tile(((within > 0.4 - 1e-9) & (within < 0.8 - 1e-9)).astype(float), (leads, 1))


def beats(rate=500, seconds=10.0, height=1.5):
    time = np.arange(round(rate * seconds)) / rate
    beat = np.exp(-(((time - 0.1) % 0.8 - 0.4) ** 2) / 0.0005)
    return np.linspace(-height, height, 12)[:, None] * beat


def test_the_calibration_pulse_is_10_mm_high_and_5_mm_wide():
    drawing = Drawing(draw_ecg(plain_recording(beats())))
    assert drawing.rows() == [0, 1, 2, 3]
    for row in drawing.rows():
        pulse = drawing.calibration(row)
        x, y = pulse[:, 0], pulse[:, 1]
        np.testing.assert_allclose(np.diff(y), [0, 10, 0, -10, 0], atol=MM)
        np.testing.assert_allclose(np.diff(x), [2.5, 0, 5, 0, 2.5], atol=MM)


@pytest.mark.parametrize("rate", [100, 500, 1000, 5000])
@pytest.mark.parametrize("offset", [0.0, -3.25])
def test_one_millivolt_is_10_mm_and_one_second_is_25_mm(rate, offset):
    drawing = Drawing(draw_ecg(plain_recording(steps(rate) + offset, rate)))
    points = drawing.trace(3, "II")
    baseline = drawing.baseline(3)
    np.testing.assert_allclose(np.unique(points[:, 1].round(2)), [baseline, baseline + 10], atol=0.01)
    # the first point of each step up
    up = points[1:][np.diff(points[:, 1]) > 9.99][:, 0]
    np.testing.assert_allclose(up, drawing.origin() + 25 * (np.arange(10) + 0.4), atol=25 * 0.002 + MM)
    np.testing.assert_allclose(np.diff(up), 25, atol=2 * MM)


def test_a_peak_of_one_sample_keeps_its_height_and_time():
    for rate in (1, 37.5, 500, 48_000):
        signal = np.zeros((1, int(10 * rate)))
        sample = int(6.4 * rate)
        signal[0, sample] = 1.7
        drawing = Drawing(draw_ecg(plain_recording(signal, rate, leads=(1,))))
        points = drawing.trace(3, "II")
        peak = points[points[:, 1].argmax()]
        expected = (drawing.origin() + 25 * sample / rate, drawing.baseline(3) + 17)
        np.testing.assert_allclose(peak, expected, atol=2 * MM, err_msg=f"{rate} Hz")


def test_each_column_begins_where_the_one_before_ends():
    """A ramp in all leads, so that the height shows the time."""
    ramp = np.tile(np.linspace(-1, 1, 5000, endpoint=False), (12, 1))
    drawing = Drawing(draw_ecg(plain_recording(ramp)))
    for row, names in enumerate(GRID[:3]):
        for column, name in enumerate(names):
            x, y = drawing.trace(row, name)[[0, -1]].T
            np.testing.assert_allclose(x, drawing.origin() + 62.5 * column + np.array([0, 62.5]), atol=0.06)
            np.testing.assert_allclose(y - drawing.baseline(row), (x - drawing.origin()) * 0.08 - 10, atol=0.01)


def test_columns_and_pulses_stand_on_the_grid():
    drawing = Drawing(draw_ecg(plain_recording(beats(height=2.7))))
    lines = np.array(drawing.paths("grid-5"))
    upright = lines[np.ptp(lines[:, :, 0], axis=1) < MM][:, 0, 0]
    level = lines[np.ptp(lines[:, :, 1], axis=1) < MM][:, 0, 1]
    np.testing.assert_allclose(np.diff(upright), 5, atol=2 * MM)
    np.testing.assert_allclose(np.diff(level), 5, atol=2 * MM)
    assert np.abs(upright - drawing.origin()).min() < 2 * MM
    for row in drawing.rows():
        assert np.abs(level - drawing.baseline(row)).min() < 2 * MM
    thin = np.array(drawing.paths("grid-1"))
    assert len(thin) == 5 * (len(lines) - 2) + 2


@pytest.mark.parametrize("seconds, width", [(9.998, 2.5), (7.3, 1.9), (5, 1.3), (2.6, 0.7)])
def test_a_shorter_recording_has_a_quarter_in_each_column(seconds, width):
    recording = plain_recording(beats(seconds=seconds), derived=(2, 3, 4, 5))
    figure = draw_ecg(recording)
    drawing = Drawing(figure)
    assert drawing.size[0] == 270
    for row, names in enumerate(GRID[:3]):
        for column, name in enumerate(names):
            x = drawing.trace(row, name)[:, 0] - drawing.origin()
            stop = min((column + 1) * width, seconds)
            np.testing.assert_allclose([x.min(), x.max()], [25 * width * column, 25 * stop], atol=0.06)
    check_texts_are_apart(figure)


@pytest.mark.parametrize("seconds", [0.002, 1, 2.5])
def test_a_very_short_recording_stands_whole_in_each_column(seconds):
    figure = draw_ecg(plain_recording(beats(seconds=seconds)))
    drawing = Drawing(figure)
    for column, name in enumerate(GRID[0]):
        x = drawing.trace(0, name)[:, 0] - drawing.origin() - 62.5 * column
        np.testing.assert_allclose([x.min(), x.max()], [0, 25 * (seconds - 0.002)], atol=2 * MM)
    assert any("every lead from 0 s" in text for text in drawing.texts())
    check_texts_are_apart(figure)


def test_ten_seconds_of_a_longer_recording_from_the_start_on():
    signal = np.zeros((12, 50_000))
    signal[:, 34_000] = 1  # 68 s
    figure = draw_ecg(plain_recording(signal), start=62.5)
    drawing = Drawing(figure)
    points = drawing.trace(3, "II")
    assert points[points[:, 1].argmax(), 0] == pytest.approx(drawing.origin() + 25 * 5.5, abs=2 * MM)
    assert points[-1, 0] == pytest.approx(drawing.origin() + 250, abs=2 * MM)
    assert {"62.5 s", "72.5"} <= set(drawing.texts())


def test_leads_below_each_other():
    drawing = Drawing(draw_ecg(plain_recording(beats()), layout="12x1"))
    assert drawing.rows() == list(range(12))
    for row, name in enumerate(LEADS):
        assert np.ptp(drawing.trace(row, name)[:, 0]) == pytest.approx(250, abs=0.06)


def test_absent_leads_keep_their_box_and_the_strip_is_the_first_that_is_there():
    figure = draw_ecg(plain_recording(beats()[[8]], leads=(8,)))
    drawing = Drawing(figure)
    assert [name for name in drawing.groups if re.search(r"row-\d-[IVa]", name)] == ["row-2-V3", "row-3-V3"]
    assert drawing.texts().count("not recorded") == 11
    assert sorted(set(drawing.texts()) & set(LEADS)) == sorted(LEADS)
    check_texts_are_apart(figure)


def test_rhythm_leads_are_chosen():
    drawing = Drawing(draw_ecg(plain_recording(beats()), rhythm_leads=("V1", "ii", "V5")))
    assert {"row-3-V1", "row-4-II", "row-5-V5"} <= set(drawing.groups)
    assert Drawing(draw_ecg(plain_recording(beats()), rhythm_leads=())).rows() == [0, 1, 2]


def test_unknown_samples_are_gaps():
    signal = beats()
    signal[1, 1000:2000] = np.nan
    signal[0] = np.nan
    drawing = Drawing(draw_ecg(plain_recording(signal)))
    first, second = drawing.paths("row-3-II")
    assert first[-1, 0] == pytest.approx(drawing.origin() + 25 * 1.998, abs=2 * MM)
    assert second[0, 0] == pytest.approx(drawing.origin() + 25 * 4, abs=2 * MM)
    assert all(len(piece) == 1 for piece in drawing.paths("row-0-I")), "no line at all"


def test_a_sample_between_gaps_is_a_dot():
    signal = np.full((12, 5000), np.nan)
    without = svg_text(draw_ecg(plain_recording(signal)))
    signal[:, 600] = 0
    assert svg_text(draw_ecg(plain_recording(signal))).count("<use") == without.count("<use") + 4


def test_a_constant_recording_is_flat_on_the_baseline():
    drawing = Drawing(draw_ecg(plain_recording(np.full((12, 5000), 4.0))))
    np.testing.assert_allclose(drawing.trace(1, "V5")[:, 1], drawing.baseline(1), atol=MM)


def test_real_recordings_do_not_overlap(ecg_data):
    wfdb = sorted((ecg_data / "cinc2021").glob("*/*.hea"))[::60] + sorted((ecg_data / "code15_wfdb").glob("*.hea"))[:2]
    files = [*wfdb, *(ecg_data / "formats" / name for name in FORMATS)]
    assert len(files) > 7
    for path in files:
        figure = draw_ecg(read_ecg(path), title=str(path.name))
        check_rows_are_apart(figure)
        check_texts_are_apart(figure)
        assert len(svg_text(figure)) < 600_000, path


@settings(max_examples=6, deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=12, max_size=12), st.floats(0, 1.5), st.integers(0, 9))
def test_no_amplitudes_make_rows_overlap(heights, noise, phase):
    rng = np.random.default_rng(phase)
    time = np.arange(1000) / 100 + phase / 10
    beat = np.exp(-(((time % 0.8) - 0.4) ** 2) / 0.001)
    signal = np.array(heights)[:, None] * beat + rng.normal(0, noise, (12, 1000))
    figure = draw_ecg(plain_recording(signal, 100), notes={"V2": "note of a lead"})
    check_rows_are_apart(figure)
    check_texts_are_apart(figure)


@pytest.mark.parametrize("height", [-12.0, 45.0, 1e12])
def test_clipping_is_noted(height):
    signal = beats()
    signal[7, 2600:2640] = height  # V2, in its column
    figure = draw_ecg(plain_recording(signal), title="clipped")
    drawing = Drawing(figure)
    assert drawing.size[1] < 200
    red = np.concatenate(drawing.paths("row-1-V2-clipped"))
    np.testing.assert_allclose(red[[0, -1], 0], drawing.origin() + 25 * np.array([5.2, 5.278]), atol=2 * MM)
    assert np.allclose(np.abs(red[:, 1] - drawing.baseline(1)), 20, atol=MM), "unlike any plausible wave"
    assert any(re.match(r"clipped: .* mV", text) for text in drawing.texts())
    assert "Red: beyond 10 mV, clipped." in drawing.texts()
    check_rows_are_apart(figure)
    check_texts_are_apart(figure)


def test_large_but_possible_amplitudes_are_drawn_whole():
    signal = np.zeros((12, 5000))
    signal[7, 2700] = 9.5
    drawing = Drawing(draw_ecg(plain_recording(signal)))
    assert np.ptp(drawing.trace(1, "V2")[:, 1]) == pytest.approx(95, abs=2 * MM)
    assert not any("clipped" in text for text in drawing.texts())


def test_derived_leads_and_notes_stand_beside_the_name():
    texts = Drawing(draw_ecg(plain_recording(beats(), derived=(2, 3)), notes={"V1": "constant"})).texts()
    assert texts.count("derived") == 2 and texts.count("constant") == 1
    assert any("derived: computed from I and II" in text for text in texts)


@pytest.mark.parametrize("title", ["costs $5 and $6_a^b", "<script>alert(1)</script> & --> ]]>", "a \"quoted\" 'one'"])
def test_a_title_is_only_text(title):
    figure = draw_ecg(plain_recording(beats()), title=title)
    drawing = Drawing(figure)
    assert title in drawing.texts()
    assert drawing.root.get("aria-label") == f"ECG: {title}"
    assert "<script" not in svg_text(figure)


def test_control_characters_and_length_do_no_harm():
    title = "a\x00b\x1b[31m\nc\ud800\u202e" + " very long" * 10_000
    figure = draw_ecg(plain_recording(beats()), title=title, notes={"I": "x" * 10_000})
    drawing = Drawing(figure)
    assert any(text.startswith("a b [31m c very long") and text.endswith("…") for text in drawing.texts())
    check_texts_are_apart(figure)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"layout": "6x2"}, "layout '6x2': use one of 3x4, 12x1"),
        ({"rhythm_leads": ("X",)}, "unknown lead 'X'"),
        ({"notes": {"X": "a"}}, "unknown lead 'X'"),
        ({"start": 10}, "start 10 s is outside"),
    ],
)
def test_user_errors_are_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        draw_ecg(plain_recording(beats()), **arguments)
    assert "\n" not in str(caught.value)


def test_the_recording_and_matplotlib_stay_as_they_are():
    import matplotlib

    recording = plain_recording(beats())
    before, settings_before = recording.signal.copy(), dict(matplotlib.rcParams)
    svg_text(draw_ecg(dataclasses.replace(recording), title="$"))
    np.testing.assert_array_equal(recording.signal, before)
    assert dict(matplotlib.rcParams) == settings_before


def test_both_kinds_of_file_show_the_same_figure(tmp_path):
    from PIL import Image

    figure = draw_ecg(plain_recording(beats()))
    save_figure(figure, tmp_path / "a.png")
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("L"))
    drawing = Drawing(figure)
    assert pixels.shape == (round(10 * drawing.size[1]), 2700), "ten pixels a mm"
    x, y = drawing.calibration(0)[2] + (2.5, 0)
    assert pixels[round(10 * (drawing.size[1] - y)) + np.arange(-2, 3), round(10 * x)].min() < 60, "the pulse's top"
    assert pixels[round(10 * (drawing.size[1] - y + 5)), round(10 * x)] > 150, "nothing but paper below it"
