"""How well values are predicted: age in years, ejection fraction in percent."""

from typing import TYPE_CHECKING, Dict, List

import numpy as np

from fairseq_signals_ext.evaluation.predictions import Predictions

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("mae", "rmse", "mse", "r2", "pearson_r", "pearson_low", "pearson_high", "bias")


def label_metrics(predictions: Predictions, confidence: float = 0.95) -> "pd.DataFrame":
    """Metrics of each label, a row a label, in the label's own unit; NaN where undefined.

    Args:
        predictions: values as scores and targets; items whose target is NaN take no part.
        confidence: of the interval of Pearson's r.

    Returns:
        Columns `label`, `known`, `mae`, `rmse`, `mse`, `r2` (undefined with fewer than two known, or if all are equal),
        `pearson_r` (also undefined if all predicted are equal) with its interval by Fisher's transformation
        `pearson_low` and `pearson_high` (from four known), and `bias`, the mean of predicted minus known.

    Raises:
        UserError: shapes differ, or a predicted value is not finite.
    """
    import pandas as pd

    predictions.check()
    rows: List[Dict[str, object]] = []
    for label, name in enumerate(predictions.label_names):
        known = ~np.isnan(predictions.targets[:, label])
        predicted, target = predictions.scores[known, label], predictions.targets[known, label]
        rows.append({"label": name, "known": len(target), **_metrics(predicted, target, confidence)})
    return pd.DataFrame(rows, columns=["label", "known", *_COLUMNS])


def _metrics(predicted: np.ndarray, target: np.ndarray, confidence: float) -> Dict[str, float]:
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
        correlation = pearsonr(predicted, target)
        values["pearson_r"] = float(correlation[0])
        if len(target) > 3:  # with fewer its standard error is infinite
            low, high = correlation.confidence_interval(confidence)
            values.update(pearson_low=float(low), pearson_high=float(high))
    return values
