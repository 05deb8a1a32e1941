"""Linking events to ECGs, against a search through all pairs."""

import re
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.labelling.events import BOUNDS, Events
from fairseq_signals_ext.labelling.from_events import choose_events, fulfils, labels_from_events
from fairseq_signals_ext.labelling.link_settings import CHOICES, LinkSettings

SCHEMA = pa.schema({"idx": pa.int64(), "source": pa.string(), "patient": pa.string(), "start_time": pa.timestamp("us")})
START = datetime(2150, 3, 1, 12)


def write_folder(out, rows):
    """A prepared folder: a row a recording, (patient, start time) or (patient, start time, source)."""
    out.mkdir(parents=True, exist_ok=True)
    table = [
        {"idx": 2 * number, "patient": row[0], "start_time": row[1], "source": row[2] if len(row) > 2 else "made-up"}
        for number, row in enumerate(rows)
    ]
    pq.write_table(pa.Table.from_pylist(table, SCHEMA), out / "recordings.parquet")
    return out


def link(tmp_path, rows, text, sources=None, **options):
    path = tmp_path / "events.csv"
    path.write_text(text, encoding="utf-8")
    return labels_from_events(
        write_folder(tmp_path, rows), path, LinkSettings(**{"thresholds": ("<= 40",), **options}), sources
    )


def choose_by_trying_all(ecgs, events, window, choose):
    """The rules, one pair after the other: events are (patient, time, value) in the order of their file."""
    chosen = []
    for patient, time in ecgs:
        inside = [
            (moment, number, value)
            for number, (owner, moment, value) in enumerate(events)
            if owner == patient and window[0] <= moment - time <= window[1]
        ]
        inside.sort(key=lambda event: event[:2])
        rules = {
            "first": lambda found: found[0],
            "last": lambda found: found[-1],
            "nearest": lambda found, time=time: min(found, key=lambda event: abs(event[0] - time)),
            "max": lambda found: max(found, key=lambda event: event[2]),
            "min": lambda found: min(found, key=lambda event: event[2]),
        }
        chosen.append(rules[choose](inside)[1] if inside else -1)
    return chosen


small = st.integers(-3, 3)  # small numbers, so that ties and edges are frequent


@given(
    st.lists(st.tuples(st.integers(-1, 1), small), max_size=10),
    st.lists(st.tuples(st.integers(0, 1), small, st.integers(0, 3)), min_size=1, max_size=25),
    st.tuples(st.integers(-4, 2), st.integers(0, 4)).map(lambda window: (window[0], sum(window))),
    st.sampled_from(CHOICES),
)
@settings(max_examples=400, deadline=None)
def test_chosen_event_is_that_of_a_search_through_all_pairs(ecgs, events, window, choose):
    patient, time, value = (np.array(column, np.int64) for column in zip(*events))
    table = Events(patient, time, value.astype(float), np.zeros(len(events), np.int8), {}, {})
    ecg_patient, ecg_time = np.array(ecgs, np.int64).reshape(-1, 2).T
    chosen = choose_events(ecg_patient, ecg_time, table, window, choose)
    assert chosen.tolist() == choose_by_trying_all(ecgs, events, window, choose)


@pytest.mark.parametrize(
    ("times", "nearest"),
    [([9, 11], 0), ([11, 9], 1), ([8, 11], 1), ([9, 9, 12], 0), ([13, 12, 12], 1), ([10, 10, 10], 0), ([4, 16], -1)],
)
def test_nearest_of_equally_near_ones(times, nearest):
    number = len(times)
    table = Events(np.zeros(number, int), np.array(times), np.zeros(number), np.zeros(number, np.int8), {}, {})
    assert choose_events(np.array([0]), np.array([10]), table, (-5, 5), "nearest").tolist() == [nearest]


