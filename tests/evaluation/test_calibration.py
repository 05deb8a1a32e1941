"""Calibration: scikit-learn's Brier score and curve, and errors worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from made_up_predictions import label_with_both_classes
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from fairseq_signals_ext.evaluation.calibration import brier, expected_calibration_error, reliability


@settings(deadline=None)
@given(label=label_with_both_classes())
def test_brier_is_that_of_scikit_learn(label):
    known = ~np.isnan(label[1])
    expected = brier_score_loss(label[1][known], label[0][known])
    assert brier(label[0][:, None], label[1][:, None])[0] == pytest.approx(expected)


@pytest.mark.parametrize("bins", [5, 8, 10, 15])
@settings(deadline=None)
@given(label=label_with_both_classes())
def test_curve_and_error_are_those_of_scikit_learns_bins(bins, label):
    known = ~np.isnan(label[1])
    observed, mean_score = calibration_curve(label[1][known], label[0][known], n_bins=bins)
    table = reliability(*label, bins=bins)
    np.testing.assert_allclose(table["observed"], observed)
    np.testing.assert_allclose(table["mean_score"], mean_score)
    assert table["count"].sum() == known.sum() and table["positives"].sum() == (label[1] == 1).sum()
    assert (table["low"] <= table["mean_score"]).all() and (table["mean_score"] <= table["high"]).all()
    error = (np.abs(observed - mean_score) * table["count"]).sum() / known.sum()
    found = expected_calibration_error(label[0][:, None], label[1][:, None], bins)
    assert found[0] == pytest.approx(error, abs=1e-12)


def test_error_by_hand():
    # bins of 0.2: (0.1, 0.2) has 1 of 2 against 0.15 on average; 0.3 has 0 of 1; (0.9, 1.0) has 2 of 2 against 0.95
    scores, targets = np.array([0.1, 0.2, 0.3, 0.9, 1.0]), np.array([0.0, 1.0, 0.0, 1.0, 1.0])
    expected = (2 * 0.35 + 1 * 0.3 + 2 * 0.05) / 5
    assert expected_calibration_error(scores[:, None], targets[:, None], bins=5)[0] == pytest.approx(expected)


def test_one_class_is_enough_but_something_must_be_known():
    scores = np.full((2, 2), 0.75)
    targets = np.array([[1.0, np.nan], [1.0, np.nan]])
    np.testing.assert_array_equal(brier(scores, targets), [0.0625, np.nan])
    np.testing.assert_array_equal(expected_calibration_error(scores, targets), [0.25, np.nan])
    assert len(reliability(scores[:, 1], targets[:, 1])) == 0
