"""Metrics of a classification, for each label and over all labels.

`scores` and `targets` are float64, N items x L labels; targets are 1, 0, or NaN (unknown, ignored). A metric that needs
positives and negatives is NaN (undefined) for a label with only one class, and left out of means, never counted as 0.
An item is called positive if its score is not below the label's threshold, see `thresholds.called`.
"""

from typing import TYPE_CHECKING, Any, Callable, Dict, Optional

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation.calibration import brier, expected_calibration_error
from fairseq_signals_ext.evaluation.predictions import Predictions
from fairseq_signals_ext.evaluation.ranking import operating_points
from fairseq_signals_ext.evaluation.thresholds import called

if TYPE_CHECKING:
    import pandas as pd

# columns of `label_metrics` that are not metrics
NOT_METRICS = ("label", "known", "positives", "threshold", "tp", "fp", "fn", "tn")
_WANTED = 0.9


def auroc(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each label (L), by scikit-learn's `roc_auc_score`; NaN where undefined."""
    from sklearn.metrics import roc_auc_score

    return _each_label(lambda score, target: roc_auc_score(target, score), scores, targets)


def auprc(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Average precision of each label (L), by scikit-learn's `average_precision_score`; NaN where undefined."""
    from sklearn.metrics import average_precision_score

    return _each_label(lambda score, target: average_precision_score(target, score), scores, targets)


def auprg(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Area under the precision-recall-gain curve of each label (L); NaN where undefined.

    1 is perfect, and calling everything positive gives 0 for any share of positives, so labels can be compared and
    averaged; it can be negative (Flach and Kull 2015, "Precision-Recall-Gain Curves: PR Analysis Done
    Right").
    """
    return _each_label(_area_under_gains, scores, targets)


def _area_under_gains(scores: np.ndarray, targets: np.ndarray) -> float:
    """The area under straight lines between operating points.

    With odds = negatives / positives, the gains are precG = 1 - FP / (odds TP) and recG = 1 - FN / (odds TP).

    Both are linear in 1 / TP where FP is linear in TP, that is between neighbouring operating points: the curve
    consists of straight lines, from where recG = 0 (recall equals the share of positives) to recG = 1.
    """
    _, true, false = operating_points(scores, targets)
    positives, negatives = true[-1], false[-1]
    start = positives * positives / (positives + negatives)
    segment = np.flatnonzero((np.diff(true) > 0) & (true[1:] > start))
    left, right = np.maximum(true[segment], start), true[segment + 1]
    slope = (false[segment + 1] - false[segment]) / (right - true[segment])
    false_left, false_right = false[segment] + slope * (left - true[segment]), false[segment + 1]
    odds = negatives / positives
    height = 1 - (false_left / left + false_right / right) / (2 * odds)
    width = (positives / left - positives / right) / odds
    return float((width * height).sum())


def macro(values: np.ndarray) -> float:
    """Mean of a metric over the labels with a defined value; NaN if there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def micro_auroc(scores: np.ndarray, targets: np.ndarray) -> float:
    """Area under the ROC curve of all known pairs of item and label, pooled; NaN where undefined."""
    return float(auroc(scores.reshape(-1, 1), targets.reshape(-1, 1))[0])


def micro_auprc(scores: np.ndarray, targets: np.ndarray) -> float:
    """Average precision of all known pairs of item and label, pooled; NaN where undefined."""
    return float(auprc(scores.reshape(-1, 1), targets.reshape(-1, 1))[0])


def sensitivity_at_specificity(scores: np.ndarray, targets: np.ndarray, wanted: float = _WANTED) -> np.ndarray:
    """The highest sensitivity of each label (L) at a threshold with at least the wanted specificity."""

    def best(score: np.ndarray, target: np.ndarray) -> float:
        _, true, false = operating_points(score, target)
        return float((true / true[-1])[(false[-1] - false) / false[-1] >= wanted].max())

    return _each_label(best, scores, targets)


def specificity_at_sensitivity(scores: np.ndarray, targets: np.ndarray, wanted: float = _WANTED) -> np.ndarray:
    """The highest specificity of each label (L) at a threshold with at least the wanted sensitivity."""

    def best(score: np.ndarray, target: np.ndarray) -> float:
        _, true, false = operating_points(score, target)
        return float(((false[-1] - false) / false[-1])[true / true[-1] >= wanted].max())

    return _each_label(best, scores, targets)


def _each_label(
    metric: Callable[[np.ndarray, np.ndarray], float], scores: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """A metric of each label's known items; NaN without both classes, or where a score is not a finite number."""
    values = np.full(scores.shape[1], np.nan)
    for label in range(scores.shape[1]):
        known = ~np.isnan(targets[:, label])
        score, target = scores[known, label], targets[known, label]
        if (target == 1).any() and (target == 0).any() and np.isfinite(score).all():
            values[label] = metric(score, target)
    return values


def confusion(scores: np.ndarray, targets: np.ndarray, thresholds: np.ndarray) -> Dict[str, np.ndarray]:
    """Counts `tp`, `fp`, `fn` and `tn` of each label (int64, L) at its threshold (L)."""
    positive = called(scores, thresholds)
    cells = {"tp": positive & (targets == 1), "fp": positive & (targets == 0)}
    cells.update(fn=~positive & (targets == 1), tn=~positive & (targets == 0))
    return {name: cell.sum(axis=0) for name, cell in cells.items()}


def threshold_metrics(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, tn: np.ndarray) -> Dict[str, np.ndarray]:
    """Metrics of a confusion matrix, from counts or weights of any shape; NaN for a division by 0.

    F1 is undefined without both classes; precision where nothing is called positive, and npv where all is.
    """
    both = (tp + fn > 0) & (fp + tn > 0)
    return {
        "f1": np.where(both, _ratio(2 * tp, 2 * tp + fp + fn), np.nan),
        "sensitivity": _ratio(tp, tp + fn),
        "specificity": _ratio(tn, fp + tn),
        "precision": _ratio(tp, tp + fp),
        "npv": _ratio(tn, fn + tn),
        "accuracy": _ratio(tp + tn, tp + fp + fn + tn),
    }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


def thresholds_of(predictions: Predictions, thresholds: Optional[np.ndarray]) -> np.ndarray:
    """A threshold per label (float64, L): the given ones, by default 0.5, or NaN for labels that exclude one another.

    Raises:
        UserError: they are not one per label.
    """
    labels = len(predictions.label_names)
    default = np.nan if predictions.exclusive else 0.5
    chosen = np.full(labels, default) if thresholds is None else np.asarray(thresholds, np.float64)
    if chosen.shape != (labels,):
        raise UserError(f"thresholds: {chosen.shape}, but there are {labels} labels; give one for each")
    return chosen


def label_metrics(predictions: Predictions, thresholds: Optional[np.ndarray] = None) -> "pd.DataFrame":
    """All metrics of each label, one row per label; NaN where undefined.

    Args:
        thresholds: of the labels (L); default 0.5.

    Returns:
        Columns `label`, `known`, `positives`, `auroc`, `auprc`, `auprg`, `f1_at_0.5`, `threshold`, and at it `f1`,
        `sensitivity`, `specificity`, `precision`, `npv`, `accuracy`; `sensitivity_at_90_specificity`,
        `specificity_at_90_sensitivity`, `brier`, `ece`; `tp`, `fp`, `fn`, `tn` at the threshold.

    Raises:
        UserError: thresholds are not one per label, or metrics cannot be computed.
    """
    import pandas as pd

    predictions.check()
    scores, targets, thresholds = predictions.scores, predictions.targets, thresholds_of(predictions, thresholds)
    counts = confusion(scores, targets, thresholds)
    half = confusion(scores, targets, np.full_like(thresholds, 0.5))
    return pd.DataFrame(
        {
            "label": list(predictions.label_names),
            "known": (~np.isnan(targets)).sum(axis=0),
            "positives": (targets == 1).sum(axis=0),
            **_ranked(scores, targets),
            "f1_at_0.5": threshold_metrics(**half)["f1"],
            "threshold": thresholds,
            **threshold_metrics(**counts),
            **_fixed(scores, targets),
            **counts,
        }
    )


def _ranked(scores: np.ndarray, targets: np.ndarray) -> Dict[str, np.ndarray]:
    return {
        "auroc": auroc(scores, targets),
        "auprc": auprc(scores, targets),
        "auprg": auprg(scores, targets),
    }


def _fixed(scores: np.ndarray, targets: np.ndarray) -> Dict[str, np.ndarray]:
    return {
        "sensitivity_at_90_specificity": sensitivity_at_specificity(scores, targets),
        "specificity_at_90_sensitivity": specificity_at_sensitivity(scores, targets),
        "brier": brier(scores, targets),
        "ece": expected_calibration_error(scores, targets),
    }


def summary(predictions: Predictions, thresholds: Optional[np.ndarray] = None) -> Dict[str, Any]:
    """All metrics over all labels; NaN where undefined.

    Args:
        thresholds: of the labels (L); default 0.5.

    Returns:
        `macro`: the mean of each metric over the labels for which it is defined. `micro`: each metric of all known
        pairs of item and label, pooled. `undefined`: for each metric that some labels are left out of, their names.
        `exact_match`: share of items with all labels correct, among items with all labels known.

    Raises:
        UserError: as for `label_metrics`.
    """
    table = label_metrics(predictions, thresholds)
    names = [name for name in table.columns if name not in NOT_METRICS]
    missing = {name: table.loc[table[name].isna(), "label"].tolist() for name in names}
    return {
        "macro": {name: macro(table[name].to_numpy()) for name in names},
        "micro": _micro(predictions, table["threshold"].to_numpy()),
        "undefined": {name: labels for name, labels in missing.items() if labels},
        "exact_match": _exact_match(predictions, table["threshold"].to_numpy()),
    }


def _micro(predictions: Predictions, thresholds: np.ndarray) -> Dict[str, float]:
    scores, targets = predictions.scores, predictions.targets

    def at(thresholds: np.ndarray) -> Dict[str, np.ndarray]:
        counts = confusion(scores, targets, thresholds)
        return threshold_metrics(**{name: np.atleast_1d(count.sum()) for name, count in counts.items()})

    pooled = scores.reshape(-1, 1), targets.reshape(-1, 1)
    half = {"f1_at_0.5": at(np.full_like(thresholds, 0.5))["f1"]}
    values = {**_ranked(*pooled), **half, **at(thresholds), **_fixed(*pooled)}
    return {name: float(value[0]) for name, value in values.items()}


def _exact_match(predictions: Predictions, thresholds: np.ndarray) -> float:
    known = ~np.isnan(predictions.targets).any(axis=1)
    right = called(predictions.scores[known], thresholds) == (predictions.targets[known] == 1)
    return float(right.all(axis=1).mean()) if known.any() else float("nan")
