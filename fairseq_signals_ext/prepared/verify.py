"""Verify that a prepared folder is complete and consistent.

Each file is compared with its checksum. Further checks compare files that were written separately: counts with the
index, the index with the table, the table with the plan, manifests and labels with the table. Each problem is a line
with file, item and hint.
"""

import csv
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Dict, Iterator, List, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.common.errors import UserError, first_line
from fairseq_signals_ext.common.processes import joblib_settings
from fairseq_signals_ext.common.progress import Progress
from fairseq_signals_ext.data.checksums import check
from fairseq_signals_ext.prepared.plan import PLAN_NAME, Block, read_plan
from fairseq_signals_ext.prepared.quality import FLAGS, FOR_FACTORS, likely_factors
from fairseq_signals_ext.prepared.table import REJECTED_NAME, TABLE_NAME, how_to_get_prepared
from fairseq_signals_ext.prepared.verify_files import check_checksums, check_labels
from fairseq_signals_ext.prepared.verify_manifests import MANIFEST_COLUMNS, check_manifests
from fairseq_signals_ext.prepared.verify_shards import SHARD_COLUMNS, WRITE_TABLE_AGAIN, check_shard
from fairseq_signals_ext.sources.text_tables import of_cell

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

# parts in which reasons of one kind differ: quotations and numbers
_PARTICULAR = re.compile(r"'[^']*'|\"[^\"]*\"|\d+(?:[.,]\d+)*")
# columns with few different texts
_REPEATED = ("shard", "source", "leads", "derived_leads", "filled_leads", "constant_leads")


@dataclass
class Findings:
    """Results of `verify`.

    Attributes:
        out: the prepared folder.
        quick: the counts were not read.
        recordings, shards, manifests, labels: how many were checked.
        hours: total duration of the recordings.
        problems: one line each.
        notes: other useful information, one line each.
    """

    out: Path
    quick: bool
    recordings: int
    shards: int
    hours: float
    manifests: int = 0
    labels: int = 0
    problems: List[str] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)


def verify(out: Union[str, Path], jobs: int = 1, quick: bool = False, progress: bool = True) -> Findings:
    """Check a prepared folder; nothing in it is changed.

    Args:
        out: folder written by `prepare`.
        jobs: processes; -1: one per core.
        quick: do not read the counts, and so check neither CRC-32 nor mean and std.
        progress: show a bar.

    Raises:
        UserError: plan or table are missing, empty, changed or cannot be read, or `jobs` is 0.
    """
    out = Path(out)
    if jobs == 0:
        raise UserError("jobs 0: give at least 1 (-1: one per core)")
    plan = read_plan(out)
    if not plan:
        raise UserError(f"{out / PLAN_NAME}: no such file, or no shards in it; {how_to_get_prepared(out)}")
    table = read_compact(out, list(dict.fromkeys((*SHARD_COLUMNS, *MANIFEST_COLUMNS))))
    if table.empty:
        raise UserError(f"{out / TABLE_NAME}: has no recordings; see rejected.csv, fix the problems and prepare again")
    hours = float(table["samples"].sum()) / plan[0].settings.processing.rate / 3600
    findings = Findings(out, quick, len(table), len(plan), hours)
    recorded = check_checksums(out, plan)
    findings.problems += recorded.problems
    findings.problems += _check_table(out, plan, table)
    for problems in _shard_problems(out, plan, table, quick, jobs, progress):
        findings.problems += problems
    findings.problems += _check_rejected(out, plan, table["idx"].to_numpy())
    manifests = check_manifests(out, table)
    labels = check_labels(out, int(table["idx"].max()))
    findings.manifests, findings.labels = manifests.files, labels.files
    findings.problems += manifests.problems + labels.problems
    # changed files are reported here, so errors when reading them are ignored
    findings.problems = list(dict.fromkeys(findings.problems))
    findings.notes += [*_rejections(out), *_gains(out), *manifests.notes, *_leftovers(out, plan), *recorded.notes]
    return findings


