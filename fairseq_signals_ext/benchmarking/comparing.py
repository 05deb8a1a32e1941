"""Compute metrics with intervals, and paired differences of models, from scores of their probes.

With the protocol strict, a resample draws patients, the same for all models, and seeds of the folds: a model's value is
the mean over the drawn seeds. With several sources, a label's metric is the mean over its values within each source, so
that recognising the source has no advantage.
"""

from dataclasses import dataclass
from typing import Dict, Mapping, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.benchmarking.protocols import BenchmarkSettings
from fairseq_signals_ext.benchmarking.targets import Known
from fairseq_signals_ext.evaluation.bootstrap import Values, Weighted, gather, weighted
from fairseq_signals_ext.evaluation.predictions import Predictions
from fairseq_signals_ext.evaluation.resampling import interval, mean_of_defined, mirrored, p_value, resampled

OF_CLASSES = ("auroc", "auprc")
OF_NUMBERS = ("r2", "mae")
# metric: whether lower values are better
FALLING = ("mae",)
_UNDEFINED = 0.5  # as in iclr2026


@dataclass(frozen=True)
class Measured:
    """Metrics of a model on a task.

    Attributes:
        point: metric -> (L labels, then the macro average).
        drawn: metric -> values of the macro average in the resamples.
        ends: metric -> (L + 1) x 2, low and high.
        of_seeds: metric -> the macro average for each seed.
    """

    point: Mapping[str, np.ndarray]
    drawn: Mapping[str, np.ndarray]
    ends: Mapping[str, np.ndarray]
    of_seeds: Mapping[str, np.ndarray]


def metrics_of(known: Known) -> Tuple[str, ...]:
    """Return the metrics of a task, the primary one first."""
    return OF_NUMBERS if known.task.is_regression else OF_CLASSES


def measure(scores: Sequence[np.ndarray], known: Known, settings: BenchmarkSettings) -> Measured:
    """Compute metrics of a model with intervals.

    Args:
        scores: N x L for each seed; all recordings are tested.
        known: targets of the N recordings.
    """
    metrics = metrics_of(known)
    runs = [_resample(known, one, metrics, settings) for one in scores]
    shares = _seed_shares(len(scores), settings)
    point, macro_drawn, ends, of_seeds = {}, {}, {}, {}
    for metric in metrics:
        seeds = np.stack([run.point[metric] for run in runs])
        drawn = sum(share * run.drawn[metric] for share, run in zip(shares, runs))
        point[metric] = seeds.mean(axis=0)
        values = drawn if not settings.is_strict else runs[0].model.mirrored(metric, point[metric][:, None], drawn)
        ends[metric] = np.array([interval(row, settings.confidence) for row in values])
        macro_drawn[metric], of_seeds[metric] = drawn[-1], seeds[:, -1]
    return Measured(point, macro_drawn, ends, of_seeds)


def difference(a: Measured, b: Measured, metric: str, confidence: float) -> Tuple[float, float, float, float]:
    """Return by how much model a exceeds b in the macro average, the ends of the interval, and p."""
    point = a.point[metric][-1] - b.point[metric][-1]
    values = mirrored(np.array([[point]]), (a.drawn[metric] - b.drawn[metric])[None])[0]
    return float(point), *interval(values, confidence), p_value(values)


@dataclass(frozen=True)
class _Resampled:
    """Return values (L + 1) for one seed, and values in resamples."""

    model: Weighted
    point: Values
    drawn: Values


def _resample(known: Known, scores: np.ndarray, metrics: Sequence[str], settings: BenchmarkSettings) -> _Resampled:
    predictions, sources = _within_sources(known, known.predictions(scores, by_record=not settings.is_strict), settings)
    predictions.check()
    model = weighted(predictions, metrics, with_averages=False)
    patients = len(np.unique(predictions.patient))
    point = _averaged(model(np.ones((patients, 1))), sources, None)
    blocks = resampled(patients, settings.resamples, settings.seed, model.rows)
    undefined = None if settings.is_strict else _UNDEFINED
    drawn = gather(_averaged(model(weights), sources, undefined) for weights in blocks)
    return _Resampled(model, {metric: values[:, 0] for metric, values in point.items()}, drawn)


def _within_sources(known: Known, found: Predictions, settings: BenchmarkSettings) -> Tuple[Predictions, int]:
    """Return predictions with a column per label and source, and the number of sources."""
    names = np.unique(known.source)
    if len(names) == 1 or not settings.is_strict:
        return found, 1
    inside = (known.source[:, None] == names)[:, None, :]  # recordings x 1 x sources
    targets = np.where(inside, found.targets[:, :, None], np.nan).reshape(len(found), -1)
    scores = np.repeat(found.scores, len(names), axis=1)
    labels = tuple(f"{label} in {name}" for label in found.label_names for name in names)
    arrays = {"scores": scores, "targets": targets, "label_names": labels}
    return Predictions(**{**vars(found), **arrays}), len(names)


def _averaged(values: Values, sources: int, undefined: Optional[float]) -> Values:
    """Return means over sources, followed by the macro average over labels: (L + 1) x resamples."""
    averaged: Dict[str, np.ndarray] = {}
    for metric, of_columns in values.items():
        labels = mean_of_defined(of_columns.reshape(-1, sources, of_columns.shape[1]), axis=1)[:, 0]
        if undefined is not None and metric not in OF_NUMBERS:
            labels = np.where(np.isnan(labels), undefined, labels)
        averaged[metric] = np.concatenate([labels, mean_of_defined(labels, axis=0)])
    return averaged


def _seed_shares(seeds: int, settings: BenchmarkSettings) -> np.ndarray:
    """Draw seeds with replacement: the share of each seed in each resample, seeds x resamples."""
    rng = np.random.default_rng((settings.seed, 1))
    drawn = rng.integers(seeds, size=(settings.resamples, seeds))
    return np.stack([(drawn == seed).mean(axis=1) for seed in range(seeds)])
