"""What is known of embedded recordings, joined from a table, to colour a map by."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, Optional

import numpy as np

from fairseq_signals_ext.data.checksums import check
from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.preparation.table import TABLE_NAME, read_table
from fairseq_signals_ext.text_tables import as_keys, as_texts, check_columns, columns_of, place, read_chunks

if TYPE_CHECKING:
    import pandas as pd

# columns that name a recording, the first that a table has is used
KEYS = ("file", "record_id", "idx")


def check_column(table: Path, column: str) -> None:
    """See that a table can be joined, before there are embeddings.

    Raises:
        UserError: it is not what was written, cannot be read, or lacks the column or one that names recordings.
    """
    check_columns(table, [column])
    _key_of(table)


def values_for(recordings: "pd.DataFrame", column: str, table: Optional[Path] = None) -> np.ndarray:
    """The value of each recording in a column, as text; empty where it is not known.

    Args:
        recordings: `Embeddings.recordings`.
        column: its name.
        table: CSV or Parquet with a row a recording, joined by the first column of these that it has: `file` (as
            it was embedded), `record_id` (recordings with the same one get the same value), `idx` (`labels.csv` of a
            prepared folder, whose shards were embedded). The table of a prepared folder is joined by shard and row.
            None: a column of `recordings`.

    Raises:
        UserError: see `check_column`; two rows say something else of a recording, or none is of these recordings.
    """
    if table is None:
        if column not in recordings.columns:
            present = ", ".join(recordings.columns)
            raise UserError(f"no column {column!r} beside the embeddings ({present}); name one, or give --table")
        return as_texts(recordings[column]).to_numpy()
    key = _key_of(table)
    known, own = _known_values(table, key, column), _own_names(recordings, key)
    if key == "shard" and not any(one in known for one in own):  # the files themselves were embedded
        key = "record_id"
        known, own = _known_values(table, key, column), _own_names(recordings, key)
    if not any(one in known for one in own):
        raise UserError(f"{table}: none of its {key} is of the embedded recordings, such as {own[0]!r}; correct them")
    return np.array([known.get(one, "") for one in own], object)


def _own_names(recordings: "pd.DataFrame", key: str) -> List[Optional[str]]:
    """What names the embedded recordings, as `_keys` of a table."""
    if key == "record_id":
        return list(as_keys(recordings["record_id"]))
    return [os.path.abspath(file) for file in recordings["file"]]


def _known_values(table: Path, key: str, column: str) -> Dict[Optional[str], str]:
    """Values by what names their recording."""
    known: Dict[Optional[str], str] = {}
    for chunk in read_chunks(table, ["shard", "row", column] if key == "shard" else [key, column]):
        texts = as_texts(chunk[column])
        for one, text, row in zip(_keys(chunk, key, table), texts, chunk.index):
            if one is not None and known.setdefault(one, text) != text:
                raise UserError(f"{table}: {place(table, row)}: another {column} of {key} {one!r}; leave one of them")
    return known


def _key_of(table: Path) -> str:
    check(table)
    present = columns_of(table)
    if table.name == TABLE_NAME and {"shard", "row"} <= {*present}:
        return "shard"
    key = next((name for name in KEYS if name in present), None)
    if key is None:
        raise UserError(f"{table}: none of the columns {', '.join(KEYS)}; its columns are {', '.join(present)}")
    if key == "idx" and not (_prepared_folder(table) / TABLE_NAME).is_file():
        raise UserError(f"{table}: has idx, but is not DIR/labels/NAME/labels.csv; add a column record_id or file")
    return key


def _prepared_folder(labels: Path) -> Path:
    return Path(os.path.abspath(labels)).parent.parent.parent


def _keys(rows: "pd.DataFrame", key: str, table: Path) -> List[Optional[str]]:
    """Of each row what names its recording."""
    if key == "shard":
        return _shard_names(rows, table.parent)
    if key == "file":
        return [name if name is None else os.path.abspath(name) for name in as_keys(rows["file"])]
    if key == "record_id":
        return list(as_keys(rows["record_id"]))
    folder = _prepared_folder(table)
    prepared = read_table(folder, ["idx", "shard", "row"])
    names = dict(zip(prepared["idx"].astype(str), _shard_names(prepared, folder)))
    return [names.get(idx) for idx in as_keys(rows["idx"])]


def _shard_names(rows: "pd.DataFrame", folder: Path) -> List[Optional[str]]:
    """As `inference.inputs` names recordings of a prepared folder."""
    top = os.path.abspath(folder)
    return [os.path.join(top, f"{shard}#{row}") for shard, row in zip(rows["shard"], rows["row"])]
