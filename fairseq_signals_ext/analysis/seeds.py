"""Compare two groups of trainings that differ only in their seed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Iterator, List, Mapping, Sequence

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation.predictions import Predictions
from fairseq_signals_ext.evaluation.ranking import WEIGHTED, Ranking, rank
from fairseq_signals_ext.evaluation.resampling import interval, mean_of_defined, mirrored, p_value, resampled

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SeedComparison:
    """Comparison of two groups of models. Metrics are macro averages over labels; NaN: undefined.

    Attributes:
        groups: one row per group and metric: `group`, `metric`, `mean` over the seeds with its interval, `low` to
            `high`, and `spread`, the standard deviation over the seeds (NaN for one seed).
        differences: one row per metric: `metric`, `difference` (mean of the first group minus mean of the second),
            `low`, `high`, and the two-sided `p`.
        seeds: one row per model: `group`, `number` (its position in the group, from 0), and one column per metric.
        patients: number of resampled patients.
    """

    groups: "pd.DataFrame"
    differences: "pd.DataFrame"
    seeds: "pd.DataFrame"
    patients: int


def compare_seeds(
    groups: Mapping[str, Sequence[Predictions]], resamples: int = 1000, seed: int = 1, confidence: float = 0.95
) -> SeedComparison:
    """Compute macro AUROC and AUPRC of two groups of models, and test whether the groups differ.

    All models share each resample of patients, so intervals and p (as in `bootstrap.paired_difference`) show the
    uncertainty for other patients of the means over these seeds. The spread shows the variation between seeds.

    Args:
        groups: name -> predictions for recordings, one per seed; all for the same recordings in the same order.
        resamples: number of resamples.
        seed: random seed of the resamples.
        confidence: of the intervals.

    Raises:
        UserError: there are not two groups, one is empty, or recordings, patients, labels or targets differ.
    """
    if len(groups) != 2 or not all(map(len, groups.values())):
        raise UserError(f"{', '.join(groups) or 'nothing'}: give two groups, each with the predictions of some seeds")
    _check_same([model for models in groups.values() for model in models])
    first = next(iter(groups.values()))[0]
    rankings = {name: [_rank_labels(model) for model in models] for name, models in groups.items()}
    weights = np.ones((len(first), 1))
    points = {name: np.stack([_macro(model, weights) for model in models])[..., 0] for name, models in rankings.items()}
    drawn = _means_of_resamples(rankings, first.patient, resamples, seed)
    return SeedComparison(
        groups=_group_table(points, _mirrored_groups(points, drawn, len(np.unique(first.patient))), confidence),
        differences=_difference_table(points, drawn, confidence),
        seeds=_seed_table(points),
        patients=len(np.unique(first.patient)),
    )


def _check_same(models: Sequence[Predictions]) -> None:
    first = models[0]
    if not len(first):
        raise UserError("there are no predictions to compare; the subset is empty")
    for number, model in enumerate(models):
        model.check()
        same = model.label_names == first.label_names and all(
            np.array_equal(getattr(model, name), getattr(first, name), equal_nan=name == "targets")
            for name in ("idx", "patient", "targets")
        )
        if not same:
            problem = f"model {number + 1} has other recordings, patients, labels or targets than the first"
            raise UserError(f"{problem}; take the same subset and label file for all")


def _rank_labels(model: Predictions) -> List[Ranking]:
    return [rank(scores, targets) for scores, targets in zip(model.scores.T, model.targets.T)]


def _macro(labels: Sequence[Ranking], weights: np.ndarray) -> np.ndarray:
    """Means over labels with a defined value in a resample, metrics x resamples; weights: items x resamples."""
    values = np.empty((len(WEIGHTED), len(labels), weights.shape[1]))
    for label, ranking in enumerate(labels):
        weighed = ranking.weigh(weights)
        for place, metric in enumerate(WEIGHTED.values()):
            values[place, label] = metric(*weighed)
    return mean_of_defined(values, axis=1)[:, 0]


def _means_of_resamples(
    rankings: Mapping[str, Sequence[Sequence[Ranking]]], patients: np.ndarray, resamples: int, seed: int
) -> Mapping[str, np.ndarray]:
    """Means over the models of each group, metrics x resamples."""
    blocks = []
    for weights in _resample(patients, resamples, seed):
        means = [np.mean([_macro(model, weights) for model in models], axis=0) for models in rankings.values()]
        blocks.append(means)
    return dict(zip(rankings, np.concatenate(blocks, axis=2)))


def _resample(patients: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield weights of items in blocks, items x resamples."""
    different, patient = np.unique(patients, return_inverse=True)
    for weights in resampled(len(different), resamples, seed, rows=len(patients)):
        yield weights[patient].astype(np.float64)


def _mirrored_groups(
    points: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray], patients: int
) -> Mapping[str, np.ndarray]:
    return {name: mirrored(points[name].mean(axis=0)[:, None], means, patients) for name, means in drawn.items()}


def _group_table(
    points: Mapping[str, np.ndarray], means: Mapping[str, np.ndarray], confidence: float
) -> "pd.DataFrame":
    import pandas as pd

    rows = []
    for name, of_seeds in points.items():
        for metric, values, mirrored_means in zip(WEIGHTED, of_seeds.T, means[name]):
            spread = values.std(ddof=1) if len(values) > 1 else np.nan
            rows.append((name, metric, values.mean(), *interval(mirrored_means, confidence), spread))
    return pd.DataFrame(rows, columns=["group", "metric", "mean", "low", "high", "spread"])


def _difference_table(
    points: Mapping[str, np.ndarray], drawn: Mapping[str, np.ndarray], confidence: float
) -> "pd.DataFrame":
    import pandas as pd

    first, second = (of_seeds.mean(axis=0) for of_seeds in points.values())
    ours, theirs = drawn.values()
    values = mirrored((first - second)[:, None], ours - theirs)
    rows = [
        (metric, difference, *interval(row, confidence), p_value(row))
        for metric, difference, row in zip(WEIGHTED, first - second, values)
    ]
    return pd.DataFrame(rows, columns=["metric", "difference", "low", "high", "p"])


def _seed_table(points: Mapping[str, np.ndarray]) -> "pd.DataFrame":
    import pandas as pd

    rows = [(name, number, *values) for name, models in points.items() for number, values in enumerate(models)]
    return pd.DataFrame(rows, columns=["group", "number", *WEIGHTED])
