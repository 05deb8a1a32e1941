"""Files with several ECGs as inputs of models: a row per ECG, also after an interruption."""

import csv

import numpy as np
import pytest
from made_up import made_up_counts
from made_up_checkpoints import saved_checkpoint

import fairseq_signals_ext
from fairseq_signals_ext.cli import main
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.inference import results
from fairseq_signals_ext.inference.inputs import find_inputs
from fairseq_signals_ext.readers import read_ecg

ECGS = {"a": 1, "b": 3, "c": 1, "d": 2}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(saved_checkpoint(tmp_path_factory.mktemp("model") / "a.pt"))


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{name}.npy" for name in ECGS]
    for path, number in zip(paths, ECGS.values()):
        np.save(path, np.stack([made_up_counts(rng, 5000) / 1000 for _ in range(number)]))
    return paths


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def run(command, *arguments):
    return main([command, *map(str, arguments), "--input-rate", "500"])


def expected_names(files):
    return [*map(str, files), f"{files[1]}#2", f"{files[1]}#3", f"{files[3]}#2"]


def test_predict_gives_a_row_of_each(checkpoint, files, tmp_path, capsys):
    assert run("predict", checkpoint, *files, "--out", tmp_path / "out") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'predictions.csv'}: 7 recordings\n"
    found = rows(tmp_path / "out" / "predictions.csv")
    assert [row["file"] for row in found] == expected_names(files)
    assert [row["record_id"] for row in found] == ["a", "b", "c", "d", "b#2", "b#3", "d#2"]
    model = fairseq_signals_ext.load(checkpoint)
    for row in found:
        path, _, number = row["file"].partition("#")
        scores = model.predict(read_ecg(path, number=int(number or 1), sample_rate=500.0)).scores
        written = [float(value) for name, value in row.items() if name.startswith("probability_")]
        assert written == pytest.approx(scores.tolist(), rel=1e-5)


@pytest.mark.parametrize("stop", range(1, 7))
def test_an_interrupted_run_continues_to_the_same(checkpoint, files, tmp_path, stop, monkeypatch):
    assert run("predict", checkpoint, *files, "--out", tmp_path / "whole") == 0
    count, calls = results.Results.count, iter(range(1, 10))

    def interrupted(self, *arguments):
        count(self, *arguments)
        if next(calls) == stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(results.Results, "count", interrupted)
        assert run("predict", checkpoint, *files, "--out", tmp_path / "out") == 130
    assert run("predict", checkpoint, *files, "--out", tmp_path / "out", "--resume") == 0
    whole, resumed = ((tmp_path / name / "predictions.csv").read_bytes() for name in ("whole", "out"))
    assert whole == resumed


def test_one_that_cannot_be_used_does_not_hide_the_others(checkpoint, files, tmp_path):
    array = np.load(files[1])
    array[0], array[2] = np.inf, 0
    np.save(files[1], array)
    assert run("predict", checkpoint, *files, "--out", tmp_path / "out") == 1
    wrong = {row["file"]: row["reason"] for row in rows(tmp_path / "out" / "rejected.csv")}
    assert [*wrong] == [str(files[1]), f"{files[1]}#3"]
    assert wrong[str(files[1])].startswith("ECG 1 of 3: it contains infinite values")
    assert wrong[f"{files[1]}#3"].startswith("its leads never change")
    assert len(rows(tmp_path / "out" / "predictions.csv")) == 5


def test_embed_gives_a_row_of_each(checkpoint, files, tmp_path, capsys):
    assert run("embed", checkpoint, *files, "--out", tmp_path / "out") == 0
    assert "7 recordings" in capsys.readouterr().out
    assert [row["file"] for row in rows(tmp_path / "out" / "embeddings.csv")] == expected_names(files)
    assert len(np.load(tmp_path / "out" / "embeddings.npy")) == 7


def test_one_of_them_can_be_given(checkpoint, files, tmp_path):
    chosen = [f"{files[1]}#1", f"{files[1]}#3", f"{files[1]}#4"]
    assert run("predict", checkpoint, *chosen, "--out", tmp_path / "out") == 1
    assert [row["file"] for row in rows(tmp_path / "out" / "predictions.csv")] == chosen[:2]
    (wrong,) = rows(tmp_path / "out" / "rejected.csv")
    assert wrong["file"] == chosen[2] and "it contains 3 ECGs, so none has the number 4" in wrong["reason"]
    with pytest.raises(UserError, match="no such file"):
        find_inputs([f"{tmp_path / 'none.npy'}#2"])


@pytest.mark.parametrize("command", ["report", "explain"])
def test_a_page_or_a_map_is_of_one_that_is_named(command, checkpoint, files, tmp_path):
    out = tmp_path / "out"
    assert run(command, checkpoint, files[1], f"{files[1]}#2", "--out", out) == 1
    (wrong,) = rows(out / "rejected.csv")
    hint = f"it contains 3 ECGs; give those that you want as {files[1]}#1, {files[1]}#2, ..."
    assert (wrong["file"], wrong["reason"]) == (str(files[1]), hint)
    assert len([*out.glob("*.html"), *out.glob("*.npz")]) == 1


def test_cut_ends_are_reported(checkpoint, tmp_path):
    pulse = np.tile(np.repeat([0, 1, 0], [50, 100, 50]), (12, 1))
    np.save(tmp_path / "a.npy", np.concatenate([made_up_counts(np.random.default_rng(0), 5000) / 1000, pulse], axis=1))
    given = [tmp_path / "a.npy", "--out"]
    assert run("predict", checkpoint, *given, tmp_path / "out") == 0
    (row,) = rows(tmp_path / "out" / "predictions.csv")
    assert (row["seconds"], row["cut_start"], row["cut_end"]) == ("10", "0", "0.4") and "clipped" not in row["flags"]
    assert run("report", checkpoint, *given, tmp_path / "pages") == 0
    said = "Cut off as calibration pulse or padding: 0.4 s at its end."
    assert said in (tmp_path / "pages" / "a.html").read_text(encoding="utf-8")


def test_wrong_leads_are_reported(checkpoint, tmp_path):
    signal = made_up_counts(np.random.default_rng(0), 5000) / 1000
    signal[[0, 1]] = signal[[1, 0]]
    np.save(tmp_path / "a.npy", signal)
    given = [tmp_path / "a.npy", "--out"]
    assert run("predict", checkpoint, *given, tmp_path / "out") == 0
    assert rows(tmp_path / "out" / "predictions.csv")[0]["flags"] == "einthoven"
    assert run("report", checkpoint, *given, tmp_path / "pages") == 0
    assert "<b>einthoven</b> limb leads do not follow" in (tmp_path / "pages" / "a.html").read_text(encoding="utf-8")
