"""Tasks: what they make of PTB-XL's own tables, of a made-up folder, and of mistakes."""

import ast

import numpy as np
import pandas as pd
import pytest
from made_up_benchmark import CODES, write_labelled
from made_up_tables import write_table

from fairseq_signals_ext import cli
from fairseq_signals_ext.benchmarking.folds import TEST, TRAIN, VALID, patient_folds, published_parts, shares
from fairseq_signals_ext.benchmarking.protocols import BenchmarkSettings
from fairseq_signals_ext.benchmarking.running import prepare_task
from fairseq_signals_ext.benchmarking.targets import known_of, without_rare
from fairseq_signals_ext.benchmarking.task_files import read_task, shipped_tasks
from fairseq_signals_ext.common.errors import UserError

PTBXL = {"all": 71, "diag": 44, "sub": 23, "super": 5, "form": 19, "rhythm": 12}


@pytest.fixture(scope="module")
def published(ecg_data):
    """`ptbxl_database.csv` and `scp_statements.csv` of half of fold 10."""
    folder = ecg_data / "ptbxl_fold10"
    return pd.read_csv(folder / "ptbxl_database.csv"), pd.read_csv(folder / "scp_statements.csv", index_col=0)


@pytest.fixture(scope="module")
def fold10(published, tmp_path_factory):
    """A prepared folder with its table, but no signals."""
    table, folder = published[0], tmp_path_factory.mktemp("fold10")
    codes = [ast.literal_eval(text) for text in table["scp_codes"]]
    columns = {
        "record_id": table["ecg_id"].astype(str),
        "patient": table["patient_id"].astype(int).astype(str),
        "source": ["ptbxl"] * len(table),
        "seconds": [10.0] * len(table),
        "codes": [[f"{code}:{likelihood:g}" for code, likelihood in of.items()] for of in codes],
        "strat_fold": table["strat_fold"].astype(float),
    }
    write_table(folder, len(table), **columns)
    return folder


def independent_labels(table, statements, task):
    """Labels by name, from the publisher's tables alone."""
    codes = table["scp_codes"].map(ast.literal_eval).map(set)
    if task == "all":
        named = {code: {code} for code in statements.index}
    elif task in ("diag", "form", "rhythm"):
        column = {"diag": "diagnostic"}.get(task, task)
        named = {code: {code} for code in statements.index[statements[column] == 1]}
    else:
        column = {"super": "diagnostic_class", "sub": "diagnostic_subclass"}[task]
        named = {name: set(of.index) for name, of in statements[statements["diagnostic"] == 1].groupby(column)}
    return {name: np.array([bool(has & of) for has in codes]) for name, of in named.items()}


@pytest.mark.parametrize("task", PTBXL)
def test_labels_of_ptbxl_are_those_of_its_own_tables(task, published, fold10):
    wanted = independent_labels(*published, task)
    known = known_of(fold10, read_task(f"ptbxl-{task}"))
    assert len(known.label_names) == PTBXL[task] == len(wanted)
    assert known.idx.tolist() == list(range(len(published[0])))  # those without a label are all negative
    for name, column in zip(known.label_names, known.targets.T):
        assert np.array_equal(column, wanted[name]), name
    frequent = {name for name, column in wanted.items() if column.sum() >= 10}
    assert set(without_rare(known).label_names) == frequent
    labelled = known_of(fold10, read_task(f"ptbxl-{task}"), drop_unlabelled=True)
    assert labelled.idx.tolist() == np.flatnonzero(np.any(list(wanted.values()), axis=0)).tolist()


def test_parts_are_the_published_folds(ecg_data, tmp_path):
    tables = [pd.read_csv(ecg_data / name / "ptbxl_database.csv") for name in ("ptbxl", "ptbxl_fold10")]
    table = pd.concat(tables, ignore_index=True)
    columns = {"patient": table["patient_id"].astype(int).astype(str), "source": ["ptbxl"] * len(table)}
    codes = [[f"{code}:100" for code in ast.literal_eval(text)] for text in table["scp_codes"]]
    write_table(tmp_path, len(table), codes=codes, strat_fold=table["strat_fold"].astype(float), **columns)
    known = known_of(tmp_path, read_task("ptbxl-all"))
    part = published_parts(known, pd.DataFrame({"strat_fold": table["strat_fold"].astype(float)}), seed=1)
    assert np.array_equal(part == TEST, table["strat_fold"] == 10)
    assert np.array_equal(part == VALID, table["strat_fold"] == 9)
    assert np.array_equal(part == TRAIN, table["strat_fold"] <= 8)


def test_folds_and_shares_keep_patients_together(tmp_path):
    write_labelled(tmp_path)
    for task in ("ptbxl-super", "age"):
        known = without_rare(known_of(tmp_path, read_task(task)))
        fold, share = patient_folds(known, 5, seed=1), shares(known, [10, 50, 100], seed=1)
        assert np.array_equal(fold[::2], fold[1::2])
        assert np.array_equal(share[::2], share[1::2])
        assert np.bincount(fold).min() > 40
        assert [np.mean(share <= percent) for percent in (10, 50, 100)] == pytest.approx([0.1, 0.5, 1], abs=0.03)
        assert not np.array_equal(fold, patient_folds(known, 5, seed=2))


