"""Make the table `recordings.parquet` (a row per recording), manifest and rejections from the parts of all shards.

Rows are in the order of `all.tsv`. The table has the columns below and further columns from the source's tables, such
as PTB-XL's `strat_fold`: numbers as float64, everything else as text.
"""

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.common.errors import UserError, first_line
from fairseq_signals_ext.common.files import atomic
from fairseq_signals_ext.common.hints import did_you_mean
from fairseq_signals_ext.data.checksums import check, record_of_shard, replacing
from fairseq_signals_ext.prepared.plan import Block
from fairseq_signals_ext.prepared.quality import FLAGS, FOR_FACTORS, likely_factors
from fairseq_signals_ext.sources.text_tables import as_cell

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

TABLE_NAME = "recordings.parquet"

# column: (type of pyarrow, meaning); names of leads are one text, such as "I,II,V1"
COLUMNS = {
    "idx": ("int64", "number of the recording in this folder, ascending, with gaps where files were rejected"),
    "record_id": ("string", "the source's own name of the recording"),
    "source": ("string", "name of the source"),
    "source_file": (
        "string",
        "file below the source's folder; with #NAME or #2, #3, ... where it holds many recordings",
    ),
    "patient": ("string", "the source's patient id"),
    "patient_key": ("int64", "number of the patient, other for equal ids of collections with ids of their own"),
    "start_time": ("timestamp[us]", "when it was taken"),
    "age": ("float64", "years"),
    "sex": ("string", "female or male"),
    "sample_rate": ("float64", "Hz, in the source"),
    "stored_rate": ("float64", "Hz, as stored"),
    "samples": ("int64", "per lead, as stored"),
    "seconds": ("float64", "how long it lasts, as stored"),
    "cut_start": ("float64", "s of calibration pulse or constant padding that were cut off its start"),
    "cut_end": ("float64", "the same, of its end"),
    "leads": ("string", "leads that are stored"),
    "derived_leads": ("string", "those of them that were computed from I and II"),
    "filled_leads": ("string", "those of them that are absent in the source and zeros here"),
    "constant_leads": ("string", "those of them that never change"),
    "nan_samples": ("int64", "samples of all leads that the source marks as invalid, interpolated here"),
    "amplitude_mv": ("float64", "median over the leads of the difference of largest and smallest value"),
    "counts_per_mv": ("float64", "gain of the source's file, before gain_fix; none where its leads have several"),
    "gain_fix": ("float64", "factor that the amplitudes were multiplied with"),
    "rounding_error_mv": ("float64", "largest error of rounding; 0 where the source's own counts are kept"),
    "flags": ("list<string>", "what may be wrong with it, see quality.FLAGS"),
    "duplicate_of": ("int64", "idx of the first recording with the same content"),
    "codes": ("list<string>", "diagnostic codes, CODE or CODE:LIKELIHOOD in %"),
    "statements": ("list<string>", "report or interpretation in words"),
    "shard": ("string", "its shard below this folder"),
    "row": ("int64", "its row in the shard's index"),
}
MANIFEST_NAME, REJECTED_NAME = "all.tsv", "rejected.csv"
# metadata counted at the end of a preparation: its column
_METADATA = {
    **{"patient": "patient", "age": "age", "sex": "sex", "start time": "start_time"},
    **{"codes": "codes", "statements": "statements"},
}
# columns of the parts only: hash of the content, name of the source, why an item was rejected, and for the first of
# several ECGs in a file their number
_ONLY_IN_PARTS = {
    **{"content": "string", "collection": "string", "reason": "string", "ecgs": "int64"},
    "facts": "string",  # hash of its metadata in the source's tables
}
_REJECTED_COLUMNS = ("source", "source_file", "reason")
# whole numbers above this are no longer exact as float64, so a column with one is text
_EXACT = 2**53
PART_COLUMNS = {**{name: kind for name, (kind, _) in COLUMNS.items()}, **_ONLY_IN_PARTS}


def read_table(out: Union[str, Path], columns: Optional[Sequence[str]] = None) -> "pd.DataFrame":
    """Read the table of a prepared folder, or some columns of it.

    Raises:
        UserError: it is missing, its checksum differs, or it lacks a column.
    """
    import pandas as pd
    import pyarrow.parquet as pq

    path = Path(out) / TABLE_NAME
    if not path.is_file():
        raise UserError(f"{path}: no such file; {how_to_get_prepared(Path(out))}")
    check(path)
    try:
        present = pq.read_schema(path).names
        missing = [name for name in columns or () if name not in present]
        if missing:
            hint = did_you_mean(missing[0], present, f"its columns are {', '.join(present)}")
            raise UserError(f"{path}: no column {missing[0]!r}; {hint}")
        return pd.read_parquet(path, columns=None if columns is None else list(columns))
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - errors of damaged files are not documented
        hint = "run fairseq-signals-ext prepare again with --resume"
        raise UserError(f"{path}: cannot be read ({first_line(error)}); {hint}") from error


