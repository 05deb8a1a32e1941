"""The curve of label efficiency by the real script, which is killed on its way and goes on."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from fine_tuning import SMALL_RUN, write_labelled, write_pretrained
from running import ROOT, error_line, script
from sklearn.metrics import average_precision_score, roc_auc_score

SCRIPT = "examples/label_efficiency/run.py"
RUNS = ["train_50-pretrained-1", "train_50-random-1", "train-pretrained-1", "train-random-1"]
RESULTS = ["label_efficiency.csv", "label_efficiency_means.csv", "label_efficiency.png", "label_efficiency.svg"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_labelled(tmp_path_factory.mktemp("any, name = fits"))
    lines = (folder / "train.tsv").read_text().splitlines(keepends=True)
    (folder / "train_50.tsv").write_text("".join(lines[:9]))
    y = np.load(folder / "labels" / "y.npy")
    y[3] = np.nan  # a recording without labels does not count
    np.save(folder / "labels" / "y.npy", y)
    return folder


def arguments(data, pretrained, out, *more):
    given = ["--data", data, "--labels", data / "labels", "--pretrained", pretrained, "--out", out]
    given += ["--config-name", "tiny"]
    small = ["--resamples", "50", "--override", *SMALL_RUN, "optimization.max_epoch=2"]
    return [str(part) for part in (*given, "--fractions", "100", "50", "--seeds", "1", *small, *more)]


def kill_when_second_run_has_a_checkpoint(command, runs):
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    log, deadline = runs / RUNS[1] / "log.txt", time.monotonic() + 120
    while not (log.exists() and "(epoch 1 @" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def is_done(run):
    return json.loads((run / "run.json").read_text())["done"]


def metrics_of(run, data):
    """Macro AUROC and AUPRC of the scores that a run has kept, by scikit-learn with the label file."""
    kept = np.load(run / "scores_test.npz", allow_pickle=False)
    targets = np.load(data / "labels" / "y.npy")[kept["idx"]]
    assert kept["idx"].tolist() == list(range(16))
    values = []
    for metric in (roc_auc_score, average_precision_score):
        known = [~np.isnan(target) for target in targets.T]
        pairs = zip(targets.T, kept["scores"].T, known)
        values.append(np.mean([metric(target[which], score[which]) for target, score, which in pairs]))
    return values


@pytest.mark.slow
def test_curve_of_a_script_that_was_killed(data, tmp_path):
    pretrained = write_pretrained(write_labelled(tmp_path / "other"), tmp_path / "pretrained")
    out = tmp_path / "out"
    given, runs = arguments(data, pretrained, out), out / "runs"
    kill_when_second_run_has_a_checkpoint([sys.executable, str(ROOT / SCRIPT), *given], runs)
    assert is_done(runs / RUNS[0]) and not is_done(runs / RUNS[1]) and not (runs / RUNS[2]).exists()
    first = (runs / RUNS[0] / "log.txt").read_bytes()

    done = script(SCRIPT, *given)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (runs / RUNS[0] / "log.txt").read_bytes() == first  # was not trained again
    assert "Loaded checkpoint" in (runs / RUNS[1] / "log.txt").read_text()  # went on
    assert all(map(is_done, (runs / name for name in RUNS)))

    table = pd.read_csv(out / "label_efficiency.csv")
    assert table[["fraction", "recordings", "start", "seed"]].to_numpy().tolist() == [
        [50, 7, "pretrained", 1],
        [50, 7, "random", 1],
        [100, 15, "pretrained", 1],
        [100, 15, "random", 1],
    ]
    expected = [metrics_of(runs / name, data) for name in RUNS]
    np.testing.assert_allclose(table[["auroc", "auprc"]], expected, rtol=1e-9)
    scores = [np.load(runs / name / "scores_test.npz", allow_pickle=False)["scores"] for name in RUNS]
    assert len({score.tobytes() for score in scores}) == 4, "each of them is another model"
    means = pd.read_csv(out / "label_efficiency_means.csv")
    np.testing.assert_allclose(means[["auroc", "auprc"]], expected, rtol=1e-9)
    difference = table["auroc"][::2].to_numpy() - table["auroc"][1::2].to_numpy()
    np.testing.assert_allclose(means["auroc_difference"].dropna(), difference, rtol=1e-9)
    assert "7 (50 %)" in done.stdout and "15 (100 %)" in done.stdout

    files = {name: (out / name).read_bytes() for name in RESULTS}
    logs = {name: (runs / name / "log.txt").read_bytes() for name in RUNS}
    assert script(SCRIPT, *given).returncode == 0
    assert files == {name: (out / name).read_bytes() for name in RESULTS}
    assert logs == {name: (runs / name / "log.txt").read_bytes() for name in RUNS}


def test_missing_parts_of_the_training_set(data, tmp_path):
    given = arguments(data, data / "train.tsv", tmp_path / "out", "--fractions", "1", "2.5", "50", "100")
    line = error_line(script(SCRIPT, *given))
    assert "no train_1.tsv, a part of the training set" in line
    assert f"--name {data.name} --subsets 1 2.5 --overwrite" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--fractions", "0", "50"], "--fractions 0 50: give percentages"),
        (["--subset", "tset"], "tset.tsv: no such manifest"),
        (["--pretrained", "nowhere.pt"], "nowhere.pt: no such file"),
        (["--resamples", "0"], "--resamples 0: give 1 or more"),
    ],
)
def test_wrong_options(data, tmp_path, options, said):
    assert said in error_line(script(SCRIPT, *arguments(data, data / "train.tsv", tmp_path / "out", *options)))


def test_no_config_is_taken_in_silence(data, tmp_path):
    """A small model says nothing of a large one."""
    given = arguments(data, data / "train.tsv", tmp_path / "out")
    place = given.index("--config-name")
    done = script(SCRIPT, *given[:place], *given[place + 2 :])
    assert done.returncode == 2 and done.stderr.rstrip().endswith("are required: --config-name")


def test_a_training_that_fails_names_its_log(data, tmp_path):
    given = arguments(data, data / "train.tsv", tmp_path / "out")  # a manifest is no checkpoint
    line = error_line(script(SCRIPT, *given))
    log = tmp_path / "out" / "runs" / RUNS[0] / "log.txt"
    assert f"{log}: the training ended with status 1: " in line and "is a text, not a checkpoint" in line
