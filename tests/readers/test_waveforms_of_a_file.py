"""Files of several waveforms: which is the ECG, which are further ECGs, and which belong together."""

import json
from datetime import timedelta

import fuzz_seeds
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_parts import BEGAN, EIGHT, WRITERS, wave, write_aecg, write_dicom, write_mfer

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.readers import read_ecg, read_ecgs

LIMB, CHEST = LEADS[:6], LEADS[6:]
COLUMNS = (("I", "II", "III"), ("aVR", "aVL", "aVF"), ("V1", "V2", "V3"), ("V4", "V5", "V6"))
BEATS = [
    {"derived": True},
    {"label": "MEDIAN BEAT"},
    {"label": "average", "derived": True},
    {"label": "REPRESENTATIVE_BEAT"},
    {"label": "Template"},
    {},  # told by its length alone
]


def written(tmp_path, kind, waves):
    return WRITERS[kind](tmp_path / f"m.{kind}", waves)


def same(recording, expected):
    """`expected`: lead -> mV; leads that it lacks are derived."""
    for position, row in zip(recording.leads, recording.signal):
        name = LEADS[position]
        if position in recording.derived:
            assert name not in expected
        else:
            np.testing.assert_allclose(row, expected[name], rtol=0, atol=1e-9)
    assert {LEADS[position] for position in recording.leads} >= set(expected)


def both_orders(waves):
    return [waves, waves[::-1]]


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("beat", BEATS, ids=lambda facts: "-".join(map(str, facts.values())) or "short")
@pytest.mark.parametrize("backwards", [False, True])
def test_averaged_beats_are_not_the_rhythm(tmp_path, kind, beat, backwards):
    rhythm = wave(10, seed=1)
    same(read_ecg(written(tmp_path, kind, both_orders([wave(1.2, **beat), rhythm])[backwards])), rhythm.millivolts)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(
    "other",
    [
        wave(2.5, seed=2),
        wave(4, seed=2),
        wave(10, ("II",), seed=2),
        wave(60, ("II", "V1", "V5"), seed=2),
        wave(10, LEADS, seed=2, derived=True),
        wave(30, LEADS, seed=2, derived=True),
        wave(2.5, EIGHT, seed=2),
    ],
    ids=lambda one: f"{one.counts.shape[1]}x{len(one.leads)}{'derived' * one.derived}",
)
def test_the_longest_complete_twelve_leads_win(tmp_path, kind, other, backwards):
    best = wave(10, seed=1)
    same(read_ecg(written(tmp_path, kind, both_orders([other, best])[backwards])), best.millivolts)


@pytest.mark.parametrize("kind", WRITERS)
def test_without_a_complete_group_recorded_signals_win(tmp_path, kind):
    best = wave(10, ("I", "II"), seed=1)
    others = [wave(30, ("I", "II"), seed=2, derived=True), wave(2.5, ("II",), seed=3)]
    same(read_ecg(written(tmp_path, kind, [*others, best])), best.millivolts)


@pytest.mark.parametrize("kind", WRITERS)
def test_only_beats(tmp_path, kind):
    path = written(tmp_path, kind, [wave(1.2, label="MEDIAN BEAT")])
    with pytest.raises(UserError, match="it contains averaged beats only, no rhythm; export") as caught:
        read_ecg(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    "split", [(LIMB, CHEST), (("I", "II"), CHEST), (LIMB, CHEST[:3], CHEST[3:]), (CHEST, EIGHT[:2])]
)
def test_other_leads_over_the_same_time_are_joined(tmp_path, kind, split):
    waves = [wave(5, leads, seed=1) for leads in split]
    expected = {lead: row for one in waves for lead, row in one.millivolts.items()}
    for order in both_orders(waves):
        recording = read_ecg(written(tmp_path, kind, order))
        same(recording, expected)
        assert recording.leads == tuple(range(12))


@pytest.mark.parametrize("kind", ["dicom", "aecg"])
def test_a_strip_beside_joined_leads_adds_nothing(tmp_path, kind):
    waves = [wave(10, leads, seed=seed, start=0.0) for seed, leads in enumerate((LIMB, CHEST, ("II", "V1")))]
    expected = {**waves[0].millivolts, **waves[1].millivolts}
    for order in both_orders(waves):
        same(read_ecg(written(tmp_path, kind, order)), expected)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("strip", [[], [("II",)]])
@pytest.mark.parametrize("timed", [False, True])
def test_columns_of_a_printout_are_not_one_ecg(tmp_path, kind, strip, timed):
    columns = [wave(2.5, leads, k, start=2.5 * k if timed else None) for k, leads in enumerate(COLUMNS)]
    waves = [*(wave(10, leads, 9, start=0.0 if timed else None) for leads in strip), *columns]
    with pytest.raises(UserError, match=f"its leads are in {len(waves)} groups over different times") as caught:
        read_ecg(written(tmp_path, kind, waves))
    assert "columns of a printout" in str(caught.value)


