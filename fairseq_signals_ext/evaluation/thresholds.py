"""Thresholds of labels: chosen on one subset and applied to another."""

from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation.predictions import Predictions
from fairseq_signals_ext.evaluation.ranking import operating_points

_RULES = "0.5 (or another number from 0 to 1), f1, youden, sensitivity=0.9, specificity=0.9"


class _Points(NamedTuple):
    """Sensitivity, specificity and F1 at each operating point, with decreasing thresholds."""

    sensitivity: np.ndarray
    specificity: np.ndarray
    f1: np.ndarray


Choose = Callable[[_Points], int]


def choose_thresholds(predictions: Predictions, rule: str) -> Tuple[np.ndarray, List[str]]:
    """Choose a threshold for each label.

    It is midway between the lowest positive score and the next lower one, so that small noise changes nothing. Of
    equally good thresholds the lowest is chosen, because it misses fewest.

    Args:
        predictions: of another subset than the evaluated one, usually the validation subset.
        rule: `f1` (highest F1), `youden` (highest sensitivity + specificity; Youden 1950), `sensitivity=X` (the highest
            specificity with at least this sensitivity), `specificity=X` (the reverse), or a number.

    Returns:
        Thresholds (float64, L), and the names of labels with only one class among known targets: these get 0.5.

    Raises:
        UserError: there is no such rule, or there are values that cannot be ranked.
    """
    choose = parse_rule(rule)
    predictions.check()
    if choose is None:
        return np.full(len(predictions.label_names), float(rule)), []
    thresholds, undefined = np.full(len(predictions.label_names), 0.5), []
    for label, name in enumerate(predictions.label_names):
        known = ~np.isnan(predictions.targets[:, label])
        score, target = predictions.scores[known, label], predictions.targets[known, label]
        if (target == 1).any() and (target == 0).any():
            thresholds[label] = _choose(score, target, choose)
        else:
            undefined.append(name)
    return thresholds, undefined


def _choose(scores: np.ndarray, targets: np.ndarray, choose: Choose) -> float:
    values, true, false = operating_points(scores, targets)
    positives, negatives = true[-1], false[-1]
    points = _Points(true / positives, (negatives - false) / negatives, 2 * true / (true + false + positives))
    return _midway(values, choose(points))


def _midway(values: np.ndarray, point: int) -> float:
    """The middle between a point's threshold and the next lower one; 0 follows the lowest, and infinity counts as 1."""
    lower = values[point + 1] if point + 1 < len(values) else min(0.0, values[point])
    upper = values[point] if point else max(1.0, np.nextafter(lower, np.inf))
    middle = (upper + lower) / 2
    return float(middle if middle > lower else upper)


def parse_rule(rule: str) -> Optional[Choose]:
    """The function that chooses an operating point; None if the rule is a number, which needs no subset.

    Raises:
        UserError: there is no such rule.
    """
    rules: Dict[str, Choose] = {
        "f1": lambda points: _last_best(points.f1),
        "youden": lambda points: _last_best(points.sensitivity + points.specificity),
    }
    if rule in rules:
        return rules[rule]
    if _fraction(rule) is not None:
        return None
    name, _, number = rule.partition("=")
    wanted = _fraction(number)
    if wanted is None or name not in ("sensitivity", "specificity"):
        raise UserError(f"thresholds {rule!r}: no such rule; give one of {_RULES}")
    if name == "sensitivity":  # it rises along the points, specificity falls
        return lambda points: _last_best(np.where(points.sensitivity >= wanted, points.specificity, -1))
    return lambda points: _last_best(np.where(points.specificity >= wanted, points.sensitivity, -1))


def _last_best(values: np.ndarray) -> int:
    """Position of the last highest value; values that differ only by rounding are equal."""
    return int(np.flatnonzero(values >= values.max() - 1e-12)[-1])


def _fraction(text: str) -> Optional[float]:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None


def called(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Whether each score is called positive: bool, N x L.

    Args:
        scores: float64, N x L.
        thresholds: float64, L: a score that is not below its label's threshold is positive; all NaN: the labels are
            classes that exclude one another, and the most probable one is positive.
    """
    if np.isnan(thresholds).all():
        return np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, np.newaxis]
    return scores >= thresholds
