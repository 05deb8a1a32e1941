"""Check that a shard is complete, and that its index, its counts, the plan and the table agree.

The same problem of many recordings in a shard is one line with the name of the first.
"""

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Sequence, Union

import numpy as np

from fairseq_signals_ext.common.errors import UserError, first_line
from fairseq_signals_ext.common.leads import LEADS, mask_to_leads
from fairseq_signals_ext.data.checksums import problem_of, record_of_shard
from fairseq_signals_ext.data.shards import PREPARE_AGAIN, STORAGES, has_own_header, index_path, open_shard, read_counts
from fairseq_signals_ext.prepared.plan import Block
from fairseq_signals_ext.prepared.table import TABLE_NAME

if TYPE_CHECKING:
    import pandas as pd

# columns of the table that `check_shard` needs
SHARD_COLUMNS = ("idx", "source_file", "patient_key", "samples", "leads", "shard", "row")
WRITE_TABLE_AGAIN = "prepare again with --resume, which writes it again"
# mean and std are stored as float32; the second term, in counts, allows for sums in another order
_RELATIVE, _COUNTS = 2.0**-22, 1e-6


def check_shard(out: Path, block: Block, table: "pd.DataFrame", quick: bool = False) -> List[str]:
    """Return the problems of a shard, one line each.

    Args:
        out: prepared folder.
        block: of the plan.
        table: the rows of the table that name this shard, with `SHARD_COLUMNS`.
        quick: do not read the counts, and so check neither CRC-32 nor mean and std.
    """
    shard = block.shard(out)
    for path in (shard, index_path(shard), block.part(out)):
        if not path.is_file():
            return [f"{path}: no such file, though the plan has it; prepare again with --resume"]
    try:
        files = (index_path(shard), block.part(out))
        found = [problem_of(path, record_of_shard(shard), PREPARE_AGAIN) for path in files]
    except UserError as error:
        found = [str(error)]
    if any(found):
        return [line for line in found if line]
    problems = _check_part(block.part(out), len(block.items))
    try:
        array, index = open_shard(shard)
    except UserError as error:
        return [*problems, str(error)]
    if array.dtype != STORAGES.get(block.settings.storage) or index.ndim != 1:
        return [*problems, f"{shard}: not stored as {block.settings.storage}, as the plan has it; {PREPARE_AGAIN}"]
    if not has_own_header(shard, array):
        problems.append(f"{shard}: its header or its size is not what was written; {PREPARE_AGAIN}")
    names = _Names(shard, block, index)
    problems += _check_index(names, array, index, block)
    problems += _check_table(names, index, table, out / TABLE_NAME)
    return problems if quick else problems + _check_counts(names, array, index)


class _Names:
    """Lines about the recordings of one shard."""

    def __init__(self, shard: Path, block: Block, index: np.ndarray):
        self.shard, self.block, self.idx = shard, block, index["idx"]

    def recording(self, row: int) -> str:
        idx = int(self.idx[row])
        at = idx - self.block.first_idx
        name = f"item {self.block.items[at]!r} " if 0 <= at < len(self.block.items) else ""
        return f"{name}(row {row}, idx {idx})"

    def line(
        self,
        rows: Union[np.ndarray, Sequence[int]],
        what: Callable[[int], str],
        hint: str = PREPARE_AGAIN,
        path: Optional[Path] = None,
    ) -> List[str]:
        """Return one line if rows of the index are wrong, else none."""
        if not len(rows):
            return []
        more = f" (and {len(rows) - 1} more of this shard)" if len(rows) > 1 else ""
        first = int(rows[0])
        return [f"{path or self.shard}: {self.recording(first)}: {what(first)}{more}; {hint}"]


def _check_part(path: Path, items: int) -> List[str]:
    import pyarrow.parquet as pq

    hint = "delete it and prepare again with --resume"
    try:
        rows = pq.ParquetFile(path).metadata.num_rows
    except Exception as error:  # noqa: BLE001 - errors of damaged files are not documented
        return [f"{path}: cannot be read ({first_line(error)}); {hint}"]
    return [] if rows == items else [f"{path}: has {rows} rows for {items} items of the plan; {hint}"]


def _check_index(names: _Names, array: np.ndarray, index: np.ndarray, block: Block) -> List[str]:
    idx, first = index["idx"], block.first_idx
    outside = (idx < first) | (idx >= first + len(block.items))
    disorder = np.append(False, np.diff(idx) <= 0)
    no_leads = (index["leads"] == 0) | (index["leads"] >= 1 << len(LEADS))
    stored = (index["leads"][:, None].astype(np.int64) >> np.arange(len(LEADS)) & 1).astype(bool)
    unusable = ~np.isfinite(index["scale"]) | (index["scale"] == 0) | ~np.isfinite(index["zero"])
    rate = np.float32(block.settings.processing.rate)

    def gap(row: int) -> str:
        return f"its offset {index['offset'][row]} is not where the recording before it ends"

    def lead(row: int) -> str:
        return f"its scale or zero of lead {LEADS[np.argmax((stored & unusable)[row])]} is not a usable number"

    checks = (
        (outside | disorder, lambda row: f"its idx is not one of the plan's for this shard ({first}...), ascending"),
        (no_leads, lambda row: f"it has no leads, or unknown ones (mask {index['leads'][row]})"),
        (index["samples"] <= 0, lambda row: f"it has {index['samples'][row]} samples"),
        (index["sample_rate"] != rate, lambda row: f"it has {index['sample_rate'][row]:g} Hz, the plan {rate:g} Hz"),
        ((stored & unusable).any(axis=1), lead),
        (_misplaced(array, index, stored.sum(axis=1)), gap),
    )
    problems = [line for wrong, what in checks for line in names.line(np.flatnonzero(wrong), what)]
    needed = int((stored.sum(axis=1) * index["samples"].astype(np.int64)).sum())
    if array.dtype == STORAGES["raw"] and needed != len(array):
        problems.append(f"{names.shard}: it has {len(array)} counts, its index {needed}; {PREPARE_AGAIN}")
    return problems