def test_nearest_is_that_of_merge_asof():
    rng = np.random.default_rng(0)
    times = rng.permutation(10**6)[:4000]  # no two at one moment
    events = pd.DataFrame({"by": rng.integers(0, 200, 4000), "on": times, "value": np.arange(4000)})
    ecgs = pd.DataFrame({"by": rng.integers(0, 200, 1000), "on": rng.permutation(10**6)[:1000]}).sort_values("on")
    reference = pd.merge_asof(ecgs, events.sort_values("on"), on="on", by="by", direction="nearest", tolerance=3000)
    table = Events(events["by"].to_numpy(), times, np.zeros(4000), np.zeros(4000, np.int8), {}, {})
    chosen = choose_events(ecgs["by"].to_numpy(), ecgs["on"].to_numpy(), table, (-3000, 3000), "nearest")
    assert 100 < (chosen >= 0).sum() < 900
    np.testing.assert_array_equal(chosen, reference["value"].fillna(-1))


times = st.integers(-50, 50).map(lambda hours: START + timedelta(hours=hours))
values = st.sampled_from(["1", "2.0", "3", "", "<2", ">2", "<= 2", "1-3%", "high"])


@given(
    st.lists(st.tuples(st.sampled_from(["007", "7", "x", None]), st.one_of(st.none(), times)), min_size=1, max_size=6),
    st.lists(st.tuples(st.sampled_from(["007", "7.0", "x", "other", ""]), times, values), min_size=1, max_size=12),
    st.sampled_from(CHOICES),
)
@settings(max_examples=60, deadline=None)
def test_labels_are_those_of_a_search_through_all_pairs(tmp_path_factory, ecgs, events, choose):
    tmp_path = tmp_path_factory.mktemp("link")
    text = "patient,time,value\n" + "".join(f"{patient},{time},{value}\n" for patient, time, value in events)
    ids = {"7.0": "7", "": None}
    meaning = {"1": 1, "2.0": 2, "3": 3, "<2": 2, ">2": 2, "<= 2": 2, "1-3%": 2}
    usable = [
        (ids.get(owner, owner) or "none", time, meaning[value], value)
        for owner, time, value in events
        if value in meaning
    ]
    known = {patient for patient, time in ecgs if patient and time}
    if not known.intersection(ids.get(owner, owner) for owner, _, _ in events):
        with pytest.raises(UserError, match="none is of a patient with an ECG|no recording has a patient"):
            link(tmp_path, ecgs, text)
        return
    labels = link(tmp_path, ecgs, text, window=("-24h", "1d"), choose=choose, thresholds=("<= 1.5", "> 2"))
    day = timedelta(days=1)
    chosen = choose_by_trying_all(
        [(patient, time) if time else (None, START) for patient, time in ecgs],
        [event[:3] for event in usable],
        (-day, day),
        choose,
    )
    answers = {  # value: is it <= 1.5, is it > 2
        "1": (1, 0), "2.0": (0, 0), "3": (0, 1), "<2": (np.nan, 0), ">2": (0, 1), "<= 2": (np.nan, 0), "1-3%": (0, 0)
    }  # fmt: skip
    wanted = [answers[usable[event][3]] if event >= 0 else (np.nan, np.nan) for event in chosen]
    np.testing.assert_array_equal(labels.values, wanted)


def test_edges_of_the_window_belong_to_it(tmp_path):
    rows = [("1", START), ("2", START), ("3", START), ("4", START)]
    text = "patient,time,value\n1,2150-02-22 12:00:00,30\n2,2150-03-08T12:00:00,30\n"
    text += "3,2150-02-22 11:59:59.999999,30\n4,2150-03-08 12:00:00.000001,30\n"
    labels = link(tmp_path, rows, text)
    np.testing.assert_array_equal(labels.values[:, 0], [1, 1, np.nan, np.nan])
    assert labels.names == ["value_le_40"]


