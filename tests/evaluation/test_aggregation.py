"""Segments become recordings as pandas would group them."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from made_up_predictions import predictions_of

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation.predictions import ECG_FM_AGGREGATION, to_recordings


def segments(names, seed=0):
    """Up to four segments of 30 recordings, in no order."""
    rng = np.random.default_rng(seed)
    idx = rng.permutation(np.repeat(rng.permutation(1000)[:30], rng.integers(1, 5, 30)))
    scores, known = rng.random((len(idx), len(names))), rng.choice([0, 1, np.nan], (1000, len(names)))
    patient, ids = idx // 3, np.array([f"r{number}" for number in idx])
    return predictions_of(scores, known[idx], patient, idx, tuple(names), record_id=ids)


@pytest.mark.parametrize(
    ("how", "per_label"), [("mean", {}), ("max", {}), ("mean", {"b": "max"}), ("max", {"a": "mean", "c": "mean"})]
)
def test_equals_grouping_by_pandas(how, per_label):
    made = segments("abc")
    found = to_recordings(made, how, per_label)
    frame = pd.DataFrame(made.scores, columns=list("abc"))
    expected = frame.groupby(made.idx).agg({name: per_label.get(name, how) for name in "abc"})
    np.testing.assert_array_equal(found.idx, expected.index)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-15)
    np.testing.assert_array_equal(found.patient, found.idx // 3)
    np.testing.assert_array_equal(found.record_id, [f"r{number}" for number in found.idx])
    targets = pd.DataFrame(made.targets).groupby(made.idx).first()  # NaN in all segments or in none
    np.testing.assert_array_equal(found.targets, targets)
    assert found.label_names == ("a", "b", "c")


def test_ecg_fm_takes_the_maximum_for_some_labels():
    made = segments(sorted(ECG_FM_AGGREGATION))
    found = to_recordings(made, per_label=ECG_FM_AGGREGATION)
    highest, mean = to_recordings(made, "max").scores, to_recordings(made, "mean").scores
    several = np.flatnonzero(np.unique(made.idx, return_counts=True)[1] > 1)
    is_highest = (found.scores[several] == highest[several]).all(axis=0)
    assert {made.label_names[label] for label in np.flatnonzero(is_highest)} == {
        "Poor data quality",
        "Premature ventricular contraction",
        "Ventricular tachycardia",
        "Supraventricular tachycardia with aberrancy",
        "Electronic pacemaker",
    }
    np.testing.assert_array_equal(found.scores[:, ~is_highest], mean[:, ~is_highest])
    assert len(ECG_FM_AGGREGATION) == 17


def test_recordings_stay_as_they_are():
    made = dataclasses.replace(segments("ab"), record_id=None)
    once = to_recordings(made)
    for how in ("mean", "max"):
        again = to_recordings(once, how)
        np.testing.assert_array_equal(again.scores, once.scores)
        np.testing.assert_array_equal(again.idx, once.idx)
    assert again.record_id is None


def test_no_segments_are_no_recordings():
    empty = predictions_of(np.zeros((0, 2)), np.zeros((0, 2)))
    assert to_recordings(empty).scores.shape == (0, 2)


@pytest.mark.parametrize(("how", "per_label"), [("median", {}), ("mean", {"a": "sum"}), ("mean", {"absent": "sum"})])
def test_other_ways_are_refused(how, per_label):
    with pytest.raises(UserError, match="aggregated by mean or max"):
        to_recordings(segments("ab"), how, per_label)
