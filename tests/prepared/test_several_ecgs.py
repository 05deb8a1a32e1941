"""Files that contain several ECGs: each is a row of its own, also where a run was interrupted anywhere."""

import shutil

import numpy as np
import pandas as pd
import pytest
from made_up import made_up_counts

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import PLAN_NAME
from fairseq_signals_ext.prepared import pipeline
from fairseq_signals_ext.prepared.pipeline import RunOptions, prepare
from fairseq_signals_ext.readers import read_ecg
from fairseq_signals_ext.sources import SourceOptions, open_source

ECGS = {"a": 1, "b": 3, "c": 1, "d": 2}
NAMES = ["a.npy", "b.npy", "c.npy", "d.npy", "b.npy#2", "b.npy#3", "d.npy#2"]


def write_files(folder, ecgs=ECGS):
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for name, number in ecgs.items():
        np.save(folder / f"{name}.npy", np.stack([made_up_counts(rng, 3000) / 1000 for _ in range(number)]))


@pytest.fixture
def files(tmp_path):
    write_files(tmp_path / "files")
    return tmp_path / "files"


def prepared(folder, out, table=None, **options):
    source = open_source("files", folder, SourceOptions(table=table, sample_rate=500.0))
    prepare(source, out, options=RunOptions(shard_size=2, progress=False, **options))
    return pd.read_parquet(out / "recordings.parquet")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_ecg_is_a_row(files, tmp_path):
    table = prepared(files, tmp_path / "out")
    assert list(table["source_file"]) == NAMES
    assert list(table["record_id"]) == ["a", "b", "c", "d", "b#2", "b#3", "d#2"]
    assert list(table["idx"]) == list(range(7))
    assert not {"ecgs", "content"} & {*table.columns}
    # nobody knows whose they are: an array may be of anybody's ECGs
    assert table["patient_key"].nunique() == 7
    for row in table.itertuples():
        name, _, number = row.source_file.partition("#")
        counts = np.load(tmp_path / "out" / row.shard)
        assert read_ecg(files / name, number=int(number or 1), sample_rate=500.0).samples == row.samples == 3000
        assert len(counts) >= (row.row + 1) * 12 * 3000
    assert table["duplicate_of"].isna().all()


def test_a_table_of_the_source_knows_the_person_of_all_and_the_time_of_the_first(files, tmp_path):
    rows = [
        {"file": f"{name}.npy", "record_id": f"r{name}", "patient": f"p{name}", "start_time": "2020-01-02 03:04:05"}
        for name in ECGS
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    table = prepared(files, tmp_path / "out", tmp_path / "t.csv").set_index("source_file")
    assert list(table.loc[["b.npy", "b.npy#2", "d.npy#2"], "record_id"]) == ["rb", "rb#2", "rd#2"]
    assert list(table.loc[["b.npy", "b.npy#2"], "patient"]) == ["pb", "pb"]
    assert list(table.loc[["b.npy", "b.npy#2"], "start_time"].isna()) == [False, True]


@pytest.mark.parametrize("block", range(5))
def test_a_run_that_was_killed_continues_to_the_same_folder(files, tmp_path, block):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    prepared(files, whole)
    write_block, calls = pipeline._write_block, iter(range(10))

    def killed(*given):
        if next(calls) == block:
            raise KeyboardInterrupt
        return write_block(*given)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pipeline, "_write_block", killed)
        if block == 4:  # when all blocks are written, before the tables
            patch.setattr(pipeline, "write_tables", lambda *given: killed())
        prepared(files, broken)
    prepared(files, broken, resume=True)
    assert contents(broken) == contents(whole)


def test_new_items_of_the_source_are_appended(files, tmp_path):
    prepared(files, tmp_path / "out")
    write_files(files, {"e": 2})
    table = prepared(files, tmp_path / "out", resume=True)
    assert list(table["source_file"]) == [*NAMES, "e.npy", "e.npy#2"]
    before = (tmp_path / "out" / PLAN_NAME).read_bytes()
    prepared(files, tmp_path / "out", resume=True)
    assert (tmp_path / "out" / PLAN_NAME).read_bytes() == before


def test_an_ecg_that_cannot_be_used_does_not_hide_the_others(files, tmp_path):
    array = np.load(files / "b.npy")
    array[0] = np.inf
    np.save(files / "b.npy", array)
    table = prepared(files, tmp_path / "out")
    assert list(table["source_file"]) == [name for name in NAMES if name != "b.npy"]
    (rejected,) = pd.read_csv(tmp_path / "out" / "rejected.csv").to_dict("records")
    assert rejected["source_file"] == "b.npy" and rejected["reason"].startswith(
        "ECG 1 of 3: it contains infinite values"
    )
    array[:2] = array[2]
    array[1, :, 7] = np.inf
    np.save(files / "b.npy", array)
    table = prepared(files, tmp_path / "out", resume=True, retry_rejected=True)
    assert "b.npy" in list(table["source_file"])
    # a later one that was whole then is kept
    assert sorted(table["source_file"]) == sorted(NAMES)


def test_a_later_ecg_that_was_rejected_is_tried_again(files, tmp_path):
    good = np.load(files / "b.npy")
    bad = good.copy()
    bad[1] = np.inf
    np.save(files / "b.npy", bad)
    assert "b.npy#2" not in list(prepared(files, tmp_path / "out")["source_file"])
    np.save(files / "b.npy", good)
    table = prepared(files, tmp_path / "out", resume=True, retry_rejected=True)
    assert list(table["source_file"])[-1] == "b.npy#2" and len(table) == len(NAMES)


def test_a_file_named_like_an_ecg_of_another_is_reported(files, tmp_path):
    shutil.copy(files / "a.npy", files / "b.npy#2")
    with pytest.raises(UserError, match=r"b.npy#2: is named as the ECG of a file with several; rename it"):
        prepared(files, tmp_path / "out")


def test_read_ecg_takes_a_number(files):
    with pytest.raises(UserError, match="b.npy: it contains 3 ECGs; choose one with its number"):
        read_ecg(files / "b.npy", sample_rate=500.0)
    with pytest.raises(UserError, match="b.npy: it contains 3 ECGs, so none has the number 4"):
        read_ecg(files / "b.npy", number=4, sample_rate=500.0)
    third = read_ecg(files / "b.npy", number=3, sample_rate=500.0)
    assert (third.record_id, third.number, third.ecgs) == ("b#3", 3, 3)
    np.testing.assert_array_equal(third.signal, np.load(files / "b.npy")[2])


@pytest.mark.parametrize("name", ["dicom/d30_15leads_halves.dcm", "muse/m06_two_rhythm_halves.xml"])
def test_two_ecgs_of_one_file_are_two_rows_of_one_patient(cases, tmp_path, name):
    file = cases / name
    (tmp_path / "files").mkdir()
    shutil.copy(file, tmp_path / "files")
    table = prepared(tmp_path / "files", tmp_path / "out")
    assert list(table["source_file"]) == [file.name, f"{file.name}#2"]
    assert list(table["record_id"]) == [file.stem, f"{file.stem}#2"]
    assert table["patient_key"].nunique() == 1 and table["duplicate_of"].isna().all()


def test_rate_and_duration_are_in_the_table(files, tmp_path):
    table = prepared(files, tmp_path / "out")
    assert list(table["stored_rate"]) == [500.0] * 7 and list(table["seconds"]) == [6.0] * 7
    assert list(table["cut_start"]) == list(table["cut_end"]) == [0.0] * 7
