"""From segments to recordings: one score of each label for a recording, whatever its length."""

import dataclasses
from types import MappingProxyType
from typing import Mapping, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.evaluation.predictions import Predictions

_NO_LABELS: Mapping[str, str] = MappingProxyType({})
_WAYS = ("mean", "max")
AGGREGATIONS = (*_WAYS, "ecg-fm")

# The labels of ECG-FM's published classifier with its tutorial's way for each (bowang-lab/ECG-FM,
# notebooks/infer_quickstart.ipynb): the maximum where one segment is enough to show it.
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


def ways_of(label_names: Sequence[str], how: str, per_label: Mapping[str, str] = _NO_LABELS) -> Tuple[str, ...]:
    """For each label how segments' scores become a recording's: "mean" or "max".

    Args:
        how: `mean` or `max`; `ecg-fm`: by `ECG_FM_AGGREGATION`, the mean for labels that it does not have.
        per_label: `mean` or `max` for labels by name, where it is another; names that are no label have no effect.

    Raises:
        UserError: another way is asked for.
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
    """Predictions of recordings, from those of their segments, sorted by `idx`.

    What is known is known of the recording: its first segment's targets, patient and record id are taken.

    Args:
        predictions: of segments; those of a recording have the same `idx`, in any order.
        how, per_label: see `ways_of`; None: as `predictions.aggregation` says.

    Raises:
        UserError: another way is asked for.
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
    )


def _mean(sorted_scores: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.add.reduceat(sorted_scores, starts, axis=0) / counts[:, None]


def _max(sorted_scores: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.maximum.reduceat(sorted_scores, starts, axis=0)
