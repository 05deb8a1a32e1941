"""Proof that a split is what it says, from its rows alone; a failure is a defect of the program, not a user's."""

from itertools import combinations
from typing import Sequence

import numpy as np

from fairseq_signals_ext.splitting.filtering import Selection


def prove_whole(subsets: Sequence[np.ndarray], selection: Selection) -> None:
    """Raises `RuntimeError` unless each recording is in exactly one subset or counted as left out.

    Args:
        subsets: rows of the table, int64.
        selection: what is kept, and the counts of the others.
    """
    rows = np.sort(np.concatenate(subsets))
    counted = len(rows) + sum(selection.left_out.values())
    if not np.array_equal(rows, np.flatnonzero(selection.kept)) or counted != len(selection.kept):
        raise _defect("a recording is in no subset or in two")


def prove_apart(subsets: Sequence[np.ndarray], group: np.ndarray) -> None:
    """Raises `RuntimeError` if a group is in two subsets.

    Args:
        subsets: rows of the table, int64.
        group: number of each row's group.
    """
    for one, other in combinations([np.unique(group[rows]) for rows in subsets], 2):
        if len(np.intersect1d(one, other, assume_unique=True)):
            raise _defect("a patient or a recording and its duplicate are in two subsets")


def prove_nested(subsets: Sequence[np.ndarray]) -> None:
    """Raises `RuntimeError` unless each subset has all rows of the one before it."""
    for smaller, larger in zip(subsets, subsets[1:]):
        if len(np.setdiff1d(smaller, larger)):
            raise _defect("a subset of the training set does not contain the smaller ones")


def _defect(what: str) -> RuntimeError:
    return RuntimeError(f"defect in fairseq_signals_ext: {what}; the split was not written; please report it")
