"""Read labels of recordings: the `y.npy` of `label`, or of ECG-FM, with the `label_def.csv` beside it."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union, cast

import numpy as np

from fairseq_signals_ext.common.errors import UserError, first_line
from fairseq_signals_ext.common.files import PLAN_NAME
from fairseq_signals_ext.common.hints import close_names
from fairseq_signals_ext.data.checksums import check

# of a labels folder
VALUES_FILE, DEFINITION_FILE = "y.npy", "label_def.csv"
_ANOTHER = "give the y.npy that fairseq-signals-ext label leaves"
_SHOWN = 5
# numbers up to this may be indices of classes
_MOST_CLASSES = 49
_TRAIN_NUMBERS = "train such a value with task ecg_regression"
NOT_EXCLUSIVE = (
    "criterion softmax needs exactly one class of each recording, or NaN where it is not known; use "
    "binary_cross_entropy_with_logits for labels that occur together or not at all"
)


class LabelTable:
    """Labels of recordings, memory-mapped.

    Attributes:
        path: the `y.npy`.
        values: recordings x L, a row for each `idx`; NaN where a label is not known.
        names: L names.
        codes: L lists of codes of a label, such as SNOMED's; empty if unknown.
        columns: of `values`, for each of the names; None: all in their order; -1: missing.
    """

    def __init__(
        self,
        path: Path,
        values: np.ndarray,
        names: Sequence[str],
        codes: Sequence[List[str]],
        columns: Optional[Sequence[int]] = None,
    ):
        self.path, self.values = path, values
        self.names, self.codes = tuple(names), tuple(codes)
        self.columns = None if columns is None else np.asarray(columns)

    def __len__(self) -> int:
        return len(self.values)

    def __getstate__(self) -> Dict[str, Any]:
        # a pickled memory map would contain all labels; workers that are not forked open the file themselves
        return {**self.__dict__, "values": None}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        self.__dict__.update(state, values=open_values(state["path"]))

    def rows(self, idx: np.ndarray) -> np.ndarray:
        """Return the labels of recordings: float64, n x L.

        Raises:
            UserError: a recording is not in the table.
        """
        outside = idx[(idx < 0) | (idx >= len(self))]
        if len(outside):
            raise UserError(
                f"{self.path}: has {len(self)} rows, but there is a recording with idx {outside[0]}; "
                f"the label file belongs to other recordings, or older: make it again (fairseq-signals-ext label)"
            )
        values = np.asarray(self.values[idx], np.float64)
        if self.columns is None:
            return values
        chosen = np.full((len(values), len(self.names)), np.nan)
        there = self.columns >= 0
        chosen[:, there] = values[:, self.columns[there]]
        return chosen

    def chosen(self, names: Sequence[str]) -> "LabelTable":
        """Return the table with these labels, in this order; missing labels are unknown for all recordings."""
        position = {name: number for number, name in enumerate(self.names)}
        columns = [position.get(name, -1) for name in names]
        codes = [self.codes[column] if column >= 0 else [] for column in columns]
        return LabelTable(self.path, self.values, names, codes, columns)


def label_files(path: Path) -> Tuple[Path, Path]:
    """Return the `y.npy` of a labels folder, or the given one, and the `label_def.csv` beside it, if they exist."""
    values = path / VALUES_FILE if path.is_dir() else path
    return values, values.with_name(DEFINITION_FILE)


def read_labels(path: Union[str, Path]) -> LabelTable:
    """Read the table in a `y.npy` or its folder.

    Names and codes come from `label_def.csv` beside it; without one the labels are named `label_0`, `label_1`, ...

    Raises:
        UserError: no such file, a changed file, not numbers, or the definition has another number of labels.
    """
    file, definition = label_files(Path(path))
    if not file.is_file():
        raise UserError(f"{file}: no such label file; {_other_labels(Path(path))}")
    check(file)
    values = open_values(file)
    names, codes = _definition(definition, values.shape[1])
    return LabelTable(file, values, names, codes)


def label_sets(folder: Path) -> List[Path]:
    """The folders with labels in a folder, such as `DIR/labels`."""
    return sorted(file.parent for file in folder.glob(f"*/{VALUES_FILE}"))


def _other_labels(path: Path) -> str:
    """Return suggestions for a path without labels: labels in the same folder, or in the path itself."""
    path = path.parent if path.name == VALUES_FILE else path
    sets = {found.name: str(found) for found in label_sets(path) or label_sets(path.parent)}
    if not sets:
        return "make one with fairseq-signals-ext label, or correct task.label_file"
    close = close_names(path.name, sets)
    return f"did you mean {sets[close[0]]}?" if close else f"give one of {', '.join([*sets.values()][:_SHOWN])}"


def open_values(file: Path) -> np.ndarray:
    """Open the values in a `y.npy`: recordings x labels, memory-mapped; without a check of the `label_def.csv`.

    Raises:
        UserError: a changed file, or not numbers.
    """
    if file.suffix == ".csv":
        raise UserError(
            f"{file}: is a text table; give the y.npy beside it, or make one (fairseq-signals-ext label --table)"
        )
    try:
        values = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # noqa: BLE001 - numpy may raise any error on a damaged header
        raise UserError(f"{file}: not a label file ({first_line(error)}); {_ANOTHER}") from None
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or not values.size or values.dtype.kind not in "biuf":
        what = f"holds {values.dtype} of shape {values.shape}, not numbers, recordings x labels"
        raise UserError(f"{file}: {what}; {_ANOTHER}")
    return values


def _definition(path: Path, labels: int) -> Tuple[List[str], List[List[str]]]:
    check(path)
    if not path.is_file():
        return [f"label_{number}" for number in range(labels)], [[] for _ in range(labels)]
    names, codes = read_label_definition(path)
    if len(names) != labels:
        raise UserError(f"{path}: defines {len(names)} labels, but y.npy beside it has {labels}; make both again")
    return names, codes


def read_label_definition(path: Path) -> Tuple[List[str], List[List[str]]]:
    """Read the names of labels, and the codes of each, from a `label_def.csv` or its folder.

    Raises:
        UserError: no such file, a changed file, no column `name`, or a name that occurs twice.
    """
    import pandas as pd

    path = path / DEFINITION_FILE if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a label_def.csv, whose column 'name' names the labels")
    check(path)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        names = list(table["name"])
    except (OSError, KeyError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{path}: not a label definition ({error}); its column 'name' names the labels") from None
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"{path}: label {twice[0]!r} occurs twice; give each a different name")
    codes = [text.split(";") if text else [] for text in table["codes"]] if "codes" in table else [[] for _ in names]
    return names, codes


def read_weights(weights: Union[str, Path, Sequence[float]], labels: int, option: str) -> List[float]:
    """Read the weights of labels from a list of numbers, or a file with one, such as `pos_weight.txt` of `label`.

    Raises:
        UserError: no such file, a changed file, or not a positive number for each label.
    """
    setting, numbers = f"criterion.{option}={weights}", cast(Any, weights)
    if isinstance(weights, (str, Path)):
        setting = str(weights)
        check(Path(weights))
        try:
            numbers = json.loads(Path(weights).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{setting}: {error}; give a file such as pos_weight.txt of fairseq-signals-ext label"
            ) from None
    if isinstance(numbers, (int, float)) or not all(_is_positive(number) for number in numbers):
        raise UserError(f"{setting}: not a list of positive numbers, one per label, such as [12.3,4.5]")
    if len(numbers) != labels:
        raise UserError(
            f"{setting}: {len(numbers)} numbers for {labels} labels; "
            f"give one per label, such as the pos_weight.txt beside the label file"
        )
    return [float(number) for number in numbers]


def _is_positive(number: Any) -> bool:
    return isinstance(number, (int, float)) and 0 < number < math.inf


def check_same_folder(table: LabelTable, shard: Path) -> None:
    """Raise a `UserError` if labels and a shard are of different prepared folders, as their idx differ.

    Labels outside of prepared folders may lack rows of recordings that were added later, but have no rows beyond the
    folder's last idx.
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
            f"the label file belongs to other recordings: make it again (fairseq-signals-ext label)"
        )


