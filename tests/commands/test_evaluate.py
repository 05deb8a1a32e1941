"""`fairseq-signals-ext evaluate` as a user runs it: with the reference classifier, and with made-up predictions."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from made_up import write_shards
from running import mistake_of
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from fairseq_signals_ext.commands.evaluate import main
from fairseq_signals_ext.evaluation.predictions import ECG_FM_AGGREGATION, Predictions
from fairseq_signals_ext.inference import loading, subsets
from fairseq_signals_ext.inference.running import cores

LABELS = ("AF", "SR")
FAST = ("--resamples", 20)


@pytest.fixture
def predicted(monkeypatch):
    """Synthetic predictions instead of a model's; records the requests."""
    asked = []

    def predict_subset(model, given, how):
        checkpoint, (subset, label_file) = Path(model.source), given
        options = SimpleNamespace(
            batch_size=how.batch_size, jobs=how.jobs, cpu=model.device == "cpu", label_file=label_file
        )
        asked.append((checkpoint.name, subset, options))
        rng = np.random.default_rng([len(subset), *subset.encode()])
        targets = (rng.random((40, 2)) < 0.4).astype(float)
        noise = np.random.default_rng(list(checkpoint.name.encode())).normal(0, 0.2, (80, 2))
        scores = np.clip(np.repeat(0.3 + 0.3 * targets, 2, axis=0) + noise, 0, 1)
        idx = np.repeat(np.arange(40), 2)
        kind = "regression" if checkpoint.name == "regression.pt" else "classification"
        known = np.repeat(targets, 2, axis=0)
        used = options.label_file or "labels/of the checkpoint"
        return Predictions(scores, known, idx, idx // 2, LABELS, kind=kind, label_file=used)

    monkeypatch.setattr(loading, "load_model", lambda source, device: SimpleNamespace(source=source, device=device))
    monkeypatch.setattr(subsets, "Subset", lambda model, data, subset, label_file: (subset, label_file))
    monkeypatch.setattr(subsets, "predict_subset", predict_subset)
    return asked


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for subset in ("test", "valid"):
        (folder / f"{subset}.tsv").write_text(".\nshards/00000.npy\t0\t5000\n")
    return folder


def evaluate(data, *arguments, checkpoints=("a.pt",), subset="test", out="out"):
    out = data.parent / out
    assert (
        main([*checkpoints, "--data", str(data), "--subset", subset, "--out", str(out), *map(str, (*FAST, *arguments))])
        == 0
    )
    return out


def fails(data, *arguments, **options):
    """The one line of an error."""
    return mistake_of(evaluate, data, *arguments, **options)


def facts_of(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def thresholds_of(folder):
    facts = facts_of(folder)
    return facts["threshold_rule"], facts["thresholds_from"], set(facts["thresholds"].values())


def test_reference_classifier(golden_folder, tmp_path, capsys):
    write_shards(tmp_path, [5000] * 12, patients=[f"p{row // 2}" for row in range(12)], split="test")
    y = (np.random.default_rng(0).random((12, 17)) < 0.4).astype(np.float32)
    y[:, 3], y[0, 1] = 0, np.nan
    np.save(tmp_path / "y.npy", y)
    checkpoint = golden_folder / "tiny_finetuned.pt"
    out = evaluate(
        tmp_path,
        "--labels",
        tmp_path / "y.npy",
        "--device",
        "cpu",
        "--jobs",
        0,
        checkpoints=[str(checkpoint)],
        out="o",
    )
    table = pd.read_parquet(out / "predictions.parquet")
    labels = pd.read_csv(out / "per_label.csv").set_index("label")
    assert len(table) == 12 and len(pd.read_parquet(out / "segments.parquet")) == 24
    for label in range(17):
        scores, targets = table[f"probability_label_{label}"], table[f"target_label_{label}"]
        np.testing.assert_array_equal(targets, y[:, label])
        row, known = labels.loc[f"label_{label}"], targets.notna()
        if label == 3:
            assert np.isnan(row["auroc"])
            continue
        assert row["auroc"] == pytest.approx(roc_auc_score(targets[known], scores[known]), abs=1e-9)
        assert row["auprc"] == pytest.approx(average_precision_score(targets[known], scores[known]), abs=1e-9)
    assert facts_of(out)["counts"] == {"recordings": 12, "segments": 24, "patients": 6}
    assert thresholds_of(out) == ("0.5", None, {0.5})  # there is no valid.tsv
    text = capsys.readouterr().out
    assert text.startswith(f"{checkpoint}\ntest: 12 recordings (24 segments, mean), 6 patients\nthresholds: 0.5;")


def test_published_classifier_has_its_names_and_its_way_of_aggregating(golden_folder, tmp_path):
    write_shards(tmp_path, [5000] * 8, patients=[f"p{row}" for row in range(8)], split="test")
    np.save(tmp_path / "y.npy", (np.random.default_rng(0).random((8, 17)) < 0.4).astype(np.float32))
    checkpoint = shutil.copy(golden_folder / "tiny_finetuned.pt", tmp_path / "mimic_iv_ecg_finetuned.pt")
    options = ("--labels", tmp_path / "y.npy", "--device", "cpu", "--jobs", 0)
    out = evaluate(tmp_path, *options, checkpoints=[str(checkpoint)], out="published")
    recordings, segments = (pd.read_parquet(out / f"{name}.parquet") for name in ("predictions", "segments"))
    for label, how in ECG_FM_AGGREGATION.items():
        expected = segments.groupby("idx")[f"probability_{label}"].agg(how)
        np.testing.assert_allclose(recordings.set_index("idx")[f"probability_{label}"], expected, atol=1e-12)


def test_by_default_thresholds_are_the_best_of_valid(predicted, data, capsys):
    out = evaluate(data, "--seed", 5, "--confidence", 0.9, "--aggregate", "max", "--aggregate-label", "AF=mean")
    assert [subset for _, subset, _ in predicted] == ["test", "valid"]
    facts = facts_of(out)
    assert (facts["threshold_rule"], facts["thresholds_from"]) == ("f1", "valid")
    assert facts["bootstrap"] == {"resamples": 20, "confidence": 0.9, "seed": 5}
    assert facts["aggregation"] == {"default": "max", "labels": {"AF": "mean"}}
    assert "thresholds: best F1 on valid; intervals: 90 %, 20 resamples" in capsys.readouterr().out
    segments = pd.read_parquet(out / "segments.parquet").groupby("idx")
    recordings = pd.read_parquet(out / "predictions.parquet").set_index("idx")
    np.testing.assert_array_equal(recordings["probability_SR"], segments["probability_SR"].max())
    np.testing.assert_allclose(recordings["probability_AF"], segments["probability_AF"].mean(), atol=1e-15)
    called = recordings["probability_AF"] >= facts["thresholds"]["AF"]
    row = pd.read_csv(out / "per_label.csv").iloc[0]
    assert row["f1"] == pytest.approx(f1_score(recordings["target_AF"], called))


def test_thresholds_are_not_chosen_on_the_evaluated_subset_by_default(predicted, data):
    assert thresholds_of(evaluate(data, subset="valid")) == ("0.5", None, {0.5})
    out = evaluate(data, subset="test,valid", out="both")
    assert thresholds_of(out / "test")[:2] == ("f1", "valid") and thresholds_of(out / "valid")[:2] == ("0.5", None)
    out = evaluate(data, "--thresholds-from", "valid", subset="valid", out="asked")
    assert thresholds_of(out)[:2] == ("f1", "valid")
    assert facts_of(out)["notes"] == ["the thresholds were chosen on valid itself: metrics at them are too optimistic"]


def test_rules(predicted, data):
    out = evaluate(data, "--thresholds", "0.25")
    assert thresholds_of(out) == ("0.25", None, {0.25})
    assert thresholds_of(evaluate(data, "--thresholds", "youden", out="b"))[:2] == ("youden", "valid")
    out = evaluate(data, "--thresholds", "sensitivity=0.9", "--thresholds-from", "other", out="c")
    assert thresholds_of(out)[:2] == ("sensitivity=0.9", "other") and predicted[-1][1] == "other"


def test_several_checkpoints(predicted, data, capsys):
    out = evaluate(data, checkpoints=("x/a.pt", "x/b.pt"), subset="test,valid")
    folders = {path.parent.relative_to(out).as_posix() for path in out.rglob("metrics.json")}
    assert folders == {"a/test", "a/valid", "b/test", "b/valid"}
    assert [asked[:2] for asked in predicted] == [(c, s) for c in ("a.pt", "b.pt") for s in ("test", "valid")]
    table = pd.read_csv(out / "comparison.csv")
    assert list(table["subset"]) == ["test"] * 6 + ["valid"] * 6
    macro = table[(table["scope"] == "macro") & (table["subset"] == "test")].set_index("model")
    for name in "ab":
        wanted = facts_of(out / name / "test")["recordings"]["macro"]
        assert macro.loc[name, "auroc"] == pytest.approx(wanted["auroc"], abs=1e-12)
    assert macro.loc["b", "auroc_difference"] == pytest.approx(macro.loc["b", "auroc"] - macro.loc["a", "auroc"])
    assert (out / "comparison.md").is_file() and (out / "comparison.png").is_file()
    assert "test: macro AUROC\nmodel " in capsys.readouterr().out


def test_names(predicted, data):
    out = evaluate(data, "--names", "ours", "theirs", checkpoints=("a.pt", "a.pt"))
    assert (out / "ours" / "metrics.json").is_file() and (out / "theirs" / "metrics.json").is_file()
    assert "give 1 different names" in fails(data, "--names", "x", "y", out="b")
    assert "give 2 different names" in fails(data, "--names", "x", "x", checkpoints=("a.pt", "b.pt"), out="b")
    assert "it names a folder" in fails(data, "--names", "../x", "y", checkpoints=("a.pt", "b.pt"), out="b")


def test_regression(predicted, data):
    out = evaluate(data, checkpoints=("regression.pt",))
    assert (out / "bland_altman.png").is_file() and "mae" in pd.read_csv(out / "per_label.csv")
    assert "thresholds" not in facts_of(out) and [subset for _, subset, _ in predicted] == ["test"]
    message = fails(data, "--thresholds", "0.4", checkpoints=("regression.pt",), out="b")
    assert "--thresholds: regression.pt predicts numbers, not classes; leave it out" in message


def test_challenge_score(predicted, data):
    weights = data / "weights.csv"
    weights.write_text(",AF,NSR\nAF,1,0.5\nNSR,0.5,1\n")
    np.save(data / "y.npy", np.zeros((40, 2)))
    (data / "label_def.csv").write_text("name,codes\nAF,164889003\nSR,426783006;NSR\n")
    out = evaluate(data, "--cinc-weights", weights, "--labels", data / "y.npy", "--thresholds", 0.5)
    table = pd.read_parquet(out / "predictions.parquet")
    labels = table[["target_AF", "target_SR"]].to_numpy() == 1
    outputs = table[["probability_AF", "probability_SR"]].to_numpy() >= 0.5
    matrix = [[1, 0.5], [0.5, 1]]

    def credit(given):  # the Challenge's definition, recording by recording
        return sum(
            matrix[j][k] / max((label | output).sum(), 1)
            for label, output in zip(labels, given)
            for j in np.flatnonzero(label)
            for k in np.flatnonzero(output)
        )

    normal = np.tile([False, True], (40, 1))
    wanted = (credit(outputs) - credit(normal)) / (credit(labels) - credit(normal))
    assert facts_of(out)["cinc2021"]["score"] == pytest.approx(wanted)


def test_challenge_score_that_cannot_be_had(predicted, data):
    np.save(data / "y.npy", np.zeros((40, 2)))
    weights = data / "weights.csv"
    arguments = ("--cinc-weights", weights, "--labels", data / "y.npy")
    assert "needs --labels" in fails(data, *arguments[:2])
    weights.write_text(",AF,NSR\nAF,1,0.5\n")
    assert "rows and columns are not the same classes" in fails(data, *arguments)
    weights.write_text(",AF,NSR\nAF,1,0.5\nNSR,0.5,1\n")
    assert "(sinus rhythm)" in fails(data, *arguments)  # its labels are label_0 and label_1
    assert not predicted


def test_options_reach_the_model(predicted, data):
    evaluate(data, "--batch-size", 3, "--jobs", 0, "--device", "cpu", "--labels", "labels/L")
    options = predicted[0][2]
    assert (options.batch_size, options.jobs, options.cpu, options.label_file) == (3, 0, True, "labels/L")
    assert facts_of(data.parent / "out")["label_file"] == "labels/L"
    evaluate(data, "--jobs", -1, out="one_per_core")
    assert predicted[-1][2].jobs == cores()
    assert facts_of(evaluate(data, out="b"))["label_file"] == "labels/of the checkpoint"


def test_results_are_replaced_only_with_overwrite(predicted, data):
    out = evaluate(data)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    predicted.clear()
    assert f"{out / 'metrics.json'}: exists already" in fails(data)
    assert "comparison.csv: exists already" in _fails_with_a_comparison(data)
    assert not predicted  # before the work
    evaluate(data, "--overwrite")
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}


def _fails_with_a_comparison(data):
    (data.parent / "c").mkdir()
    (data.parent / "c" / "comparison.csv").touch()
    return fails(data, checkpoints=("a.pt", "b.pt"), out="c")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--thresholds", "f2"), "thresholds 'f2': no such rule"),
        (
            ("--thresholds", "0.3", "--thresholds-from", "valid"),
            "the threshold 0.3 is not chosen on data; leave one out",
        ),
        (("--aggregate-label", "AF=median"), "--aggregate-label AF=median: give LABEL=mean or LABEL=max"),
        (("--aggregate-label", "max"), "--aggregate-label max: give LABEL=mean or LABEL=max"),
        (("--resamples", "0"), "--resamples 0: give 1 or more"),
        (("--confidence", "95"), "--confidence 95.0: give a number between 0 and 1, such as 0.95"),
        (("--batch-size", "0"), "--batch-size 0: give 1 or more"),
        (("--jobs", "-2"), "--jobs -2: give 0 or more, or -1 for one per core"),
        (("--subset", "test,test"), "--subset 'test,test': give different names with commas"),
    ],
)
def test_wrong_options_before_any_work(predicted, data, arguments, message):
    assert message in fails(data, *arguments)
    assert not predicted and not (data.parent / "out").exists()


def test_rule_without_a_subset_to_choose_on(predicted, data):
    (data / "valid.tsv").unlink()
    assert "has no valid.tsv to choose them on; name a subset with --thresholds-from" in fails(
        data, "--thresholds", "f1"
    )
    assert thresholds_of(evaluate(data)) == ("0.5", None, {0.5})
    (data / "valid-00000-of-00002.tsv").touch()
    assert thresholds_of(evaluate(data, out="pieces"))[:2] == ("f1", "valid")


def test_unknown_label_of_the_model(predicted, data):
    assert "--aggregate-label VT: no such label; there are AF, SR" in fails(data, "--aggregate-label", "VT=max")


def test_help_imports_no_evaluation_packages():
    asking = (
        "import sys; from fairseq_signals_ext import cli\ntry: cli.main(['evaluate', '--help'])\nexcept SystemExit: "
    )
    asking += "print(sorted({'numpy', 'fairseq_signals_ext.inference'}.intersection(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, check=True)
    assert "--thresholds RULE" in done.stdout and done.stderr == "[]\n"
