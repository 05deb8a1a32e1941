"""Probes: fits are scikit-learn's, nothing of a tested fold is seen, and the layer that tells is found."""

import numpy as np
import pytest
from made_up_benchmark import MadeUpFeatures, noise, write_labelled
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score, roc_auc_score

from fairseq_signals_ext.benchmarking.cross_fitting import cross_fit, fast_auroc, r2
from fairseq_signals_ext.benchmarking.folds import TEST, TRAIN, VALID, patient_folds
from fairseq_signals_ext.benchmarking.linear_probes import CS, Design, logistic_path, penalties, ridge_path
from fairseq_signals_ext.benchmarking.targets import known_of
from fairseq_signals_ext.benchmarking.task_files import read_task
from fairseq_signals_ext.benchmarking.trained_probes import Crops, Training, train_probe


@pytest.fixture(params=[(120, 30), (80, 150)], ids=["more recordings", "more dimensions"])
def made(request):
    """Correlated features, one of which never changes, labels with unknown ones, and numbers."""
    recordings, dimensions = request.param
    rng = np.random.default_rng(1)
    x = rng.normal(size=(recordings, 8)) @ rng.normal(size=(8, dimensions)) + 0.3 * rng.normal(
        size=(recordings, dimensions)
    )
    x[:, 3] = 5
    labels = (rng.uniform(size=(recordings, 3)) < 0.2 + 0.4 * (x[:, :1] > 0)).astype(float)
    labels[:20, 1], labels[:, 2] = np.nan, 0
    numbers = rng.normal(size=(recordings, 2)) + x[:, :2]
    numbers[:20, 1] = np.nan
    deviation = x.std(axis=0)
    return x, (x - x.mean(axis=0)) / np.where(deviation > 1e-9, deviation, 1), labels, numbers


def test_logistic_regressions_are_those_of_scikit_learn(made):
    x, standardised, labels, _ = made
    design = Design(x)
    for c, linear in zip(CS, logistic_path(design, labels)):
        found = design.turned(x) @ linear.weights + linear.intercepts
        for label in (0, 1):
            known = ~np.isnan(labels[:, label])
            wanted = LogisticRegression(C=c, tol=1e-10, max_iter=100000).fit(standardised[known], labels[known, label])
            assert found[:, label] == pytest.approx(wanted.decision_function(standardised), abs=0.02)
        assert np.ptp(found[:, 2]) == 0  # one class only


def test_ridge_regressions_are_those_of_scikit_learn(made):
    x, standardised, _, numbers = made
    design = Design(x)
    for alpha, linear in zip(penalties(ridge_path), ridge_path(design, numbers)):
        found = design.turned(x) @ linear.weights + linear.intercepts
        for number in (0, 1):
            known = ~np.isnan(numbers[:, number])
            wanted = Ridge(alpha=alpha).fit(standardised[known], numbers[known, number]).predict(standardised)
            assert found[:, number] == pytest.approx(wanted, abs=1e-8)


