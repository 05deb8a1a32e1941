"""How well values are predicted, such as age in years; with intervals by resampled patients.

Recordings of one patient are alike, so that patients are drawn, as in `bootstrap`. Intervals are basic ones, mirrored
on the scale where the metric has no end: MAE, RMSE and 1 - R2 by their logarithm, Pearson's r by Fisher's
transformation (Davison and Hinkley 1997, section 5.2). Of 400 made-up data sets of 100 patients with three recordings,
95 % intervals held the truth in .95 to .96 (MAE, RMSE, R2, r alike). What falls short: where errors have heavy tails
(Student's t of 4 degrees of freedom) .94 for MAE, but .86 to .88 for the others, which hang on the few largest errors.
"""

from typing import TYPE_CHECKING, Dict, Iterable, List, Tuple

import numpy as np

from fairseq_signals_ext.evaluation.bootstrap import check_settings, interval, mirrored, p_value, resampled
from fairseq_signals_ext.evaluation.predictions import Predictions, matched

if TYPE_CHECKING:
    import pandas as pd

# metrics that have an interval
WITH_INTERVAL = ("mae", "rmse", "r2", "pearson_r")
_COLUMNS = ("mae", "rmse", "mse", "r2", "pearson_r", "bias")
_SUMS = 8
_ROUNDING = 1e-12


def label_metrics(predictions: Predictions) -> "pd.DataFrame":
    """Metrics of each label, a row a label, in the label's own unit; NaN where undefined.

    Args:
        predictions: values as scores and targets; items whose target is NaN take no part.

    Returns:
        Columns `label`, `known`, `mae`, `rmse`, `mse`, `r2` (undefined with fewer than two known, or if all are equal),
        `pearson_r` (also undefined if all predicted are equal), and `bias`, the mean of predicted minus known.

    Raises:
        UserError: shapes differ, or a predicted value is not finite.
    """
    import pandas as pd

    predictions.check()
    rows: List[Dict[str, object]] = []
    for label, name in enumerate(predictions.label_names):
        known = ~np.isnan(predictions.targets[:, label])
        predicted, target = predictions.scores[known, label], predictions.targets[known, label]
        rows.append({"label": name, "known": len(target), **_metrics(predicted, target)})
    return pd.DataFrame(rows, columns=["label", "known", *_COLUMNS])


def _metrics(predicted: np.ndarray, target: np.ndarray) -> Dict[str, float]:
    from scipy.stats import pearsonr
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

    values = dict.fromkeys(_COLUMNS, float("nan"))
    if not len(target):
        return values
    squared = float(mean_squared_error(target, predicted))
    values.update(mae=float(mean_absolute_error(target, predicted)), mse=squared, rmse=float(np.sqrt(squared)))
    values["bias"] = float((predicted - target).mean())
    if np.ptp(target) > 0:
        values["r2"] = float(r2_score(target, predicted))
    if np.ptp(target) > 0 and np.ptp(predicted) > 0:
        values["pearson_r"] = float(pearsonr(predicted, target)[0])
    return values


def bootstrap(
    predictions: Predictions, resamples: int = 1000, seed: int = 1, confidence: float = 0.95, progress: bool = False
) -> "pd.DataFrame":
    """Metrics with intervals.

    Args:
        predictions: as a rule of recordings.
        resamples: of patients, how many to draw.
        seed: the same one draws the same resamples.
        confidence: of the intervals.
        progress: show a bar.

    Returns:
        A row a label and metric of `WITH_INTERVAL`: `label`, `metric`, `point`, `low`, `high`, and
        `undefined_resamples`, which are left out of the interval. NaN where undefined.

    Raises:
        UserError: a setting is out of range, or there are values of which no metric can be had.
    """
    check_settings(predictions, resamples, confidence)
    sums = _patient_sums(predictions)
    points, drawn = _points_and_resamples(sums, resamples, seed, progress)
    return _table(predictions, zip(points, _mirrored_metrics(points, drawn)), confidence)


