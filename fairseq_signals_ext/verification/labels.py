"""Checks of the labels of a prepared folder: their files fit each other and the table's idx."""

from pathlib import Path
from typing import List, Tuple

import numpy as np

from fairseq_signals_ext.data.checksums import check
from fairseq_signals_ext.data.label_table import are_classes, label_files, open_values, read_label_definition
from fairseq_signals_ext.errors import UserError, first_line
from fairseq_signals_ext.verification.manifests import Checked

_LABEL_AGAIN = "make the labels again with fairseq-signals-ext label --overwrite"
_RELATIVE = 2.0**-22
_ROWS = 1 << 16  # that are looked at together


def check_labels(out: Path, last_idx: int) -> Checked:
    """Check `labels/*/`.

    `y.npy` has a row for each idx, and a column for each row of `label_def.csv`. Labels with weights of classes
    (`pos_weight.txt`) are 0, 1 or NaN. Where `label.json` tells that they were made here, `labels.csv` has the same
    values.
    """
    problems, folders = [], 0
    for folder in sorted((out / "labels").glob("*/")):
        if folder.name.startswith("."):
            continue
        folders += 1
        problems += _check_folder(folder, last_idx)
    return Checked(problems, [], folders)


def _check_folder(folder: Path, last_idx: int) -> List[str]:
    path, definition = label_files(folder)
    try:
        check(path)
        y = open_values(path)
        if len(y) <= last_idx:
            return [f"{path}: has {len(y)} rows, but idx goes to {last_idx}; {_LABEL_AGAIN}"]
        if not definition.is_file():
            return []
        names = read_label_definition(definition)[0]
    except UserError as error:
        return [str(error)]
    if len(names) != y.shape[1]:
        return [f"{path}: has {y.shape[1]} columns, but {definition.name} has {len(names)} labels; {_LABEL_AGAIN}"]
    problems = _check_classes(path, y, names) if (folder / "pos_weight.txt").is_file() else []
    return problems or (_check_table(folder, y, names) if (folder / "label.json").is_file() else [])


def _check_classes(path: Path, y: np.ndarray, names: List[str]) -> List[str]:
    for first in range(0, len(y), _ROWS):
        wrong = np.argwhere(~are_classes(y[first : first + _ROWS]))
        if len(wrong):
            row, label = wrong[0]
            what = f"{y[first + row, label]:g} is neither 0, 1 nor unknown"
            return [f"{path}: idx {first + row}, label {names[label]!r}: {what}; {_LABEL_AGAIN}"]
    return []


def _check_table(folder: Path, y: np.ndarray, names: List[str]) -> List[str]:
    """Whether `labels.csv` and `y.npy`, which were written apart, have the same values."""
    path = folder / "labels.csv"
    try:
        idx, values = _read_table(path, names)
    except UserError as error:
        return [str(error)]
    if len(idx) and not 0 <= idx.min() <= idx.max() < len(y):
        return [f"{path}: has idx {idx.min()} to {idx.max()}, but y.npy {len(y)} rows; {_LABEL_AGAIN}"]
    listed = np.full(y.shape, np.nan, y.dtype)
    listed[idx] = values
    # numbers to predict are rounded twice, to nine digits there and to float32 here
    wrong = np.argwhere(~np.isclose(listed, y, rtol=_RELATIVE, atol=0, equal_nan=True))
    if not len(wrong):
        return []
    row, label = wrong[0]
    what = f"is {y[row, label]:g} in y.npy, {listed[row, label]:g} here (and {len(wrong) - 1} more such)"
    return [f"{path}: idx {row}, label {names[label]!r}: {what}; {_LABEL_AGAIN}"]


def _read_table(path: Path, names: List[str]) -> Tuple[np.ndarray, np.ndarray]:
    """Its idx, and its values as y.npy would have them: int64 and float, rows x labels."""
    import pandas as pd

    check(path)
    try:
        table = pd.read_csv(path, index_col=False, float_precision="round_trip")
        if list(table.columns) != ["idx", *names]:
            raise UserError(f"{path}: its columns are not idx and the labels of label_def.csv; {_LABEL_AGAIN}")
        return table["idx"].to_numpy(np.int64), table[names].to_numpy(float)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - of text that is no table pandas raises much
        raise UserError(f"{path}: cannot be read ({first_line(error)}); {_LABEL_AGAIN}") from None
