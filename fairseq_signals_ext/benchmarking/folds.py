"""Choose training and test recordings: folds by patient for cross-fitting, the parts of iclr2026, shares."""

from typing import TYPE_CHECKING, List, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.benchmarking.targets import Known
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.prepared.split_assigning import column_parts, stratified_parts
from fairseq_signals_ext.prepared.split_settings import SUBSETS

if TYPE_CHECKING:
    import pandas as pd

TRAIN, VALID, TEST = range(3)
# choosing inside the training folds needs two of them; more than this would take days
_FEWEST, _MOST = 3, 20
_BINS = 5  # bins of a number for stratification


def _stratify_by(known: Known) -> np.ndarray:
    """Return the columns to stratify by, bool, N x columns: positives, or the fifths of a number."""
    if not known.task.is_regression:
        return known.targets == 1
    columns: List[np.ndarray] = []
    for values in known.targets.T:
        ends = np.nanquantile(values, np.linspace(0, 1, _BINS + 1)[1:-1])
        fifth = np.where(np.isnan(values), -1, np.searchsorted(ends, values))
        columns += [fifth == number for number in range(_BINS)]
    return np.stack(columns, axis=1)


def patient_folds(known: Known, folds: int, seed: int) -> np.ndarray:
    """Return stratified folds (int64, N); no two share a patient or copies of a recording.

    Raises:
        UserError: there are fewer patients than folds.
    """
    patients = len(np.unique(known.person))
    if patients < folds:
        raise UserError(f"task {known.task.name}: {patients} patients cannot be in {folds} folds; leave this task out")
    return stratified_parts(known.person, _stratify_by(known), [1 / folds] * folds, (seed, 0))


def given_folds(known: Known, column: "pd.Series") -> np.ndarray:
    """Return folds (int64, N) by the values of a column of the table, in order of the values.

    Args:
        column: values of the recordings, N.

    Raises:
        UserError: a recording has no value, a patient has several, or there are too few or too many values.
    """
    import pandas as pd

    place = f"column {column.name!r}"
    fold, values = pd.factorize(column, sort=True)
    if (fold < 0).any():
        raise UserError(f"{place}: recording {known.idx[fold < 0][0]} has no fold; give another column, or no --folds")
    if not _FEWEST <= len(values) <= _MOST:
        raise UserError(f"{place}: has {len(values)} values; folds need {_FEWEST} to {_MOST}")
    _refuse_shared(known, fold, place)
    return fold.astype(np.int64)


def _refuse_shared(known: Known, fold: np.ndarray, place: str) -> None:
    order = np.argsort(known.person, kind="stable")
    person, of_fold = known.person[order], fold[order]
    shared = np.flatnonzero((np.diff(person) == 0) & (np.diff(of_fold) != 0))
    if len(shared):
        one, other = known.idx[order[shared[0]]], known.idx[order[shared[0] + 1]]
        raise UserError(
            f"{place}: recordings {one} and {other} are of one patient, but in two folds; correct the column, "
            "or leave --folds out"
        )


def published_parts(known: Known, table: "pd.DataFrame", seed: int) -> np.ndarray:
    """Return the part of each recording (int64, N) for iclr2026: train, valid, test, or -1 for none.

    Args:
        table: rows of `known`, with the column that the task names.
        seed: seed of random folds.

    Raises:
        UserError: the task has no such split, or a part is empty.
    """
    task = known.task
    if task.split is None:
        raise UserError(f"task {task.name}: has no split, which the protocol iclr2026 needs; add one, or use strict")
    if task.split.column is not None:
        part = column_parts(table[task.split.column], task.split.values)
    else:
        part = _parts_of_folds(known, task.split.folds, task.split.by_patient, task.split.values, seed)
    for number, name in enumerate(SUBSETS):
        if not (part == number).any():
            how = task.split.column or f"{task.split.folds} folds"
            raise UserError(
                f"task {task.name}: no recording is in {name} ({how}: {', '.join(task.split.values[number])}); "
                "get all of the data set, or use --protocol strict"
            )
    return part


def _parts_of_folds(
    known: Known, folds: int, by_patient: bool, values: Sequence[Tuple[str, ...]], seed: int
) -> np.ndarray:
    import pandas as pd

    unit = known.person if by_patient else np.arange(len(known.idx))
    fold = stratified_parts(unit, _stratify_by(known), [1 / folds] * folds, (seed, 0))
    return column_parts(pd.Series(fold, name="fold"), values)


def shares(known: Known, percents: Sequence[float], seed: int) -> np.ndarray:
    """Return the smallest of these nested shares of patients that contains a recording, %: float64, N.

    Args:
        percents: shares of the training patients, ascending; the last is 100.
    """
    if len(percents) == 1:
        return np.full(len(known.idx), percents[0])
    parts = stratified_parts(known.person, _stratify_by(known), np.diff([0, *percents]).tolist(), (seed, 1))
    return np.asarray(percents, float)[parts]
