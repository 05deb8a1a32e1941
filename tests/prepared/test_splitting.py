"""Splits: no patient is in two subsets, each recording is in one or counted, and results are reproducible."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_tables import SUBSETS, check_whole, contents, split, subset_of, times, write_table

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data.manifest import find_manifests, read_manifests
from fairseq_signals_ext.prepared import split as splitting
from fairseq_signals_ext.prepared.split import SplitSettings, split_recordings


def linked_sets(table, by_patient):
    """Sets of idx that belong together, by merging sets: an independent way."""
    sets = []
    links = {idx: {idx} for idx in table["idx"]}
    for idx, original in zip(table["idx"], table["duplicate_of"]):
        if not pd.isna(original):
            links[idx].add(int(original))
    patients = {}
    for idx, patient in zip(table["idx"], table["patient"]):
        if by_patient and patient is not None:
            patients.setdefault(patient, set()).add(idx)
    for link in [*links.values(), *patients.values()]:
        touched = [known for known in sets if known & link]
        sets = [known for known in sets if not known & link] + [set().union(link, *touched)]
    return sets


@st.composite
def tables(draw):
    rows = draw(st.integers(40, 120))
    idx = np.cumsum(draw(st.lists(st.integers(1, 3), min_size=rows, max_size=rows)))
    patients = draw(st.lists(st.one_of(st.none(), st.integers(0, 60)), min_size=rows, max_size=rows))
    patients = [None if patient is None else f"p{patient}" for patient in patients]
    originals = [None] * rows
    for row in draw(st.lists(st.integers(1, rows - 1), max_size=8)):
        originals[row] = int(idx[draw(st.integers(0, row - 1))])
    return {"rows": rows, "idx": idx.tolist(), "patient": patients, "duplicate_of": originals}


@settings(max_examples=40, deadline=None)
@given(
    columns=tables(),
    by=st.sampled_from(["random", "patient"]),
    fractions=st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (0.7, 0.3, 0.0), (0.3, 0.0, 0.7)]),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_random_split(tmp_path_factory, columns, by, fractions, seed, data):
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    table = write_table(one, **columns)
    groups = linked_sets(table, by == "patient")
    largest = max(map(len, groups))
    asked = {"by": by, "fractions": fractions, "seed": seed, "subsets": (10, 50, 25)}
    try:
        found, summary = split(one, table, **asked)
    except UserError as error:  # the smallest training subset or split may be less than half the largest patient
        assert "would be empty" in str(error) and largest >= 2 * 0.1 * 0.3 * len(table)
        return
    check_whole(found, summary, table)
    where = subset_of(found)
    assert all(len({where[idx] for idx in group}) == 1 for group in groups)
    for name, fraction in zip(SUBSETS, fractions):
        assert abs(len(found.get(name, ())) - fraction * len(table)) <= largest
        assert (name in found) == (fraction > 0)
    nested = [set(found[name]) for name in ("train_10", "train_25", "train_50", "train")]
    for smaller, larger, percent in zip(nested, nested[1:], (0.1, 0.25, 0.5)):
        assert smaller < larger or len(larger) <= largest
        assert abs(len(smaller) - percent * len(nested[-1])) <= largest
    kept = [group & nested[-1] for group in groups]
    assert all(not group & nested[0] or group <= nested[0] for group in kept)

    write_table(two, order=data.draw(st.permutations(range(len(table)))), **columns)
    split_recordings(two, SplitSettings("s", **asked))
    assert contents(two / "splits") == contents(one / "splits")


def test_patient_is_the_default_where_patients_are_known(tmp_path):
    patients = [f"p{number % 97}" if number % 3 else None for number in range(600)]
    table = write_table(tmp_path, 600, patient=patients)
    found, summary = split(tmp_path, table)
    assert summary.notes["by"] == "patient" and summary.notes["shared_patients"] == 0
    assert abs(len(found["train"]) - 480) <= 4 and abs(len(found["valid"]) - 60) <= 7
    for name, counts in summary.subsets.items():
        names = [patients[idx] for idx in found[name]]
        assert counts.patients == len(set(names) - {None}) and counts.without_patient == names.count(None)
    apart, summary = split(tmp_path, table, "r", by="random")
    assert len(apart["train"]) == 480 and summary.notes["shared_patients"] > 50
    alone = write_table(tmp_path / "alone", 20)
    assert split(tmp_path / "alone", alone)[1].notes["by"] == "random"


def test_seed_changes_the_split(tmp_path):
    table = write_table(tmp_path, 50)
    fractions = (0.5, 0.25, 0.25)
    first, other = (split(tmp_path, table, f"s{seed}", fractions=fractions, seed=seed)[0] for seed in (3, 4))
    assert first != other
    assert [len(first[name]) for name in SUBSETS] == [25, 12, 13]


def test_subset_of_train_does_not_depend_on_the_others(tmp_path):
    table = write_table(tmp_path, 300, patient=[f"p{number // 3}" for number in range(300)])
    one = split(tmp_path, table, "one", subsets=[10])[0]
    many = split(tmp_path, table, "many", subsets=[50, 5, 10, 2.5])[0]
    assert one["train_10"] == many["train_10"] and len(many["train_2.5"]) == 6


def test_settings_and_counts_are_kept_beside_the_manifests(tmp_path):
    table = write_table(tmp_path, 20, patient=["a", "a"] + [None] * 18, age=[None, 3.0] + [40.0] * 18)
    split(tmp_path, table, filters={"where": (("age", ">", "5"),)}, fractions=(0.5, 0.5, 0.0), seed=7)
    text = (tmp_path / "splits" / "s" / "split.json").read_text()
    found = json.loads(text)
    assert found["settings"] == {
        "name": "s",
        "seed": 7,
        "fractions": [0.5, 0.5, 0],
        "where": [["age", ">", "5"]],
        "manifest_lines": 500_000,
    }
    assert found["subsets"] == {
        "train": {"recordings": 9, "patients": 0, "without_patient": 9},
        "valid": {"recordings": 9, "patients": 0, "without_patient": 9},
    }
    assert (found["recordings"], found["left_out"], found["by"]) == (20, {"not age > 5": 2}, "patient")
    assert str(tmp_path) not in text


def test_duplicates_stay_together_even_through_what_is_left_out(tmp_path):
    # 0 is left out; its copies 1 and 2 are of two patients, who are thereby one
    for seed in range(8):
        folder = tmp_path / str(seed)
        table = write_table(
            folder,
            6,
            patient=[None, "a", "b", "a", "b", "c"],
            duplicate_of=[None, 0, 0, None, None, None],
            flags=[["nan"], [], [], [], [], []],
        )
        fractions = (0.5, 0.5, 0.0)
        found, _ = split(folder, table, seed=seed, fractions=fractions, filters={"without_flags": ("nan",)})
        assert sorted(map(sorted, found.values())) == [[1, 2, 3, 4], [5]]
        where = subset_of(split(folder, table, "r", by="random", seed=seed, fractions=fractions)[0])
        assert where[0] == where[1] == where[2]


@settings(max_examples=30, deadline=None)
@given(
    days=st.lists(st.one_of(st.none(), st.integers(0, 400)), min_size=40, max_size=80),
    data=st.data(),
    by=st.sampled_from(["time", "later", "drop"]),
)
def test_split_by_time(tmp_path_factory, days, data, by):
    folder = tmp_path_factory.mktemp("time")
    patients = data.draw(st.lists(st.sampled_from("abcdefghijklmnopqrst"), min_size=len(days), max_size=len(days)))
    originals = [None] * len(days)
    originals[7] = 3
    table = write_table(folder, len(days), start_time=times(*days), patient=patients, duplicate_of=originals)
    asked = {"by": "time"} if by == "time" else {"by": "patient-time", "crossing": by}
    try:
        found, summary = split(folder, table, cuts=("2019-05-01", "2019-11-01T00:00"), **asked)
    except UserError as error:
        assert "would be empty" in str(error) or "no recording is left" in str(error)
        return
    check_whole(found, summary, table)
    assert summary.left_out.get("without start_time", 0) == days.count(None)
    of = {name: [days[idx] for idx in found[name]] for name in SUBSETS}
    assert max(of["train"]) < 120 and max(of["valid"]) < 304
    if by != "later":  # then a patient's earlier recordings follow the later ones
        assert min(of["valid"]) >= 120 and min(of["test"]) >= 304
    where = subset_of(found)
    groups = linked_sets(table, by_patient=by != "time")
    assert all(len({where[idx] for idx in group if idx in where}) <= 1 for group in groups)


def test_crossing_patients_follow_or_are_dropped(tmp_path):
    table = write_table(
        tmp_path, 6, start_time=times(0, 50, 100, 150, 200, None), patient=["a", "b", "a", "b", "c", "c"]
    )
    cuts = ("2019-03-01", "2019-07-01")  # days 59 and 181
    with pytest.raises(UserError, match="train would be empty"):
        split(tmp_path, table, by="patient-time", cuts=cuts)
    table = write_table(tmp_path, 8, start_time=times(0, 50, 100, 150, 200, None, 1, 180), patient=list("ababccde"))
    later, summary = split(tmp_path, table, "later", by="patient-time", cuts=cuts)
    assert later == {"train": [6], "valid": [0, 1, 2, 3, 7], "test": [4]}
    assert summary.notes["moved"] == 2 and summary.left_out == {"without start_time": 1}
    dropped, summary = split(tmp_path, table, "drop", by="patient-time", cuts=cuts, crossing="drop")
    assert dropped == {"train": [0, 1, 6], "valid": [7], "test": [4]}
    assert summary.left_out == {"without start_time": 1, "after the cut, of a patient before it": 2}
    shared, summary = split(tmp_path, table, "time", by="time", cuts=cuts)
    assert shared == {"train": [0, 1, 6], "valid": [2, 3, 7], "test": [4]} and summary.notes["shared_patients"] == 2


def test_fractions_become_cuts(tmp_path):
    days = np.random.default_rng(0).permutation(100).tolist()
    table = write_table(tmp_path, 100, start_time=times(*days), patient=[f"p{day // 4}" for day in days])
    found, summary = split(tmp_path, table, by="time")
    assert [sorted(days[idx] for idx in found[name]) for name in SUBSETS] == [
        list(range(80)),
        list(range(80, 90)),
        list(range(90, 100)),
    ]
    assert summary.notes["cuts"] == ["2019-03-22T00:00:00.000000", "2019-04-01T00:00:00.000000"]
    followed, _ = split(tmp_path, table, "p", by="patient-time", fractions=(0.5, 0.5, 0.0))
    assert [len(followed[name]) for name in ("train", "valid")] == [48, 52]  # 12 patients end before the 50th day
    # patients who come again after 50 days: nobody's last day is before the 50th
    table = write_table(
        tmp_path / "again", 100, start_time=times(*range(100)), patient=[f"p{n % 50}" for n in range(100)]
    )
    followed, _ = split(tmp_path / "again", table, by="patient-time")
    assert followed["train"] == [*range(40), *range(50, 90)]
    same_day = write_table(tmp_path / "same", 10, start_time=times(*[5] * 10))
    with pytest.raises(UserError, match="train would be empty"):
        split(tmp_path / "same", same_day, by="time")


def test_copies_are_left_out_before_the_last_subset(tmp_path):
    table = write_table(
        tmp_path,
        6,
        start_time=times(0, 100, 200, 1, 101, 201),
        duplicate_of=[None, 0, 0, None, None, None],
        fold=[1.0, 2.0, 3.0, 1.0, 2.0, 3.0],
    )
    expected = {"train": [3], "valid": [4], "test": [2, 5]}
    for name, asked in {
        "time": {"by": "time", "cuts": ("2019-03-01", "2019-07-01")},
        "fold": {"by": "column", "column": "fold", "values": (["1"], ["2"], ["3"])},
        "shared": {"by": "column", "column": "fold", "values": (["1"], ["2"], ["3"]), "allow_shared_patients": True},
    }.items():
        found, summary = split(tmp_path, table, name, **asked)
        assert found == expected
        assert summary.left_out == {"with the same content in a later subset": 2}


def test_folds_of_ptb_xl(ecg_data, tmp_path):
    database = pd.read_csv(ecg_data / "ptbxl" / "ptbxl_database.csv")
    fold = database["strat_fold"].astype(float)
    names = database["patient_id"].map("{:.0f}".format)
    table = write_table(tmp_path, len(database), patient=names, strat_fold=fold)
    lists = (["1-6", "7"], ["8"], ["9.0"])
    found, summary = split(tmp_path, table, by="column", column="strat_fold", values=lists)
    assert found == {
        "train": np.flatnonzero(fold <= 7).tolist(),
        "valid": np.flatnonzero(fold == 8).tolist(),
        "test": np.flatnonzero(fold == 9).tolist(),
    }
    rest = int((fold == 10).sum())
    assert summary.left_out == ({"with strat_fold in none of the lists": rest} if rest else {})
    assert summary.notes["shared_patients"] == 0 and summary.subsets["valid"].patients == names[fold == 8].nunique()


def test_column_of_texts_and_shared_patients(tmp_path):
    table = write_table(tmp_path, 6, source=["x", "y", "1-2", "x", None, "z"], patient=["p", "p", "q", "r", "s", None])
    asked = {"by": "column", "column": "source", "values": (["x"], ["1-2"], ["y", "z"])}
    with pytest.raises(UserError, match="column 'source': patient 'p' is in two subsets; .*--allow-shared-patients"):
        split(tmp_path, table, **asked)
    found, summary = split(tmp_path, table, allow_shared_patients=True, **asked)
    assert found == {"train": [0, 3], "valid": [2], "test": [1, 5]}
    assert summary.left_out == {"with source in none of the lists": 1} and summary.notes["shared_patients"] == 1


def test_long_manifests_come_in_pieces(tmp_path):
    table = write_table(tmp_path, 100)
    found, _ = split(tmp_path, table, manifest_lines=30)
    pieces = find_manifests(tmp_path / "splits" / "s", "train")
    assert [path.name for path in pieces] == [f"train-{number:05d}-of-00003.tsv" for number in range(3)]
    assert [path.read_text().count("\n") - 1 for path in pieces] == [27, 27, 26]
    manifest = read_manifests(pieces)
    read = [f"{manifest.shards[shard].name} {row}" for shard, row in zip(manifest.shard, manifest.row)]
    assert read == [f"{idx // 4:05d}.npy {idx % 4}" for idx in found["train"]]
    assert [path.name for path in find_manifests(tmp_path / "splits" / "s", "valid")] == ["valid.tsv"]


def test_split_is_replaced_only_if_asked(tmp_path):
    table = write_table(tmp_path, 40)
    split(tmp_path, table, subsets=[50])
    before = contents(tmp_path)
    asked = SplitSettings("s", fractions=(0.5, 0.5, 0.0))
    with pytest.raises(UserError, match="s: exists already; choose another --name, or replace it with --overwrite"):
        split_recordings(tmp_path, asked)
    assert contents(tmp_path) == before
    split_recordings(tmp_path, asked, overwrite=True)
    assert sorted(contents(tmp_path / "splits" / "s")) == ["checksums.json", "split.json", "train.tsv", "valid.tsv"]
    foreign = tmp_path / "splits" / "mine"
    foreign.mkdir()
    with pytest.raises(UserError, match=r"mine: holds no split\.json"):
        split_recordings(tmp_path, SplitSettings("mine"), overwrite=True)


def test_failed_writing_keeps_the_former_split(tmp_path, monkeypatch):
    table = write_table(tmp_path, 40)
    split(tmp_path, table)
    before = contents(tmp_path)

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(splitting, "_write_settings", full)
    with pytest.raises(OSError, match="No space left"):
        split_recordings(tmp_path, SplitSettings("s", seed=2), overwrite=True)
    assert contents(tmp_path) == before and [path.name for path in (tmp_path / "splits").iterdir()] == ["s"]


@pytest.mark.parametrize("failing", [1, 2])
def test_the_earlier_split_stays_where_a_rename_fails(tmp_path, monkeypatch, failing):
    """The disk may refuse to move the old split away, or the new one to its place."""
    write_table(tmp_path, 20)
    split_recordings(tmp_path, SplitSettings(name="s", by="random", seed=1))
    before = contents(tmp_path / "splits" / "s")
    rename, calls = Path.rename, []

    def sometimes(path, target):
        calls.append(path)
        if len(calls) == failing:
            raise OSError("disk")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", sometimes)
    with pytest.raises(OSError, match="disk"):
        split_recordings(tmp_path, SplitSettings(name="s", by="random", seed=2), overwrite=True)
    assert len(calls) >= failing
    assert contents(tmp_path / "splits" / "s") == before
    assert [path.name for path in (tmp_path / "splits").iterdir()] == ["s"]
