"""Several models in one table: differences, tests, and files."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_predictions import made_up_predictions, predictions_of
from sklearn.metrics import roc_auc_score

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation import comparison, delong
from fairseq_signals_ext.evaluation.bootstrap import paired_difference
from fairseq_signals_ext.evaluation.evaluating import EvaluationSettings, evaluate

ABOUT = {"checkpoint": "a.pt", "subset": "test", "label_file": None}
FAST = EvaluationSettings(resamples=60, seed=3)


def noisy(predictions, size, seed=1):
    noise = np.random.default_rng(seed).normal(0, size, predictions.scores.shape)
    return dataclasses.replace(predictions, scores=np.clip(predictions.scores + noise, 0, 1))


@pytest.fixture(scope="module")
def evaluations():
    first = made_up_predictions(items=160, labels=3, per_patient=1)
    first.targets[:, 1] = 0
    first = dataclasses.replace(first, label_names=("AF", "none", "a|b"))
    models = {"first": first, "noisy": noisy(first, 0.4), "same": first}
    return {name: evaluate(model, ABOUT, FAST) for name, model in models.items()}


@pytest.fixture(scope="module")
def table(evaluations):
    return comparison.compare(evaluations)


def test_other_aggregations_give_a_warning(evaluations, caplog):
    first = evaluations["first"]
    other = evaluate(first.segments, ABOUT, dataclasses.replace(FAST, aggregation="max"))
    comparison.compare({"first": first, "other": other})
    assert "first and other aggregate segments by mean and by max" in caplog.text


@pytest.mark.parametrize(
    "paths, names",
    [
        (["runs/a/checkpoint_best.pt"], ["checkpoint_best"]),
        (["runs/a/best.pt", "last.pt"], ["best", "last"]),
        (["runs/a/checkpoints/best.pt", "runs/b/checkpoints/best.pt"], ["a", "b"]),
        (["runs/a/1/best.pt", "runs/b/best.pt"], ["a-1", "b"]),
        (["x/lr=1e-5/best.pt", "x/lr=1e-6/best.pt"], ["lr_1e-5", "lr_1e-6"]),
        (["model.v1", "model.v2"], ["model.v1", "model.v2"]),
    ],
)
def test_names(paths, names):
    assert comparison.names_of([Path(path) for path in paths]) == names


@pytest.mark.parametrize("paths", [["a.pt", "a.pt"], ["a.pt", "b/a.pt"], ["x=/a.pt", "x-/a.pt"]])
def test_names_that_cannot_be_distinguished(paths):
    with pytest.raises(UserError, match="cannot be distinguished; name each with --names"):
        comparison.names_of([Path(path) for path in paths])


def test_holm():
    # sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1, each at least the one before
    adjusted = comparison.holm(np.array([0.01, 0.04, np.nan, 0.03, 0.005]))
    np.testing.assert_allclose(adjusted, [0.03, 0.06, np.nan, 0.06, 0.02])


@given(st.lists(st.floats(0, 1) | st.just(np.nan), max_size=12))
def test_holm_equals_its_steps(values):
    p = np.array(values)
    adjusted = comparison.holm(p)
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        order = [place for place in np.argsort(p) if not np.isnan(p[place])]
        for step, place in enumerate(order):
            if p[place] * (len(order) - step) > level:
                break
            rejected.add(place)
        assert set(np.flatnonzero(adjusted <= level)) == rejected


def test_values_and_differences(evaluations, table):
    assert list(table["model"]) == ["first"] * 4 + ["noisy"] * 4 + ["same"] * 4
    assert list(table["scope"]) == ["macro", "label", "label", "label"] * 3
    assert list(table["label"][:4]) == ["", "AF", "none", "a|b"]
    models = {name: evaluation.recordings for name, evaluation in evaluations.items()}
    auroc = {}
    for name, model in models.items():
        known = ~np.isnan(model.targets)
        pairs = ((model.targets[known[:, k], k], model.scores[known[:, k], k]) for k in (0, 2))
        auroc[name] = [roc_auc_score(*pair) for pair in pairs]
        rows = table[table["model"] == name].set_index("label")
        np.testing.assert_allclose(rows.loc[["AF", "a|b"], "auroc"], auroc[name], atol=1e-12)
        assert rows.loc["", "auroc"] == pytest.approx(np.mean(auroc[name]), abs=1e-12)
        assert np.isnan(rows.loc["none", "auroc"])
    rows = table[table["model"] == "noisy"].set_index("label")
    difference = np.subtract(auroc["noisy"], auroc["first"])
    np.testing.assert_allclose(rows.loc[["", "AF", "a|b"], "auroc_difference"], [difference.mean(), *difference])
    found = paired_difference(models["noisy"], models["first"], resamples=60, seed=3).average
    found = found[(found["average"] == "macro") & (found["metric"] == "auprc")].iloc[0]
    columns = ["auprc_difference", "auprc_difference_low", "auprc_difference_high", "auprc_p"]
    np.testing.assert_array_equal(rows.loc["", columns].tolist(), found[["point", "low", "high", "p"]].tolist())
    assert rows.loc["", "auroc_difference"] < 0


def test_recordings_of_one_patient_do_not_make_a_difference_surer():
    # DeLong's p of these would be far smaller if they were repeated ten times
    few = made_up_predictions(items=40, labels=2, per_patient=1, unknown=0)
    several = []
    for model in (few, noisy(few, 0.3)):
        fields = {name: np.repeat(getattr(model, name), 10, axis=0) for name in ("scores", "targets", "patient")}
        several.append(dataclasses.replace(model, idx=np.arange(400), **fields))
    pairs = {"once": (few, noisy(few, 0.3)), "often": several}
    tables = {
        name: comparison.compare({place: evaluate(model, ABOUT, FAST) for place, model in zip("ab", pair)})
        for name, pair in pairs.items()
    }
    once, often = (tables[name].query("model == 'b'") for name in pairs)
    np.testing.assert_array_equal(often["auroc_p"], once["auroc_p"])
    np.testing.assert_array_equal(often["auroc_p_holm"][1:], comparison.holm(often["auroc_p"].to_numpy()[1:]))
    np.testing.assert_array_equal(once["auroc_p_holm"][1:], comparison.holm(once["auroc_delong_p"].to_numpy()[1:]))
    assert "auroc_delong_p" not in often


def test_the_test_of_labels_is_named(table, tmp_path):
    several = table.drop(columns="auroc_delong_p")
    comparison.write_comparison({"test": table, "valid": several}, FAST, tmp_path)
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "## test: AUROC of labels; p by DeLong's paired test\n" in text
    assert "## valid: AUROC of labels; p by resamples of patients, who have several recordings\n" in text


def test_tests_of_labels(evaluations, table):
    rows = table[table["model"] == "noisy"].set_index("label")
    first, model = (evaluations[name].recordings for name in ("first", "noisy"))
    p = [delong.paired_test(model.scores[:, k], first.scores[:, k], first.targets[:, k]).p for k in (0, 2)]
    np.testing.assert_array_equal(rows.loc[["AF", "a|b"], "auroc_delong_p"], p)
    # of two that are defined: the smaller counts twice
    wanted = [max(2 * min(p), value) if value != min(p) else 2 * value for value in p]
    np.testing.assert_allclose(rows.loc[["AF", "a|b"], "auroc_p_holm"], np.minimum(wanted, 1))
    assert np.isnan(rows.loc["none", "auroc_p_holm"]) and np.isnan(rows.loc["", "auroc_delong_p"])


def test_first_has_no_difference_and_the_same_has_none(table):
    differences = [name for name in table.columns if "difference" in name or "_p" in name]
    assert table.loc[table["model"] == "first", differences].isna().all(axis=None)
    same = table[(table["model"] == "same") & (table["label"] != "none")]
    assert (same[["auroc_difference", "auprc_difference_low", "auroc_difference_high"]] == 0).all(axis=None)
    assert (same["auroc_p"] == 1).all() and (same["auroc_p_holm"].dropna() == 1).all()


def test_files(table, tmp_path):
    tables = {"test": table, "valid": table[table["model"] != "same"]}
    for folder in (tmp_path / "a", tmp_path / "b"):
        comparison.write_comparison(tables, FAST, folder)
    for name in comparison.FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    written = pd.read_csv(tmp_path / "a" / "comparison.csv", float_precision="round_trip", keep_default_na=False)
    assert list(written["subset"]) == ["test"] * 12 + ["valid"] * 8
    numbers = pd.to_numeric(written["auroc"], errors="coerce")[:12]
    np.testing.assert_array_equal(numbers, table["auroc"])
    assert (tmp_path / "a" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "a" / "comparison.md").read_text(encoding="utf-8")
    assert text.count("## test: ") == text.count("## valid: ") == 3
    row = table.iloc[4]
    difference = f"{row['auroc_difference']:.3f} [{row['auroc_difference_low']:.3f}, "
    assert f"| noisy | {row['auroc']:.3f} [{row['auroc_low']:.3f}, {row['auroc_high']:.3f}] | {difference}" in text
    assert "| a\\|b | " in text and "| none | undefined | undefined | undefined |  |  |" in text
    for block in text.split("\n\n"):  # rows of a table have as many cells
        rows = [line.replace("\\|", "") for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in rows}) <= 1


def test_text(table):
    text = comparison.as_text({"test": table}, FAST)
    assert max(map(len, text.splitlines())) <= 100
    row = table.iloc[4]
    (line,) = (line for line in text.splitlines() if line.startswith("noisy") and f"{row['auroc']:.3f} [" in line)
    assert f"{row['auroc_difference']:.3f} [" in line and line.split()[-1] == f"{row['auroc_p']:.3g}"


def test_models_of_other_recordings(evaluations):
    first = evaluations["first"]
    other = dataclasses.replace(first.recordings, idx=first.recordings.idx + 1)
    with pytest.raises(UserError, match="recording 0 is in one only"):
        comparison.compare({"first": first, "other": evaluate(other, ABOUT, FAST)})
    other = dataclasses.replace(first.recordings, label_names=("AF", "x", "y"))
    with pytest.raises(UserError, match="label 2 is"):
        comparison.compare({"first": first, "other": evaluate(other, ABOUT, FAST)})


def test_regressions_of_other_recordings_or_units():
    known = np.random.default_rng(0).normal(50, 10, (30, 1))
    years = evaluate(predictions_of(known + 1, known, kind="regression"), ABOUT, FAST)
    days = evaluate(predictions_of(known * 365, known * 365, kind="regression"), ABOUT, FAST)
    fewer = evaluate(predictions_of(known[:9], known[:9], kind="regression"), ABOUT, FAST)
    with pytest.raises(UserError, match="patient or labels of recording 0; take the same label file"):
        comparison.compare({"years": years, "days": days})
    with pytest.raises(UserError, match="recording 9 is in one only .21 such.; take the same subset"):
        comparison.compare({"years": years, "fewer": fewer})


def test_regressions(evaluations, tmp_path):
    known = np.random.default_rng(0).normal(50, 10, (30, 2))
    models = {
        name: evaluate(predictions_of(known + error, known, kind="regression"), ABOUT, FAST)
        for name, error in (("a", [[2.0, 0.0]]), ("b", [[-4.0, 1.0]]))
    }
    table = comparison.compare(models)
    assert list(table["label"]) == ["label 0", "label 1"] * 2 and list(table["model"]) == list("aabb")
    np.testing.assert_allclose(table["mae"], [2, 0, 4, 1], atol=1e-12)
    wanted = paired_difference(models["b"].recordings, models["a"].recordings, resamples=60, seed=3).per_label
    for metric, rows in wanted.groupby("metric"):
        columns = [f"{metric}_difference{end}" for end in ("", "_low", "_high")] + [f"{metric}_p"]
        np.testing.assert_array_equal(table[columns][2:], rows[["point", "low", "high", "p"]])
        assert table[columns][:2].isna().all(axis=None)
    comparison.write_comparison({"test": table}, FAST, tmp_path)
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "| b | 4 [-] | 2 [-] | 0.0328 |" in text and text.count("## test: RMSE, label") == 2
    text = comparison.as_text({"test": table}, FAST)
    assert "test: MAE, label 1\n" in text and "test: Pearson r, label 0\n" in text
    assert "p is not below 0.033; it is not adjusted" in " ".join(text.split())
    with pytest.raises(UserError, match="first and a: a classification and a regression cannot be compared"):
        comparison.compare({"first": evaluations["first"], "a": models["a"]})