def test_what_was_left_out_is_told(tmp_path):
    rows = [("1", START), ("1", None), (None, START)]
    text = "patient,time,item,value\n1,2150-03-01,a,haemolysed\n1,2150-02-30,a,30\n1,2150-03-01,a,\n"
    text += "1,2150-03-01 10:00,a,<30\n1,2150-03-01,b,90\n9,2150-03-01,a,90\n1,2150-02-27,a,35-50\n"
    labels = link(tmp_path, rows, text, filter={"item": ("a",)}, thresholds=("<= 40", "<= 20"))
    np.testing.assert_array_equal(labels.values, [[1, np.nan], [np.nan] * 2, [np.nan] * 2])
    assert labels.notes == [
        "7 events, 6 pass the filter, 5 are of patients with an ECG",
        "1 events have no time that can be read and are left out (such as line 3: '2150-02-30')",
        "1 events have no value and are left out",
        "1 events have a value that is not a number and are left out (such as line 2: 'haemolysed')",
        "1 events have a bound such as <0.01 and count where it decides the threshold",
        "1 events have a range such as 55-60 and count with its middle",
        "2 of 3 recordings have no patient or no start time",
        "1 of 3 recordings have an event in the window",
        "value_le_20: 1 chosen events leave it open (a bound, or no limit)",
    ]


def test_times_that_may_be_read_in_several_ways_are_told_with_their_number(tmp_path):
    rows = [("1", START)]
    text = "patient,time,value\n1,01/03/2150,30\n1,2150-03-01,5 ng/mL\n1,03-01-2150 10:00,30\n1,unknown,30\n"
    with pytest.raises(UserError) as caught:
        link(tmp_path, rows, text)
    several = "line 2: time: '01/03/2150' is ambiguous (which part is the day?); give its format, for example "
    several += "--time-format '%d/%m/%Y %H:%M'"
    assert str(caught.value) == f"{tmp_path / 'events.csv'}: {several} (and 1 more)"
    labels = link(tmp_path, rows, text, time_format="%d/%m/%Y")
    assert labels.values[0, 0] == 1
    assert "3 events have no time that can be read and are left out (such as line 3: '2150-03-01')" in labels.notes


def test_limit_of_the_event_itself(tmp_path):
    rows = [("1", START), ("2", START), ("3", START), ("4", START)]
    text = "patient,time,value,upper\n1,2150-03-01,0.02,0.01\n2,2150-03-01,0.02,0.04\n"
    text += "3,2150-03-01,0.02,\n4,2150-03-01,<0.01,0.01\n5,2150-03-01,0.5,<0.01\n"
    labels = link(tmp_path, [*rows, ("5", START)], text, thresholds=("> upper", "≥ 0.02"))
    assert labels.names == ["value_gt_upper", "value_ge_0.02"]
    np.testing.assert_array_equal(labels.values, [[1, 1], [0, 1], [np.nan, 1], [0, 0], [np.nan, 1]])


def test_chosen_events_are_kept(tmp_path):
    text = "patient,time,value\n1,2150-03-01 10:30,<30\n2,2150-03-02 12:00,50\n"
    labels = link(tmp_path, [("2", START), ("1", START)], text, keep_value=True)
    assert labels.tables["values.csv"].to_dict("list") == {
        "idx": [0, 2],
        "bound": ["", "<"],
        "value": [50.0, 30.0],
        "time": [pd.Timestamp(2150, 3, 2, 12), pd.Timestamp(2150, 3, 1, 10, 30)],
        "hours": [24.0, -1.5],
    }


def test_regression_takes_no_bounds(tmp_path):
    text = "patient,time,value\n1,2150-03-01,<30\n2,2150-03-01,50%\n"
    labels = link(tmp_path, [("1", START), ("2", START)], text, thresholds=(), regression=True)
    assert labels.names == ["value"] and labels.regression
    np.testing.assert_array_equal(labels.values[:, 0], [np.nan, 50])


@pytest.mark.parametrize("name", ["events.csv.gz", "events.parquet"])
def test_other_formats(tmp_path, name):
    events = pd.DataFrame({"patient": [7.0, np.nan, 8.0], "value": [30, 40, 50], "item": [1, 2, 1], "other": "x"})
    events["time"] = pd.to_datetime(START)
    events["value"] = events["value"].astype(str).astype("category")
    writer = events.to_parquet if name.endswith("parquet") else events.to_csv
    writer(tmp_path / name, index=False)
    write_folder(tmp_path, [("8", START), ("7", START), ("07", START)])
    settings = LinkSettings(thresholds=("<= 40",), filter={"item": ("1",)})
    labels = labels_from_events(tmp_path, tmp_path / name, settings)
    np.testing.assert_array_equal(labels.values[:, 0], [0, 1, np.nan])