def _misplaced(array: np.ndarray, index: np.ndarray, leads: np.ndarray) -> np.ndarray:
    """Return which recordings have a wrong offset; the decoder checks the rest of a compressed shard."""
    offset = index["offset"]
    if array.dtype == STORAGES["raw"]:
        ends = np.cumsum(leads * index["samples"].astype(np.int64))
        return offset != np.append(0, ends)[: len(index)]
    follows = np.append(offset[:1] == 0, np.diff(offset) > 0)
    return ~(follows & (offset < len(array)))


def _check_table(names: _Names, index: np.ndarray, table: "pd.DataFrame", path: Path) -> List[str]:
    """Return the problems of the table's rows of this shard."""
    row = table["row"].to_numpy(np.int64)
    inside = (row >= 0) & (row < len(index))
    times = np.bincount(row[inside], minlength=len(index))
    problems = names.line(np.flatnonzero(times == 0), lambda _: "it has no row here", WRITE_TABLE_AGAIN, path)
    problems += names.line(np.flatnonzero(times > 1), lambda _: "it has two rows here", WRITE_TABLE_AGAIN, path)
    if not inside.all():
        first = table.iloc[int(np.argmin(inside))]
        name = f"item {first['source_file']!r} (idx {first['idx']})"
        problems.append(f"{path}: {name}: {first['shard']} has no row {first['row']}; {WRITE_TABLE_AGAIN}")
    table, row = table[inside], row[inside]
    for column, expected in _expected(names, index).items():
        found = table[column].to_numpy()
        wrong = np.flatnonzero(found != expected[row])
        here = dict(zip(row[wrong], found[wrong]))

        def what(at: int, column: str = column, here: dict = here, expected: np.ndarray = expected) -> str:
            return f"{column} is {_shown(here[at])} here, {_shown(expected[at])} in the shard and the plan"

        problems += names.line(row[wrong], what, WRITE_TABLE_AGAIN, path)
    return problems


def _expected(names: _Names, index: np.ndarray) -> Dict[str, np.ndarray]:
    """Return expected columns of the table from index and plan, one value per row of the index."""
    items, first = names.block.items, names.block.first_idx
    planned = [items[idx - first] if 0 <= idx - first < len(items) else None for idx in index["idx"].tolist()]
    leads = [",".join(LEADS[lead] for lead in mask_to_leads(mask)) for mask in index["leads"].tolist()]
    return {
        "idx": index["idx"],
        "source_file": np.array(planned, object),
        "patient_key": index["patient"],
        "samples": index["samples"],
        "leads": np.array(leads, object),
    }


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str) else str(value)


def _check_counts(names: _Names, array: np.ndarray, index: np.ndarray) -> List[str]:
    unreadable, changed, other_moments = [], {}, []
    for row in range(len(index)):
        counts = read_counts(array, index, row)
        if counts is None:
            unreadable.append(row)
            continue
        crc = zlib.crc32(np.ascontiguousarray(counts, "<i2").data)
        if crc != index["crc"][row]:
            changed[row] = crc
        elif counts.size and not _has_moments(counts, index[row]):
            other_moments.append(row)
    return [
        *names.line(unreadable, lambda _: "its counts cannot be read where the index has them"),
        *names.line(
            list(changed), lambda row: f"checksum differs (stored {index['crc'][row]:08x}, read {changed[row]:08x})"
        ),
        *names.line(other_moments, lambda _: "mean or std in the index is not that of its counts"),
    ]


def _has_moments(counts: np.ndarray, entry: np.void) -> bool:
    """Return whether mean and std (mV) in a recording's index row equal those of its counts, to float32 accuracy."""
    leads = list(mask_to_leads(int(entry["leads"])))
    scale, zero = entry["scale"][leads], entry["zero"][leads]
    with np.errstate(all="ignore"):  # a scale that is not a number is reported separately
        for stored, found in (
            (entry["mean"][leads], (counts.mean(axis=1) - zero) * scale),
            (entry["std"][leads], counts.std(axis=1) * np.abs(scale)),
        ):
            if not (np.abs(stored - found) <= _RELATIVE * np.abs(found) + _COUNTS * np.abs(scale)).all():
                return False
    return True
