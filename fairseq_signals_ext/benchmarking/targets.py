"""Targets of a task for the recordings of a prepared folder."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, List, Mapping, Optional, Tuple

import numpy as np

from fairseq_signals_ext.benchmarking.task_files import Target, Task
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data.label_table import check_classes, read_labels
from fairseq_signals_ext.evaluation.kinds import CLASSIFICATION, REGRESSION
from fairseq_signals_ext.evaluation.predictions import Predictions
from fairseq_signals_ext.labelling.from_codes import labels_from_codes, read_code_map
from fairseq_signals_ext.prepared.split_assigning import find_groups
from fairseq_signals_ext.prepared.table import TABLE_NAME, read_table

if TYPE_CHECKING:
    import pandas as pd

# returns measures by name, one value per recording, by idx
Measures = Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Known:
    """Targets of N recordings for L labels or numbers.

    Attributes:
        task: their task.
        label_names: L names.
        targets: float64, N x L: 1, 0, or a number; NaN if unknown.
        idx: int64, N: rows of the prepared folder's table, ascending.
        person: int64, N: equal numbers for recordings of the same patient or with the same content.
        source: N names.
        notes: sentences about omitted recordings and labels, and the origin of values.
    """

    task: Task
    label_names: Tuple[str, ...]
    targets: np.ndarray
    idx: np.ndarray
    person: np.ndarray
    source: np.ndarray
    notes: Tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """Name of what the values are."""
        return REGRESSION.name if self.task.is_regression else CLASSIFICATION.name

    def take(self, rows: np.ndarray) -> "Known":
        """Return some of the recordings, by number or as bool."""
        arrays = {name: getattr(self, name)[rows] for name in ("targets", "idx", "person", "source")}
        return replace(self, **arrays)

    def predictions(self, scores: np.ndarray, by_record: bool = False) -> Predictions:
        """Combine scores (N x L) with targets; `by_record`: each recording counts as a separate patient."""
        patient = self.idx if by_record else self.person
        return Predictions(scores, self.targets, self.idx, patient, self.label_names, kind=self.kind)


def known_of(
    out: Path,
    task: Task,
    *,
    measures: Optional[Measures] = None,
    drop_unlabelled: bool = False,
) -> Known:
    """Read all labels of a task in a prepared folder, including rare ones; see `without_rare`.

    Args:
        out: prepared folder.
        measures: hand-made measures, for tasks that need one.
        drop_unlabelled: omit recordings without any label of the task; otherwise they are negative for all.

    Raises:
        UserError: the data lack what the task needs.
    """
    columns = ["idx", "record_id", "source", "seconds", "patient_key", "duplicate_of"]
    table = read_table(out, columns)
    inside = _inside(out, task, table)
    way = _from_codes if task.codes else _from_folder if task.folder else _from_columns
    names, values, notes = way(out, task, table, inside, measures)
    inside &= ~np.isnan(values).all(axis=1)
    if drop_unlabelled and not task.is_regression:
        inside &= (values == 1).any(axis=1)
    if not inside.any():
        raise UserError(f"{out / TABLE_NAME}: task {task.name}: no recording has what it asks for{_why(task)}")
    person = find_groups(table).person
    known = Known(
        task,
        tuple(names),
        values,
        table["idx"].to_numpy(np.int64),
        person,
        table["source"].fillna("").to_numpy(object),
        tuple(notes),
    )
    order = np.flatnonzero(inside)
    return known.take(order[np.argsort(known.idx[order], kind="stable")])


def _why(task: Task) -> str:
    if task.codes:
        return f" (codes of the map {task.codes}); prepare its data set, or label others by a task of your own"
    if task.folder:
        return f" (labels {task.folder} know none of them); label them again"
    columns = ", ".join(target.column or target.measure for target in task.targets)
    return f" ({columns} is empty); leave this task out"


def _inside(out: Path, task: Task, table: "pd.DataFrame") -> np.ndarray:
    """Return which recordings belong to the task."""
    inside = np.ones(len(table), bool)
    if task.sources:
        present = sorted(table["source"].dropna().unique())
        if not set(task.sources) & set(present):
            raise UserError(
                f"{out / TABLE_NAME}: task {task.name}: no source {' or '.join(task.sources)}; its sources are "
                f"{', '.join(present) or 'not named'}; leave this task out"
            )
        inside &= table["source"].isin(task.sources).to_numpy()
    if task.records:
        first, last = task.records
        ids = table["record_id"].fillna("")
        inside &= ((ids.str.len() == len(first)) & (ids >= first) & (ids <= last)).to_numpy()
    # a recording of 10 s may have one sample less
    return inside & (table["seconds"].fillna(np.inf).to_numpy() >= task.min_seconds - 0.01)


_Found = Tuple[List[str], np.ndarray, List[str]]


def _from_codes(
    out: Path, task: Task, table: "pd.DataFrame", inside: np.ndarray, measures: Optional[Measures]
) -> _Found:
    present = [name for name in task.sources if name in set(table["source"])]
    labels = labels_from_codes(out, read_code_map(str(task.codes)), sources=present or None)
    place = {idx: row for row, idx in enumerate(labels.idx.tolist())}
    values = labels.values[[place[idx] for idx in table["idx"].tolist()]]
    # in a source with such codes, a recording without codes is negative for all labels
    coded = table["source"].isin(table["source"][~np.isnan(values).all(axis=1)].unique()).to_numpy()
    values[coded & np.isnan(values).all(axis=1)] = 0
    values[~inside] = np.nan
    return labels.names, values, []


def _from_folder(
    out: Path, task: Task, table: "pd.DataFrame", inside: np.ndarray, measures: Optional[Measures]
) -> _Found:
    labels, idx = read_labels(out / "labels" / str(task.folder)), table["idx"].to_numpy(np.int64)
    values = labels.rows(idx)
    if not task.is_regression:
        check_classes(labels, values, idx)
    values[~inside] = np.nan
    return list(labels.names), values, []


def _from_columns(
    out: Path, task: Task, table: "pd.DataFrame", inside: np.ndarray, measures: Optional[Measures]
) -> _Found:
    import pyarrow.parquet as pq

    present = set(pq.read_schema(out / TABLE_NAME).names)
    columns = list(dict.fromkeys(target.column for target in task.targets if target.column in present))
    more = read_table(out, columns) if columns else table
    missing = [target for target in task.targets if target.column not in present and not target.measure]
    if missing:
        raise UserError(f"{out / TABLE_NAME}: task {task.name}: no column {missing[0].column!r}; leave this task out")
    values = np.full((len(table), len(task.targets)), np.nan)
    measured: Dict[str, np.ndarray] = {}
    notes = []
    for number, target in enumerate(task.targets):
        if target.column in columns:
            values[:, number] = _of_column(target, task, more[target.column])
        empty = inside & np.isnan(values[:, number])
        if not target.measure or not empty.any():
            continue
        if not measured and measures is not None:
            measured = dict(measures(table["idx"].to_numpy(np.int64)))
        if target.measure not in measured:
            raise UserError(
                f"task {task.name}: no measure {target.measure!r}; measures are {', '.join(measured) or 'none'}"
            )
        found = _of_measure(target, task, measured[target.measure])
        values[empty, number] = found[empty]
        notes.append(
            f"{target.name}: {int(empty.sum())} of {int(inside.sum())} recordings by the measure {target.measure}"
        )
    values[~inside] = np.nan
    return [target.name for target in task.targets], values, notes


def _of_column(target: Target, task: Task, column: "pd.Series") -> np.ndarray:
    import pandas as pd

    if task.is_regression:
        return pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    texts = column.astype("string").str.strip()
    found = np.where(texts.isin(target.values), 1.0, 0.0)
    others = texts.isin(target.others) if target.others else texts.notna()
    return np.where(texts.isin(target.values) | others, found, np.nan)


def _of_measure(target: Target, task: Task, measured: np.ndarray) -> np.ndarray:
    if task.is_regression:
        return measured.astype(np.float64)
    found = ((measured > target.above) & (measured < target.below)).astype(np.float64)
    return np.where(np.isnan(measured), np.nan, found)


def without_rare(known: Known, tested: Optional[np.ndarray] = None, min_test_positives: int = 1) -> Known:
    """Keep the labels that can be tested: enough positives and negatives among all and among tested recordings.

    Args:
        tested: bool, N: tested recordings; None: all.
        min_test_positives: smallest number of positives among these.

    Raises:
        UserError: no label is left.
    """
    if known.task.is_regression:
        return known
    tested = np.ones(len(known.idx), bool) if tested is None else tested
    least = max(1, known.task.min_positives)
    in_all = (known.targets == 1).sum(axis=0)
    positives, negatives = ((known.targets[tested] == value).sum(axis=0) for value in (1, 0))
    kept = (in_all >= least) & (positives >= max(1, min_test_positives)) & (negatives > 0)
    counts = [f"{name} ({count})" for name, count, keep in zip(known.label_names, in_all, kept) if not keep]
    if not kept.any():
        one = (
            "only one class"
            if len(kept) == 1 and not (negatives > 0).all() | (positives == 0).all()
            else "too few positives"
        )
        raise UserError(
            f"task {known.task.name}: no label can be tested ({one}: {', '.join(counts)}); it takes "
            f"{least} positives, some of them and negatives tested; leave this task out"
        )
    notes = known.notes
    if counts:
        notes = (
            *notes,
            f"labels left out, as they have fewer than {least} positives, or one class only: {', '.join(counts)}",
        )
    names = tuple(name for name, keep in zip(known.label_names, kept) if keep)
    return replace(known, label_names=names, targets=known.targets[:, kept], notes=notes)
