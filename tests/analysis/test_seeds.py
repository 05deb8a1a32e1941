"""Groups of seeds: plain loops of scikit-learn over weighted recordings, and the paired difference of two models."""

import dataclasses
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_predictions import made_up_predictions, predictions_of
from scipy.special import expit, logit
from sklearn.metrics import average_precision_score, roc_auc_score

from fairseq_signals_ext.analysis.seeds import compare_seeds
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation import resampling
from fairseq_signals_ext.evaluation.bootstrap import paired_difference
from fairseq_signals_ext.evaluation.resampling import patient_weights

METRICS = {"auroc": roc_auc_score, "auprc": average_precision_score}
# the last label has so few positives that it is undefined in some resamples
MADE = made_up_predictions(items=70, labels=3, per_patient=2, rates=[0.5, 0.2, 0.05])


def seeds_of(count, noise, first_seed):
    """Models that see the same recordings with other noise."""
    logits = np.log(MADE.scores.clip(0.005, 0.995) / (1 - MADE.scores.clip(0.005, 0.995)))
    models = []
    for seed in range(first_seed, first_seed + count):
        noisy = logits + noise * np.random.default_rng(seed).normal(size=logits.shape)
        models.append(dataclasses.replace(MADE, scores=(1 / (1 + np.exp(-noisy))).round(2)))
    return models


GROUPS = {"pretrained": seeds_of(3, 0.3, 0), "random": seeds_of(2, 2.0, 10)}


def macro(metric, model, weights):
    """Mean over the labels with both classes, by scikit-learn with `sample_weight`."""
    values = []
    for scores, targets in zip(model.scores.T, model.targets.T):
        taken = ~np.isnan(targets) & (weights > 0)
        if len(set(targets[taken])) == 2:
            values.append(METRICS[metric](targets[taken], scores[taken], sample_weight=weights[taken]))
    return np.mean(values)


def plain_loop(resamples, seed):
    """For each metric and group the mean over seeds in each resample."""
    patients = np.unique(MADE.patient)
    drawn = patient_weights(np.random.default_rng(seed), len(patients), resamples)
    means = {(metric, name): np.empty(resamples) for metric in METRICS for name in GROUPS}
    for number in range(resamples):
        times = dict(zip(patients, drawn[:, number]))
        weights = np.array([times[patient] for patient in MADE.patient], float)
        for metric, name in means:
            means[metric, name][number] = np.mean([macro(metric, model, weights) for model in GROUPS[name]])
    return means


@pytest.fixture(scope="module")
def expected():
    return plain_loop(60, 3)


@pytest.fixture(params=[100, 7])
def found(request, monkeypatch):
    monkeypatch.setattr(resampling, "_BLOCK_BYTES", 8 * len(MADE) * request.param)
    return compare_seeds(GROUPS, resamples=60, seed=3, confidence=0.9)


def test_groups_are_those_of_a_plain_loop(found, expected):
    ones = np.ones(len(MADE))
    assert [tuple(row) for row in found.groups[["group", "metric"]].to_numpy()] == [
        (name, metric) for name in GROUPS for metric in METRICS
    ]
    for row in found.groups.itertuples():
        points = [macro(row.metric, model, ones) for model in GROUPS[row.group]]
        assert row.mean == pytest.approx(np.mean(points), rel=1e-12)
        assert row.spread == pytest.approx(np.std(points, ddof=1), rel=1e-9)
        # the third of 60 from either end, mirrored on the scale of empirical logits of 35 patients
        ends = np.sort(expected[row.metric, row.group])[[-3, 2]]
        at_mean, at_ends = (logit((35 * np.asarray(x) + 0.5) / 36) for x in (np.mean(points), ends))
        ends = (36 * expit(2 * at_mean - at_ends) - 0.5) / 35
        np.testing.assert_allclose((row.low, row.high), ends, rtol=1e-9)
        seeds = found.seeds.query("group == @row.group")
        np.testing.assert_allclose(seeds[row.metric], points, rtol=1e-12)
        assert seeds["number"].tolist() == list(range(len(points)))
    assert found.patients == 35


def test_differences_are_those_of_a_plain_loop(found, expected):
    assert found.differences["metric"].tolist() == list(METRICS)
    for row in found.differences.itertuples():
        drawn = expected[row.metric, "pretrained"] - expected[row.metric, "random"]
        drawn = np.sort(2 * row.difference - drawn)
        np.testing.assert_allclose((row.low, row.high), drawn[[2, -3]], rtol=1e-9, atol=1e-12)
        assert row.p == pytest.approx(min(1, 2 * (1 + min((drawn <= 0).sum(), (drawn >= 0).sum())) / 61))
        means = found.groups.query("metric == @row.metric").set_index("group")["mean"]
        assert row.difference == pytest.approx(means["pretrained"] - means["random"], rel=1e-12)


