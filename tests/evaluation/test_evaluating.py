"""What an evaluation holds, against scikit-learn and counts by hand."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from made_up_predictions import made_up_predictions, predictions_of
from sklearn.metrics import average_precision_score, f1_score, recall_score, roc_auc_score

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation import delong, regression
from fairseq_signals_ext.evaluation.bootstrap import bootstrap
from fairseq_signals_ext.evaluation.evaluating import EvaluationSettings, Thresholds, aggregate, evaluate

ABOUT = {"checkpoint": "a.pt", "subset": "test", "label_file": None}
FAST = EvaluationSettings(resamples=40)


def in_segments(recordings, count=2):
    """Each recording as some segments, not adjacent, with the recording's score as their mean."""
    shift = np.linspace(-0.2, 0.2, count) * np.minimum(recordings.scores, 1 - recordings.scores).min(initial=1)
    return dataclasses.replace(
        recordings,
        scores=np.concatenate([recordings.scores + step for step in shift]),
        targets=np.tile(recordings.targets, (count, 1)),
        idx=np.tile(recordings.idx, count),
        patient=np.tile(recordings.patient, count),
    )


def known_of(predictions, label):
    known = ~np.isnan(predictions.targets[:, label])
    return predictions.targets[known, label], predictions.scores[known, label]


def test_labels_are_those_of_scikit_learn():
    recordings = made_up_predictions(items=150, labels=3)
    thresholds = Thresholds(np.array([0.3, 0.5, 0.6]))
    segments = in_segments(recordings)
    evaluation = evaluate(segments, ABOUT, FAST, thresholds)
    assert len(evaluation.recordings) == 150 and evaluation.patients == 75
    table = evaluation.per_label
    for label, row in table.iterrows():
        targets, scores = known_of(evaluation.recordings, label)
        called = scores >= thresholds.values[label]
        assert row["auroc"] == pytest.approx(roc_auc_score(targets, scores), abs=1e-12)
        assert row["auprc"] == pytest.approx(average_precision_score(targets, scores), abs=1e-12)
        assert row["f1"] == pytest.approx(f1_score(targets, called), abs=1e-12)
        assert row["sensitivity"] == pytest.approx(recall_score(targets, called), abs=1e-12)
        of_segments = known_of(segments, label)
        assert row["segment_auroc"] == pytest.approx(roc_auc_score(*of_segments), abs=1e-12)
        assert row["segment_auprc"] == pytest.approx(average_precision_score(*of_segments), abs=1e-12)
        for metric in ("auroc", "auprc", "f1"):
            assert row[f"{metric}_low"] < row[metric] < row[f"{metric}_high"]
    macro = evaluation.summaries["recordings"]["macro"]
    assert macro["auroc"] == pytest.approx(table["auroc"].mean(), abs=1e-12)
    assert macro["auroc_low"] < macro["auroc"] < macro["auroc_high"]
    assert evaluation.summaries["segments"]["macro"]["auroc"] == pytest.approx(table["segment_auroc"].mean())


def test_intervals_by_delong_only_if_each_recording_is_of_another_patient():
    recordings = made_up_predictions(items=60, labels=2, per_patient=1)
    table = evaluate(recordings, ABOUT, FAST).per_label
    for label, row in table.iterrows():
        targets, scores = known_of(recordings, label)
        assert (row["auroc_delong_low"], row["auroc_delong_high"]) == delong.interval(scores, targets)[1:]
    patient = recordings.patient.copy()
    patient[0] = patient[1]
    table = evaluate(dataclasses.replace(recordings, patient=patient), ABOUT, FAST).per_label
    assert not [name for name in table if "delong" in name]


def test_labels_with_few_positives_or_negatives_are_named():
    targets = np.zeros((40, 4))
    for label, positives in enumerate((9, 10, 30, 31)):
        targets[:positives, label] = 1
    scores = np.random.default_rng(0).random(targets.shape)
    (note,) = evaluate(predictions_of(scores, targets), ABOUT, FAST).notes
    assert note == (
        "few positives (or negatives): intervals are too narrow: 'label 0' (9 positives), 'label 3' (9 negatives)"
    )


def test_undefined_labels_are_left_out_and_named():
    recordings = made_up_predictions(items=100, labels=3, unknown=0)
    recordings.targets[:, 1] = 0
    recordings.targets[:, 2] = np.nan
    evaluation = evaluate(recordings, ABOUT, FAST)
    macro, table = evaluation.summaries["recordings"]["macro"], evaluation.per_label
    assert macro["auroc"] == table["auroc"][0]
    assert table.loc[1:, ["auroc", "auroc_low", "segment_auroc"]].isna().all(axis=None)
    assert list(table["auroc_undefined_resamples"]) == [0, 40, 40]
    (note,) = evaluation.notes
    assert note == "undefined, and left out of the means: 'label 1' (no positives among 100), 'label 2' (none known)"


def test_seed_and_confidence_are_used():
    recordings = made_up_predictions(items=100, labels=1, per_patient=1)
    wide, other, narrow = (
        evaluate(recordings, ABOUT, dataclasses.replace(FAST, **change)).per_label.iloc[0]
        for change in ({}, {"seed": 2}, {"confidence": 0.5})
    )
    assert wide["auroc_low"] != other["auroc_low"]
    assert wide["auroc_low"] < narrow["auroc_low"] < narrow["auroc_high"] < wide["auroc_high"]
    assert wide["auroc_delong_low"] < narrow["auroc_delong_low"]