def test_metrics_that_choose_are_those_of_scikit_learn():
    rng = np.random.default_rng(2)
    scores, targets = rng.integers(0, 9, (60, 3)).astype(float), rng.integers(0, 2, (60, 3)).astype(float)
    targets[:10, 0], targets[:, 2] = np.nan, 1
    known = ~np.isnan(targets)
    aurocs = [roc_auc_score(targets[known[:, label], label], scores[known[:, label], label]) for label in (0, 1)]
    assert fast_auroc(scores, targets) == pytest.approx([*aurocs, np.nan], abs=1e-12, nan_ok=True)
    r2s = [r2_score(targets[known[:, label], label], scores[known[:, label], label]) for label in (0, 1)]
    assert r2(scores, targets) == pytest.approx([*r2s, np.nan], nan_ok=True)


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Labels of 240 recordings."""
    folder = tmp_path_factory.mktemp("known")
    write_labelled(folder)
    return known_of(folder, read_task("ptbxl-super"))


def run(known, values, fold, trains=None):
    trains = np.ones(len(fold), bool) if trains is None else trains
    features = MadeUpFeatures("x", values)
    return cross_fit(features.matrix, range(len(values)), known, fold, trains, features.layers)


def test_the_layer_that_tells_is_chosen(known):
    values = noise(240, 1)
    values[1, :, :5] += 1.5 * known.targets
    found = run(known, values, patient_folds(known, 5, 1))
    assert [choice["layer"] for choice in found.choices] == ["1"] * 5
    assert all(choice["inside"]["1"] > max(choice["inside"]["0"], choice["inside"]["2"]) for choice in found.choices)
    assert fast_auroc(found.scores, known.targets).min() > 0.75


def test_what_is_tested_is_not_seen(known):
    """Other labels, and other features, of a fold change nothing of its own scores but through its own features."""
    from dataclasses import replace

    fold, values = patient_folds(known, 5, 1), noise(240, 1)
    first = run(known, values, fold)
    targets = known.targets.copy()
    targets[fold == 2] = 1 - targets[fold == 2]
    second = run(replace(known, targets=targets), values, fold)
    assert np.array_equal(first.scores[fold == 2], second.scores[fold == 2])
    assert not np.allclose(first.scores[fold == 1], second.scores[fold == 1])


def test_recordings_outside_the_share_do_not_train(known):
    from dataclasses import replace

    fold, values = patient_folds(known, 5, 1), noise(240, 1)
    trains = np.arange(240) < 60
    first = run(known, values, fold, trains)
    targets = np.where(trains[:, None], known.targets, 1 - known.targets)
    assert np.array_equal(first.scores, run(replace(known, targets=targets), values, fold, trains).scores)
    assert sum(choice["trained_on"] for choice in first.choices) == 4 * 60


def parts():
    return np.where(np.arange(240) < 160, TRAIN, np.where(np.arange(240) < 200, VALID, TEST))


def test_a_trained_probe_tells_what_is_tested_by_the_mean_of_crops(known):
    values = noise(240, 1)[0]
    values[:, :5] += 1.5 * known.targets
    whole = Crops(values, np.arange(240))
    scores, chosen = train_probe(whole, known, parts(), seed=1, how=Training(epochs=30, rate=0.03))
    tested = parts() == TEST
    assert np.isnan(scores[~tested]).all()
    assert fast_auroc(scores[tested], known.targets[tested]).mean() > 0.7
    assert 1 <= chosen["epoch"] <= 30
    again, _ = train_probe(whole, known, parts(), seed=1, how=Training(epochs=30, rate=0.03))
    assert np.array_equal(scores, again, equal_nan=True)
    # a tested recording of two different crops scores the mean of their probabilities
    two = Crops(np.concatenate([values, values[-1:] + 3, values[-1:]]), np.append(np.arange(240), [238, 239]))
    both, _ = train_probe(two, known, parts(), seed=1, how=Training(epochs=30, rate=0.03))
    swapped = values.copy()
    swapped[238] = values[-1] + 3
    other, _ = train_probe(Crops(swapped, np.arange(240)), known, parts(), seed=1, how=Training(epochs=30, rate=0.03))
    assert both[238] == pytest.approx((scores[238] + other[238]) / 2, abs=1e-6)
    assert both[239] == pytest.approx(scores[239], abs=1e-6)


def test_a_trained_probe_tells_numbers(tmp_path):
    write_labelled(tmp_path)
    age = known_of(tmp_path, read_task("age"))
    values = np.concatenate([noise(240, 1)[0], (age.targets - 55) / 20], axis=1)
    scores, _ = train_probe(Crops(values, np.arange(240)), age, parts(), seed=1, how=Training(rate=0.03))
    tested = parts() == TEST
    assert r2(scores[tested], age.targets[tested]) > 0.9
