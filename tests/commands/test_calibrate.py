"""`fairseq-signals-ext calibrate`: predictions of calibrated checkpoints and exports, and refused inputs."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from made_up import made_up_counts, write_label_file, write_shards
from made_up_checkpoints import LABELS, saved_checkpoint
from running import mistake_of

import fairseq_signals_ext
from fairseq_signals_ext.cli import main
from fairseq_signals_ext.inference.export import export
from fairseq_signals_ext.readers import read_ecg
from fairseq_signals_ext.serving.answers import answer

NUMBER = 160


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A checkpoint, and recordings in `valid` with labels that are correlated with its scores."""
    folder = tmp_path_factory.mktemp("world")
    patients = [f"p{row // 2}" if row < 40 else f"q{row}" for row in range(NUMBER)]
    write_shards(folder, [2500] * NUMBER, patients, split="valid", shard_size=NUMBER)
    lines = (folder / "valid.tsv").read_text().splitlines()
    (folder / "train.tsv").write_text("\n".join([lines[0], *lines[1:40]]) + "\n")
    (folder / "rest.tsv").write_text("\n".join([lines[0], *lines[1:]]) + "\n")
    checkpoint = saved_checkpoint(folder / "a.pt")
    model = fairseq_signals_ext.load(checkpoint)
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(NUMBER, len(LABELS)))
    values = (scores > 0).astype(float)
    values[10:, 2] = 0
    write_label_file(folder / "labels", values, model.label_names)
    (folder / "train.tsv").rename(folder / "some.tsv")
    return folder


def calibrate(world, out, *more):
    arguments = ["calibrate", world / "a.pt", "--data", world, "--labels", world / "labels", "--out", out, *more]
    return main([str(one) for one in [*arguments, "--device", "cpu"]])


@pytest.fixture(scope="module")
def calibrated(world):
    assert calibrate(world, world / "calibrated.pt", "--refuse", "0.05") == 0
    return world / "calibrated.pt"


def test_output_and_stored_calibration(world, calibrated, tmp_path, capsys):
    assert calibrate(world, tmp_path / "b.pt", "--refuse", "0.05") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split()[:3] == ["label", "patients", "with"]
    assert out[-1] == str(tmp_path / "b.pt")
    old, new, again = (torch.load(one, weights_only=True) for one in (world / "a.pt", calibrated, tmp_path / "b.pt"))
    assert {**new, "task_state": None}.keys() == {**old, "task_state": None}.keys()
    for name, value in old["model"].items():
        assert torch.equal(value, new["model"][name])
    assert new["task_state"] == again["task_state"]
    kept = new["task_state"]["calibration"]
    assert [one["positives"] + one["negatives"] for one in kept["labels"]] == [NUMBER - 20] * 3
    assert kept["labels"][2]["miss"] is None
    assert kept["provenance"]["recordings"] == NUMBER
    assert str(world) not in json.dumps(kept)


def test_predictions(world, calibrated):
    recording = made_up_counts(np.random.default_rng(5), 5000) / 1000
    before, after = (fairseq_signals_ext.load(one).predict(recording, 500) for one in (world / "a.pt", calibrated))
    assert (before.calibrated, before.decision, before.refused, before.refusal_score) == (None,) * 4
    np.testing.assert_array_equal(before.scores, after.scores)
    np.testing.assert_array_equal(before.positive, after.positive)
    assert after.refused is None
    assert {*after.decision} <= {"positive", "negative", "uncertain"}
    assert after.decision[2] == "uncertain"
    assert ((after.calibrated > 0) & (after.calibrated < 1)).all()
    flat = recording.copy()
    flat[[0, 7]] = 0
    assert "a lead is constant" in fairseq_signals_ext.load(calibrated).predict(flat, 500).refused
    few = fairseq_signals_ext.load(calibrated).predict(recording[[0, 1]], 500, ["I", "II"])
    assert few.refused.startswith("6 leads are missing")


