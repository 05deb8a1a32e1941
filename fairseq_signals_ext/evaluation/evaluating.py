"""Evaluate one model on one subset: the computations."""

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.values import counted
from fairseq_signals_ext.evaluation import cinc2021, delong, metrics, regression
from fairseq_signals_ext.evaluation.bootstrap import Bootstrap, bootstrap
from fairseq_signals_ext.evaluation.predictions import Predictions, to_recordings
from fairseq_signals_ext.evaluation.text import lacking

if TYPE_CHECKING:
    import pandas as pd

# metrics that have an interval by bootstrap
WITH_INTERVAL = ("auroc", "auprc", "f1")
# with fewer positives or negatives, intervals are not reliable, see `bootstrap`
_FEW = 10
# the rule for labels that exclude one another, which need no threshold
EXCLUSIVE = "most probable"
_RULES = {"f1": "best F1", "youden": "best Youden index"}


@dataclass(frozen=True)
class Thresholds:
    """The lowest positive score of each label.

    Attributes:
        values: float64, L; NaN for labels that exclude one another, see `thresholds.called`.
        rule: how they were chosen, see `thresholds.choose_thresholds`.
        subset: subset that they were chosen on; None if the rule is a number.
        one_class: labels with only one class there, which get the threshold 0.5.
    """

    values: np.ndarray
    rule: str = "0.5"
    subset: Optional[str] = None
    one_class: Tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.rule if self.subset is None else f"{_RULES.get(self.rule, self.rule)} on {self.subset}"


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of an evaluation.

    Attributes:
        aggregation: of segments to recordings: `mean`, `max`, or `ecg-fm` (as in ECG-FM's tutorial); None: as in the
            model's config.
        label_aggregation: `mean` or `max` for single labels.
        resamples, confidence, seed: of the bootstrap.
        cinc_weights: weight matrix of the CinC 2021 Challenge; None: no Challenge score.
        label_codes: codes of each label, which match it to the Challenge's classes.
        progress: show a progress bar.
    """

    aggregation: Optional[str] = None
    label_aggregation: Mapping[str, str] = field(default_factory=dict)
    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 1
    cinc_weights: Optional[Path] = None
    label_codes: Sequence[Sequence[str]] = ()
    progress: bool = False


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of one model on one subset.

    Attributes:
        about: `checkpoint`, `subset` and `label_file`, as the user named them.
        settings: settings of the evaluation.
        segments: the model's predictions.
        recordings: the same, aggregated.
        per_label: one row per label: `metrics.label_metrics` of recordings, with intervals by bootstrap (`auroc_low`,
            ...) and, if `independent`, DeLong (`auroc_delong_low`, ...), `segment_auroc` and `segment_auprc`; of a
            regression `regression.label_metrics` with intervals, `segment_mae` and `segment_r2`.
        summaries: `recordings` and `segments`: `metrics.summary`, for recordings with intervals.
        thresholds: None for a regression.
        challenge: the CinC 2021 score, if it was requested.
        notes: sentences with warnings for the reader.
    """

    about: Mapping[str, Optional[str]]
    settings: EvaluationSettings
    segments: Predictions
    recordings: Predictions
    per_label: "pd.DataFrame"
    summaries: Dict[str, Dict[str, Any]]
    thresholds: Optional[Thresholds] = None
    challenge: Optional[cinc2021.Score] = None
    notes: Tuple[str, ...] = ()

    @property
    def patients(self) -> int:
        """Number of patients."""
        return len(np.unique(self.recordings.patient))

    @property
    def independent(self) -> bool:
        """Whether each recording has a different patient, as DeLong's method assumes."""
        return _independent(self.recordings)


# evaluates a kind of task; arguments: segments, recordings, about, settings, thresholds
Evaluator = Callable[
    [Predictions, Predictions, Mapping[str, Optional[str]], EvaluationSettings, Optional[Thresholds]], Evaluation
]


def _independent(recordings: Predictions) -> bool:
    return len(np.unique(recordings.patient)) == len(recordings)


def aggregate(segments: Predictions, settings: EvaluationSettings) -> Predictions:
    """Aggregate predictions of segments to recordings.

    Raises:
        UserError: the label or the aggregation does not exist.
    """
    for name in settings.label_aggregation:
        if name not in segments.label_names:
            raise UserError(f"--aggregate-label {name}: no such label; there are {', '.join(segments.label_names)}")
    return to_recordings(segments, settings.aggregation, settings.label_aggregation)


def evaluate(
    segments: Predictions,
    about: Mapping[str, Optional[str]],
    settings: EvaluationSettings,
    thresholds: Optional[Thresholds] = None,
    recordings: Optional[Predictions] = None,
) -> Evaluation:
    """Evaluate a model's predictions for the segments of a subset.

    Args:
        segments: their `kind` defines the metrics.
        about: `checkpoint`, `subset` and `label_file`, for the files.
        thresholds: default 0.5; not used for labels that exclude one another.
        recordings: predictions for recordings, if they differ from `aggregate` of the segments.

    Raises:
        UserError: there is nothing to evaluate, or a setting does not fit.
    """
    if not len(segments):
        raise UserError(f"subset {about['subset']}: no recordings; give a manifest with some")
    twice = [name for name, count in Counter(segments.label_names).items() if count > 1]
    if twice:
        raise UserError(f"label {twice[0]!r}: occurs twice; give each label in label_def.csv a different name")
    settings = replace(settings, aggregation=settings.aggregation or segments.aggregation)
    recordings = aggregate(segments, settings) if recordings is None else recordings
    return segments.of_kind.evaluator()(segments, recordings, about, settings, thresholds)


def of_classes(
    segments: Predictions,
    recordings: Predictions,
    about: Mapping[str, Optional[str]],
    settings: EvaluationSettings,
    thresholds: Optional[Thresholds],
) -> Evaluation:
    """Evaluate binary labels or classes; arguments as `evaluate`."""
    if thresholds is None:
        thresholds = Thresholds(metrics.thresholds_of(segments, None), EXCLUSIVE if segments.exclusive else "0.5")
    intervals = _bootstrap(recordings, settings, metrics=WITH_INTERVAL, thresholds=thresholds.values)
    challenge = None
    if settings.cinc_weights is not None:
        codes = settings.label_codes
        challenge = cinc2021.score_predictions(recordings, codes, settings.cinc_weights, thresholds.values)
    table = _label_table(segments, recordings, thresholds, intervals)
    summaries = {
        "recordings": _with_ends(metrics.summary(recordings, thresholds.values), intervals),
        "segments": metrics.summary(segments, thresholds.values),
    }
    notes = tuple(_notes(about["subset"], table, thresholds, challenge))
    return Evaluation(about, settings, segments, recordings, table, summaries, thresholds, challenge, notes)


def of_numbers(
    segments: Predictions,
    recordings: Predictions,
    about: Mapping[str, Optional[str]],
    settings: EvaluationSettings,
    thresholds: Optional[Thresholds] = None,
) -> Evaluation:
    """Evaluate labels that are numbers; arguments as `evaluate`, thresholds are not used."""
    table, of_segments = map(regression.label_metrics, (recordings, segments))
    intervals = _bootstrap(recordings, settings)
    table = _with_intervals(table, intervals.per_label, regression.WITH_INTERVAL)
    few = [f"{row.label!r} ({row.known} known)" for row in table.itertuples() if 0 < row.known < _FEW]
    notes = (f"few known values: intervals are too narrow: {', '.join(few)}",) if few else ()
    summaries = {
        name: {
            # a mean of errors with different units has no meaning
            "macro": {metric: metrics.macro(values[metric].to_numpy()) for metric in ("r2", "pearson_r")},
            "labels": values.set_index("label").to_dict("index"),
        }
        for name, values in (("recordings", table), ("segments", of_segments))
    }
    table = table.assign(segment_mae=of_segments["mae"], segment_r2=of_segments["r2"])
    return Evaluation(about, settings, segments, recordings, table, summaries, notes=notes)


def _bootstrap(recordings: Predictions, settings: EvaluationSettings, **others: Any) -> Bootstrap:
    return bootstrap(
        recordings,
        resamples=settings.resamples,
        seed=settings.seed,
        confidence=settings.confidence,
        progress=settings.progress,
        **others,
    )


def _label_table(
    segments: Predictions, recordings: Predictions, thresholds: Thresholds, intervals: Bootstrap
) -> "pd.DataFrame":
    table = metrics.label_metrics(recordings, thresholds.values)
    table = _with_intervals(table, intervals.per_label, WITH_INTERVAL)
    columns: Dict[str, Any] = {}
    for name in table.columns:
        columns[name] = table[name]
        if name == "auroc_high":
            of_auroc = intervals.per_label[intervals.per_label["metric"] == "auroc"]
            columns["auroc_undefined_resamples"] = of_auroc["undefined_resamples"].to_numpy()
            columns.update(_by_delong(recordings, intervals.confidence) if _independent(recordings) else {})
    columns["segment_auroc"] = metrics.auroc(segments.scores, segments.targets)
    columns["segment_auprc"] = metrics.auprc(segments.scores, segments.targets)
    return type(table)(columns)


def _with_intervals(table: "pd.DataFrame", intervals: "pd.DataFrame", names: Sequence[str]) -> "pd.DataFrame":
    """Add columns `METRIC_low` and `METRIC_high` after some metrics, from rows of labels and metrics."""
    columns: Dict[str, Any] = {}
    for name in table.columns:
        columns[name] = table[name]
        if name in names:
            ends = intervals[intervals["metric"] == name]
            columns.update({f"{name}_{end}": ends[end].to_numpy() for end in ("low", "high")})
    return type(table)(columns)


def _by_delong(recordings: Predictions, confidence: float) -> Dict[str, List[float]]:
    pairs = zip(recordings.scores.T, recordings.targets.T)
    ends = [delong.interval(scores, targets, confidence)[1:] for scores, targets in pairs]
    return {"auroc_delong_low": [low for low, _ in ends], "auroc_delong_high": [high for _, high in ends]}


def _with_ends(summary: Dict[str, Any], intervals: Bootstrap) -> Dict[str, Any]:
    """Add intervals to a summary: `auroc_low` and `auroc_high` after `auroc`, and so on."""
    for average, rows in intervals.average.groupby("average"):
        ends = rows.set_index("metric")
        values = {}
        for name, value in summary[average].items():
            values[name] = value
            if name in ends.index:
                values.update({f"{name}_{end}": float(ends.loc[name, end]) for end in ("low", "high")})
        summary[average] = values
    return summary


def _notes(
    subset: Optional[str], table: "pd.DataFrame", thresholds: Thresholds, challenge: Optional[cinc2021.Score]
) -> List[str]:
    notes = []
    undefined = [_undefined(row) for row in table[table["auroc"].isna()].to_dict("records")]
    if undefined:
        notes.append(f"undefined, and left out of the means: {', '.join(undefined)}")
    few = ", ".join(_scarce(row) for row in table[table["auroc"].notna()].to_dict("records") if _fewer(row) < _FEW)
    if few:
        notes.append(f"few positives (or negatives): intervals are too narrow: {few}")
    if thresholds.subset == subset:
        notes.append(f"the thresholds were chosen on {subset} itself: metrics at them are too optimistic")
    if thresholds.one_class:
        names = ", ".join(map(repr, thresholds.one_class))
        notes.append(f"one class only in {thresholds.subset}, so that the threshold is 0.5: {names}")
    if challenge is not None and challenge.missing:
        notes.append(
            f"CinC 2021 score: without the classes {', '.join(challenge.missing)}, for which there is no label; "
            f"it cannot be compared with published ones"
        )
    if challenge is not None and challenge.unknown:
        notes.append(f"CinC 2021 score: without {challenge.unknown} recording(s) with a label that is not known")
    return notes


def _fewer(row: Mapping[str, Any]) -> int:
    return int(min(row["positives"], row["known"] - row["positives"]))


def _scarce(row: Mapping[str, Any]) -> str:
    what = "positive" if row["positives"] == _fewer(row) else "negative"
    return f"{row['label']!r} ({counted(_fewer(row), what)})"


def _undefined(row: Mapping[str, Any]) -> str:
    among = f" among {row['known']}" if row["known"] else ""
    return f"{row['label']!r} ({lacking(row['known'], row['positives'])}{among})"
