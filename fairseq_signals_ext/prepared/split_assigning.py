"""Assign recordings to parts at random, by labels, by time or by a column.

A part is a number: 0, 1, 2 for train, valid, test, or the number of a fold. A unit is a group that is never divided
between parts, such as all recordings of a patient.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Sequence

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data.label_table import check_classes, read_labels
from fairseq_signals_ext.prepared.split_filtering import parse_number, refuse_lists

if TYPE_CHECKING:
    import pandas as pd

_RANGE = re.compile(r"(-?\d+(?:\.\d+)?)-(-?\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Groups:
    """Groups of recordings; each an int64 array with one value per recording of the table.

    Attributes:
        patient: number of the patient; a unique number for a recording without patient.
        duplicate: the same number for recordings of the same content.
        person: the same number for recordings linked by patient or content, directly or through others.
    """

    patient: np.ndarray
    duplicate: np.ndarray
    person: np.ndarray


def find_groups(table: "pd.DataFrame") -> Groups:
    """Return groups from `idx`, `patient_key` and `duplicate_of` of the whole table, before filters."""
    import pandas as pd

    patient = pd.factorize(table["patient_key"])[0]
    original = table["duplicate_of"].fillna(table["idx"]).astype("int64")
    nodes = pd.factorize(np.concatenate([table["idx"], original]))[0]
    duplicate = _connect(nodes[: len(table)], nodes[len(table) :])
    return Groups(patient, duplicate, _connect(patient, duplicate + len(table)))


def _connect(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the number of the connected component of each pair of nodes."""
    import pandas as pd
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    nodes = max(first.max(initial=0), second.max(initial=0)) + 1
    graph = coo_matrix((np.ones(len(first), bool), (first, second)), (nodes, nodes))
    return pd.factorize(connected_components(graph, directed=False)[1][first])[0]


def random_parts(unit: np.ndarray, fractions: Sequence[float], seed: Sequence[int]) -> np.ndarray:
    """Return parts of shuffled units: units follow each other, and each goes to the part that contains its middle.

    So each end of a part deviates by at most half a unit, and does not depend on the fractions of other parts.

    Args:
        unit: int64, one per recording.
        fractions: of the recordings, one per part.
        seed: of numpy's default generator.

    Returns:
        int64, the part of each recording.
    """
    import pandas as pd

    unit = pd.factorize(unit)[0]
    sizes = np.bincount(unit)
    order = np.random.default_rng(seed).permutation(len(sizes))
    middle = (np.cumsum(sizes[order]) - sizes[order] / 2) / len(unit)
    part_of_unit = np.empty(len(sizes), np.int64)
    part_of_unit[order] = np.searchsorted(_ends(fractions), middle, side="right")
    return part_of_unit[unit]


def _ends(fractions: Sequence[float]) -> np.ndarray:
    ends = np.cumsum(fractions)
    return ends / ends[-1]


def stratified_parts(
    unit: np.ndarray, labels: np.ndarray, fractions: Sequence[float], seed: Sequence[int]
) -> np.ndarray:
    """Return parts with the same share of each label, by iterative stratification (Sechidis et al., ECML PKDD 2011).

    A unit has a label if one of its recordings has. The fractions are of units.

    Args:
        unit: int64, a recording.
        labels: recordings x labels, bool.
        fractions: one per part.
        seed: of numpy's `RandomState`.

    Returns:
        int64, a recording's part.
    """
    import pandas as pd
    from iterstrat.ml_stratifiers import IterativeStratification

    unit = pd.factorize(unit)[0]
    by_unit = np.argsort(unit, kind="stable")
    starts = np.flatnonzero(np.diff(unit[by_unit], prepend=-1))
    labels_of_unit = np.logical_or.reduceat(labels[by_unit], starts, axis=0)
    random = np.random.RandomState(list(seed))
    # the method gives the first units to the largest part, so their order must be random
    order = random.permutation(len(starts))
    used = np.flatnonzero(fractions)
    shares = np.asarray(fractions, float)[used] / np.sum(fractions)
    part_of_unit = np.empty(len(starts), np.int64)
    part_of_unit[order] = used[IterativeStratification(labels_of_unit[order], shares, random)]
    return part_of_unit[unit]


def stratifying_labels(folder: Path, idx: np.ndarray) -> np.ndarray:
    """Return labels to stratify by: whether positive, and for labels with unknown values whether known.

    Args:
        folder: `labels/NAME` of a prepared folder, see `read_labels`.
        idx: of the recordings.

    Returns:
        recordings x columns, bool.

    Raises:
        UserError: a file is missing or damaged, does not belong to these recordings, or has values that are not
            classes.
    """
    table = read_labels(folder)
    values = table.rows(idx)
    check_classes(table, values, idx)
    unknown = np.isnan(values)
    return np.concatenate([values == 1, ~unknown[:, unknown.any(axis=0)]], axis=1)


def time_cuts(times: np.ndarray, fractions: Sequence[float]) -> np.ndarray:
    """Return the times at which parts with these fractions of the recordings begin, without the first part.

    Args:
        times: datetime64, one per recording; recordings of the same time are in the same part.
    """
    ordered = np.append(np.sort(times), times.max() + 1)  # a part of 0 recordings begins after the last
    return ordered[np.rint(_ends(fractions)[:-1] * len(times)).astype(int)]


def column_parts(column: "pd.Series", lists: Sequence[Sequence[str]]) -> np.ndarray:
    """Return for each recording the part with its value in the list, -1 for none.

    Args:
        column: numbers (compared as numbers; lists may have ranges such as `1-8`) or texts.
        lists: values, one list per part.

    Raises:
        UserError: a value in two lists, a text given for numbers, or a column that holds neither numbers nor texts.
    """
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(column):
        raise UserError(f"column {column.name!r}: contains times; split with --by time")
    numeric = pd.api.types.is_numeric_dtype(column)
    if not numeric:
        refuse_lists(column)
    parts = np.full(len(column), -1, np.int64)
    for part, values in enumerate(lists):
        found = _within(column, values) if numeric else column.isin(values).to_numpy()
        twice = np.flatnonzero(found & (parts >= 0))
        if len(twice):
            value = column.iloc[twice[0]]
            raise UserError(f"column {column.name!r}: value {value} is given for two subsets; give it for one")
        parts[found] = part
    return parts


def _within(column: "pd.Series", values: Sequence[str]) -> np.ndarray:
    numbers = column.to_numpy(float)
    found = np.zeros(len(numbers), bool)
    for value in values:
        span = _RANGE.fullmatch(value)
        low, high = (float(end) for end in span.groups()) if span else (parse_number(value),) * 2
        if low is None or high is None:
            raise UserError(f"column {column.name!r}: holds numbers, but {value!r} is neither a number nor a range 1-8")
        found |= (numbers >= low) & (numbers <= high)
    return found


def last_part(part: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Return for each recording the last part in which its unit has recordings (or its last time, given times)."""
    return _of_unit(np.maximum, part, unit)


def first_part(part: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Return for each recording the first part in which its unit has recordings."""
    return _of_unit(np.minimum, part, unit)


def _of_unit(extreme: np.ufunc, values: np.ndarray, unit: np.ndarray) -> np.ndarray:
    found = np.empty(unit.max(initial=0) + 1, values.dtype)
    found[unit] = values  # any value of the unit, to begin with
    extreme.at(found, unit, values)
    return found[unit]