def test_columns_taken_together_are_joined(tmp_path):
    columns = [wave(2.5, leads, 3, start=0.0) for leads in COLUMNS]
    assert read_ecg(write_dicom(tmp_path / "m.dcm", columns)).leads == tuple(range(12))


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("leads", [LEADS, EIGHT, ("II",)])
def test_several_ecgs(tmp_path, kind, leads):
    waves = [wave(10, leads, 1), wave(10, leads, 2), wave(8, leads, 3)]
    path = written(tmp_path, kind, [wave(1.2, leads, 4, label="MEDIAN"), *waves, wave(2.5, leads, 5)])
    recordings = list(read_ecgs(path))
    assert [one.record_id for one in recordings] == ["m", "m#2", "m#3"]
    for recording, one in zip(recordings, waves):
        same(recording, one.millivolts)
        assert recording.start_time == BEGAN
    with pytest.raises(UserError, match="it contains 3 ECGs"):
        read_ecg(path)


@pytest.mark.parametrize("kind", ["dicom", "aecg"])
def test_each_ecg_has_its_own_time_and_they_come_in_its_order(tmp_path, kind):
    waves = [wave(10, seed=k, start=start) for k, start in enumerate((60.0, 0.0, 20.5))]
    recordings = list(read_ecgs(written(tmp_path, kind, waves)))
    assert [one.start_time - BEGAN for one in recordings] == [timedelta(seconds=s) for s in (0, 20.5, 60)]
    for recording, k in zip(recordings, (1, 2, 0)):
        same(recording, waves[k].millivolts)


@pytest.mark.parametrize("kind", ["dicom", "aecg"])
def test_split_ecgs_with_times(tmp_path, kind):
    waves = [wave(10, leads, 10 * s, start=float(s)) for s in (0, 30) for leads in (LIMB, CHEST)]
    recordings = list(read_ecgs(written(tmp_path, kind, [waves[k] for k in (3, 0, 2, 1)])))
    for recording, pair in zip(recordings, (waves[:2], waves[2:])):
        same(recording, {**pair[0].millivolts, **pair[1].millivolts})
    assert len(recordings) == 2


@pytest.mark.parametrize("kind", WRITERS)
def test_split_ecgs_without_times_are_refused(tmp_path, kind):
    waves = [wave(10, leads, seed) for seed in (1, 2) for leads in (LIMB, CHEST)]
    with pytest.raises(UserError, match="its leads are in 4 groups without times"):
        list(read_ecgs(written(tmp_path, kind, waves)))


@pytest.mark.parametrize("kind", WRITERS)
def test_the_same_waveform_twice_is_one_ecg(tmp_path, kind):
    once = wave(10, seed=1)
    same(read_ecg(written(tmp_path, kind, [once, once])), once.millivolts)


@pytest.mark.parametrize("kind", WRITERS)
def test_the_same_signal_with_its_computed_leads_is_one_ecg(tmp_path, kind):
    eight, twelve = wave(10, EIGHT, seed=1), wave(10, LEADS, seed=1)
    for order in both_orders([eight, twelve]):
        recording = read_ecg(written(tmp_path, kind, order))
        same(recording, twelve.millivolts)
        assert recording.derived == ()


@pytest.mark.parametrize("label", ["REPRESENT STRIP", "AVERAGE RHYTHM", "12 LEAD"])
def test_words_for_a_strip_are_not_for_a_beat(tmp_path, label):
    one = wave(10, ("II",), label=label)
    same(read_ecg(write_dicom(tmp_path / "m.dcm", [one])), one.millivolts)


@pytest.mark.parametrize("kind", ["dicom", "aecg"])
def test_the_same_time_at_two_sample_rates_is_one_ecg(tmp_path, kind):
    fine = wave(10, seed=1, start=0.0, rate=1000)
    coarse = wave(10, seed=1, start=0.0)
    for order in both_orders([fine, coarse]):
        assert read_ecg(written(tmp_path, kind, order)).sample_rate == 1000


@pytest.mark.parametrize("kind", ["dicom", "aecg"])
def test_the_same_time_behind_two_filters_is_one_ecg(tmp_path, kind):
    raw = wave(10, seed=1, start=0.0)
    filtered = type(raw)(raw.counts + np.int16(3), raw.leads, start=0.0)
    found = [read_ecg(written(tmp_path, kind, order)).signal for order in both_orders([raw, filtered])]
    np.testing.assert_array_equal(*found)


def test_frames_of_mfer(tmp_path):
    """Averaged beats are recognised by the type of waveform, and consecutive frames are one recording."""
    waves = [wave(1.2, seed=1, derived=True), wave(10, ("II", "V1"), 2), wave(10, seed=3)]
    for order in both_orders(waves):
        recording = read_ecg(write_mfer(tmp_path / "m.mwf", order))
        same(recording, waves[2].millivolts)
        assert recording.start_time == BEGAN
    halves = [wave(5, seed=1), wave(5, seed=2)]
    np.testing.assert_allclose(
        read_ecg(write_mfer(tmp_path / "m.mwf", halves)).signal,
        np.concatenate([np.stack(list(one.millivolts.values())) for one in halves], axis=1),
        atol=1e-9,
    )
    limb, chest = wave(10, LIMB, 4), wave(10, CHEST, 4)
    same(read_ecg(write_mfer(tmp_path / "m.mwf", [limb, chest])), {**limb.millivolts, **chest.millivolts})
    with pytest.raises(UserError, match="it contains averaged beats only"):
        read_ecg(write_mfer(tmp_path / "m.mwf", waves[:1]))


