"""Labels from a table of somebody else."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Optional, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data.label_table import meaning_of
from fairseq_signals_ext.labelling.labels import Labels, in_sources
from fairseq_signals_ext.prepared.table import read_table
from fairseq_signals_ext.sources.text_tables import (
    as_keys,
    as_patients,
    as_texts,
    check_columns,
    columns_of,
    place,
    read_chunks,
)

if TYPE_CHECKING:
    import pandas as pd

KEYS = ("record_id", "idx", "source_file", "patient")
_TRUTH = {"0": 0.0, "0.0": 0.0, "false": 0.0, "1": 1.0, "1.0": 1.0, "true": 1.0, "": np.nan}


def labels_from_table(
    out: Union[str, Path],
    file: Union[str, Path],
    *,
    on: Optional[str] = None,
    columns: Optional[Sequence[str]] = None,
    sources: Optional[Sequence[str]] = None,
    regression: bool = False,
) -> Labels:
    """Labels from a table of somebody else: csv or parquet, one row per recording or patient.

    Args:
        out: prepared folder.
        file: values are 0, 1, true, false or empty (unknown); with `regression` any number.
        on: one of `KEYS`, a column of both tables; None: the first of them that the file has.
        columns: the labels; None: all that hold only numbers or truth values.
        sources: only their recordings are joined. Patients of several sources are joined only if these are named.

    Raises:
        UserError: the file, a column or a value cannot be used, keys occur twice, or none of them is known.
    """
    on = _key_of(file, on)
    check_columns(file, [on, *(columns or ())])
    rows = _read_whole(file, [on, *(columns or [name for name in columns_of(file) if name not in KEYS])])
    names = list(dict.fromkeys(columns)) if columns else _numeric_columns(rows.drop(columns=on))
    if not names:
        raise UserError(f"{file}: no column with numbers or truth values only; give --columns")
    row, keys, own = _joined_rows(out, file, on, rows[on], sources)
    values = np.stack([_numbers(file, name, rows[name], regression) for name in names], axis=1)
    joined = np.where((row >= 0)[:, None], values[row], np.nan)
    labels = Labels(names, read_table(out, ["idx"])["idx"].to_numpy(np.int64), joined, regression)
    labels.settings = {"table": Path(file).name, "on": on, "sources": sources, "regression": regression}
    _count_rows(labels, file, keys, own, [name for name in rows.columns if name not in (on, *names)])
    return labels


def joined_column(
    out: Union[str, Path],
    file: Union[str, Path],
    column: str,
    on: Optional[str] = None,
    sources: Optional[Sequence[str]] = None,
) -> "pd.Series":
    """A column of somebody else's table for each recording, missing where the table has none.

    Args:
        out, file, on, sources: see `labels_from_table`.

    Raises:
        UserError: see `labels_from_table`.
    """
    on = _key_of(file, on)
    rows = _read_whole(file, [on, column])
    row, _, _ = _joined_rows(out, file, on, rows[on], sources)
    values = rows[column].reset_index(drop=True)
    return values.reindex(np.where(row >= 0, row, -1)).reset_index(drop=True)


def _key_of(file: Union[str, Path], on: Optional[str]) -> str:
    """The column to join on: the one that is given, or the first of `KEYS` that the file has."""
    present = columns_of(file)
    on = on or next((key for key in KEYS if key in present), None)
    if on is None:
        raise UserError(f"{file}: it has none of the columns {', '.join(KEYS)}; its columns are {', '.join(present)}")
    return on


def _joined_rows(
    out: Union[str, Path], file: Union[str, Path], on: str, column: "pd.Series", sources: Optional[Sequence[str]]
) -> Tuple[np.ndarray, "pd.Series", "pd.Series"]:
    """For each recording its row of the file (-1: none), the keys of the file's rows, and those of the recordings."""
    ids = as_patients if on == "patient" else as_keys
    keys = ids(column)
    _check_unique(file, on, keys)
    table = read_table(out, list(dict.fromkeys(["idx", "source", on])))
    own = ids(table[on]).where(in_sources(out, table, sources), None)
    if on != "patient" or sources is None:
        _check_unambiguous(file, on, table["source"], own.where(own.isin(set(keys.dropna())), None))
    return _rows_of(keys, own), keys, own


