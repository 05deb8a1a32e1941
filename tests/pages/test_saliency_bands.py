"""Saliency lies under the samples that it belongs to, and is little to draw."""

import re

import numpy as np
import pytest
from made_up import plain_recording
from test_ecg_paper import GRID, MM, Drawing, beats, check_texts_are_apart

from fairseq_signals_ext.pages.ecg_paper import draw_ecg
from fairseq_signals_ext.pages.figures import svg_text
from fairseq_signals_ext.pages.saliency_bands import LEVELS

FULL = f"saliency-{LEVELS}"


def bands_of(drawing, row, level=LEVELS):
    """Left and right ends of the bands of a level in a row, from the time's origin."""
    bands = [
        band
        for band in drawing.paths(f"saliency-{level}")
        if band[:, 1].min() < drawing.baseline(row) < band[:, 1].max()
    ]
    return [(band[:, 0].min() - drawing.origin(), band[:, 0].max() - drawing.origin()) for band in bands]


def levels_of(drawing):
    return {int(name[9:]) for name in drawing.groups if re.match(r"saliency-", name)}


@pytest.mark.parametrize("rate", [50, 100, 360, 500, 1000, 20_000])
def test_a_planted_spike_lies_under_its_sample_in_its_lead_only(rate):
    """In V2 at 6.1 s, which is in the third column, and in II at 3.3 s, which only the strip shows."""
    saliency = np.zeros((12, 10 * rate))
    saliency[7, round(6.1 * rate)] = saliency[1, round(3.3 * rate)] = 0.02
    drawing = Drawing(draw_ecg(plain_recording(np.zeros((12, 10 * rate)), rate), saliency))
    assert levels_of(drawing) == {LEVELS}
    assert bands_of(drawing, 0) == bands_of(drawing, 2) == []
    for row, seconds in ((1, 6.1), (3, 3.3)):
        ((left, right),) = bands_of(drawing, row)
        assert left < 25 * round(seconds * rate) / rate < right
        assert right - left <= 25 * max(0.01 + 1 / rate, 1 / rate) + MM


def test_a_spike_of_frames_lies_exactly_around_its_samples():
    saliency = np.zeros(5000)
    saliency[1000:1100] = 1
    drawing = Drawing(draw_ecg(plain_recording(beats()), saliency))
    for row in drawing.rows():
        np.testing.assert_allclose(bands_of(drawing, row), [(25 * 999.5 / 500, 25 * 1099.5 / 500)], atol=MM)


def test_one_row_is_for_all_leads_and_joins_at_the_columns():
    longer, saliency = np.pad(beats(), ((0, 0), (0, 500))), np.ones(5500)
    saliency[-1] = 0
    drawing = Drawing(draw_ecg(plain_recording(longer), saliency))
    for row, names in enumerate(GRID):
        ends = np.array(bands_of(drawing, row))
        width = 250 / len(names)
        np.testing.assert_allclose(ends[:, 0], width * np.arange(len(names)), atol=MM)
        np.testing.assert_allclose(ends[:-1, 1], width * np.arange(1, len(names)), atol=MM)
        assert ends[-1, 1] == pytest.approx(250, abs=25 * 0.5 / 500 + MM)


def test_from_a_start_on_the_scale_stays_that_of_the_whole_recording():
    saliency = np.zeros(20_000)
    saliency[100], saliency[12_000] = 4, 2
    figure = draw_ecg(plain_recording(np.zeros((12, 20_000))), saliency, start=20)
    drawing = Drawing(figure)
    assert levels_of(drawing) == {LEVELS // 2}
    ((left, right),) = bands_of(drawing, 3, LEVELS // 2)
    assert left < 100 < right
    assert {"4", "saliency 0"} <= set(drawing.texts())


def test_colour_grows_with_saliency():
    ramp = np.repeat(np.linspace(0, 1, 1000), 5)
    text = svg_text(draw_ecg(plain_recording(beats()), ramp))
    opacity = [
        float(re.search(rf'-saliency-{level}">.*?opacity: ([\d.]+)', text, re.S)[1]) for level in range(1, LEVELS + 1)
    ]
    assert (np.diff(opacity) > 0).all() and opacity[-1] <= 0.7, "grid and trace stay visible"


def in_all_but_v6():
    saliency = np.ones((12, 5000))
    saliency[11] = 0
    return saliency


def test_a_map_that_is_nearly_the_same_everywhere_is_pale():
    """Else it would say that the model looked everywhere, where it looked nowhere in particular."""
    saliency = np.full(5000, 0.5)
    saliency[2000:2100] = 0.6
    drawing = Drawing(draw_ecg(plain_recording(beats()), saliency))
    assert levels_of(drawing) == {round(LEVELS / 6)}
    assert {"saliency 0.5", "1.1"} <= set(drawing.texts())


def test_it_lies_under_grid_and_trace():
    names = list(Drawing(draw_ecg(plain_recording(beats()), in_all_but_v6())).groups)
    assert names.index(FULL) < names.index("grid-1") < names.index("row-0-I")


def test_unknown_saliency_is_neither_zero_nor_full():
    saliency = in_all_but_v6()
    saliency[:, 4000:] = np.nan
    figure = draw_ecg(plain_recording(beats()), saliency)
    drawing = Drawing(figure)
    np.testing.assert_allclose(bands_of(drawing, 3, -1), [(25 * 3999.5 / 500, 25 * 4999.5 / 500)], atol=MM)
    np.testing.assert_allclose(bands_of(drawing, 3), [(0, 25 * 3999.5 / 500)], atol=MM)
    assert "unknown" in drawing.texts()
    check_texts_are_apart(figure)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_no_saliency_has_no_colour(value):
    drawing = Drawing(draw_ecg(plain_recording(beats()), np.full((12, 5000), value)))
    assert levels_of(drawing) == ({-1} if np.isnan(value) else set())


def test_without_saliency_there_is_no_key():
    assert not any("saliency" in text for text in Drawing(draw_ecg(plain_recording(beats()))).texts())


@pytest.mark.parametrize("rate", [pytest.param(500, marks=pytest.mark.slow), 20_000])
def test_the_worst_saliency_of_noise_is_little_to_draw(rate):
    rng = np.random.default_rng(0)
    noise = rng.random((12, 10 * rate))
    text = svg_text(draw_ecg(plain_recording(np.zeros((12, 10 * rate)), rate), noise))
    drawing_of_bands = sum(len(found) for found in re.findall(r'-saliency-\d+">.*?</g>', text, re.S))
    assert drawing_of_bands < 500_000
    bands = sum(found.count("M ") for found in re.findall(r'-saliency-\d+">.*?</g>', text, re.S))
    assert bands <= 4 * 1000 + 20, "at most one each 10 ms"


def test_leads_that_were_not_recorded_have_none():
    recording = plain_recording(beats()[[1, 6]], leads=(1, 6))
    saliency = np.ones((2, 5000))
    saliency[0, 0] = 0
    drawing = Drawing(draw_ecg(recording, saliency))
    assert bands_of(drawing, 2) == [] and len(bands_of(drawing, 0)) == len(bands_of(drawing, 1)) == 1