@pytest.mark.parametrize(
    "settings, scores",
    [
        ({}, [0.4, 0.4]),
        ({"aggregation": "max"}, [0.6, 0.6]),
        ({"aggregation": "ecg-fm"}, [0.6, 0.4]),
        ({"aggregation": "ecg-fm", "label_aggregation": {"Poor data quality": "mean"}}, [0.4, 0.4]),
        ({"label_aggregation": {"Sinus rhythm": "max"}}, [0.4, 0.6]),
    ],
)
def test_aggregation(settings, scores):
    names = ("Poor data quality", "Sinus rhythm")
    segments = predictions_of([[0.2, 0.2], [0.6, 0.6]], [[1, 0], [1, 0]], idx=[7, 7], label_names=names)
    np.testing.assert_allclose(aggregate(segments, EvaluationSettings(**settings)).scores, [scores])


def test_notes_on_thresholds():
    recordings = made_up_predictions(items=150, labels=2)
    chosen = Thresholds(np.array([0.5, 0.5]), "f1", "test", ("label 1",))
    notes = evaluate(recordings, ABOUT, FAST, chosen).notes
    assert any("chosen on test itself" in note for note in notes)
    assert "one class only in test, so that the threshold is 0.5: 'label 1'" in notes
    assert not evaluate(recordings, ABOUT, FAST, dataclasses.replace(chosen, subset="valid", one_class=())).notes
    assert str(chosen) == "best F1 on test" and str(Thresholds(chosen.values)) == "0.5"
    assert str(dataclasses.replace(chosen, rule="sensitivity=0.9")) == "sensitivity=0.9 on test"


def test_challenge_score_and_its_notes(tmp_path):
    # with A = AF, N = sinus rhythm: right answers get 1 each, half of it for the other class
    (tmp_path / "w.csv").write_text(",164889003,426783006,1\n164889003,1,0.5,0\n426783006,0.5,1,0\n1,0,0,1\n")
    settings = dataclasses.replace(
        FAST, cinc_weights=tmp_path / "w.csv", label_codes=[["164889003", "AF"], ["426783006"]]
    )
    scores = [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.9, 0.1]]
    targets = [[1, 0], [0, 1], [1, 0], [np.nan, 0]]
    evaluation = evaluate(predictions_of(scores, targets), ABOUT, settings)
    # of three: A right (1), N right (1), A taken for N: two classes named, 0.5 / 2; right 3; all normal 0.25+1+0.25
    assert evaluation.challenge.score == pytest.approx((2.25 - 1.5) / (3 - 1.5))
    assert [note for note in evaluation.notes if note.startswith("CinC")] == [
        "CinC 2021 score: without the classes 1, for which there is no label; it cannot be compared with published "
        "ones",
        "CinC 2021 score: without 1 recording(s) with a label that is not known",
    ]


def test_regression():
    rng = np.random.default_rng(0)
    known = rng.normal(50, 10, (40, 2))
    known[5:9, 0] = np.nan
    recordings = predictions_of(known + rng.normal(0, 5, known.shape), known, kind="regression")
    recordings.scores[5:9, 0] = 40
    segments = dataclasses.replace(in_segments(recordings), scores=np.tile(recordings.scores, (2, 1)))
    segments.scores[:40] -= 1
    segments.scores[40:] += 1
    evaluation = evaluate(segments, ABOUT, FAST)
    wanted = regression.label_metrics(recordings)
    intervals = bootstrap(recordings, resamples=40).per_label
    for metric, rows in intervals.groupby("metric"):
        ends = evaluation.per_label[[f"{metric}_low", f"{metric}_high"]]
        np.testing.assert_allclose(ends, rows[["low", "high"]], rtol=1e-12)
        assert evaluation.summaries["recordings"]["labels"]["label 1"][f"{metric}_low"] == ends.iloc[1, 0]
    assert intervals["metric"].nunique() == 4 and not evaluation.notes
    pd.testing.assert_frame_equal(evaluation.per_label[wanted.columns], wanted)
    assert (evaluation.per_label["segment_mae"] > wanted["mae"]).all()
    assert evaluation.summaries["recordings"]["macro"]["r2"] == pytest.approx(wanted["r2"].mean())
    assert evaluation.summaries["recordings"]["labels"]["label 1"]["mae"] == pytest.approx(wanted["mae"][1])
    assert evaluation.thresholds is None


def test_regression_of_few():
    known = np.random.default_rng(0).normal(50, 10, (20, 3))
    known[9:, 0], known[:, 1] = np.nan, np.nan
    (note,) = evaluate(predictions_of(np.full((20, 3), 50.0), known, kind="regression"), ABOUT, FAST).notes
    assert note == "few known values: intervals are too narrow: 'label 0' (9 known)"


def test_wrong_input():
    recordings = made_up_predictions(items=20, labels=2)
    with pytest.raises(UserError, match="subset test: no recordings"):
        evaluate(predictions_of(np.zeros((0, 1)), np.zeros((0, 1))), ABOUT, FAST)
    with pytest.raises(UserError, match="label 'a': occurs twice"):
        evaluate(dataclasses.replace(recordings, label_names=("a", "a")), ABOUT, FAST)
    with pytest.raises(UserError, match="--aggregate-label c: no such label; there are label 0, label 1"):
        evaluate(recordings, ABOUT, dataclasses.replace(FAST, label_aggregation={"c": "max"}))
