"""Metrics: scikit-learn's where it has them, a slow formulation from the definition where not; undefined is NaN."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_predictions import label_with_both_classes, made_up_predictions, predictions_of
from scipy.integrate import quad
from sklearn import metrics as sklearn_metrics

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation import metrics


def column(values):
    return np.asarray(values, np.float64).reshape(-1, 1)


def known(label):
    return tuple(values[~np.isnan(label[1])] for values in label)


@settings(deadline=None)
@given(label=label_with_both_classes())
def test_areas_are_those_of_scikit_learn(label):
    scores, targets = known(label)
    assert metrics.auroc(*map(column, label))[0] == sklearn_metrics.roc_auc_score(targets, scores)
    assert metrics.auprc(*map(column, label))[0] == sklearn_metrics.average_precision_score(targets, scores)


@settings(deadline=None)
@given(label=label_with_both_classes())
def test_areas_depend_on_the_order_only(label):
    scores, targets = map(column, label)
    for metric in (metrics.auroc, metrics.auprc, metrics.auprg):
        assert metric(np.exp(3 * scores) - 7, targets)[0] == metric(scores, targets)[0]
    assert metrics.auroc(-scores, targets)[0] == pytest.approx(1 - metrics.auroc(scores, targets)[0])


def slow_auprg(scores, targets):
    """The definition of Flach and Kull: precision gain over recall gain, integrated numerically.

    Between two neighbouring thresholds true and false positives grow in proportion, as a random choice among the items
    in between would have it.
    """
    share = targets.mean()
    curve = [(0, 0)]
    for threshold in sorted(set(scores), reverse=True):
        called = scores >= threshold
        curve.append((int(targets[called].sum()), int((1 - targets[called]).sum())))

    def gain(value):
        return (value - share) / ((1 - share) * value)

    area = 0.0
    for (true, false), (more_true, more_false) in zip(curve, curve[1:]):
        first, last = max(true / targets.sum(), share), more_true / targets.sum()
        if last > first:

            def precision_gain(recall_gain, ends=(true, false, more_true, more_false)):
                true, false, more_true, more_false = ends
                hits = targets.sum() * share / (1 - (1 - share) * recall_gain)
                return gain(hits / (hits + np.interp(hits, [true, more_true], [false, more_false])))

            area += quad(precision_gain, gain(first), gain(last), epsabs=1e-12)[0]
    return area


@settings(max_examples=60, deadline=None)
@given(label=label_with_both_classes())
def test_auprg_is_the_integral_of_its_definition(label):
    assert metrics.auprg(*map(column, label))[0] == pytest.approx(slow_auprg(*known(label)), abs=1e-9)


def test_auprg_of_known_curves():
    targets = column([1, 1, 0, 0, 0])
    assert metrics.auprg(column([5, 4, 3, 2, 1]), targets)[0] == 1
    assert metrics.auprg(column([1, 1, 1, 1, 1]), targets)[0] == pytest.approx(0, abs=1e-15)
    assert metrics.auprg(column([1, 2, 3, 4, 5]), targets)[0] < 0


ONE_CLASS = {"negative": [0, 0, np.nan], "positive": [1, 1, np.nan], "unknown": [np.nan] * 3}


@pytest.mark.parametrize("targets", ONE_CLASS.values(), ids=ONE_CLASS)
def test_one_class_is_undefined(targets):
    needs_both = [metrics.auroc, metrics.auprc, metrics.auprg]
    needs_both += [metrics.sensitivity_at_specificity, metrics.specificity_at_sensitivity]
    for metric in needs_both:
        assert np.isnan(metric(column([0.2, 0.7, 0.9]), column(targets)))[0]


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_a_score_that_is_no_number_makes_its_label_undefined(score):
    scores, targets = np.array([[0.1, 0.1], [0.9, score], [0.3, 0.5]]), np.array([[0, 0], [1, 1], [0, 0]], float)
    assert metrics.auroc(scores, targets)[0] == 1 and np.isnan(metrics.auroc(scores, targets)[1])


def test_macro_leaves_out_undefined_values():
    assert metrics.macro(np.array([0.5, np.nan, 1.0])) == 0.75
    assert np.isnan(metrics.macro(np.array([np.nan]))) and np.isnan(metrics.macro(np.zeros(0)))


def test_micro_pools_known_targets():
    made = made_up_predictions()
    taken = ~np.isnan(made.targets)
    scores, targets = made.scores[taken], made.targets[taken]
    assert metrics.micro_auroc(made.scores, made.targets) == sklearn_metrics.roc_auc_score(targets, scores)
    assert metrics.micro_auprc(made.scores, made.targets) == sklearn_metrics.average_precision_score(targets, scores)


def of_scikit_learn(scores, targets, threshold):
    """Metrics of one label's known items by their functions there."""
    called = scores >= threshold
    tn, fp, fn, tp = sklearn_metrics.confusion_matrix(targets, called, labels=[0, 1]).ravel()
    return {
        "auroc": sklearn_metrics.roc_auc_score(targets, scores),
        "auprc": sklearn_metrics.average_precision_score(targets, scores),
        "f1_at_0.5": sklearn_metrics.f1_score(targets, scores >= 0.5, zero_division=0),
        "f1": sklearn_metrics.f1_score(targets, called, zero_division=0),
        "sensitivity": sklearn_metrics.recall_score(targets, called),
        "specificity": sklearn_metrics.recall_score(targets, called, pos_label=0),
        "precision": sklearn_metrics.precision_score(targets, called, zero_division=np.nan),
        "npv": sklearn_metrics.precision_score(targets, called, pos_label=0, zero_division=np.nan),
        "accuracy": sklearn_metrics.accuracy_score(targets, called),
        "brier": sklearn_metrics.brier_score_loss(targets, scores),
        **{"tp": tp, "fp": fp, "fn": fn, "tn": tn},
    }