def test_one_seed_a_group_is_the_paired_difference_of_two_models():
    ours, theirs = GROUPS["pretrained"][0], GROUPS["random"][0]
    found = compare_seeds({"a": [ours], "b": [theirs]}, resamples=150, seed=5, confidence=0.8)
    pair = paired_difference(ours, theirs, resamples=150, seed=5, confidence=0.8).average
    pair = pair[pair["average"] == "macro"]
    columns = ["low", "high", "p"]
    np.testing.assert_allclose(found.differences[columns], pair[columns], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.differences["difference"], pair["point"], rtol=1e-9)
    assert found.groups["spread"].isna().all()


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(3)), seed=st.integers(0, 9))
def test_the_order_of_seeds_and_groups_does_not_matter(order, seed):
    there = compare_seeds(GROUPS, resamples=20, seed=seed)
    shuffled = [GROUPS["pretrained"][place] for place in order]
    back = compare_seeds({"random": GROUPS["random"], "pretrained": shuffled}, resamples=20, seed=seed)
    a, b = (each.groups.set_index(["group", "metric"]).sort_index() for each in (there, back))
    np.testing.assert_allclose(a, b, rtol=1e-9)
    columns = ["difference", "low", "high", "p"]
    swapped = back.differences[["difference", "high", "low", "p"]] * [-1, -1, -1, 1]
    np.testing.assert_allclose(there.differences[columns], swapped, rtol=1e-9, atol=1e-12)


def test_seeds_narrow_no_interval_that_stands_for_patients():
    once = compare_seeds({"a": GROUPS["pretrained"][:1], "b": GROUPS["random"][:1]}, resamples=100)
    copies = compare_seeds({"a": GROUPS["pretrained"][:1] * 4, "b": GROUPS["random"][:1] * 4}, resamples=100)
    np.testing.assert_allclose(once.differences.iloc[:, 1:], copies.differences.iloc[:, 1:], rtol=1e-9, atol=1e-12)
    assert (copies.groups["spread"] < 1e-12).all()


def test_labels_with_one_class_are_undefined():
    targets = np.where([True, True, False], MADE.targets, 0.0)
    three = [dataclasses.replace(model, targets=targets) for model in GROUPS["random"]]
    two = [predictions_of(m.scores[:, :2], m.targets[:, :2], m.patient) for m in three]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, expected = (compare_seeds({"a": models, "b": models}, resamples=20) for models in (three, two))
        none = [dataclasses.replace(model, targets=np.zeros_like(targets)) for model in three]
        nothing = compare_seeds({"a": none, "b": none}, resamples=20)
    np.testing.assert_array_equal(found.groups.iloc[:, 2:], expected.groups.iloc[:, 2:])
    assert nothing.groups.iloc[:, 2:].isna().all(axis=None) and nothing.differences.iloc[:, 1:].isna().all(axis=None)


OTHER = dataclasses.replace(MADE, patient=np.roll(MADE.patient, 1))
SHORT = predictions_of(MADE.scores[:-1], MADE.targets[:-1], MADE.patient[:-1])
NOTHING = predictions_of(np.zeros((0, 2)), np.zeros((0, 2)))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"a": [MADE]}, "a: give two groups"),
        ({"a": [MADE], "b": []}, "a, b: give two groups"),
        ({"a": [MADE, MADE], "b": [OTHER]}, "model 3 has other recordings, patients, labels"),
        ({"a": [MADE, SHORT], "b": [MADE]}, "model 2 has other recordings, patients, labels"),
        ({"a": [MADE], "b": [dataclasses.replace(MADE, label_names=("x", "y", "z"))]}, "model 2 has other"),
        ({"a": [MADE], "b": [dataclasses.replace(MADE, targets=1 - MADE.targets)]}, "model 2 has other"),
        ({"a": [MADE], "b": [dataclasses.replace(MADE, scores=MADE.scores * np.nan)]}, "score nan"),
        ({"a": [NOTHING], "b": [NOTHING]}, "the subset is empty"),
    ],
)
def test_groups_that_cannot_be_compared(groups, message):
    with pytest.raises(UserError) as caught:
        compare_seeds(groups, resamples=2)
    assert message in str(caught.value) and "\n" not in str(caught.value)
