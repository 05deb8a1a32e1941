"""Regression metrics: equal to scikit-learn's and scipy's; undefined values."""

import dataclasses

import numpy as np
import pytest
from made_up_predictions import predictions_of
from scipy.stats import linregress
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation.bootstrap import bootstrap, paired_difference
from fairseq_signals_ext.evaluation.regression import WITH_INTERVAL, label_metrics
from fairseq_signals_ext.evaluation.resampling import patient_weights


def made_up(targets, scores):
    return predictions_of(scores, targets, label_names=("age", "LVEF")[: np.shape(scores)[1]], kind="regression")


def test_metrics_of_known_items_only():
    rng = np.random.default_rng(0)
    targets = np.stack([rng.normal(60, 15, 80), rng.normal(55, 8, 80)], axis=1)
    scores = targets + rng.normal(2, [8, 6], (80, 2))
    targets[rng.random((80, 2)) < 0.3] = np.nan
    table = label_metrics(made_up(targets, scores)).set_index("label")
    for label, name in enumerate(("age", "LVEF")):
        known = ~np.isnan(targets[:, label])
        target, score, row = targets[known, label], scores[known, label], table.loc[name]
        assert row["known"] == known.sum()
        assert row["mae"] == mean_absolute_error(target, score)
        assert row["mse"] == mean_squared_error(target, score) == pytest.approx(row["rmse"] ** 2)
        assert row["r2"] == r2_score(target, score)
        assert row["bias"] == pytest.approx(score.mean() - target.mean())
        assert row["pearson_r"] == pytest.approx(linregress(score, target).rvalue)


@pytest.mark.parametrize(
    ("targets", "scores", "defined"),
    [
        ([np.nan, np.nan], [1, 2], ""),
        ([50, np.nan], [53, 2], "mae rmse mse bias"),
        ([50, 50, 50], [40, 50, 61], "mae rmse mse bias"),
        ([50, 60, 70], [55, 55, 55], "mae rmse mse bias r2"),
        ([50, 60, 70], [50, 61, 69], "mae rmse mse bias r2 pearson_r"),
    ],
)
def test_undefined_metrics_are_nan(targets, scores, defined):
    row = label_metrics(made_up(np.array([targets]).T, np.array([scores]).T)).iloc[0].drop(["label", "known"])
    assert set(row.index[row.notna()]) == set(defined.split())


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(UserError, match="recording 1, label 'age': score nan"):
        label_metrics(made_up([[50], [60]], [[50], [np.nan]]))


def several_per_patient(seed=0, patients=30, each=3, error=6.0, labels=2):
    """Recordings of patients with similar errors, in random order, with some unknown targets."""
    rng = np.random.default_rng(seed)
    patient = rng.permutation(np.repeat(np.arange(patients), each))
    known, errors = rng.normal(60, 15, (patients, labels)), rng.normal(1, error, (patients, labels))
    targets = known[patient] + rng.normal(0, 1, (len(patient), labels))
    scores = targets + errors[patient] + rng.normal(0, 2, targets.shape)
    targets[rng.random(targets.shape) < 0.1] = np.nan
    return predictions_of(scores, targets, patient=patient, kind="regression")


def resample(predictions, drawn):
    """The items of the patients that were drawn, as often as they were."""
    rows = np.concatenate([np.flatnonzero(predictions.patient == patient) for patient in drawn])
    fields = {name: getattr(predictions, name)[rows] for name in ("scores", "targets", "patient")}
    return dataclasses.replace(predictions, idx=np.arange(len(rows)), **fields)


def plain_loop(predictions, resamples, seed):
    """Metrics by scikit-learn and scipy of each resample: metric -> labels x resamples."""
    patients = np.unique(predictions.patient)
    weights = patient_weights(np.random.default_rng(seed), len(patients), resamples)
    tables = [label_metrics(resample(predictions, np.repeat(patients, column))) for column in weights.T]
    return {metric: np.stack([table[metric] for table in tables], axis=1) for metric in WITH_INTERVAL}


MIRRORED = {
    "mae": lambda point, drawn: point**2 / drawn,
    "rmse": lambda point, drawn: point**2 / drawn,
    "r2": lambda point, drawn: 1 - (1 - point) ** 2 / (1 - drawn),
    "pearson_r": lambda point, drawn: np.tanh(2 * np.arctanh(point) - np.arctanh(drawn)),
}