def how_to_get_prepared(folder: Path) -> str:
    """Return a hint for a folder that is not a prepared one."""
    above = next((path for path in folder.absolute().parents if (path / TABLE_NAME).is_file()), None)
    if above is not None:
        return f"this is part of a prepared folder: give {above}"
    return "run fairseq-signals-ext prepare first"


def manifest_lines(table: "pd.DataFrame") -> List[str]:
    """Return a line of a manifest for each row of the table: shard, row and samples, tab-separated."""
    return [f"{shard}\t{row}\t{samples}" for shard, row, samples in zip(table["shard"], table["row"], table["samples"])]


@dataclass(frozen=True)
class Summary:
    """Summary of a prepared folder.

    Attributes:
        recordings, rejected, shards: numbers.
        hours: total duration of the recordings.
        flags: recordings by flag.
        known: number of recordings with a known patient, age, ..., by that name.
        patients: number of different patients.
        likely_factors: source with implausible amplitudes -> factor that would correct them.
        has_changed: False: there was nothing to do.
    """

    recordings: int
    rejected: int
    shards: int
    hours: float
    flags: Mapping[str, int] = field(default_factory=dict)
    known: Mapping[str, int] = field(default_factory=dict)
    patients: int = 0
    likely_factors: Mapping[str, float] = field(default_factory=dict)
    has_changed: bool = True


