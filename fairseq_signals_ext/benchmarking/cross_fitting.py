"""Cross-fit probes of frozen features: each recording is scored by a probe that was trained on other patients.

Penalty and layer are chosen inside the training folds. For the probe that is tested on fold i, each training fold j is
scored by a probe that was trained on all folds but i and j; the same probe is used when j is the tested fold.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.benchmarking.linear_probes import Design, Fits, logistic_path, penalties, ridge_path
from fairseq_signals_ext.benchmarking.targets import Known
from fairseq_signals_ext.evaluation.metrics import macro

# used if nothing can be compared inside the training folds, such as with one recording of each class
_UNDECIDED_PENALTY = 1


@dataclass(frozen=True)
class Fitted:
    """Scores of recordings by probes that were trained on other recordings.

    Attributes:
        scores: float64, N x L: log odds of labels, or numbers in their unit; NaN for recordings that are not tested.
        choices: the chosen layer and penalty for each fold, as plain values.
    """

    scores: np.ndarray
    choices: List[Dict[str, Any]]


def cross_fit(
    matrix: Callable[[int], np.ndarray],
    layers: Sequence[int],
    known: Known,
    fold: np.ndarray,
    trains: np.ndarray,
    names: Sequence[str],
) -> Fitted:
    """Compute cross-fitted scores of all recordings.

    Args:
        matrix: returns the features (N x E) of a layer, by its number.
        layers: the layers to choose from.
        known: targets of the N recordings.
        fold: int64, N, from 0.
        trains: bool, N: recordings for training probes and for choosing.
        names: names of all layers.
    """
    path = ridge_path if known.task.is_regression else logistic_path
    folds = int(fold.max()) + 1
    values = np.stack([_inner_values(matrix(layer), known, fold, trains, path) for layer in layers])
    scores, choices = np.full(known.targets.shape, np.nan), []
    for tested in range(folds):
        place, penalty = _best(values[:, tested])
        features, training = matrix(layers[place]), (fold != tested) & trains
        scores[fold == tested] = _path_scores(
            features[training], known.targets[training], features[fold == tested], path, penalty + 1
        )[penalty]
        curve = {names[layer]: _rounded(_best_value(of_layer)) for layer, of_layer in zip(layers, values[:, tested])}
        chosen = {"layer": names[layers[place]], "penalty": penalties(path)[penalty]}
        choices.append({"fold": tested, **chosen, "inside": curve, "trained_on": int(training.sum())})
    return Fitted(scores, choices)


def _inner_values(features: np.ndarray, known: Known, fold: np.ndarray, trains: np.ndarray, path: Fits) -> np.ndarray:
    """Return the metric of each penalty inside the training folds of each tested fold: folds x penalties."""
    folds, count = int(fold.max()) + 1, len(penalties(path))
    inner = np.full((folds, count, *known.targets.shape), np.nan)
    for one, other in combinations(range(folds), 2):
        training = (fold != one) & (fold != other) & trains
        if not training.any():
            continue
        rows = np.flatnonzero(((fold == one) | (fold == other)) & trains)
        scores = _path_scores(features[training], known.targets[training], features[rows], path, count)
        inner[other][:, rows[fold[rows] == one]] = scores[:, fold[rows] == one]
        inner[one][:, rows[fold[rows] == other]] = scores[:, fold[rows] == other]
    measure = r2 if known.task.is_regression else fast_auroc
    values = np.full((folds, count), np.nan)
    for tested in range(folds):
        rows = ~np.isnan(inner[tested][0, :, 0])
        for penalty in range(count):
            values[tested, penalty] = macro(measure(inner[tested][penalty][rows], known.targets[rows]))
    return values


def _path_scores(training: np.ndarray, targets: np.ndarray, tested: np.ndarray, path: Fits, count: int) -> np.ndarray:
    """Return scores of tested recordings for the first `count` penalties: penalties x recordings x labels."""
    design = Design(training)
    turned, scores = design.turned(tested), []
    for linear in path(design, targets):
        scores.append(turned @ linear.weights + linear.intercepts)
        if len(scores) == count:
            break
    return np.stack(scores)


def _best(values: np.ndarray) -> Tuple[int, int]:
    """Return the positions of the layer and the penalty with the highest value (layers x penalties)."""
    if np.isnan(values).all():
        return len(values) - 1, _UNDECIDED_PENALTY
    layer, penalty = np.unravel_index(np.nanargmax(values), values.shape)
    return int(layer), int(penalty)


def _best_value(values: np.ndarray) -> float:
    return float("nan") if np.isnan(values).all() else float(np.nanmax(values))


def _rounded(value: float) -> Any:
    return None if np.isnan(value) else round(value, 6)


def fast_auroc(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Compute `evaluation.metrics.auroc` (L) by ranks, about ten times faster; both arguments are N x L."""
    from scipy.stats import rankdata

    values = np.full(scores.shape[1], np.nan)
    for label, (score, target) in enumerate(zip(scores.T, targets.T)):
        known = ~np.isnan(target)
        positive = target[known] == 1
        count, others = int(positive.sum()), int((~positive).sum())
        if count and others:
            ranks = rankdata(score[known])
            values[label] = (ranks[positive].sum() - count * (count + 1) / 2) / (count * others)
    return values


def r2(predicted: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the explained share of the variance of each number (L); NaN without variance. Both are N x L."""
    known = ~np.isnan(targets)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, targets, 0).sum(axis=0) / count
    spread, errors = (np.where(known, (targets - other) ** 2, 0).sum(axis=0) for other in (mean, predicted))
    return np.divide(errors, spread, out=np.full(len(spread), np.nan), where=spread > 0) * -1 + 1