def test_intervals_are_those_of_a_plain_loop():
    predictions = several_per_patient()
    found = bootstrap(predictions, resamples=60, seed=3, confidence=0.9).per_label
    points, drawn = label_metrics(predictions), plain_loop(predictions, 60, 3)
    assert list(found["metric"]) == [metric for metric in WITH_INTERVAL for _ in range(2)]
    for row in found.itertuples():
        label = predictions.label_names.index(row.label)
        assert row.point == pytest.approx(points[row.metric][label], rel=1e-12)
        values = np.sort(MIRRORED[row.metric](row.point, drawn[row.metric][label]))
        assert (row.low, row.high) == pytest.approx((values[2], values[-3]), rel=1e-9)


def test_differences_are_those_of_a_plain_loop():
    a = several_per_patient()
    b = dataclasses.replace(a, scores=a.scores + np.random.default_rng(1).normal(0, 4, a.scores.shape))
    shuffled = resample(b, np.unique(b.patient))
    order = np.concatenate([np.flatnonzero(b.patient == patient) for patient in np.unique(b.patient)])
    found = paired_difference(a, dataclasses.replace(shuffled, idx=order), resamples=60, seed=3).per_label
    ours, theirs = (plain_loop(model, 60, 3) for model in (a, b))
    for row in found.itertuples():
        label = a.label_names.index(row.label)
        point = label_metrics(a)[row.metric][label] - label_metrics(b)[row.metric][label]
        values = 2 * point - (ours[row.metric] - theirs[row.metric])[label]
        assert (row.point, row.low, row.high) == pytest.approx((point, values.min(), values.max()), rel=1e-9, abs=1e-12)
        fewer = min((values <= 0).sum(), (values >= 0).sum())
        assert row.p == pytest.approx(min(1, 2 * (1 + fewer) / 61))


def test_intervals_look_at_patients():
    once = several_per_patient(each=1)
    often = resample(once, np.repeat(np.unique(once.patient), 10))
    columns = ["low", "high"]
    np.testing.assert_allclose(bootstrap(often).per_label[columns], bootstrap(once).per_label[columns], rtol=1e-9)


def test_intervals_hold_the_truth_as_often_as_they_say():
    truth = label_metrics(several_per_patient(patients=100_000, labels=1)).iloc[0]
    held = dict.fromkeys(WITH_INTERVAL, 0)
    for seed in range(1, 301):
        made = several_per_patient(seed, patients=60, labels=1)
        for row in bootstrap(made, resamples=199).per_label.itertuples():
            held[row.metric] += row.low <= truth[row.metric] <= row.high
    assert all(273 <= count <= 296 for count in held.values()), held  # 285 expected, standard deviation 4


def test_a_value_without_the_resamples_that_are_undefined():
    targets = np.array([[50.0], [50.0], [50.0], [80.0]])
    found = bootstrap(predictions_of(targets + [[1], [-1], [2], [0]], targets, kind="regression"), resamples=200)
    undefined = found.per_label.set_index("metric")["undefined_resamples"]
    # without the last patient, or with it alone: (3/4)^4 + (1/4)^4 of the resamples
    assert undefined["mae"] == 0 and undefined["r2"] == undefined["pearson_r"] == pytest.approx(200 * 0.32, abs=25)


def test_perfect_predictions_and_equal_values():
    targets = np.array([[50.1, 0.1], [60.2, 0.1], [75.3, 0.1], [71.0, 0.1]])
    found = bootstrap(predictions_of(targets, targets, kind="regression"), resamples=50)
    assert found.average.empty
    found = found.per_label.set_index(["metric", "label"])
    assert found.loc["mae", ["low", "high"]].eq(0).all(axis=None)
    np.testing.assert_allclose(found.loc[("r2", "label 0"), ["low", "high"]].tolist(), [1, 1])
    assert found.loc[[("r2", "label 1"), ("pearson_r", "label 1")], ["point", "low"]].isna().all(axis=None)


def test_other_recordings_or_known_values_are_refused():
    a = several_per_patient()
    days = dataclasses.replace(a, scores=a.scores * 365, targets=a.targets * 365)
    with pytest.raises(UserError, match="models differ: patient or labels of recording 0; take the same label file"):
        paired_difference(a, days)
    with pytest.raises(UserError, match="is in one only"):
        paired_difference(a, resample(a, [2, 3]))
    with pytest.raises(UserError, match="bootstrap: 0 resamples"):
        bootstrap(a, resamples=0)
