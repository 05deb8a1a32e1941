"""Operating points and weighted AUROC and AUPRC equal scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_predictions import label_with_both_classes, made_up_predictions
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from fairseq_signals_ext.evaluation.ranking import operating_points, rank, weighted_auprc, weighted_auroc


@settings(deadline=None)
@given(label=label_with_both_classes())
def test_operating_points_are_those_of_the_roc_curve(label):
    scores, targets = (values[~np.isnan(label[1])] for values in label)
    thresholds, true, false = operating_points(scores, targets)
    false_rate, true_rate, expected = roc_curve(targets, scores, drop_intermediate=False)
    np.testing.assert_array_equal(thresholds, expected)
    np.testing.assert_array_equal(true, np.rint(true_rate * (targets == 1).sum()))
    np.testing.assert_array_equal(false, np.rint(false_rate * (targets == 0).sum()))


def reference(metric, scores, targets, weights):
    """scikit-learn's value for known items that have weight; NaN if these are of one class."""
    taken = ~np.isnan(targets) & (weights > 0)
    if len(set(targets[taken])) < 2:
        return np.nan
    return metric(targets[taken], scores[taken], sample_weight=weights[taken])


@settings(max_examples=300, deadline=None)
@given(
    label=label_with_both_classes(),
    weights=st.one_of(
        st.lists(st.integers(0, 3).map(float), min_size=25, max_size=25),
        st.lists(st.just(0.0) | st.floats(0.01, 100), min_size=25, max_size=25),
    ),
)
def test_weighted_metrics_are_those_of_scikit_learn(label, weights):
    scores, targets = label
    weights = np.array(weights)[: len(scores)]
    ranking = rank(scores, targets)
    both = ranking.weigh(np.stack([weights, np.ones(len(scores))], axis=1))
    for ours, theirs in ((weighted_auroc, roc_auc_score), (weighted_auprc, average_precision_score)):
        expected = [reference(theirs, scores, targets, each) for each in (weights, np.ones(len(scores)))]
        np.testing.assert_allclose(ours(*both), expected, rtol=1e-12, atol=1e-12)


def test_runs_merge_negatives_only():
    scores = np.array([0.9, 0.8, 0.8, 0.7, 0.6, 0.5, 0.5, 0.1, 0.0])
    targets = np.array([1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, np.nan, 0.0])
    ranking = rank(scores, targets)
    positives, negatives = ranking.weigh(np.ones((9, 1)))
    assert positives[:, 0].tolist() == [1, 1, 0, 2, 0] and negatives[:, 0].tolist() == [0, 1, 2, 0, 1]
    assert ranking.runs == 5


def test_pooled_labels_share_the_weight_of_their_item():
    made = made_up_predictions(items=60, labels=3)
    weights = np.random.default_rng(1).integers(0, 4, (60, 5)).astype(np.float64)
    ranking = rank(made.scores.ravel(), made.targets.ravel(), np.repeat(np.arange(60), 3))
    known = ~np.isnan(made.targets)
    expected = [
        roc_auc_score(made.targets[known], made.scores[known], sample_weight=np.repeat(each, 3).reshape(60, 3)[known])
        for each in weights.T
    ]
    np.testing.assert_allclose(weighted_auroc(*ranking.weigh(weights)), expected, rtol=1e-12)


@pytest.mark.parametrize("target", [0.0, 1.0, np.nan])
def test_one_class_or_none_is_undefined(target):
    ranking = rank(np.array([0.1, 0.5, 0.5]), np.full(3, target))
    counts = ranking.weigh(np.ones((3, 2)))
    assert np.isnan(weighted_auroc(*counts)).tolist() == np.isnan(weighted_auprc(*counts)).tolist() == [True, True]
