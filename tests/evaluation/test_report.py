"""The files and the table of an evaluation."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from made_up_predictions import made_up_predictions, predictions_of
from made_up_tables import write_table

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import check_free
from fairseq_signals_ext.evaluation import report
from fairseq_signals_ext.evaluation.evaluating import EvaluationSettings, Thresholds, evaluate

ABOUT = {"checkpoint": "runs/a.pt", "subset": "test", "label_file": "labels/L"}
PLOTS = {"roc.png", "precision_recall.png", "calibration.png", "confusion.png"}


def evaluation_of(segments, rule="f1", **settings):
    thresholds = Thresholds(np.full(len(segments.label_names), 0.4), rule, "valid")
    return evaluate(segments, ABOUT, EvaluationSettings(resamples=30, **settings), thresholds)


def made_up_segments(labels=3, kind="classification"):
    """Two segments per recording; one label has no positives."""
    predictions = made_up_predictions(items=120, labels=labels, per_patient=4)
    predictions.targets[1::2] = predictions.targets[::2]
    if labels > 1:
        predictions.targets[:, 1] = 0
    idx = np.arange(120) // 2 + 10
    ids = np.array([f"r{number}" for number in idx], object)
    return dataclasses.replace(predictions, idx=idx, patient=idx // 2, record_id=ids, kind=kind)


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def strict(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_metrics_are_strict_json(tmp_path):
    evaluation = evaluation_of(made_up_segments(), label_aggregation={"label 2": "max"})
    report.write_evaluation(evaluation, tmp_path / "out")
    facts = strict(tmp_path / "out" / "metrics.json")
    assert {name: facts[name] for name in ABOUT} == ABOUT
    assert facts["counts"] == {"recordings": 60, "segments": 120, "patients": 30}
    assert facts["aggregation"] == {"default": "mean", "labels": {"label 2": "max"}}
    assert facts["thresholds"] == {"label 0": 0.4, "label 1": 0.4, "label 2": 0.4}
    assert (facts["threshold_rule"], facts["thresholds_from"]) == ("f1", "valid")
    assert facts["bootstrap"] == {"resamples": 30, "confidence": 0.95, "seed": 1}
    assert facts["cinc2021"] is None and set(facts["versions"]) >= {"fairseq_signals_ext", "numpy", "scikit-learn"}
    assert facts["recordings"]["undefined"]["auroc"] == ["label 1"] and "label 1" in facts["notes"][0]
    macro = evaluation.summaries["recordings"]["macro"]
    assert facts["recordings"]["macro"]["auroc"] == macro["auroc"]
    assert facts["recordings"]["macro"]["auprc_high"] == macro["auprc_high"]
    assert facts["segments"]["macro"]["auroc"] == evaluation.summaries["segments"]["macro"]["auroc"]


def test_undefined_values_are_null(tmp_path):
    segments = made_up_segments(labels=2)
    segments.targets[:, 0] = np.nan
    report.write_evaluation(evaluation_of(segments), tmp_path)
    macro = strict(tmp_path / "metrics.json")["recordings"]["macro"]
    assert macro["auroc"] is macro["auroc_low"] is macro["f1"] is None
    assert pd.read_csv(tmp_path / "per_label.csv")["auroc"].isna().all()


def test_table_of_labels_loses_no_digit(tmp_path):
    evaluation = evaluation_of(made_up_segments())
    report.write_evaluation(evaluation, tmp_path)
    table = pd.read_csv(tmp_path / "per_label.csv", float_precision="round_trip")
    pd.testing.assert_frame_equal(table, evaluation.per_label, check_exact=True)


def test_predictions_of_recordings_and_segments(tmp_path):
    segments = made_up_segments(labels=2)
    evaluation = evaluation_of(segments)
    report.write_evaluation(evaluation, tmp_path)
    table = pd.read_parquet(tmp_path / "segments.parquet")
    labels = ["probability_label 0", "target_label 0", "probability_label 1", "target_label 1"]
    assert list(table.columns) == ["record_id", "idx", "patient", "segment", *labels]
    assert list(table["segment"]) == [0, 1] * 60
    np.testing.assert_array_equal(table["probability_label 1"], segments.scores[:, 1])
    np.testing.assert_array_equal(table["target_label 0"], segments.targets[:, 0])
    means = table.groupby("idx")[labels[0]].mean()
    table = pd.read_parquet(tmp_path / "predictions.parquet")
    assert list(table.columns) == ["record_id", "idx", "patient", *labels]
    np.testing.assert_allclose(table.set_index("idx")[labels[0]], means, atol=1e-15)
    assert list(table["record_id"]) == [f"r{idx}" for idx in table["idx"]]
    assert list(table["patient"]) == list(table["idx"] // 2)


def test_segments_are_left_out_if_they_are_the_recordings(tmp_path):
    report.write_evaluation(evaluation_of(made_up_predictions(items=40, labels=2)), tmp_path)
    assert set(files_of(tmp_path)) == {"metrics.json", "per_label.csv", "predictions.parquet", *PLOTS}


def test_same_predictions_same_bytes_and_nothing_of_an_earlier_evaluation_stays(tmp_path):
    evaluation = evaluation_of(made_up_segments(labels=2))
    report.write_evaluation(evaluation, tmp_path / "a")
    assert set(files_of(tmp_path / "a")) <= set(report.FILES)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "notes.txt").write_text("the user's own")
    values = made_up_segments(labels=2, kind="regression")
    report.write_evaluation(evaluate(values, ABOUT, EvaluationSettings()), tmp_path / "b")
    kinds = {"scatter.png", "bland_altman.png", "metrics.json", "per_label.csv", "predictions.parquet"}
    assert set(files_of(tmp_path / "b")) == kinds | {"segments.parquet", "notes.txt"}
    assert "prediction_label 0" in pd.read_parquet(tmp_path / "b" / "predictions.parquet")
    (tmp_path / "b" / "notes.txt").unlink()
    report.write_evaluation(evaluation_of(made_up_segments(labels=2)), tmp_path / "b")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_without_some_files_a_folder_is_free(tmp_path):
    check_free(tmp_path / "new", report.FILES, overwrite=False)
    (tmp_path / "notes.txt").touch()
    check_free(tmp_path, report.FILES, overwrite=False)
    (tmp_path / "roc.png").touch()
    with pytest.raises(UserError, match="roc.png: exists already; give another --out, or replace it with --overwrite"):
        check_free(tmp_path, report.FILES, overwrite=False)
    check_free(tmp_path, report.FILES, overwrite=True)


@pytest.mark.parametrize("data", [".", "splits/s", "splits/s/fractions/0.1"])
def test_record_ids_of_a_prepared_folder(tmp_path, data):
    write_table(tmp_path / "prepared", 4, order=[2, 0, 3, 1])
    (tmp_path / "prepared" / data).mkdir(parents=True, exist_ok=True)
    predictions = predictions_of(np.zeros((3, 1)), np.zeros((3, 1)), idx=[3, 0, 3])
    named = report.with_record_ids(predictions, tmp_path / "prepared" / data)
    assert list(named.record_id) == ["r3", "r0", "r3"]
    assert report.with_record_ids(named, tmp_path) is named


def test_record_ids_without_a_prepared_folder(tmp_path):
    predictions = predictions_of(np.zeros((2, 1)), np.zeros((2, 1)), idx=[12, 7])
    assert list(report.with_record_ids(predictions, tmp_path).record_id) == ["12", "7"]
    write_table(tmp_path / "prepared", 8)
    with pytest.raises(UserError, match=r"recordings.parquet: no recording with idx 12; split the folder again"):
        report.with_record_ids(predictions, tmp_path / "prepared")


def test_text():
    names = ("AF", "Supraventricular tachycardia with aberrancy and some more words")
    segments = dataclasses.replace(made_up_segments(labels=2), label_names=names)
    evaluation = evaluation_of(segments)
    text = report.as_text(evaluation)
    assert max(map(len, text.splitlines())) <= 100
    lines = text.splitlines()
    assert lines[0] == "test: 60 recordings (120 segments, mean), 30 patients"
    assert lines[1] == "thresholds: best F1 on valid; intervals: 95 %, 30 resamples of patients"
    row = evaluation.per_label.iloc[0]
    interval = f"{row['auroc']:.3f} [{row['auroc_low']:.3f}, {row['auroc_high']:.3f}]"
    (macro,) = (line for line in lines if line.startswith("macro (1 of 2 labels)  "))
    assert interval in macro  # the only label that is defined
    (of_segments,) = (line for line in lines if line.startswith("macro, of segments  "))
    assert of_segments.split()[3] == f"{row['segment_auroc']:.3f}"
    (label,) = (line for line in lines if line.startswith("AF "))
    assert interval in label and f"{row['positives']}/{row['known']}" in label
    assert label.split()[-1] == f"{row['precision']:.2f}"
    (label,) = (line for line in lines if line.startswith("Supra"))
    assert "…" in label and label.count("undefined") == 2 and label.split()[-4:-2] == ["-", "-"]


def test_text_of_a_regression():
    known = np.array([[50.0, 1.0], [60.0, 2.0], [70.0, 3.0], [55.0, np.nan], [65.0, np.nan]])
    values = predictions_of(known + [[1.0, 0.0]], known, kind="regression", label_names=("LVEF", "dose"))
    values.scores[3:, 1] = 0
    lines = report.as_text(evaluate(values, ABOUT, EvaluationSettings())).splitlines()
    assert lines[1] == "intervals: 95 %, 1000 resamples of patients"
    assert [" ".join(line.split()) for line in lines[3:6]] == [
        "label known MAE RMSE bias",
        "LVEF 5 1 [-] 1 [-] 1",
        "dose 3 0 [-] 0 [-] 0",
    ]
    assert lines[7].split() == ["label", "R2", "Pearson", "r"]
    assert "0.980 [0." in lines[8] and "1.000 [-]" in lines[8]
    assert lines[-1] == "note: few known values: intervals are too narrow: 'LVEF' (5 known), 'dose' (3 known)"