@pytest.mark.parametrize(("suffix", "where"), [("csv", "line 102"), ("parquet", "row 101")])
def test_pieces_of_a_table_make_the_whole(tmp_path, monkeypatch, suffix, where):
    from fairseq_signals_ext.labelling import events as module

    rng = np.random.default_rng(1)
    ecgs = [(str(patient), START) for patient in range(20)]
    lines = [f"{rng.integers(0, 25)},2150-03-0{rng.integers(1, 9)},{rng.integers(20, 60)}\n" for _ in range(100)]
    text = "patient,time,value\n" + "".join(lines) + "3,2150-03-01,x\n"
    link(tmp_path, ecgs, text)
    path = tmp_path / f"events.{suffix}"
    pd.read_csv(tmp_path / "events.csv", dtype=str).to_parquet(tmp_path / "events.parquet")
    settings = LinkSettings(thresholds=("<= 40",))
    whole = labels_from_events(tmp_path, path, settings)
    read = module.read_chunks
    monkeypatch.setattr(module, "read_chunks", lambda path, columns: read(path, columns, rows=7))
    pieces = labels_from_events(tmp_path, path, settings)
    np.testing.assert_array_equal(pieces.values, whole.values)
    assert pieces.notes == whole.notes and f"{where}: 'x'" in pieces.notes[1]


def test_patients_of_two_sources(tmp_path):
    rows = [("1", START, "a"), ("2", START, "b"), ("3", START, "b")]
    text = "patient,time,value\n1,2150-03-01,30\n2,2150-03-01,30\n"
    with pytest.raises(UserError, match=r"patients of 'a', 'b' have events; choose one with --sources NAME"):
        link(tmp_path, rows, text)
    np.testing.assert_array_equal(link(tmp_path, rows, text, ["b"]).values[:, 0], [np.nan, 1, np.nan])
    np.testing.assert_array_equal(link(tmp_path, rows, text, ["a", "b"]).values[:, 0], [1, 1, np.nan])


@given(st.sampled_from(sorted(BOUNDS)), st.integers(-2, 2), st.sampled_from(["<", "<=", ">", ">="]), st.integers(-2, 2))
@settings(max_examples=300)
def test_bounds_decide_only_what_is_certain(bound, number, relation, limit):
    relations = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal, "": np.equal}
    possible = np.arange(-40, 41) / 8
    possible = possible[relations[bound](possible, number)]
    answers = set(relations[relation](possible, limit).tolist())
    wanted = float(answers.pop()) if len(answers) == 1 else np.nan
    found = fulfils(np.array([float(number)]), np.array([BOUNDS[bound]]), relation, np.array(float(limit)))
    np.testing.assert_array_equal(found, [wanted])


EVENT = "patient,time,value\n1,2150-03-01,30\n"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (EVENT, {"value_column": "lvef"}, "no column 'lvef'; its columns are patient, time, value"),
        (EVENT, {"thresholds": ("> upper",)}, "no column 'upper'"),
        (EVENT, {"filter": {"item": ("1",)}}, "no column 'item'"),
        (
            EVENT.replace("\n1", "\n2"),
            {},
            "1 of 1 events pass the filter, none is of a patient with an ECG; check --filter",
        ),
        (EVENT, {"filter": {"value": ("7",)}}, "0 of 1 events pass the filter"),
        (EVENT.replace("2150-03-01", "March"), {}, "no event has a time that can be read"),
        (EVENT.replace("-01,", "-01T10:00Z,"), {}, "column 'time': times have a timezone"),
        ("patient,time,value\n", {}, "0 of 0 events"),
    ],
)
def test_bad_events(tmp_path, text, options, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        link(tmp_path, [("1", START)], text, **options)
    assert str(error.value).startswith(f"{tmp_path / 'events.csv'}: ") and "\n" not in str(error.value)


def test_recordings_without_patients(tmp_path):
    with pytest.raises(UserError, match="no recording has a patient and a start time"):
        link(tmp_path, [("1", None), (None, START)], EVENT)
