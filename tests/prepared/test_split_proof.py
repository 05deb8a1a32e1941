"""The proof stops splits that are wrong: the strategies are broken here on purpose."""

import numpy as np
import pytest
from made_up_tables import write_table

from fairseq_signals_ext.prepared import split as splitting
from fairseq_signals_ext.prepared import split_assigning
from fairseq_signals_ext.prepared.split import SplitSettings, split_recordings
from fairseq_signals_ext.prepared.split_filtering import Selection
from fairseq_signals_ext.prepared.split_settings import prove_whole


@pytest.mark.parametrize(
    ("name", "broken", "defect"),
    [
        # each recording by itself, in place of whole patients
        ("random_parts", lambda unit, fractions, seed: np.arange(len(unit)) % 3, "two subsets"),
        # some recordings are given no subset
        ("random_parts", lambda unit, fractions, seed: np.arange(len(unit)) % 5 % 4, "in no subset"),
    ],
)
def test_proof_stops_a_split_that_is_wrong(tmp_path, monkeypatch, name, broken, defect):
    write_table(tmp_path, 60, patient=[f"p{number % 20}" for number in range(60)])
    monkeypatch.setattr(split_assigning, name, broken)
    with pytest.raises(RuntimeError, match=defect):
        split_recordings(tmp_path, SplitSettings("s", fractions=(0.5, 0.25, 0.25)))
    assert not (tmp_path / "splits").exists()


def test_proof_stops_duplicates_apart(tmp_path, monkeypatch):
    write_table(tmp_path, 60, duplicate_of=[None] * 59 + [0])
    alone = np.arange(60)
    monkeypatch.setattr(splitting._Split, "unit", alone)
    broken = [seed for seed in range(12) if not _is_accepted(tmp_path, seed)]
    assert broken and len(broken) < 12
    monkeypatch.undo()
    assert _is_accepted(tmp_path, broken[0])


def _is_accepted(folder, seed):
    try:
        split_recordings(folder, SplitSettings(f"s{len(list(folder.glob('splits/*')))}", by="random", seed=seed))
    except RuntimeError as error:
        assert "duplicate are in two subsets" in str(error)
        return False
    return True


def test_proof_counts_what_is_left_out():
    selection = Selection(np.array([True, False, True]), {"too short": 1})
    prove_whole([np.array([2]), np.array([0])], selection)
    for subsets, left_out in (([[2], [0]], 0), ([[2], [0]], 2), ([[2], [0, 2]], 1), ([[0], [1]], 1)):
        selection.left_out["too short"] = left_out
        with pytest.raises(RuntimeError, match="in no subset or in two"):
            prove_whole([np.array(rows) for rows in subsets], selection)


def test_proof_stops_subsets_that_are_not_nested(tmp_path, monkeypatch):
    write_table(tmp_path, 60)
    monkeypatch.setattr(splitting, "_training_subsets", lambda _, rows: {"train_10": rows[:5], "train_20": rows[2:20]})
    with pytest.raises(RuntimeError, match="does not contain the smaller ones"):
        split_recordings(tmp_path, SplitSettings("s", subsets=[10, 20]))