def _rows_of(table: Path) -> Optional[int]:
    """Return the number of rows of labels in a prepared folder; None if it cannot be read here."""
    try:
        import pyarrow.parquet as pq
    except ImportError:  # needed to prepare data, not to train on them
        return None
    if not table.is_file():
        return None
    check(table)
    try:
        return int(pq.read_table(table, columns=["idx"])["idx"].to_numpy().max()) + 1
    except Exception as error:  # noqa: BLE001 - errors of damaged files are not documented
        raise UserError(f"{table}: cannot be read ({first_line(error)}); prepare again with --resume") from None


def are_classes(values: np.ndarray) -> np.ndarray:
    """Return where values are 0, 1 or NaN: bool, of the same shape."""
    return np.isnan(values) | (values == 0) | (values == 1)


def are_exclusive(values: np.ndarray) -> np.ndarray:
    """Return whether recordings (n x L of 0, 1, NaN) have exactly one label, or unknown labels: bool, n."""
    ones, is_known = (values == 1).sum(axis=1), ~np.isnan(values).any(axis=1)
    return (ones == 1) | ((ones == 0) & ~is_known)


def meaning_of(value: float, known: np.ndarray) -> Optional[str]:
    """Return the likely meaning of a value other than 0, 1 and NaN, with a hint; None if there is none.

    Args:
        known: all values of its label, NaN or not.
    """
    if value < 0 and value.is_integer():
        return f"{value:g} looks like a mark for unknown: write NaN (in a table nothing)"
    others = known[np.isfinite(known) & (known >= 0)]
    if 0 <= value <= _MOST_CLASSES and (others == np.floor(others)).all() and others.max() <= _MOST_CLASSES:
        return (
            f"looks like class indices of {others.max() + 1:.0f} classes: give one column per class, with a 1 for the "
            "class of the recording, and train with criterion softmax"
        )
    return None