def paired_difference(
    a: Predictions,
    b: Predictions,
    resamples: int = 1000,
    seed: int = 1,
    confidence: float = 0.95,
    progress: bool = False,
) -> "pd.DataFrame":
    """What model `a` has more than `b` in each metric, with interval and p as `bootstrap.paired_difference` has them.

    Args:
        a, b: of the same items and labels; else as for `bootstrap`.

    Returns:
        As `bootstrap`, and `p`.

    Raises:
        UserError: recordings, patients, labels or known values differ, or as for `bootstrap`.
    """
    for predictions in (a, b):
        check_settings(predictions, resamples, confidence)
    a, b = matched(a, b)
    ours, theirs = (_points_and_resamples(_patient_sums(model), resamples, seed, progress) for model in (a, b))
    points, drawn = ours[0] - theirs[0], ours[1] - theirs[1]
    rows = [(point, mirrored(point, values)) for point, values in zip(points, drawn)]
    table = _table(a, rows, confidence)
    return table.assign(p=[p_value(label) for _, values in rows for label in values])


def _points_and_resamples(sums: np.ndarray, resamples: int, seed: int, progress: bool) -> Tuple[np.ndarray, np.ndarray]:
    """Metrics x labels x 1 of the items as they are, and metrics x labels x resamples."""
    _, labels, patients = sums.shape
    blocks = resampled(patients, resamples, seed, rows=_SUMS * labels, progress=progress)
    drawn = [_weighted_metrics(sums @ weights.astype(np.float64)) for weights in blocks]
    return _weighted_metrics(sums.sum(axis=2, keepdims=True)), np.concatenate(drawn, axis=2)


def _mirrored_metrics(points: np.ndarray, drawn: np.ndarray) -> List[np.ndarray]:
    """Mirrored values of each metric, from those of `_points_and_resamples`."""
    mae, rmse, r2, r = zip(points, drawn)
    angles = (np.arctanh(np.clip(values, _ROUNDING - 1, 1 - _ROUNDING)) for values in r)
    return [
        _mirrored_log(*mae),
        _mirrored_log(*rmse),
        1 - _mirrored_log(*(1 - values for values in r2)),
        np.tanh(mirrored(*angles)),
    ]


def _mirrored_log(point: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """exp(2 log(point) - log(drawn)); 0 stays 0, and is infinite where only a resample is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(point == 0, drawn, point**2 / drawn)


def _patient_sums(predictions: Predictions) -> np.ndarray:
    """What the metrics need of each patient's known items: sums x labels x patients.

    Targets and predicted values are counted from the label's mean, so that differences of sums lose no digits.
    """
    known = ~np.isnan(predictions.targets)
    count = np.maximum(known.sum(axis=0), 1)
    target, predicted = (np.where(known, x, 0) for x in (predictions.targets, predictions.scores))
    error = predicted - target
    target, predicted = (np.where(known, x - x.sum(axis=0) / count, 0) for x in (target, predicted))
    items = (known, abs(error), error**2, target, predicted, target**2, predicted**2, target * predicted)
    order = np.argsort(predictions.patient, kind="stable")
    starts = np.unique(predictions.patient[order], return_index=True)[1]
    return np.stack([np.add.reduceat(values[order].astype(np.float64), starts).T for values in items])


def _weighted_metrics(sums: np.ndarray) -> np.ndarray:
    """Metrics, in the order of `WITH_INTERVAL`, from sums; NaN where undefined.

    A spread that is no more than what rounding leaves of equal values is none.
    """
    count, absolute, squared, target, predicted, target_squares, predicted_squares, products = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        of_targets = _spread(target_squares, target, count)
        of_predicted = _spread(predicted_squares, predicted, count)
        covariance = products - target * predicted / count
        correlation = np.clip(covariance / np.sqrt(of_targets * of_predicted), -1, 1)
        return np.stack([absolute / count, np.sqrt(squared / count), 1 - squared / of_targets, correlation])


def _spread(squares: np.ndarray, total: np.ndarray, count: np.ndarray) -> np.ndarray:
    spread = squares - total**2 / count
    return np.where(spread > _ROUNDING * squares, spread, np.nan)


def _table(
    predictions: Predictions, metrics: Iterable[Tuple[np.ndarray, np.ndarray]], confidence: float
) -> "pd.DataFrame":
    """A row a metric and label from points (labels x 1) and mirrored values (labels x resamples) of each metric."""
    import pandas as pd

    rows = []
    for metric, (points, values) in zip(WITH_INTERVAL, metrics):
        for name, point, row in zip(predictions.label_names, points[:, 0], values):
            rows.append((name, metric, point, *interval(row, confidence), int(np.isnan(row).sum())))
    return pd.DataFrame(rows, columns=["label", "metric", "point", "low", "high", "undefined_resamples"])
