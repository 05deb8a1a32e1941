"""Check that the files of a prepared folder are unchanged, and that its labels fit each other and the table.

Files in `shards` are compared with their checksums by `check_shard`, in the processes that read them anyway.
"""

import contextlib
from pathlib import Path
from typing import Iterator, List, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError, first_line
from fairseq_signals_ext.common.files import PLAN_NAME, only_one
from fairseq_signals_ext.common.hints import command_line
from fairseq_signals_ext.data.checksums import (
    CHECKSUMS_NAME,
    UPDATE_OPTION,
    Record,
    check,
    problems_of,
    read_record,
    record_files,
    record_of_shard,
    recordable,
)
from fairseq_signals_ext.data.label_table import are_classes, label_files, open_values, read_label_definition
from fairseq_signals_ext.data.shards import index_path
from fairseq_signals_ext.prepared.pipeline import FILES
from fairseq_signals_ext.prepared.plan import Block
from fairseq_signals_ext.prepared.verify_manifests import Checked

# parent folder: the command that writes folders there
_COMMANDS = {"splits": "split", "labels": "label"}
_LABEL_AGAIN = "make the labels again with fairseq-signals-ext label --overwrite"
_RELATIVE = 2.0**-22
_ROWS = 1 << 16  # that are compared at once


def check_checksums(out: Path, plan: List[Block]) -> Checked:
    """Compare all files except those in `shards` with their records; return notes on files without a record."""
    folders = list(_folders(out))
    problems = [line for folder in (out, *folders) for line in problems_of(folder / CHECKSUMS_NAME)]
    shards = [block.shard(out) for block in plan if block.is_complete(out)]
    without = {
        "shard(s)": sum(not record_of_shard(shard).is_file() for shard in shards),
        "folder(s) with manifests or labels": sum(not (folder / CHECKSUMS_NAME).is_file() for folder in folders),
        "table(s)": int(not (out / CHECKSUMS_NAME).is_file()),
    }
    notes = [line for folder in folders for line in _not_recorded(folder)]
    counted = ", ".join(f"{count} {name}" for name, count in without.items() if count)
    if counted:
        hint = f"record them as they are with {command_line('verify', out, UPDATE_OPTION)}"
        notes.append(f"{out}: {counted} have no checksums, as older versions write none; {hint}")
    return Checked(problems, notes, len(folders))


def _folders(out: Path) -> Iterator[Path]:
    """Return the folders of splits, their folds, and labels, without unfinished ones."""
    for name in _COMMANDS:
        for folder in sorted((out / name).glob("*/")):
            if not folder.name.startswith("."):
                yield from _with_folds(folder)


def _with_folds(folder: Path) -> Iterator[Path]:
    yield folder
    yield from (below for below in sorted(folder.glob("*/")) if any(below.glob("*.tsv")))


def _not_recorded(folder: Path) -> List[str]:
    try:
        known = read_record(folder / CHECKSUMS_NAME)
    except UserError:  # reported separately
        return []
    others = [path.name for path in recordable(folder) if path.name not in known.checksums] if known else []
    more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
    return [f"{folder / others[0]}: is not recorded in {CHECKSUMS_NAME}{more}, so it was added later"] if others else []


def update_checksums(folder: Path) -> List[str]:
    """Record the current checksums of a prepared folder, or of a folder with manifests or labels.

    Returns:
        a line for each file that differs from its former record.

    Raises:
        UserError: there is no such folder, or it is being prepared.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a prepared one, or one with manifests or labels")
    if not (folder / PLAN_NAME).is_file():
        return [line for each in _with_folds(folder) for line in _update_folder(each)]
    with only_one(folder, names=(*FILES, CHECKSUMS_NAME)):
        present = [folder / name for name in FILES if (folder / name).is_file()]
        lines = _update(folder / CHECKSUMS_NAME, "prepare", present)
        for index in sorted((folder / "shards").glob("*.index.npy")):
            shard = index.with_name(index.name.replace(".index", ""))
            files = [path for path in (index_path(shard), shard.with_suffix(".part.parquet")) if path.is_file()]
            lines += _update(record_of_shard(shard), "prepare", files)
        for each in _folders(folder):
            lines += _update_folder(each)
    return lines


def _update_folder(folder: Path) -> List[str]:
    above = (name for name in (folder.parent.name, folder.parent.parent.name) if name in _COMMANDS)
    return _update(folder / CHECKSUMS_NAME, _COMMANDS.get(next(above, ""), "other"), recordable(folder))


def _update(path: Path, command: str, files: List[Path]) -> List[str]:
    before = Record(command, {})
    with contextlib.suppress(UserError):  # a damaged record is replaced
        before = read_record(path) or before
    record_files(path, before.command, {file.name: file for file in files})
    after = read_record(path)
    now = after.checksums if after else {}
    changes = {name: (before.checksums.get(name), now.get(name)) for name in sorted({*before.checksums, *now})}
    return [
        f"{path.with_name(name)}: {_shown(was)} -> {_shown(found)}"
        for name, (was, found) in changes.items()
        if was != found
    ]


def _shown(checksums: object) -> str:
    return str(checksums[-1]) if isinstance(checksums, list) else "none"


def check_labels(out: Path, last_idx: int) -> Checked:
    """Check `labels/*/`.

    `y.npy` has a row for each idx, and a column for each row of `label_def.csv`. Labels with weights of classes
    (`pos_weight.txt`) are 0, 1 or NaN. If there is a `label.json` of our command, `labels.csv` has the same values.
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
    """Check that `labels.csv` and `y.npy` have the same values."""
    path = folder / "labels.csv"
    try:
        idx, values = _read_table(path, names)
    except UserError as error:
        return [str(error)]
    if len(idx) and not 0 <= idx.min() <= idx.max() < len(y):
        return [f"{path}: has idx {idx.min()} to {idx.max()}, but y.npy {len(y)} rows; {_LABEL_AGAIN}"]
    listed = np.full(y.shape, np.nan, y.dtype)
    listed[idx] = values
    # regression targets are rounded to nine digits in `labels.csv`, and to float32 in `y.npy`
    wrong = np.argwhere(~np.isclose(listed, y, rtol=_RELATIVE, atol=0, equal_nan=True))
    if not len(wrong):
        return []
    row, label = wrong[0]
    what = f"is {y[row, label]:g} in y.npy, {listed[row, label]:g} here (and {len(wrong) - 1} more such)"
    return [f"{path}: idx {row}, label {names[label]!r}: {what}; {_LABEL_AGAIN}"]


def _read_table(path: Path, names: List[str]) -> Tuple[np.ndarray, np.ndarray]:
    """Return its idx (int64), and its values as in `y.npy` (float, rows x labels)."""
    import pandas as pd

    check(path)
    try:
        table = pd.read_csv(path, index_col=False, float_precision="round_trip")
        if list(table.columns) != ["idx", *names]:
            raise UserError(f"{path}: its columns are not idx and the labels of label_def.csv; {_LABEL_AGAIN}")
        return table["idx"].to_numpy(np.int64), table[names].to_numpy(float)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - pandas may raise any error
        raise UserError(f"{path}: cannot be read ({first_line(error)}); {_LABEL_AGAIN}") from None