def check_classes(table: LabelTable, values: np.ndarray, idx: Optional[np.ndarray], exclusive: bool = False) -> None:
    """Raise a `UserError` unless all values (n x L, rows for `idx`) are 0, 1 or NaN.

    Args:
        exclusive: also raise unless exactly one label of each recording with known labels is 1.
    """
    wrong = np.argwhere(~are_classes(values))
    if len(wrong):
        row, label = wrong[0]
        value = values[row, label]
        raise UserError(
            f"{table.path}: idx {row if idx is None else idx[row]}, label {table.names[label]!r}: {value:g} is neither "
            f"0, 1 nor unknown; {meaning_of(value, values[:, label]) or _TRAIN_NUMBERS}"
        )
    rows = np.flatnonzero(~are_exclusive(values) & exclusive)
    if len(rows):
        number = rows[0] if idx is None else idx[rows[0]]
        there = [name for name, value in zip(table.names, values[rows[0]]) if value == 1]
        raise UserError(f"{table.path}: idx {number}: has {_listed(there) if there else 'no class'}; {NOT_EXCLUSIVE}")


def check_known(names: Sequence[str], values: np.ndarray, split: str) -> None:
    """Raise a `UserError` if a label is unknown for all recordings (values: n x L)."""
    unknown = [name for name, known in zip(names, ~np.isnan(values).all(axis=0)) if not known]
    if unknown:
        raise UserError(
            f"label {_listed(unknown)}: not known of any recording of {split}, nothing to learn; "
            f"leave it out of the labels, or split otherwise"
        )


def one_class_labels(table: LabelTable, values: np.ndarray) -> Tuple[str, ...]:
    """Return the labels without known positive or without known negative values (values: n x L of 0, 1, NaN)."""
    both = (values == 0).any(axis=0) & (values == 1).any(axis=0)
    return tuple(name for name, defined in zip(table.names, both) if not defined)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
