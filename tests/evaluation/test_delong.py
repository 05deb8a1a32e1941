"""DeLong's method: all pairs compared one by one, and how often intervals and tests are right."""

import numpy as np
import pytest
from hypothesis import given, settings
from made_up_predictions import label_with_both_classes
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation.delong import delong, interval, paired_test


def slow_components(scores, targets):
    """DeLong's structural components from every pair of a positive and a negative."""
    positives, negatives = scores[targets == 1], scores[targets == 0]
    wins = np.zeros((len(positives), len(negatives)))
    for row, positive in enumerate(positives):
        for place, negative in enumerate(negatives):
            wins[row, place] = 1.0 if positive > negative else 0.5 if positive == negative else 0.0
    return wins.mean(), wins.mean(axis=1), wins.mean(axis=0)


def slow_covariance(one, other):
    """Of the AUROC of two models; of one with itself, its variance."""
    return sum(np.cov(a, b)[0, 1] / len(a) for a, b in zip(one[1:], other[1:]))


@settings(deadline=None)
@given(label=label_with_both_classes())
def test_equals_all_pairs(label):
    scores, targets = label
    auc, variance = delong(scores, targets)
    known = ~np.isnan(targets)
    assert auc == pytest.approx(roc_auc_score(targets[known], scores[known]), abs=1e-12)
    if min((targets == 1).sum(), (targets == 0).sum()) < 2:
        assert np.isnan(variance)
    else:
        slow = slow_components(scores, targets)
        assert variance == pytest.approx(slow_covariance(slow, slow), abs=1e-12)


def made_up(seed, items=120, shift=1.0, models=2, shared=0.5):
    """Normal scores of several models that share some of their noise: scores (models x items) and targets."""
    rng = np.random.default_rng(seed)
    targets = (np.arange(items) % 3 == 0).astype(np.float64)
    noise = np.sqrt(shared) * rng.normal(size=items) + np.sqrt(1 - shared) * rng.normal(size=(models, items))
    return noise + shift * targets, targets


def test_paired_test_equals_all_pairs():
    (a, b), targets = made_up(0)
    targets[::7] = np.nan
    found, one, other = paired_test(a, b, targets), slow_components(a, targets), slow_components(b, targets)
    variance = slow_covariance(one, one) + slow_covariance(other, other) - 2 * slow_covariance(one, other)
    z = (one[0] - other[0]) / np.sqrt(variance)
    np.testing.assert_allclose(found, [one[0], other[0], z, 2 * norm.cdf(-abs(z))], rtol=1e-9)
    back = paired_test(b, a, targets)
    assert (back.z, back.p) == pytest.approx((-found.z, found.p))


def test_interval_by_hand():
    # positives 3, 1 and negatives 2, 0: 3 beats both, 1 beats one, so 3 of 4 pairs; components of the positives are
    # 1 and 1/2, of the negatives 1/2 and 1, each of variance 1/8, so that the variance is 1/8 / 2 + 1/8 / 2 = 1/8
    scores, targets = np.array([3.0, 1.0, 2.0, 0.0]), np.array([1.0, 1.0, 0.0, 0.0])
    assert delong(scores, targets) == (0.75, 0.125)
    reach = 1.959963984540054 * np.sqrt(0.125) / (0.75 * 0.25)
    low, high = (1 / (1 + np.exp(-(np.log(3) + sign * reach))) for sign in (-1, 1))
    assert interval(scores, targets) == pytest.approx((0.75, low, high))


@pytest.mark.parametrize("shift", [0.5, 2.0])
def test_intervals_hold_the_truth_as_often_as_they_say(shift):
    truth, held = norm.cdf(shift / np.sqrt(2)), 0
    for seed in range(1000):
        (scores,), targets = made_up(seed, shift=shift, models=1)
        _, low, high = interval(scores, targets)
        held += low <= truth <= high
    assert 930 <= held <= 970  # 950 expected, standard deviation 7


def test_equal_models_are_found_different_as_often_as_they_should():
    rejected = sum(paired_test(*scores, targets).p < 0.05 for scores, targets in map(made_up, range(1000)))
    assert 30 <= rejected <= 72  # 50 expected, standard deviation 7


def test_different_models_are_found_different():
    (good, bad), targets = made_up(1, items=600)
    bad -= 0.8 * targets
    assert paired_test(good, bad, targets).p < 1e-4


@pytest.mark.parametrize("targets", [[1, 1, 1], [0, 0, 0], [np.nan] * 3])
def test_one_class_is_undefined(targets):
    scores = np.array([0.1, 0.2, 0.3])
    assert np.isnan([*delong(scores, np.array(targets)), *interval(scores, np.array(targets))]).all()
    assert np.isnan(paired_test(scores, scores[::-1], np.array(targets))).all()


def test_perfect_scores_have_no_interval():
    scores, targets = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.0, 0.0, 1.0, 1.0])
    assert delong(scores, targets) == (1, 0)
    assert interval(scores, targets)[0] == 1 and np.isnan(interval(scores, targets)[1:]).all()
    assert np.isnan(paired_test(scores, -scores, targets)[2:]).all()


def test_the_same_ranking_is_no_difference():
    (scores, _), targets = made_up(0)
    assert paired_test(scores, np.exp(scores), targets)[2:] == (0, 1)


def test_other_lengths_are_refused():
    with pytest.raises(UserError, match="3 and 2 scores for 3 targets"):
        paired_test(np.zeros(3), np.zeros(2), np.zeros(3))