def test_columns_codes_and_numbers(tmp_path):
    axis = ["LAD", "MID", "RAD", None]
    columns = {
        "heart_axis": axis * 3,
        "heart_rate": [60.0, 70.0, None, 80.0] * 3,
        "sex": ["female", "male", None, ""] * 3,
    }
    write_table(tmp_path, 12, source=["x"] * 12, **columns)
    assert known_of(tmp_path, read_task("sex")).targets.ravel().tolist() == [1, 0] * 3
    rate = known_of(tmp_path, read_task("heart-rate"), measures=lambda idx: {"heart_rate": idx + 0.5})
    assert rate.targets.ravel().tolist()[:4] == [60, 70, 2.5, 80]
    assert rate.notes == ("heart rate: 3 of 12 recordings by the measure heart_rate",)
    measured = known_of(tmp_path, read_task("axis"), measures=lambda idx: {"axis": np.where(idx == 3, -45.0, 120.0)})
    assert measured.targets.tolist()[:4] == [[1, 0], [0, 0], [0, 1], [1, 0]]


def test_a_task_of_ones_own(tmp_path):
    write_labelled(tmp_path / "data", 40)
    path = tmp_path / "mine.yaml"
    path.write_text("description: mine\nlabels:\n  old: {column: strat_fold, values: ['9.0', '10.0']}\n")
    known = known_of(tmp_path / "data", read_task(str(path)))
    assert (known.task.name, known.label_names, known.targets.sum()) == ("mine", ("old",), 8)


def test_labels_that_were_made_before(tmp_path):
    has = write_labelled(tmp_path / "data", 40)
    cli.main(["label", str(tmp_path / "data"), "--name", "mine", "--codes", "ptbxl-super"])
    path = tmp_path / "mine.yaml"
    path.write_text("description: mine\nfolder: mine\n")
    known, same = (known_of(tmp_path / "data", read_task(task)) for task in (str(path), "ptbxl-super"))
    assert known.label_names == same.label_names
    assert np.array_equal(known.targets, same.targets)
    assert known.targets.sum() == has.sum()
    path.write_text("description: mine\nfolder: others\n")
    assert "labels/others" in refused(known_of, tmp_path / "data", read_task(str(path)))


def test_all_tasks_are_listed_and_read():
    names = {"age", "sex", "heart-rate", "axis", "code15", "chapman", "ningbo", "georgia", "cpsc2018", "cpsc-extra"}
    assert set(shipped_tasks()) == names | {f"ptbxl-{name}" for name in PTBXL}
    assert all(read_task(name).split is not None for name in shipped_tasks())


def refused(function, *arguments, **options):
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mistakes_are_told_in_one_line(tmp_path, fold10):
    write_labelled(tmp_path, 40, sex=["female"] * 40, bad=[float(number % 4) for number in range(40)])
    strict, published = BenchmarkSettings(), BenchmarkSettings(protocol="iclr2026")
    assert "did you mean ptbxl-super" in refused(read_task, "ptbxl-supper")
    assert "no source georgia; its sources are ptbxl" in refused(prepare_task, tmp_path, read_task("georgia"), strict)
    assert "codes of the map code15" in refused(prepare_task, tmp_path, read_task("code15"), strict)
    assert "only one class: female (40)" in refused(prepare_task, tmp_path, read_task("sex"), strict)
    said = refused(prepare_task, tmp_path, read_task("age"), BenchmarkSettings(folds_column="bad"))
    assert "column 'bad': recordings 0 and 1 are of one patient, but in two folds" in said
    assert "no recording is in train" in refused(prepare_task, fold10, read_task("ptbxl-super"), published)
    said = refused(prepare_task, tmp_path, read_task("heart-rate"), strict)
    assert "no measure 'heart_rate'" in said
    for text, told in (
        ("description: x\n", "nothing to predict"),
        ("description: x\ncodes: ptbxl-all\nsplit: {train: 1, valid: 2, test: 3}\n", "line 3: give a column"),
        ("description: x\nnumbers:\n  a: {unit: kg}\n", "line 3: 'a': give the column"),
        ("description: x\ncods: ptbxl-all\n", "unknown key 'cods'"),
    ):
        (tmp_path / "t.yaml").write_text(text)
        assert told in refused(read_task, str(tmp_path / "t.yaml"))


def test_given_folds_are_used(tmp_path):
    write_labelled(tmp_path)
    task = prepare_task(tmp_path, read_task("ptbxl-super"), BenchmarkSettings(folds_column="strat_fold"))
    assert list(task.fold) == [1]  # folds that are given need no seeds
    assert np.array_equal(task.fold[1], np.arange(240) // 2 % 10)
    assert len(task.known.label_names) == len(CODES)
