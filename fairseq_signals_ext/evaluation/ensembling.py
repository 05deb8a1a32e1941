"""The predictions of several models for the same items: the mean of their scores."""

from dataclasses import replace
from typing import Sequence

import numpy as np

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.evaluation.predictions import Predictions


def mean_of(predictions: Sequence[Predictions]) -> Predictions:
    """Predictions with the mean of the scores, in the first's order of labels.

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
    return replace(first, scores=np.mean(scores, axis=0))
