"""Occlusion: the removed parts and the drops of the score."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import made_up_counts, plain_recording, stored_recording

from fairseq_signals_ext.analysis.occlusion import bridge, occlude
from fairseq_signals_ext.analysis.saliency import explain
from fairseq_signals_ext.analysis.waves import find_waves
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.inference.model import LoadedModel
from fairseq_signals_ext.inference.preprocessing import SegmentedRecording

BEAT_SECONDS = 0.8
# center and width (s from the R peak), height (mV)
WAVES = {"P": (-0.16, 0.02, 0.15), "QRS": (0.0, 0.01, 1.0), "T": (0.25, 0.035, 0.35)}


def recording_of_beats(seconds=10, rate=500, leads=12):
    """Beats with known waves, equal in all leads except for their height."""
    times = np.arange(seconds * rate) / rate
    since = (times + BEAT_SECONDS / 2) % BEAT_SECONDS - BEAT_SECONDS / 2
    beats = sum(height * np.exp(-(((since - center) / width) ** 2) / 2) for center, width, height in WAVES.values())
    noise = np.random.default_rng(0).normal(0, 0.003, (leads, len(times)))
    return plain_recording(beats * np.linspace(0.5, 1.5, leads)[:, None] + noise, rate), since


def segmented(recording, model):
    return SegmentedRecording.of(recording, model.preprocessing)


def test_waves_are_where_they_were_made(planted):
    recording, since = recording_of_beats()
    waves = find_waves(segmented(recording, planted()))
    assert waves.lead == "II"
    for name, (center, _, _) in WAVES.items():
        assert len(waves.regions[name]) in (11, 12, 13), name
        for first, last in waves.regions[name]:
            assert since[first] < center < since[last] and last - first <= 0.25 * 500, name
        mask = waves.mask(name, recording.samples)
        assert mask.sum() == sum(last - first + 1 for first, last in waves.regions[name])
        others = [other for other in WAVES if other != name]
        assert not any(mask[np.abs(since - WAVES[other][0]) < 0.005].any() for other in others), name


def test_another_lead_where_lead_ii_is_constant(planted):
    recording, _ = recording_of_beats()
    recording.signal[1] = 0.3
    assert find_waves(segmented(recording, planted())).lead == "I"


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 9))
def test_bridge_leaves_lines(mask, seed):
    mask, rng = np.array(mask), np.random.default_rng(seed)
    segment = rng.standard_normal((3, len(mask)))
    line = np.outer(rng.standard_normal(3), np.arange(len(mask))) + 1
    for values in (segment, line):
        found = values.copy()
        bridge(found, mask)
        np.testing.assert_array_equal(found[:, ~mask], values[:, ~mask])
        inside = np.flatnonzero(~mask)
        if len(inside) > 1 and values is line:
            np.testing.assert_allclose(found[:, inside[0] : inside[-1]], line[:, inside[0] : inside[-1]], atol=1e-9)


def test_only_the_lead_that_is_looked_at_matters(planted):
    recording, _ = recording_of_beats()
    model = planted(lead=4, sample=400)  # an R peak of each segment of 1 s would be at 400 of the first only
    found = occlude(model, recording, "A")
    drops = {row.lead: row.drop for row in found.rows if row.region == "all"}
    assert tuple(drops) == LEADS
    assert abs(drops.pop("aVL")) > 0.01 and set(drops.values()) == {0.0}
    assert found.score == pytest.approx(model.predict(recording).scores[0])
    assert all(row.drop == pytest.approx(found.score - row.score) for row in found.rows)


def test_only_the_wave_that_is_looked_at_matters(planted):
    recording, _ = recording_of_beats(seconds=4)
    for wave, (center, _, _) in WAVES.items():
        sample = round((BEAT_SECONDS * 2 + center) * 500)
        found = occlude(planted(lead=7, sample=sample, samples=2000), recording, "B")
        drops = {row.region: row.drop for row in found.rows if row.lead == "all"}
        assert set(drops) == set(WAVES)
        assert max(drops, key=drops.get) == wave and drops.pop(wave) > 0.1
        assert set(drops.values()) == {0.0}, wave


def test_no_beats_is_a_note(planted):
    for signal in (np.random.default_rng(0).normal(size=(12, 12)), np.tile(np.arange(600.0), (12, 1))):
        found = occlude(planted(), plain_recording(signal), "A")
        assert found.note == "no beats were found, so no waves are left out"
        assert [row.region for row in found.rows] == ["all"] * 12


def test_note_has_the_waves_found(planted):
    recording, _ = recording_of_beats()
    regions = find_waves(segmented(recording, planted())).regions
    numbers = ", ".join(f"{len(regions[name])} {name}" for name in ("P", "QRS", "T"))
    assert occlude(planted(), recording, "A").note == f"{numbers} found in lead II"


def test_maximum_of_segments(planted):
    recording = stored_recording(made_up_counts(np.random.default_rng(0), 1500))
    model = planted(lead=3, sample=250, aggregation=("max",) * 3)
    found = occlude(model, recording, "A")
    assert found.score == model.predict(recording).segment_scores[:, 0].max()
    assert next(row.score for row in found.rows if row.lead == "aVR") == 0.5


def test_default_label_is_the_most_probable_that_reaches_its_threshold(planted):
    recording, _ = recording_of_beats(seconds=1)
    for thresholds, expected in (((0.999, 1.0, 0.9), "B"), ((0.5, 1.0, 0.9), "A"), (None, "B")):
        model = planted(lead=0, sample=0, thresholds=thresholds)
        scores = model.predict(recording).as_dict()  # an R peak, so B above A above C
        assert scores["B"] > scores["A"] > 0.5
        assert occlude(model, recording).label == expected, scores


def test_works_with_an_export(planted):
    recording, _ = recording_of_beats()
    model = planted(lead=4, sample=400)
    export = LoadedModel(model.description, lambda source, mask: model.backend(source, mask), "model.onnx")
    assert occlude(export, recording, "A") == occlude(model, recording, "A")


def test_labels_are_needed(made_up_model, planted):
    recording, _ = recording_of_beats(seconds=1)
    with pytest.raises(UserError, match="^made_up.pt: is a pretrained model without labels"):
        occlude(made_up_model("pretraining"), recording)
    with pytest.raises(UserError, match="^label 'D': planted has A, B, C"):
        occlude(planted(), recording, "D")


@pytest.mark.parametrize("window", [0.1, 0.2, 5.0])
def test_windows_that_hold_the_planted_sample(planted, window):
    recording, _ = recording_of_beats(seconds=3)
    found = explain(planted(lead=2, sample=310), recording, "A", "occlusion", window=window)
    assert found.values.shape == (1500,) and found.leads == ()
    length, half = min(500, round(window * 500)), min(500, round(window * 500)) // 2
    starts = [start for start in range(0, 500, half) if start <= 310 < start + length]
    near = np.zeros(500, bool)
    for start in starts:
        near[start : start + length] = True
    for values in found.values.reshape(3, 500):
        np.testing.assert_array_equal(values != 0, near)
        assert np.abs(values).argmax() in np.flatnonzero(near) and abs(values[310]) == np.abs(values).max()


def test_real_recordings_have_beats(ecg_data, planted):
    from fairseq_signals_ext.readers import read_ecg

    headers = sorted((ecg_data / "ptbxl").rglob("*.hea"))[:6]
    for header in headers:
        waves = find_waves(segmented(read_ecg(header), planted()))
        assert 6 <= len(waves.regions["QRS"]) <= 25, header.name
