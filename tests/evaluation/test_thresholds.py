"""Chosen thresholds are the best of all there are, and lie between scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from made_up_predictions import label_with_both_classes, made_up_predictions, predictions_of
from sklearn.metrics import f1_score, recall_score

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation.thresholds import choose_thresholds, parse_rule


def chosen(scores, targets, rule):
    thresholds, undefined = choose_thresholds(predictions_of(scores[:, None], targets[:, None]), rule)
    assert undefined == []
    return thresholds[0]


def worth(scores, targets, threshold):
    """F1, sensitivity, specificity at a threshold."""
    known = ~np.isnan(targets)
    target, called = targets[known], scores[known] >= threshold
    specificity = recall_score(target, called, pos_label=0)
    return f1_score(target, called, zero_division=0), recall_score(target, called), specificity


def all_worths(scores, targets):
    return np.array([worth(scores, targets, threshold) for threshold in (*scores, 2.0)])


@settings(max_examples=40, deadline=None)
@given(label=label_with_both_classes())
def test_best_f1_and_youden(label):
    everything = all_worths(*label)
    assert worth(*label, chosen(*label, "f1"))[0] == pytest.approx(everything[:, 0].max())
    youden = worth(*label, chosen(*label, "youden"))
    assert sum(youden[1:]) == pytest.approx(everything[:, 1:].sum(axis=1).max())


@pytest.mark.parametrize("wanted", [0.0, 0.5, 0.9, 1.0])
@settings(max_examples=30, deadline=None)
@given(label=label_with_both_classes())
def test_wanted_sensitivity_or_specificity_is_reached_at_the_best_price(wanted, label):
    everything = all_worths(*label)
    _, sensitivity, specificity = worth(*label, chosen(*label, f"sensitivity={wanted}"))
    assert sensitivity >= wanted
    assert specificity == everything[everything[:, 1] >= wanted, 2].max()
    _, sensitivity, specificity = worth(*label, chosen(*label, f"specificity={wanted}"))
    assert specificity >= wanted
    assert sensitivity == everything[everything[:, 2] >= wanted, 1].max()


@settings(max_examples=40, deadline=None)
@given(label=label_with_both_classes(ties=False))
def test_a_threshold_is_a_score_only_where_no_number_lies_between(label):
    for rule in ("f1", "youden", "sensitivity=0.9", "specificity=0.9"):
        threshold = chosen(*label, rule)
        known = label[0][~np.isnan(label[1])]
        lower = known[known < threshold].max(initial=0)
        assert threshold not in known or threshold == 0 or np.nextafter(lower, 1) == threshold


@pytest.mark.parametrize(
    ("scores", "rule", "threshold"),
    [
        ([0.2, 0.4, 0.6, 0.8], "f1", 0.5),  # 2 of 2 at any threshold from 0.4 to 0.6
        ([0.2, 0.8, 0.6, 0.4], "youden", 0.3),  # 1 + 0.5 at 0.4, the rest less
        ([0.5, 0.5, 0.5, 0.5], "f1", 0.25),  # all or none, and none has no F1
        ([0.2, 0.4, 0.6, 0.8], "specificity=0.5", 0.3),
        ([0.2, 0.9, 0.6, 0.8], "specificity=1.0", 0.95),  # nothing may be called positive
        ([0.2, 1.0, 0.6, 0.8], "specificity=1.0", np.nextafter(1.0, 2.0)),
    ],
)
def test_known_thresholds(scores, rule, threshold):
    assert chosen(np.array(scores), np.array([0.0, 0.0, 1.0, 1.0]), rule) == pytest.approx(threshold, rel=1e-15)


def test_of_equally_good_thresholds_the_lowest_is_taken():
    # one of two positives and no false one (1 + 0.5), or both with one of two negatives (0.5 + 1)
    scores, targets = np.array([0.9, 0.7, 0.5, 0.1]), np.array([1.0, 0.0, 1.0, 0.0])
    assert chosen(scores, targets, "youden") == pytest.approx(0.3)


@pytest.mark.parametrize("rule", ["f1", "youden", "sensitivity=0.9", "specificity=0.9"])
def test_labels_with_one_class_are_named_and_get_a_half(rule):
    targets = [[1, 0, np.nan, 0], [1, 0, np.nan, 1]]
    found, undefined = choose_thresholds(predictions_of(np.full((2, 4), 0.1), targets), rule)
    assert undefined == ["label 0", "label 1", "label 2"] and found[:3].tolist() == [0.5] * 3 and found[3] != 0.5


def test_a_number_is_taken_as_it_is():
    thresholds, undefined = choose_thresholds(made_up_predictions(labels=3), "0.25")
    assert thresholds.tolist() == [0.25] * 3 and undefined == []


@pytest.mark.parametrize(
    "rule", ["", "best", "F1", "1.5", "nan", "sensitivity", "sensitivity=", "sensitivity=90", "f1=0.9", "=0.9"]
)
def test_other_rules_are_refused(rule):
    with pytest.raises(UserError, match="no such rule; give one of") as caught:
        choose_thresholds(made_up_predictions(), rule)
    assert "\n" not in str(caught.value)


def test_a_number_is_no_rule_to_choose_by():
    rules = ("0.5", "1", "f1", "youden", "sensitivity=0.9")
    assert [parse_rule(rule) is None for rule in rules] == [True, True, False, False, False]
    with pytest.raises(UserError, match="'f2': no such rule"):
        parse_rule("f2")
