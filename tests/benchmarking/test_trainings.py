"""Whole models beside probes: trained by the real command on the same folds, once, and in the same table."""

import csv

import numpy as np
import pytest
from running import mistake_of

from fairseq_signals_ext.benchmarking.folds import TEST, TRAIN, VALID
from fairseq_signals_ext.benchmarking.trainings import divided
from fairseq_signals_ext.cli import main

SMALL = ["optimization.max_epoch=1", "dataset.batch_size=8", "dataset.num_workers=0"]


def test_each_fold_is_tested_once():
    fold, trains = np.arange(20) % 5, np.arange(20) < 15
    parts = [divided(fold, tested, trains) for tested in range(5)]
    assert (np.stack(parts) == TEST).sum(axis=0).tolist() == [1] * 20
    assert (np.stack(parts) == VALID).sum(axis=0).tolist() == [1] * 20
    assert not (np.stack(parts)[:, ~trains] == TRAIN).any()


def test_unknown_modes_are_refused(golden_folder, tmp_path):
    command = ["benchmark", golden_folder / "tiny_pretrained.pt", "--data", tmp_path, "--tasks", "sex"]
    mistake = mistake_of(lambda: main([*map(str, command), "--out", str(tmp_path / "o"), "--modes", "probe,magic"]))
    assert "--modes magic: no such mode; use probe, fine-tune, scratch" in mistake


@pytest.mark.slow
def test_whole_models_stand_beside_probes(ecg_data, golden_folder, tmp_path, monkeypatch):
    assert main(["prepare", "ptbxl", str(ecg_data / "ptbxl"), "--out", str(tmp_path / "data")]) in (0, 1)
    command = ["benchmark", golden_folder / "tiny_pretrained.pt", "--names", "golden", "--data", tmp_path / "data"]
    command += ["--tasks", "sex", "--modes", "probe,fine-tune,scratch", "--training-config", "tiny", "--fold-seeds", 1]
    command += ["--resamples", 50, "--out", tmp_path / "out", "--device", "cpu", "--override", *SMALL]
    assert main([str(one) for one in command]) == 0
    with open(tmp_path / "out" / "results.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "auroc" and not row["label"]]
    found = {(row["model"], row["probe"]) for row in rows}
    assert {("golden", "fine-tune"), ("golden", "scratch"), ("golden", "last"), ("random (golden)", "last")} <= found
    assert ("random (golden)", "fine-tune") not in found
    assert "probe fine-tune: the whole model" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    runs = sorted((tmp_path / "out" / "trainings").rglob("run.json"))
    assert len(runs) == 10
    # what is lost is made again from trainings that are done
    before = {path: path.read_bytes() for path in (tmp_path / "out" / "scores").rglob("*.npz")}
    times = [path.stat().st_mtime_ns for path in runs]
    for path in before:
        path.unlink()
    assert main([*map(str, command), "--resume"]) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert [path.stat().st_mtime_ns for path in runs] == times
