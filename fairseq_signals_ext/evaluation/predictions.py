"""A model's predictions for recordings or their segments, with their known labels."""

import dataclasses
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import List, Mapping, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation.decisions import Calibration
from fairseq_signals_ext.evaluation.kinds import CLASSIFICATION, Kind, kind_of

_NO_LABELS: Mapping[str, str] = MappingProxyType({})
_WAYS = ("mean", "max")
AGGREGATIONS = (*_WAYS, "ecg-fm")
# The labels of ECG-FM's published classifier with its tutorial's way for each (bowang-lab/ECG-FM,
# notebooks/infer_quickstart.ipynb): the maximum for labels that one segment is enough to show.
ECG_FM_AGGREGATION: Mapping[str, str] = MappingProxyType(
    {
        "Poor data quality": "max",
        "Sinus rhythm": "mean",
        "Premature ventricular contraction": "max",
        "Tachycardia": "mean",
        "Ventricular tachycardia": "max",
        "Supraventricular tachycardia with aberrancy": "max",
        "Atrial fibrillation": "mean",
        "Atrial flutter": "mean",
        "Bradycardia": "mean",
        "Accessory pathway conduction": "mean",
        "Atrioventricular block": "mean",
        "1st degree atrioventricular block": "mean",
        "Bifascicular block": "mean",
        "Right bundle branch block": "mean",
        "Left bundle branch block": "mean",
        "Infarction": "mean",
        "Electronic pacemaker": "max",
    }
)


@dataclass(frozen=True)
class Predictions:
    """Scores and targets of N items, which are segments or whole recordings, for L labels.

    Attributes:
        scores: float64, N x L: probabilities in [0, 1]; for regression, values in the label's own unit.
        targets: float64, N x L: 1, 0, or NaN (unknown); for regression the known value.
        idx: int64, N: the row of the item's recording in the label file.
        patient: int64, N: number of the recording's patient; a bootstrap resamples patients.
        label_names: L names.
        record_id: N strings from the source; None: unknown.
        aggregation: default aggregation of segment scores to recordings; see `to_recordings`.
        kind: name of the kind of task, see `kinds`.
        exclusive: an item has exactly one of the labels, and the most probable one is called positive.
        label_file: source of the targets; None: unknown.
        refusal: float64, N: refusal score of the item's recording, see `refusal.Refusal`; None if the model never
            refuses.
        calibration: of the model; None for a model without calibration, and for an ensemble.
    """

    scores: np.ndarray
    targets: np.ndarray
    idx: np.ndarray
    patient: np.ndarray
    label_names: Tuple[str, ...]
    record_id: Optional[np.ndarray] = None
    kind: str = CLASSIFICATION.name
    aggregation: str = "mean"
    exclusive: bool = False
    label_file: Optional[str] = None
    refusal: Optional[np.ndarray] = None
    calibration: Optional[Calibration] = None

    @property
    def of_kind(self) -> Kind:
        """The kind of task, with its metrics."""
        return kind_of(self.kind)

    def __len__(self) -> int:
        return len(self.idx)

    def check(self) -> None:
        """Check that metrics can be computed.

        Raises:
            UserError: shapes differ, a score is not finite, or a target of a classification is not 0, 1 or NaN.
        """
        shape = (len(self.idx), len(self.label_names))
        for name, values in (("scores", self.scores), ("targets", self.targets)):
            if values.shape != shape:
                raise UserError(f"{name}: {values.shape}, but there are {shape[0]} items and {shape[1]} labels")
        if self.patient.shape != shape[:1]:
            raise UserError(f"patient: {self.patient.shape}, but there are {shape[0]} items")
        self._refuse(~np.isfinite(self.scores), self.scores, "score", "take a checkpoint from before it diverged")
        if self.of_kind.has_classes:
            odd = ~np.isin(self.targets, (0, 1)) & ~np.isnan(self.targets)
            self._refuse(odd, self.targets, "target", "labels of a classification are 0, 1 or NaN")

    def _refuse(self, bad: np.ndarray, values: np.ndarray, what: str, hint: str) -> None:
        if bad.any():
            item, label = np.argwhere(bad)[0]
            place = f"recording {self.idx[item]}, label {self.label_names[label]!r}"
            raise UserError(f"{place}: {what} {values[item, label]:g} ({bad.sum()} such); {hint}")


def matched(a: Predictions, b: Predictions) -> Tuple[Predictions, Predictions]:
    """Predictions of two models for the same items, both sorted by recording; segments of one keep their order.

    Raises:
        UserError: recordings, patients, labels or targets differ.
    """
    a, b = _by_idx(a), _by_idx(b)
    _check_same(a, b)
    return a, b


def _by_idx(predictions: Predictions) -> Predictions:
    order = np.argsort(predictions.idx, kind="stable")
    arrays = {name: getattr(predictions, name)[order] for name in ("scores", "targets", "idx", "patient")}
    return replace(predictions, record_id=None, refusal=None, **arrays)