@settings(max_examples=60, deadline=None)
@given(label=label_with_both_classes(), threshold=st.integers(-1, 9).map(lambda eighths: eighths / 8))
def test_a_row_of_the_table_is_as_in_scikit_learn(label, threshold):
    row = metrics.label_metrics(predictions_of(*map(column, label)), np.array([threshold])).iloc[0]
    for name, expected in of_scikit_learn(*known(label), threshold).items():
        assert row[name] == pytest.approx(expected, nan_ok=True), name
    assert row["known"] == len(known(label)[0]) and row["positives"] == (label[1] == 1).sum()


@settings(deadline=None)
@given(label=label_with_both_classes(), wanted=st.sampled_from([0.5, 0.9, 1.0]))
def test_sensitivity_at_specificity_is_the_best_of_all_thresholds(label, wanted):
    scores, targets = known(label)
    pairs = []
    for threshold in (*scores, 2):
        called = scores >= threshold
        pairs.append((np.mean(called[targets == 1]), np.mean(~called[targets == 0])))
    best_sensitivity = max(sensitivity for sensitivity, specificity in pairs if specificity >= wanted)
    best_specificity = max(specificity for sensitivity, specificity in pairs if sensitivity >= wanted)
    assert metrics.sensitivity_at_specificity(*map(column, label), wanted)[0] == best_sensitivity
    assert metrics.specificity_at_sensitivity(*map(column, label), wanted)[0] == best_specificity


def test_defined_metrics_of_a_label_with_one_class():
    targets = np.stack(list(ONE_CLASS.values()), axis=1)
    made = predictions_of(np.full((3, 3), 0.7), targets, label_names=tuple(ONE_CLASS))
    table = metrics.label_metrics(made).set_index("label")
    shown = table[["f1", "f1_at_0.5", "sensitivity", "specificity", "precision", "npv", "accuracy", "brier"]]
    nan = np.nan
    np.testing.assert_allclose(shown.loc["negative"], [nan, nan, nan, 0, 0, nan, 0, 0.49])
    np.testing.assert_allclose(shown.loc["positive"], [nan, nan, 1, nan, 1, nan, 1, 0.09])
    assert shown.loc["unknown"].isna().all()
    assert table.loc["unknown", ["known", "positives", "tp", "fp", "fn", "tn"]].tolist() == [0] * 6


def test_summary_agrees_with_the_table_and_names_left_out_labels():
    made = made_up_predictions(labels=5, rates=[0.5, 0.3, 0.2, 0.0, 1.0])
    thresholds = np.array([0.5, 0.4, 0.3, 0.5, 0.5])
    found, table = metrics.summary(made, thresholds), metrics.label_metrics(made, thresholds)
    assert set(found["macro"]) == set(found["micro"]) == set(table.columns) - set(metrics.NOT_METRICS)
    for name, value in found["macro"].items():
        assert value == pytest.approx(np.nanmean(table[name]))
    assert found["undefined"]["auroc"] == ["label 3", "label 4"]
    assert found["undefined"]["sensitivity"] == ["label 3"] and "brier" not in found["undefined"]


def test_micro_averages_and_exact_match_are_those_of_scikit_learn():
    made = made_up_predictions(labels=3)
    thresholds = np.array([0.5, 0.4, 0.3])
    found, taken = metrics.summary(made, thresholds), ~np.isnan(made.targets)
    # with the threshold taken off, all labels have the same one
    targets, apart = made.targets[taken], (made.scores - thresholds)[taken]
    expected = of_scikit_learn(made.scores[taken], targets, 0.5)
    for name in ("auroc", "auprc", "f1_at_0.5", "brier"):
        assert found["micro"][name] == pytest.approx(expected[name])
    for name in ("f1", "sensitivity", "specificity", "precision", "npv", "accuracy"):
        at_zero = of_scikit_learn(1 / (1 + np.exp(-apart)), targets, 0.5)
        assert found["micro"][name] == pytest.approx(at_zero[name])
    whole = taken.all(axis=1)
    exact = sklearn_metrics.accuracy_score(made.targets[whole] == 1, made.scores[whole] >= thresholds)
    assert found["exact_match"] == pytest.approx(exact) and 0 < whole.sum() < len(made)


def test_exact_match_is_undefined_where_no_item_is_known_whole():
    made = predictions_of([[0.1, 0.9], [0.9, 0.1]], [[0, np.nan], [np.nan, 1]])
    assert np.isnan(metrics.summary(made)["exact_match"])


def test_thresholds_must_be_one_a_label():
    with pytest.raises(UserError, match=r"thresholds: \(2,\), but there are 4 labels"):
        metrics.label_metrics(made_up_predictions(), np.array([0.5, 0.5]))
