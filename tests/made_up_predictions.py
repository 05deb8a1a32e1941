"""Small made-up predictions for tests of the metrics."""

from typing import Optional, Tuple

import numpy as np
from hypothesis import strategies as st

from fairseq_signals_ext.evaluation.predictions import Predictions


def predictions_of(scores, targets, patient=None, idx=None, label_names: Optional[Tuple[str, ...]] = None, **fields):
    """Predictions from lists, of which each item is a recording and a patient of its own unless told otherwise."""
    scores, targets = np.array(scores, np.float64), np.array(targets, np.float64)
    idx = np.arange(len(scores)) if idx is None else np.asarray(idx)
    patient = idx if patient is None else np.asarray(patient)
    names = label_names or tuple(f"label {number}" for number in range(scores.shape[1]))
    return Predictions(scores, targets, idx, patient, names, **fields)


def made_up_predictions(items=200, labels=4, seed=0, unknown=0.1, shift=1.0, per_patient=2, rates=None):
    """Scores that know something; a part of the targets is unknown; patients have several items, in no order."""
    rng = np.random.default_rng(seed)
    rates = np.linspace(0.5, 0.1, labels) if rates is None else np.asarray(rates)
    targets = (rng.random((items, labels)) < rates).astype(np.float64)
    logits = rng.normal(size=targets.shape) + shift * targets - 0.5
    scores = (1 / (1 + np.exp(-logits))).round(2)  # so that there are ties
    targets[rng.random(targets.shape) < unknown] = np.nan
    patient = rng.permutation(np.arange(items) // per_patient) * 7 + 3
    return predictions_of(scores, targets, patient=patient)


@st.composite
def label_with_both_classes(draw, largest=25, ties=True):
    """Scores and targets of one label: often tied, sometimes unknown, at least one positive and one negative."""
    count = draw(st.integers(2, largest))
    score = st.integers(0, 8).map(lambda eighths: eighths / 8) if ties else st.floats(0, 1, width=32)
    scores = draw(st.lists(score, min_size=count, max_size=count))
    targets = draw(st.lists(st.sampled_from([0.0, 1.0, np.nan]), min_size=count, max_size=count))
    targets[:2] = draw(st.permutations([0.0, 1.0]))
    return np.array(scores), np.array(targets)