def _check_same(a: Predictions, b: Predictions) -> None:
    """Raise a `UserError` that names the first difference in anything but the scores."""
    for number, (ours, theirs) in enumerate(zip(a.label_names, b.label_names)):
        if ours != theirs:
            raise UserError(f"models differ: label {number + 1} is {ours!r} in the first, {theirs!r} in the second")
    if len(a.label_names) != len(b.label_names):
        raise UserError(f"models differ: the first has {len(a.label_names)} labels, the second {len(b.label_names)}")
    only: List[int] = sorted({*a.idx.tolist()} ^ {*b.idx.tolist()})
    if only:
        raise UserError(f"models differ: recording {only[0]} is in one only ({len(only)} such); take the same subset")
    if len(a) != len(b):
        raise UserError(f"models differ: {len(a)} and {len(b)} segments; compare recordings, or take the same segments")
    known = (a.targets == b.targets) | (np.isnan(a.targets) & np.isnan(b.targets))
    differ = (a.idx != b.idx) | (a.patient != b.patient) | ~known.all(axis=1)
    if differ.any():
        raise UserError(f"models differ: patient or labels of recording {a.idx[differ][0]}; take the same label file")


def mean_of(predictions: Sequence[Predictions]) -> Predictions:
    """Predictions with the mean of the scores, with labels in the order of the first.

    Raises:
        UserError: labels, kinds or items differ.
    """
    first = predictions[0]
    scores = []
    for other in predictions:
        if {*other.label_names} != {*first.label_names} or len(other.label_names) != len(first.label_names):
            differing = sorted({*other.label_names} ^ {*first.label_names})
            raise UserError(f"ensemble: only one model has label {next(iter(differing), '')!r}; take the same labels")
        if (other.kind, other.exclusive) != (first.kind, first.exclusive):
            raise UserError("ensemble: scores of one model are of another kind; take models of one criterion")
        if not np.array_equal(other.idx, first.idx):
            raise UserError("ensemble: models have other segments of the recordings; take models of one length")
        scores.append(other.scores[:, [other.label_names.index(name) for name in first.label_names]])
    if len(predictions) > 1:  # each model was calibrated alone
        first = replace(first, refusal=None, calibration=None)
    return replace(first, scores=np.mean(scores, axis=0))


def ways_of(label_names: Sequence[str], how: str, per_label: Mapping[str, str] = _NO_LABELS) -> Tuple[str, ...]:
    """The aggregation of segment scores for each label: "mean" or "max".

    Args:
        how: `mean` or `max`; `ecg-fm`: by `ECG_FM_AGGREGATION`, the mean for other labels.
        per_label: exceptions: `mean` or `max` by label name; unknown names have no effect.

    Raises:
        UserError: `how` or a value of `per_label` is unknown.
    """
    if how == "ecg-fm":
        how, per_label = "mean", {**ECG_FM_AGGREGATION, **per_label}
    ways = tuple(per_label.get(name, how) for name in label_names)
    for way in (*ways, how, *per_label.values()):
        if way not in _WAYS:
            raise UserError(f"aggregation {way!r}: segments are aggregated by {' or '.join(_WAYS)}")
    return ways


def to_recordings(
    predictions: Predictions, how: Optional[str] = None, per_label: Mapping[str, str] = _NO_LABELS
) -> Predictions:
    """Aggregate predictions of segments to recordings, sorted by `idx`.

    Targets, patient and record id are copied from the recording's first segment.

    Args:
        predictions: of segments in any order; segments of a recording have the same `idx`.
        how, per_label: see `ways_of`; None: `predictions.aggregation`.

    Raises:
        UserError: see `ways_of`.
    """
    ways = ways_of(predictions.label_names, how or predictions.aggregation, per_label)
    order = np.argsort(predictions.idx, kind="stable")
    _, starts, counts = np.unique(predictions.idx[order], return_index=True, return_counts=True)
    scores = np.empty((len(starts), len(ways)))
    for way, combine in (("mean", _mean), ("max", _max)):
        labels = np.array([chosen == way for chosen in ways], bool)
        if labels.any() and len(starts):
            scores[:, labels] = combine(predictions.scores[order][:, labels], starts, counts)
    first = order[starts]
    return dataclasses.replace(
        predictions,
        scores=scores,
        targets=predictions.targets[first],
        idx=predictions.idx[first],
        patient=predictions.patient[first],
        record_id=None if predictions.record_id is None else predictions.record_id[first],
        refusal=None if predictions.refusal is None else predictions.refusal[first],
    )


def _mean(sorted_scores: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.add.reduceat(sorted_scores, starts, axis=0) / counts[:, None]


def _max(sorted_scores: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.maximum.reduceat(sorted_scores, starts, axis=0)
