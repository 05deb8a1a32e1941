"""What is known of recordings: the `y.npy` of `label.py`, or of ECG-FM, with the `label_def.csv` beside it."""

import json
from pathlib import Path
from typing import List, Optional, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.files import PLAN_NAME

_SHOWN = 5


class LabelTable:
    """Labels of recordings, memory-mapped.

    Attributes:
        path: the `y.npy`.
        values: recordings x L, a row for each `idx`; NaN where a label is not known.
        names: L names.
        codes: L lists of codes, such as SNOMED's, that a label stands for; empty where none are known.
    """

    def __init__(self, path: Path, values: np.ndarray, names: Sequence[str], codes: Sequence[List[str]]):
        self.path, self.values = path, values
        self.names, self.codes = tuple(names), tuple(codes)

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, idx: np.ndarray) -> np.ndarray:
        """Labels of recordings: float64, n x L.

        Raises:
            UserError: a recording is not in the table.
        """
        outside = idx[(idx < 0) | (idx >= len(self))]
        if len(outside):
            raise UserError(
                f"{self.path}: has {len(self)} rows, but there is a recording with idx {outside[0]}; "
                f"the label file is of other recordings, or older than they are: make it again (manifests/label.py)"
            )
        return np.asarray(self.values[idx], np.float64)


def read_labels(path: Union[str, Path]) -> LabelTable:
    """The table in a `y.npy`, or in the folder that it is in.

    Names and codes come from `label_def.csv` beside it; without one the labels are called `label_0`, `label_1`, ...

    Raises:
        UserError: no such file, not numbers, or the definition is of another number of labels.
    """
    file = Path(path)
    file = file / "y.npy" if file.is_dir() else file
    if not file.is_file():
        raise UserError(f"{file}: no such label file; make one with manifests/label.py, or mend task.label_file")
    try:
        values = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{file}: not a label file ({error}); give the y.npy that manifests/label.py leaves") from None
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or not values.size or values.dtype.kind not in "biuf":
        raise UserError(f"{file}: holds {values.dtype} of shape {values.shape}, not numbers, recordings x labels")
    names, codes = _definition(file.with_name("label_def.csv"), values.shape[1])
    return LabelTable(file, values, names, codes)


def _definition(path: Path, labels: int) -> Tuple[List[str], List[List[str]]]:
    import pandas as pd

    if not path.is_file():
        return [f"label_{number}" for number in range(labels)], [[] for _ in range(labels)]
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        names = list(table["name"])
    except (KeyError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path}: not a label definition ({error}); its column 'name' names the labels") from None
    if len(names) != labels:
        raise UserError(f"{path}: defines {len(names)} labels, but y.npy beside it has {labels}; make both again")
    codes = [text.split(";") if text else [] for text in table["codes"]] if "codes" in table else [[]] * labels
    return names, codes


def read_pos_weight(path: Path) -> List[float]:
    """The numbers of a `pos_weight.txt`, such as `[12.3,4.5]`.

    Raises:
        UserError: no such file, or not a list of positive numbers.
    """
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
        if not (isinstance(numbers, list) and all(isinstance(n, (int, float)) and n > 0 for n in numbers)):
            raise ValueError("not a list of positive numbers")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; give a file such as pos_weight.txt of manifests/label.py") from None
    return [float(number) for number in numbers]


def check_same_folder(table: LabelTable, shard: Path) -> None:
    """Raise a `UserError` if labels and a shard are of different prepared folders, whose idx are not the same.

    Labels from elsewhere, such as a table of one's own, must have a row for each idx of the folder and no more.
    """
    recordings = shard.resolve().parent.parent
    labels = table.path.resolve().parent.parent.parent
    if not (recordings / PLAN_NAME).is_file():
        return
    if (labels / PLAN_NAME).is_file() and labels != recordings:
        raise UserError(f"{table.path}: labels of {labels}, but the recordings are of {recordings}; give those of one")
    rows = _rows_of(recordings / "recordings.parquet")
    if rows is not None and len(table) > rows:
        raise UserError(
            f"{table.path}: has {len(table)} rows, but {recordings} has idx 0 to {rows - 1}; "
            f"the label file is of other recordings: make it again (manifests/label.py)"
        )


def _rows_of(recordings: Path) -> Optional[int]:
    """Rows that labels of a prepared folder have; None if this machine cannot tell."""
    try:
        import pyarrow.parquet as pq
    except ImportError:  # needed to prepare data, not to train on them
        return None
    return int(pq.read_table(recordings, columns=["idx"])["idx"].to_numpy().max()) + 1 if recordings.is_file() else None


def check_classes(table: LabelTable, values: np.ndarray, idx: Optional[np.ndarray]) -> None:
    """Raise a `UserError` unless all values (n x L, rows for `idx`) are 0, 1 or NaN."""
    wrong = np.argwhere(~(np.isnan(values) | (values == 0) | (values == 1)))
    if len(wrong):
        row, label = wrong[0]
        number = row if idx is None else idx[row]
        raise UserError(
            f"{table.path}: idx {number}, label {table.names[label]!r}: {values[row, label]:g} is neither 0, 1 nor "
            f"unknown; train such a value with task ecg_regression"
        )


def check_known(table: LabelTable, values: np.ndarray, split: str) -> None:
    """Raise a `UserError` if a label is known of no recording (values: n x L)."""
    unknown = [name for name, known in zip(table.names, ~np.isnan(values).all(axis=0)) if not known]
    if unknown:
        raise UserError(
            f"{table.path}: label {_listed(unknown)}: not known of any recording of {split}, nothing to learn; "
            f"leave it out of the labels, or split otherwise"
        )


def one_class_labels(table: LabelTable, values: np.ndarray) -> Tuple[str, ...]:
    """Labels of which no known value (values: n x L of 0, 1, NaN) is 1, or none is 0."""
    both = (values == 0).any(axis=0) & (values == 1).any(axis=0)
    return tuple(name for name, defined in zip(table.names, both) if not defined)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
