"""Regression metrics: scikit-learn's and scipy's, and what is undefined."""

import numpy as np
import pytest
from made_up_predictions import predictions_of
from scipy.stats import linregress, norm
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.evaluation.regression import label_metrics


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
        r = linregress(score, target).rvalue
        reach = norm.ppf(0.975) / np.sqrt(known.sum() - 3)  # Fisher's transformation
        expected = [r, np.tanh(np.arctanh(r) - reach), np.tanh(np.arctanh(r) + reach)]
        np.testing.assert_allclose(row[["pearson_r", "pearson_low", "pearson_high"]].astype(float), expected)


@pytest.mark.parametrize(
    ("targets", "scores", "defined"),
    [
        ([np.nan, np.nan], [1, 2], ""),
        ([50, np.nan], [53, 2], "mae rmse mse bias"),
        ([50, 50, 50], [40, 50, 61], "mae rmse mse bias"),
        ([50, 60, 70], [55, 55, 55], "mae rmse mse bias r2"),
        ([50, 60, 70], [50, 61, 69], "mae rmse mse bias r2 pearson_r"),
        ([50, 60, 70, 80], [50, 61, 69, 83], "mae rmse mse bias r2 pearson_r pearson_low pearson_high"),
    ],
)
def test_what_is_undefined_is_nan(targets, scores, defined):
    row = label_metrics(made_up(np.array([targets]).T, np.array([scores]).T)).iloc[0].drop(["label", "known"])
    assert set(row.index[row.notna()]) == set(defined.split())


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(UserError, match="recording 1, label 'age': score nan"):
        label_metrics(made_up([[50], [60]], [[50], [np.nan]]))
