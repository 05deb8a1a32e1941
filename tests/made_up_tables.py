"""Prepared folders with a made-up table, and what a split of them holds."""

from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fairseq_signals_ext.data.shards import patient_key
from fairseq_signals_ext.prepared.split import SplitSettings, split_recordings
from fairseq_signals_ext.prepared.split_filtering import Filters
from fairseq_signals_ext.prepared.table import COLUMNS, manifest_lines

_TYPES = {"list<string>": pa.list_(pa.string()), "timestamp[us]": pa.timestamp("us")}
SUBSETS = ("train", "valid", "test")
ALL_LEADS = "I,II,III,aVR,aVL,aVF,V1,V2,V3,V4,V5,V6"


def write_table(folder: Path, rows: int, order: Any = None, **columns: Any) -> pd.DataFrame:
    """`recordings.parquet` and `all.tsv` of a prepared folder; columns that are not given hold something plausible.

    `order` permutes the rows of the file. Returns the table, sorted by idx.
    """
    plausible: Dict[str, Any] = {
        "idx": range(rows),
        "record_id": [f"r{row}" for row in range(rows)],
        "leads": [ALL_LEADS] * rows,
        "filled_leads": [""] * rows,
        "samples": [5000] * rows,
        "flags": [[]] * rows,
        "codes": [[]] * rows,
        "shard": [f"shards/{row // 4:05d}.npy" for row in range(rows)],
        "row": [row % 4 for row in range(rows)],
    }
    patients = columns.get("patient", [None] * rows)
    plausible["patient_key"] = [patient_key(f"unknown {row}" if p is None else p) for row, p in enumerate(patients)]
    arrays = {}
    for name, (kind, _) in COLUMNS.items():
        values = columns.pop(name, plausible.get(name, [None] * rows))
        arrays[name] = pa.array(list(values), _TYPES.get(kind) or getattr(pa, kind)())
    arrays.update({name: pa.array(list(values)) for name, values in columns.items()})
    table = pa.table(arrays)
    if order is not None:
        table = table.take(pa.array(order))
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "recordings.parquet")
    frame = table.to_pandas()
    (folder / "all.tsv").write_text("\n".join([".", *manifest_lines(frame), ""]))
    return frame.sort_values("idx", ignore_index=True)


def members(folder: Path, table: pd.DataFrame, name: str) -> Dict[str, List[int]]:
    """idx of the recordings in each manifest of split `name`, read from the files; pieces of a manifest are joined."""
    idx = dict(zip(manifest_lines(table), table["idx"].tolist()))
    split = folder / "splits" / name
    found: Dict[str, List[int]] = {}
    for path in sorted(split.rglob("*.tsv")):
        root, *lines = path.read_text().splitlines()
        assert (path.parent / root).resolve() == folder.resolve()
        subset = (path.parent / path.stem.split("-0")[0]).relative_to(split).as_posix()
        found.setdefault(subset, []).extend(idx[line] for line in lines)
    return found


def contents(folder: Path) -> Dict[str, bytes]:
    """The bytes of all files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def times(*days: Any) -> List[Any]:
    """Times so many days after 2019-01-01, None where None."""
    return [None if day is None else np.datetime64("2019-01-01", "us") + np.timedelta64(day, "D") for day in days]


def split(folder, table, name="s", filters=None, **options):
    """Split, and what the files hold; the counts must be theirs."""
    asked = SplitSettings(name, filters=Filters(**filters or {}), **options)
    summary = split_recordings(folder, asked)
    found = members(folder, table, name)
    assert {subset: counts.recordings for subset, counts in summary.subsets.items()} == {
        subset: len(idx) for subset, idx in found.items()
    }
    return found, summary


def subset_of(found):
    return {idx: name for name in SUBSETS for idx in found.get(name, ())}


def check_whole(found, summary, table):
    everywhere = [idx for name in SUBSETS for idx in found.get(name, ())]
    assert len(set(everywhere)) == len(everywhere)
    assert len(everywhere) + sum(summary.left_out.values()) == len(table) == summary.recordings