def _read_whole(file: Union[str, Path], columns: Sequence[str]) -> "pd.DataFrame":
    import pandas as pd

    chunks = list(read_chunks(file, columns, strict=True))
    if not sum(map(len, chunks)):
        raise UserError(f"{file}: the table is empty; give a row for each recording")
    return pd.concat(chunks)


def _numeric_columns(rows: "pd.DataFrame") -> List[str]:
    """Columns in which every value that is there is a number or a truth value, and at least one is there."""
    import pandas as pd

    numeric = []
    for name in rows.columns:
        texts = as_texts(rows[name].drop_duplicates()).str.lower()
        texts = texts[texts != ""]
        if len(texts) and (texts.isin(_TRUTH) | pd.to_numeric(texts, errors="coerce").notna()).all():
            numeric.append(name)
    return numeric


def _numbers(file: Union[str, Path], name: str, values: "pd.Series", regression: bool) -> np.ndarray:
    """A column as float64, NaN where empty; `UserError` for what is not a label."""
    import pandas as pd

    texts = as_texts(values).str.lower()
    numbers = pd.to_numeric(texts, errors="coerce") if regression else texts.map(_TRUTH)
    wrong = np.flatnonzero((texts != "") & ~np.isfinite(numbers))
    if len(wrong):
        allowed = "a number or nothing" if regression else "0, 1, true, false or nothing"
        text = as_texts(values.iloc[wrong[:1]]).iloc[0]
        hint = "fix it, or choose the labels with --columns"
        found = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64)
        meaning = meaning_of(found[wrong[0]], found) if not regression and np.isfinite(found[wrong[0]]) else None
        if meaning is not None:
            hint = f"fix it: {meaning}"
        line = place(file, texts.index[wrong[0]])
        raise UserError(f"{file}: {line}: column {name!r}: {text!r} is not {allowed}; {hint}")
    return numbers.to_numpy(np.float64)


def _check_unique(file: Union[str, Path], on: str, keys: "pd.Series") -> None:
    twice = keys.index[keys.duplicated() & keys.notna()]
    if len(twice):
        first, second = keys.index[keys == keys[twice[0]]][:2]
        found = f"{on} {keys[second]!r} is in {place(file, first)} already"
        raise UserError(f"{file}: {place(file, second)}: {found}; keep one row for each")


def _check_unambiguous(file: Union[str, Path], on: str, sources: "pd.Series", keys: "pd.Series") -> None:
    """`UserError` if a key stands for recordings of two sources, or, other than a patient's, for two recordings."""
    import pandas as pd

    known = pd.DataFrame({"key": keys, "source": sources.fillna("")})[keys.notna()]
    several = known[known["key"].duplicated(keep=False)]
    spread = several.groupby("key")["source"].unique()
    for key, names in spread[spread.map(len) > 1].items():
        found = f"{on} {key!r} is that of recordings of {', '.join(map(repr, sorted(names)))}"
        raise UserError(f"{file}: {found}; choose one with --sources NAME")
    if on != "patient" and len(several):
        key = several["key"].iloc[0]
        raise UserError(f"{file}: {on} {key!r} is that of {(known['key'] == key).sum()} recordings; join by idx")


def _rows_of(keys: "pd.Series", wanted: "pd.Series") -> np.ndarray:
    """For each wanted key its row in `keys` (int64), -1 where it is missing or not among them."""
    import pandas as pd

    known = np.flatnonzero(keys.notna())
    found = pd.Index(keys.iloc[known]).get_indexer(pd.Index(wanted))
    return np.where(found >= 0, known[found], -1)


def _count_rows(labels: Labels, file: Any, keys: "pd.Series", own: "pd.Series", left_out: List[str]) -> None:
    unknown = keys[~keys.isin(set(own.dropna()))]
    on = labels.settings["on"]
    if len(unknown) == len(keys):
        raise UserError(f"{file}: none of its {len(keys)} rows has the {on} of a recording; join by another with --on")
    labels.counts = {"rows": len(keys), "unknown_rows": len(unknown), "columns_left_out": left_out}
    if len(unknown):
        example = next((repr(key) for key in unknown if key), "empty")
        labels.notes.append(f"{len(unknown)} of {len(keys)} rows have a {on} that no recording has (such as {example})")
    if left_out:
        labels.notes.append(f"columns with other than numbers and truth values were left out: {', '.join(left_out)}")