def test_several_sets_in_one_series_are_several_ecgs(tmp_path):
    waves = [wave(10, seed=k, start=30.0 * k) for k in range(3)]
    path = write_aecg(tmp_path / "m.xml", waves)
    text = path.read_text().replace('</series></component><component><series><code code="RHYTHM"/>', "")
    path.write_text(text)
    for recording, one in zip(read_ecgs(path), waves):
        same(recording, one.millivolts)
        assert recording.start_time == BEGAN + timedelta(seconds=one.start)


def test_each_series_has_its_own_time_and_statements(tmp_path):
    waves = [wave(10, seed=1), wave(10, seed=2)]
    path = write_aecg(tmp_path / "m.xml", waves)
    text = path.read_text()
    for minute, words in enumerate(("First", "Second")):
        low = BEGAN + timedelta(minutes=minute)
        time = f'<effectiveTime><low value="{low:%Y%m%d%H%M%S}"/></effectiveTime>'
        note = '<code code="MDC_ECG_INTERPRETATION_STATEMENT"/><value>' + words + "</value>"
        notes = f"<subjectOf><annotationSet><component><annotation>{note}</annotation></component></annotationSet>"
        text = text.replace('code="RHYTHM"/><component>', f'code="RHYTHM" />{time}<component>', 1)
        text = text.replace(
            "</sequenceSet></component></series>", f"</sequenceSet></component>{notes}</subjectOf></series >", 1
        )
    path.write_text(text)
    recordings = list(read_ecgs(path))
    assert [one.start_time - BEGAN for one in recordings] == [timedelta(0), timedelta(minutes=1)]
    assert [one.statements for one in recordings] == [("First",), ("Second",)]


def test_a_lead_without_values(tmp_path):
    one = wave(10, seed=1)
    path = write_aecg(tmp_path / "m.xml", [one])
    before, behind = path.read_text().split('<code code="MDC_ECG_LEAD_V6"/><value>')
    path.write_text(f'{before}<code code="MDC_ECG_LEAD_V6"/><value nullFlavor="NA"/>' + behind.split("</value>", 1)[1])
    expected = one.millivolts
    del expected["V6"]
    same(read_ecg(path), expected)


PARTS = st.sampled_from(
    [
        wave(10, LEADS, 1),
        wave(10, LEADS, 2),
        wave(9, EIGHT, 3),
        wave(10, EIGHT, 1),
        wave(2.5, LEADS, 4),
        wave(10, ("II",), 5),
        wave(1.2, LEADS, 6, derived=True),
        wave(1.2, LEADS, 7, label="AVERAGE"),
        wave(10, LEADS, 8, derived=True),
        wave(10, LIMB, 9, start=0.0),
        wave(10, CHEST, 10, start=0.0),
        wave(10, ("V1", "V2"), 11, start=0.0),
        wave(10, LEADS, 12, start=100.0),
        wave(1.2, LEADS, 13),
    ]
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(kind=st.sampled_from(sorted(WRITERS)), waves=st.lists(PARTS, min_size=1, max_size=5), data=st.data())
def test_parts_in_any_order_give_the_same_recordings(tmp_path, kind, waves, data):
    def contents(order):
        try:
            found = [
                (one.leads, one.sample_rate, one.signal.tobytes()) for one in read_ecgs(written(tmp_path, kind, order))
            ]
        except UserError as error:
            return str(error)
        return sorted(found)

    assert contents(data.draw(st.permutations(waves))) == contents(waves)


SPLIT = {"dicom/d30_15leads_halves.dcm": 2, "muse/m06_two_rhythm_halves.xml": 2}
ONE = ("d13_median_unlabelled_first", "d17_rhythm3_then12", "d19_nopreamble")


@pytest.mark.parametrize("name", [f"dicom/{name}.dcm" for name in ONE] + list(SPLIT))
def test_cases(cases, name):
    path = cases / name
    recordings = list(read_ecgs(path))
    assert len(recordings) == SPLIT.get(name, 1)
    truth = np.load(path.parent / "truth.npz")["truth"]
    if path.parent.name == "muse":
        signal = np.concatenate([one.signal for one in recordings], axis=1)
        # 4.88 uV per count; a derived lead is off by as much as two others
        np.testing.assert_allclose(signal, truth, rtol=0, atol=0.005)
    else:
        np.testing.assert_allclose(recordings[0].signal, truth, rtol=0, atol=0.0005)


@pytest.mark.parametrize("rate", [1e-7, 0.4])
def test_a_rate_that_is_rounded_to_zero(tmp_path, rate):
    content = json.loads(fuzz_seeds.kardia())
    content["data"]["raw"]["frequency"] = rate
    path = tmp_path / "k.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="its sample rate is 0 Hz, not 1 to"):
        read_ecg(path)