def read_compact(out: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> "pd.DataFrame":
    """Read columns of the table like `read_table`, but with much less memory.

    Repeated texts are categories, unique ones are stored by Arrow. Missing optional columns, as in folders of earlier
    versions, are left out.

    Raises:
        UserError: there is no table, it is damaged, or it lacks a column.
    """
    import pandas as pd
    import pyarrow as pa

    kept = {pa.string(): pd.ArrowDtype(pa.string())}
    return _read(out, columns, optional).to_pandas(types_mapper=kept.get)


def read_flags(out: Path) -> Tuple[np.ndarray, np.ndarray]:
    """Return flags of all recordings: rows of the table, int64, and flags, object; a recording may have several.

    Raises:
        UserError: see `read_compact`.
    """
    import pyarrow.compute as pc

    flags = _read(out, ["flags"])["flags"].combine_chunks()
    rows = pc.list_parent_indices(flags).to_numpy()
    return rows, pc.list_flatten(flags).to_numpy(zero_copy_only=False)


def _read(out: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> "pa.Table":
    import pyarrow.parquet as pq

    path = out / TABLE_NAME
    if not path.is_file():
        raise UserError(f"{path}: no such file; run fairseq-signals-ext prepare first")
    check(path)
    try:
        present = pq.read_schema(path).names
        missing = [name for name in columns if name not in present]
        if missing:
            raise UserError(f"{path}: no column {missing[0]!r}; {WRITE_TABLE_AGAIN}")
        columns = [*columns, *(name for name in optional if name in present)]
        file = pq.ParquetFile(path, read_dictionary=[name for name in _REPEATED if name in columns])
        return file.read(columns=columns)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - errors of damaged files are not documented
        raise UserError(f"{path}: cannot be read ({first_line(error)}); {WRITE_TABLE_AGAIN}") from error


def _shard_problems(
    out: Path, plan: Sequence[Block], table: "pd.DataFrame", quick: bool, jobs: int, progress: bool
) -> Iterator[List[str]]:
    """Return the problems of each shard, in the order of the plan."""
    from joblib import Parallel, delayed

    columns, rows_of = table[list(SHARD_COLUMNS)], table.groupby("shard", sort=False, observed=True).indices
    none = np.zeros(0, np.int64)
    work = (
        delayed(check_shard)(out, block, columns.iloc[rows_of.get(_shard_name(block), none)], quick) for block in plan
    )
    found = Parallel(n_jobs=jobs, return_as="generator", batch_size=1, **joblib_settings())(work)
    # not the items of the plan, which include rejected ones, also repeatedly after retries
    with Progress("verify", len(table), "recording", is_shown=progress) as bar:
        for block, problems in zip(plan, found):
            bar.update(len(rows_of.get(_shard_name(block), none)))
            yield problems


def _shard_name(block: Block) -> str:
    return block.shard(Path()).as_posix()


def _check_table(out: Path, plan: Sequence[Block], table: "pd.DataFrame") -> List[str]:
    """Return problems of the table itself; `check_shard` compares it with the shards."""
    idx, duplicate_of = table["idx"].to_numpy(), table["duplicate_of"]
    planned = {_shard_name(block) for block in plan}
    original = duplicate_of.fillna(-1).to_numpy(np.int64)
    copies = duplicate_of.notna().to_numpy()
    checks = (
        (np.append(False, np.diff(idx) <= 0)[: len(idx)], "its idx is not above that of the row before it"),
        (~table["shard"].isin(planned).to_numpy(), "its shard is not in the plan"),
        (copies & ~(np.isin(original, idx) & (original < idx)), "its duplicate_of is not the idx of an earlier one"),
        (_with_unknown_flags(out, len(table)), f"it has a flag other than {', '.join(FLAGS)}"),
    )
    problems = []
    for wrong, what in checks:
        if wrong.any():
            first = table.iloc[int(np.argmax(wrong))]
            item = f"item {first['source_file']!r} (idx {first['idx']})"
            problems.append(f"{out / TABLE_NAME}: {item}: {what}{_more(int(wrong.sum()))}; {WRITE_TABLE_AGAIN}")
    return problems


def _more(count: int) -> str:
    return f" (and {count - 1} more such)" if count > 1 else ""


def _with_unknown_flags(out: Path, rows: int) -> np.ndarray:
    at, flags = read_flags(out)
    wrong = np.zeros(rows, bool)
    wrong[at[~np.isin(flags.astype(str), list(FLAGS))]] = True
    return wrong


def _check_rejected(out: Path, plan: Sequence[Block], idx: np.ndarray) -> List[str]:
    """Check that each planned item is either in the table or, once, in `rejected.csv`."""
    path = out / REJECTED_NAME
    try:
        check(path)
        with open(path, encoding="utf-8", newline="") as file:
            listed = Counter(of_cell(row["source_file"]) for row in csv.DictReader(file))
    except UserError as error:
        return [str(error)]
    except (OSError, ValueError, KeyError) as error:
        return [f"{path}: cannot be read ({error!r}); {WRITE_TABLE_AGAIN}"]
    absent = _absent_items(plan, idx)
    expected = Counter(name for _, name in absent)
    lost = [(key, block) for key, block in absent.items() if listed[key[1]] < expected[key[1]]]
    # the items of an incomplete shard are in neither, and the shard is reported separately
    lost = [(key, block) for key, block in lost if block.is_complete(out)]
    surplus = sorted(listed - expected)
    problems = []
    twice = _twice(plan, idx)
    if twice:
        (source, name), table = twice[0], out / TABLE_NAME
        problems.append(f"{table}: item {name!r} of source {source!r} appears twice{_more(len(twice))}; prepare again")
    if lost:
        (source, name), block = lost[0]
        where = f"item {name!r} of source {source!r}, planned for shard {block.number}"
        problems.append(f"{path}: {where}, is neither in the table nor here{_more(len(lost))}; {WRITE_TABLE_AGAIN}")
    if surplus:
        what = "is here, though it is in the table, here twice or not in the plan"
        problems.append(f"{path}: item {surplus[0]!r} {what}{_more(len(surplus))}; {WRITE_TABLE_AGAIN}")
    return problems


def _absent_items(plan: Sequence[Block], idx: np.ndarray) -> Dict[Tuple[str, str], Block]:
    """Return items (source, name) that the table lacks, with the last block of the plan that has them.

    Args:
        idx: of the table, at least one.
    """
    absent: Dict[Tuple[str, str], Block] = {}
    idx = np.sort(idx)
    for block in plan:
        numbers = np.arange(block.first_idx, block.first_idx + len(block.items))
        at = np.searchsorted(idx, numbers)
        present = idx[np.minimum(at, len(idx) - 1)] == numbers
        for name, there in zip(block.items, present.tolist()):
            if not there:
                absent[block.source, name] = block
            elif absent:  # an item that was rejected may have been tried again with success
                absent.pop((block.source, name), None)
    return absent


def _rejections(out: Path) -> List[str]:
    """Return notes on rejected items, by source and kind of reason, each with the first reason of its kind."""
    reasons: Dict[Tuple[str, str], List[str]] = {}
    try:
        with open(out / REJECTED_NAME, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                kind = _PARTICULAR.sub("#", row["reason"])
                reasons.setdefault((of_cell(row["source"]), kind), []).append(row["reason"])
    except (OSError, ValueError, KeyError, TypeError):  # reported separately
        return []
    return [
        f"{source}: {len(found)} rejected: {found[0]}{' (and the like)' if len(set(found)) > 1 else ''}"
        for (source, _), found in sorted(reasons.items())
    ]


def _gains(out: Path) -> List[str]:
    """Return notes on sources with implausible amplitudes."""
    factors = likely_factors(read_compact(out, FOR_FACTORS[:-1], FOR_FACTORS[-1:]))
    return [
        f"{name}: its amplitudes are not plausible for an ECG in mV; the likely factor is {factor:g} (--gain-fix)"
        for name, factor in factors.items()
    ]


def _twice(plan: Sequence[Block], idx: np.ndarray) -> List[Tuple[str, str]]:
    """Return items (source, name) that are in the table more than once."""
    again = [name for name, count in Counter((b.source, name) for b in plan for name in b.items).items() if count > 1]
    if not again:
        return []
    wanted, present = set(again), set(idx.tolist())
    times = Counter(
        (block.source, name)
        for block in plan
        for number, name in enumerate(block.items, block.first_idx)
        if (block.source, name) in wanted and number in present
    )
    return sorted(key for key, count in times.items() if count > 1)


def _leftovers(out: Path, plan: Sequence[Block]) -> List[str]:
    """Return notes on unfinished temporary files, and on shards that are not in the plan."""
    unfinished = sorted(out.rglob(".*.tmp"))
    planned = {block.shard(out).name for block in plan}
    shards = sorted(path for path in (out / "shards").glob("*.npy") if not path.name.endswith(".index.npy"))
    unplanned = [path for path in shards if path.name not in planned]
    return [
        *(f"{path}: unfinished, left by a run that was stopped; it may be deleted" for path in unfinished),
        *(f"{path}: not in the plan, so nothing refers to it; it may be deleted" for path in unplanned),
    ]