def write_part(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a shard's part of the table: a row for each of its items, including rejected ones.

    Args:
        rows: columns of `PART_COLUMNS` (`reason` only for rejected items), and further ones.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [pa.field(name, arrow_type(kind)) for name, kind in PART_COLUMNS.items()]
    further = sorted({name for row in rows for name in row} - set(PART_COLUMNS))
    numbers = {name for name in further if all(_is_number(row.get(name)) for row in rows)}
    fields += [pa.field(name, pa.float64() if name in numbers else pa.string()) for name in further]
    content = []
    for row in rows:
        more = {name: _plain(row.get(name), name in numbers) for name in further}
        content.append({**row, **more})
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        pq.write_table(pa.Table.from_pylist(content, pa.schema(fields)), temporary)


def arrow_type(kind: str) -> "pa.DataType":
    """Return the type of a column by its name, such as "float64" or "list<string>"."""
    import pyarrow as pa

    special = {"list<string>": pa.list_(pa.string()), "timestamp[us]": pa.timestamp("us")}
    return special.get(kind) or pa.type_for_alias(kind)


def _is_number(value: Any) -> bool:
    if isinstance(value, (int, np.integer)):
        return abs(int(value)) <= _EXACT
    return value is None or isinstance(value, (float, np.floating, np.bool_))


def _plain(value: Any, number: bool) -> Union[None, float, str]:
    if value is None or value != value:
        return None
    return float(value) if number else str(value)


def write_tables(out: Path, plan: Sequence[Block], parts_of_all: Optional[Sequence["pa.Table"]] = None) -> Summary:
    """Write `recordings.parquet`, `rejected.csv` and `all.tsv` from the parts of all shards.

    Args:
        parts_of_all: the parts, if they were read already.

    Raises:
        UserError: a part cannot be read, or no recording was usable.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    parts = _joined(read_parts(out, plan) if parts_of_all is None else parts_of_all)
    stored = _with_duplicates(parts.filter(pc.is_null(parts["reason"])))
    stored = stored.drop_columns([name for name in _ONLY_IN_PARTS if name in stored.column_names])
    rejected = list(_rejected(parts).values())
    columns = stored.select(["shard", "row", "samples", "flags", *FOR_FACTORS]).to_pandas()
    with replacing(out, [TABLE_NAME, MANIFEST_NAME, REJECTED_NAME]) as (table, manifest, rejections):
        pq.write_table(stored, table, row_group_size=100_000)
        manifest.write_bytes("\n".join([".", *manifest_lines(columns), ""]).encode())
        _write_rejected(rejections, rejected)
    if not len(columns):
        first, count = rejected[0], len(rejected)
        reason = f"the first, {first['source_file']}: {first['reason']}; once fixed, add --retry-rejected"
        raise UserError(f"{out / REJECTED_NAME}: all {count} items were rejected; {reason}")
    flagged = pa.array([flag for flags in columns["flags"] for flag in flags], pa.string()).to_pandas().value_counts()
    return Summary(
        recordings=len(columns),
        rejected=len(rejected),
        shards=len(plan),
        hours=float(columns["samples"].sum()) / plan[0].settings.processing.rate / 3600,
        flags={flag: int(flagged[flag]) for flag in FLAGS if flag in flagged},
        known=_known(stored),
        patients=len(pc.unique(stored["patient_key"].filter(pc.is_valid(stored["patient"])))),
        likely_factors=likely_factors(columns),
    )


def _known(stored: "pa.Table") -> Dict[str, int]:
    """Return the number of recordings with each kind of metadata."""
    import pyarrow.compute as pc

    found = {}
    for name, column in _METADATA.items():
        values = stored[column]
        there = (
            pc.greater(pc.list_value_length(values), 0) if column in ("codes", "statements") else pc.is_valid(values)
        )
        found[name] = int(pc.sum(there).as_py() or 0)
    return found


def _write_rejected(path: Path, rejected: Sequence[Mapping[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_REJECTED_COLUMNS)
        writer.writerows([as_cell(row[name] or "") for name in _REJECTED_COLUMNS] for row in rejected)


def stored_facts(out: Path, plan: Sequence[Block], source: str) -> Dict[str, str]:
    """Return the hash of the metadata with which each stored item of a source was prepared, if known."""
    found: Dict[str, str] = {}
    for part in read_parts(out, [block for block in plan if block.source == source and block.is_complete(out)]):
        if "facts" in part.column_names:
            rows = part.select(["source_file", "facts", "reason"]).to_pylist()
            found.update((row["source_file"], row["facts"]) for row in rows if row["reason"] is None and row["facts"])
    return found


def rejected_items(out: Path, plan: Sequence[Block], source: str) -> List[str]:
    """Return the names of items in complete shards of a source that were rejected."""
    parts = read_parts(out, [block for block in plan if block.source == source and block.is_complete(out)])
    return [name for _, name in _rejected(_joined(parts))] if parts else []


def read_parts(out: Path, blocks: Sequence[Block]) -> List["pa.Table"]:
    """Read the parts of complete shards, in their order.

    Raises:
        UserError: one cannot be read.
    """
    return [_read_part(out, block) for block in blocks]


def files_with_several(parts: Sequence["pa.Table"], source: str) -> Dict[str, int]:
    """Return items of a source with several ECGs in their file, in the order of the parts, and the number of ECGs."""
    import pyarrow.compute as pc

    found: Dict[str, int] = {}
    for part in parts:
        # folders of earlier versions do not have this column
        if "ecgs" in part.column_names and part["ecgs"].null_count < len(part):
            own = part.filter(pc.and_(pc.is_valid(part["ecgs"]), pc.equal(part["collection"], source)))
            found.update(zip(own["source_file"].to_pylist(), own["ecgs"].to_pylist()))
    return found


def _rejected(parts: "pa.Table") -> Dict[Tuple[str, str], Dict[str, Any]]:
    """Return the last rejection of each item, by source and name, unless a later attempt succeeded."""
    found: Dict[Tuple[str, str], Dict[str, Any]] = {}
    names = ["collection", "source_file", "source", "reason"]
    import pyarrow.compute as pc

    for row in parts.filter(pc.is_valid(parts["reason"])).select(names).to_pylist():
        found[row["collection"], row["source_file"]] = row
    if found:
        stored = parts.filter(pc.is_null(parts["reason"])).select(names[:2])
        for key in zip(stored[0].to_pylist(), stored[1].to_pylist()):
            found.pop(key, None)
    return found


def _read_part(out: Path, block: Block) -> "pa.Table":
    import pyarrow.parquet as pq

    path, again = block.part(out), "delete it and prepare again with --resume"
    check(path, record_of_shard(block.shard(out)), again)
    try:
        # ParquetFile, as read_table would take the name of a folder above for a partition
        return pq.ParquetFile(path).read()
    except Exception as error:  # noqa: BLE001 - errors of damaged files are not documented
        raise UserError(f"{path}: cannot be read ({first_line(error)}); {again}") from error


def _joined(parts: Sequence["pa.Table"]) -> "pa.Table":
    """Concatenate the parts; a further column that is text in one of them becomes text in all."""
    import pyarrow as pa

    types: Dict[str, Any] = {name: arrow_type(kind) for name, kind in PART_COLUMNS.items()}  # older parts have fewer
    for part in parts:
        for one in part.schema:
            types[one.name] = one.type if types.get(one.name, one.type) == one.type else pa.string()
    fixed = [name for name in types if name in PART_COLUMNS]
    schema = pa.schema([(name, types[name]) for name in [*fixed, *sorted(set(types) - set(fixed))]])
    return pa.concat_tables([_cast(part, schema) for part in parts])


def _cast(part: "pa.Table", schema: "pa.Schema") -> "pa.Table":
    import pyarrow as pa

    columns = [
        part[one.name].cast(one.type) if one.name in part.schema.names else pa.nulls(len(part), one.type)
        for one in schema
    ]
    return pa.table(columns, schema=schema)


def _with_duplicates(stored: "pa.Table") -> "pa.Table":
    """Return the table with `duplicate_of` and the flag set for recordings with the content of an earlier one."""
    import pyarrow as pa

    known = stored.select(["idx", "content"]).to_pandas().dropna()
    first = known.groupby("content")["idx"].transform("min")
    duplicates = first[first != known["idx"]]
    duplicate_of: List[Optional[int]] = [None] * len(stored)
    flags = stored["flags"].to_pylist()
    for row, idx in duplicates.items():
        duplicate_of[row] = idx
        flags[row] = [*flags[row], "duplicate"]
    for name, values in (("duplicate_of", duplicate_of), ("flags", flags)):
        at = stored.schema.get_field_index(name)
        stored = stored.set_column(at, stored.schema.field(at), pa.array(values, stored.schema.field(at).type))
    return stored
