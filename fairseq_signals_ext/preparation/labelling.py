"""Labels of a prepared folder, from diagnostic codes or from a table."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Union

import numpy as np

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.preparation.code_maps import CodeMap
from fairseq_signals_ext.preparation.table import read_table
from fairseq_signals_ext.preparation.text_tables import (
    as_keys,
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
_LISTED = 10  # codes that the map does not know, in messages


@dataclass
class Labels:
    """Labels of all recordings of a prepared folder.

    Attributes:
        names: of the labels.
        idx: int64, of the recordings.
        values: float64, recordings x labels: 1 positive, 0 negative, NaN unknown; with `regression` any number.
        regression: whether the values are numbers to predict, not classes.
        codes: for each label the codes that make it, if codes do.
        settings: how they were made; plain data.
        counts: what was found and left out on the way; plain data.
        notes: the same in sentences, for the user.
        details: a table to keep beside them (`values.csv`).
    """

    names: List[str]
    idx: np.ndarray
    values: np.ndarray
    regression: bool = False
    codes: Dict[str, List[str]] = field(default_factory=dict)
    settings: Dict[str, Any] = field(default_factory=dict)
    counts: Dict[str, Any] = field(default_factory=dict)
    notes: List[str] = field(default_factory=list)
    details: Optional["pd.DataFrame"] = None

    @property
    def recordings(self) -> int:
        """How many recordings have at least one label that is known."""
        return int((~np.isnan(self.values)).any(axis=1).sum())

    @property
    def known(self) -> np.ndarray:
        """Recordings by label of which it is known (int64)."""
        return (~np.isnan(self.values)).sum(axis=0)

    @property
    def positives(self) -> np.ndarray:
        """Recordings by label that have it (int64)."""
        return (self.values == 1).sum(axis=0)


def labels_from_codes(
    out: Union[str, Path],
    code_map: CodeMap,
    *,
    sources: Optional[Sequence[str]] = None,
    min_likelihood: float = 0.0,
    no_codes_are_negative: bool = False,
) -> Labels:
    """Labels from the recordings' diagnostic codes (column `codes` of the table).

    A recording with codes has every label of the map, 1 or 0. One without any code is unlabelled.

    Args:
        out: prepared folder.
        sources: only their recordings are labelled.
        min_likelihood: %; codes with a smaller likelihood do not count, those without any always do. PTB-XL writes 0
            for "unknown", and does so for all statements on form and rhythm.
        no_codes_are_negative: a recording without codes has no label of the map, rather than being unlabelled.

    Raises:
        UserError: no prepared data in `out`, or an unknown source.
    """
    table = read_table(out, ["idx", "source", "codes"])
    inside = in_sources(out, table, sources)
    codes = _codes(table["codes"].where(inside, None))
    values = np.full((len(table), len(code_map.labels)), np.nan)
    values[inside if no_codes_are_negative else codes["recording"].unique()] = 0
    unlikely = (codes["likelihood"] < min_likelihood).to_numpy()
    column = {label: number for number, label in enumerate(code_map.labels)}
    for code, recordings in codes[~unlikely].groupby("code")["recording"]:
        for label in code_map[code]:
            values[recordings, column[label]] = 1
    labels = Labels(list(code_map.labels), table["idx"].to_numpy(np.int64), values)
    for code, made in code_map.labels_of.items():
        for label in made:
            labels.codes.setdefault(label, []).append(code)
    labels.settings = {"code_map": code_map.name, "min_likelihood": min_likelihood, "sources": sources}
    labels.settings["no_codes_are_negative"] = no_codes_are_negative
    _count_codes(labels, codes, code_map, int(inside.sum()), int(unlikely.sum()))
    return labels


def _codes(lists: "pd.Series") -> "pd.DataFrame":
    """A row a code of a recording: recording (row of the table), code, likelihood (NaN where there is none)."""
    import pandas as pd

    text = lists.explode().dropna().astype(str)
    parts = text.str.extract(r"^\s*(?P<code>.*?)\s*(?::\s*(?P<likelihood>\d+(?:\.\d*)?)\s*)?$")
    parts = parts.assign(recording=parts.index, likelihood=pd.to_numeric(parts["likelihood"]))
    return parts[parts["code"] != ""].reset_index(drop=True)


def _count_codes(labels: Labels, codes: "pd.DataFrame", code_map: CodeMap, recordings: int, unlikely: int) -> None:
    unknown = [code for code in codes["code"].unique() if not code_map[code]]
    of_unknown = codes[codes["code"].isin(unknown)].groupby("code")["recording"].nunique()
    frequent = sorted(of_unknown.items(), key=lambda item: (-item[1], item[0]))
    without = recordings - codes["recording"].nunique()
    labels.counts = {"recordings": recordings, "without_codes": without, "below_min_likelihood": unlikely}
    labels.counts["unknown_codes"] = {code: int(count) for code, count in frequent}
    if without:
        what = "negative" if labels.settings["no_codes_are_negative"] else "unlabelled"
        labels.notes.append(f"{without} of {recordings} recordings have no codes: {what}")
    if unlikely:
        labels.notes.append(f"{unlikely} codes are below the minimum likelihood and do not count")
    if frequent:
        listed = ", ".join(f"{code} ({count})" for code, count in frequent[:_LISTED])
        more = ", ..." if len(frequent) > _LISTED else ""
        labels.notes.append(f"{len(frequent)} codes are not in the map (recordings that have them): {listed}{more}")


def in_sources(out: Union[str, Path], table: "pd.DataFrame", sources: Optional[Sequence[str]]) -> np.ndarray:
    """Which rows of the table are of these sources (bool); all without `sources`.

    Raises:
        UserError: the folder has no such source.
    """
    if sources is None:
        return np.ones(len(table), bool)
    present = sorted(table["source"].dropna().unique())
    for source in sources:
        if source not in present:
            raise UserError(f"{out}: no source {source!r}; its sources are {', '.join(present) or 'not named'}")
    return table["source"].isin(list(sources)).to_numpy()


def labels_from_table(
    out: Union[str, Path],
    file: Union[str, Path],
    *,
    on: Optional[str] = None,
    columns: Optional[Sequence[str]] = None,
    sources: Optional[Sequence[str]] = None,
    regression: bool = False,
) -> Labels:
    """Labels from a table of somebody else: csv or parquet, a row a recording or a patient.

    Args:
        out: prepared folder.
        file: values are 0, 1, true, false or empty (unknown); with `regression` any number.
        on: one of `KEYS`, a column of both tables; None: the first of them that the file has.
        columns: the labels; None: all that hold only numbers or truth values.
        sources: only their recordings are joined. Patients of several sources are joined only if these are named.

    Raises:
        UserError: the file, a column or a value cannot be used, keys occur twice, or none of them is known.
    """
    present = columns_of(file)
    on = on or next((key for key in KEYS if key in present), None)
    if on is None:
        raise UserError(f"{file}: none of the columns {', '.join(KEYS)}; its columns are {', '.join(present)}")
    check_columns(file, [on, *(columns or ())])
    rows = _read_whole(file, [on, *(columns or [name for name in present if name not in KEYS])])
    names = list(dict.fromkeys(columns)) if columns else _numeric_columns(rows.drop(columns=on))
    if not names:
        raise UserError(f"{file}: no column with numbers or truth values only; give --columns")
    keys = as_keys(rows[on])
    _check_unique(file, on, keys)
    values = np.stack([_numbers(file, name, rows[name], regression) for name in names], axis=1)
    table = read_table(out, list(dict.fromkeys(["idx", "source", on])))
    own = as_keys(table[on]).where(in_sources(out, table, sources), None)
    if on != "patient" or sources is None:
        _check_unambiguous(file, on, table["source"], own.where(own.isin(set(keys.dropna())), None))
    row = _rows_of(keys, own)
    joined = np.where((row >= 0)[:, None], values[row], np.nan)
    labels = Labels(names, table["idx"].to_numpy(np.int64), joined, regression)
    labels.settings = {"table": Path(file).name, "on": on, "sources": sources, "regression": regression}
    _count_rows(labels, file, keys, own, [name for name in rows.columns if name not in (on, *names)])
    return labels


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
    """A column as float64, NaN where empty; `UserError` for what is no label."""
    import pandas as pd

    texts = as_texts(values).str.lower()
    numbers = pd.to_numeric(texts, errors="coerce") if regression else texts.map(_TRUTH)
    wrong = np.flatnonzero((texts != "") & ~np.isfinite(numbers))
    if len(wrong):
        allowed = "a number or nothing" if regression else "0, 1, true, false or nothing"
        text = as_texts(values.iloc[wrong[:1]]).iloc[0]
        cure = "mend it, or choose the labels with --columns"
        line = place(file, texts.index[wrong[0]])
        raise UserError(f"{file}: {line}: column {name!r}: {text!r} is not {allowed}; {cure}")
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
        raise UserError(f"{file}: {found}; say with --source NAME which is meant")
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


def drop_rare(labels: Labels, min_count: int) -> Labels:
    """The labels that at least `min_count` recordings have; the others are named in the notes.

    Raises:
        UserError: none is left.
    """
    kept = np.flatnonzero(labels.positives >= min_count)
    rare = [f"{name} ({count})" for name, count in zip(labels.names, labels.positives) if count < min_count]
    if not len(kept):
        raise UserError(f"no label has {min_count} positive recordings ({', '.join(rare)}); lower --min-count")
    if rare:
        labels.notes.append(f"labels with fewer than {min_count} positives were dropped: {', '.join(rare)}")
    labels.names, labels.values = [labels.names[label] for label in kept], labels.values[:, kept]
    labels.counts["dropped_labels"], labels.settings["min_count"] = rare, min_count
    return labels