# arguments: an export, a `.npy` file; prints the model's predictions without torch and fairseq
ALONE = """
import importlib.abc, json, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "fairseq", "scipy", "sklearn", "pandas"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
import numpy as np
import fairseq_signals_ext
model = fairseq_signals_ext.load(sys.argv[1])
found = [model.predict(recording, 500) for recording in np.load(sys.argv[2])]
print(json.dumps([[one.decision, one.refused] for one in found]))
"""


def test_onnx_decides_the_same_with_numpy_alone(calibrated, tmp_path):
    folder = export(calibrated, "onnx", tmp_path / "onnx").folder
    recordings = np.stack([made_up_counts(np.random.default_rng(seed), 2500) / 1000 for seed in range(30)])
    recordings[3, 1] = 0
    np.save(tmp_path / "recordings.npy", recordings)
    command = [sys.executable, "-c", ALONE, str(folder), str(tmp_path / "recordings.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    model = fairseq_signals_ext.load(calibrated)
    expected = [model.predict(recording, 500) for recording in recordings]
    assert json.loads(done.stdout) == [[list(one.decision), one.refused] for one in expected]
    assert expected[3].refused.startswith("a lead is constant")


def test_table_of_predictions(calibrated, world, tmp_path):
    assert main(["predict", str(calibrated), str(world / "valid.tsv"), "--out", str(tmp_path), "--device", "cpu"]) == 0
    table = pd.read_csv(tmp_path / "predictions.csv", keep_default_na=False)
    model = fairseq_signals_ext.load(calibrated)
    for label, name in enumerate(LABELS):
        of_label = model.description.calibration.labels[label]
        scores = table[f"probability_{name}"].to_numpy()
        np.testing.assert_allclose(table[f"calibrated_{name}"], of_label.probabilities(scores), atol=1e-5)
    # the calibration's own recordings: no more than it allows
    assert (table["refused"] != "").mean() <= 0.05
    assert {*table[f"decision_{LABELS[2]}"]} == {"uncertain"}


@pytest.mark.parametrize("to", ["onnx", "safetensors", "torchscript"])
def test_exports_decide_the_same(calibrated, tmp_path, to):
    folder = export(calibrated, to, tmp_path / to).folder
    ours, theirs = fairseq_signals_ext.load(calibrated), fairseq_signals_ext.load(folder)
    assert theirs.description.calibration == ours.description.calibration
    for seed in range(20):
        recording = made_up_counts(np.random.default_rng(seed), 2500) / 1000
        one, other = (model.predict(recording, 500) for model in (ours, theirs))
        assert (one.decision, one.refused is None) == (other.decision, other.refused is None)
        np.testing.assert_allclose(one.calibrated, other.calibrated, atol=1e-4)


def test_evaluation_of_decisions(calibrated, world, tmp_path, capsys):
    given = ["--data", world, "--subset", "valid", "--labels", world / "labels", "--device", "cpu", "--resamples", 2]
    command = ["evaluate", calibrated, *given, "--selective", "--out", tmp_path / "whole"]
    assert main([str(one) for one in command]) == 0
    printed = capsys.readouterr().out
    table = pd.read_csv(tmp_path / "whole" / "selective.csv").set_index(["label", "group"])
    # on the calibration's own recordings no promise is broken
    for name in LABELS[:2]:
        assert table.loc[(name, "all"), "miss"] <= 0.05
        assert table.loc[(name, "all"), "false_alarm"] <= 0.10
        assert table.loc[(name, "all"), "refused"] <= 0.05
        assert name in printed
    for number in (1, 2):
        part = [*command[:-1], tmp_path / "parts", "--part", f"{number}/2"]
        assert main([str(one) for one in part]) == 0
    for name in ("selective.csv", "risk_coverage.csv", "selective.png"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    plain = [world / "a.pt" if one is calibrated else one for one in command[:-1]]
    assert "is not calibrated; run" in mistake_of(lambda: main([str(one) for one in [*plain, tmp_path / "no"]]))
    assert not list((tmp_path / "no").glob("*"))  # seen before the work


def test_report_and_service(calibrated, tmp_path):
    recording = made_up_counts(np.random.default_rng(5), 5000) / 1000
    recording[0] = 0
    np.save(tmp_path / "flat.npy", recording)
    command = ["report", calibrated, tmp_path / "flat.npy", "--input-rate", 500, "--saliency", "none"]
    assert main([str(one) for one in [*command, "--out", tmp_path / "out", "--device", "cpu"]]) == 0
    page = (tmp_path / "out" / "flat.html").read_text(encoding="utf-8")
    assert "<b>No answer:</b> a lead is constant" in page
    assert ">Decision</th>" in page
    assert "<td>uncertain</td>" in page
    assert "at most 5 % are called negative" in page
    assert "not calibrated" not in page
    model = fairseq_signals_ext.load(calibrated)
    read = read_ecg(tmp_path / "flat.npy", sample_rate=500)
    told = answer(read, model.predict(read), model)
    assert told["refused"].startswith("a lead is constant")
    assert [label["decision"] for label in told["labels"]][2] == "uncertain"


def test_inspect_shows_it(calibrated, capsys):
    assert main(["inspect", str(calibrated), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    text = json.dumps(facts)
    assert '"false_alarm": 0.1' in text
    assert '"positive_from"' in text
    assert "directions" not in text


@pytest.mark.parametrize(
    "change, message",
    [
        (["--subset", "missing"], "missing"),
        (["--miss", "0.7"], "--miss 0.7: give a share from 0 to below 0.5"),
        (["--refuse", "0.001"], "160 recordings are too few to refuse 0.10%; calibrate on 1000 or more"),
        (["--subset", "some"], "no label has 30 patients with and without it"),
    ],
)
def test_mistakes(world, tmp_path, change, message):
    assert message in mistake_of(lambda: calibrate(world, tmp_path / "c.pt", *change))
    assert not (tmp_path / "c.pt").exists()


def test_labels_of_another_model(world, tmp_path):
    write_label_file(tmp_path / "other", np.zeros((NUMBER, 2)), ["X", "Y"])
    given = ["calibrate", world / "a.pt", "--data", world, "--labels", tmp_path / "other", "--out", tmp_path / "c.pt"]
    assert str(tmp_path / "other") in mistake_of(lambda: main([str(one) for one in given]))


def test_recordings_of_the_training_are_refused(world, tmp_path):
    (world / "train.tsv").write_text((world / "some.tsv").read_text())
    try:
        message = mistake_of(lambda: calibrate(world, tmp_path / "c.pt"))
    finally:
        (world / "train.tsv").unlink()
    assert "39 of 160 recordings of 'valid' are in 'train' as well (idx 0), on which the model was trained" in message


def test_files_that_are_there_stay(world, calibrated, tmp_path):
    assert "is the same file as the input" in mistake_of(lambda: calibrate(world, world / "a.pt", "--overwrite"))
    assert "is there already" in mistake_of(lambda: calibrate(world, calibrated))
    folder = export(calibrated, "onnx", tmp_path / "o").folder
    given = ["calibrate", folder, "--data", world, "--out", tmp_path / "d.pt"]
    assert "is an export" in mistake_of(lambda: main([str(one) for one in given]))


@pytest.mark.parametrize("kind", ["regression", "pretraining"])
def test_other_models_are_refused(world, tmp_path, kind):
    other = saved_checkpoint(tmp_path / "other.pt", kind)
    arguments = ["calibrate", str(other), "--data", str(world), "--labels", str(world / "labels")]
    assert str(other) in mistake_of(lambda: main([*arguments, "--out", str(tmp_path / "c.pt")]))
