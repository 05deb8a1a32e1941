"""Preparation: recordings of a source become shards, tables and a manifest.

The files of a source, sorted by name, are cut into blocks; a block becomes one shard, so that the result depends
neither on the machine nor on the number of processes. Beside each shard lies what is known of its recordings
(`NNNNN.part.json`); the tables are made from these at the end, after a resumed run as after an unbroken one.
"""

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.data.shards import ShardWriter, index_path
from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.files import atomic
from fairseq_signals_ext.leads import LEADS
from fairseq_signals_ext.readers import Recording, read_ecg

_TABLE_COLUMNS = (
    "idx:int64 record_id:string source_file:string patient:string start_time:string age:float64 sex:string "
    "sample_rate:float64 samples:int64 leads:string statements:string rounding_error_mv:float64 shard:string row:int64"
)
# a lead with a smaller range than this (mV) is constant: its range divided into counts would no longer be exact
_SMALLEST_RANGE = 1e-12


@dataclass(frozen=True)
class Source:
    """Where recordings come from.

    Attributes:
        folder: the source's folder; names in the tables are relative to it.
        files: one a recording, below `folder`, in any order.
        read: file -> `Recording`, or `UserError`; with several processes it must be picklable.
    """

    folder: Path
    files: Sequence[Path]
    read: Callable[[Path], Recording] = read_ecg


@dataclass(frozen=True)
class Summary:
    """What `prepare` left; `hours` is the recordings' time together."""

    recordings: int
    rejected: int
    shards: int
    hours: float


def resample_linear(signal: np.ndarray, source_rate: float, target_rate: float) -> np.ndarray:
    """ECG-FM's linear resampling: int(samples * target / source) points from the first sample to the last.

    The first and the last sample stay as they are and the points between are evenly spaced, as in ECG-FM's
    preprocessed files (arXiv 2408.05178), so the time axis is stretched by less than one sample.

    Args:
        signal: leads x samples.
        source_rate, target_rate: Hz.

    Returns:
        leads x new samples, float64.
    """
    samples = signal.shape[1]
    target = np.linspace(0, samples - 1, int(samples * target_rate / source_rate))
    grid = np.arange(samples)
    return np.stack([np.interp(target, grid, lead) for lead in signal])


def to_counts(recording: Recording, target_rate: float) -> Tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """A recording as int16 counts at `target_rate` (Hz).

    At its own rate, a recording that comes with integers keeps them. Otherwise each lead is scaled to its own range;
    0 mV is always a whole count, and a constant lead is exact.

    Returns:
        counts (leads x samples, int16), scale (leads, mV per count), zero (leads, the count at 0 mV), and the
        largest error of rounding in mV.

    Raises:
        UserError: no samples, values that are not finite, or a rate that is none; the message has no file name.
    """
    _check_recording(recording)
    stored, limits = recording.stored, np.iinfo(np.int16)
    same_rate = recording.sample_rate == target_rate
    if same_rate and stored and stored.counts.min() >= limits.min and stored.counts.max() <= limits.max:
        return stored.counts.astype(np.int16), stored.scale, stored.zero, 0.0
    signal = recording.signal
    if not same_rate:
        signal = resample_linear(signal, recording.sample_rate, target_rate)
    if signal.shape[1] == 0:
        raise UserError(f"too short: nothing is left of it at {target_rate:g} Hz")
    low, high = signal.min(axis=1), signal.max(axis=1)
    constant = high - low <= np.maximum(_SMALLEST_RANGE, 1e-9 * np.maximum(np.abs(low), np.abs(high)))
    # one count less than the range of int16 leaves room for the rounding of zero
    scale = np.where(constant, 1.0, (high - low) / 65533)
    zero = np.where(constant, -low, -32767 - np.floor(low / scale))
    counts = np.rint(np.where(constant[:, None], 0.0, signal / scale[:, None] + zero[:, None])).astype(np.int16)
    error = np.abs((counts - zero[:, None]) * scale[:, None] - signal).max()
    return counts, scale, zero, float(error)


def _check_recording(recording: Recording) -> None:
    if recording.signal.size == 0:
        raise UserError("it has no samples")
    if not (math.isfinite(recording.sample_rate) and recording.sample_rate > 0):
        raise UserError(f"its sample rate is {recording.sample_rate} Hz")
    invalid = (~np.isfinite(recording.signal)).sum(axis=1)
    if invalid.any():
        first = int(np.flatnonzero(invalid)[0])
        samples = recording.signal.shape[1]
        raise UserError(f"lead {LEADS[recording.leads[first]]}: {invalid[first]} of {samples} samples are invalid")


def prepare(
    source: Source,
    out: Union[str, Path],
    *,
    rate: float = 500.0,
    shard_size: int = 2048,
    jobs: int = 1,
    resume: bool = False,
    strict: bool = False,
    progress: bool = True,
) -> Summary:
    """Write the recordings of a source to `out`.

    Leaves `shards/NNNNN.npy` with `.index.npy` and `.part.json`, `recordings.parquet` (a row a recording),
    `rejected.csv` (source_file, reason) and `all.tsv` (manifest). All of it is the same whatever `jobs`. A
    recording's `idx` is its file's place in the sorted source, so it has gaps where files were rejected.

    Args:
        rate: Hz; recordings of another rate are resampled linearly.
        shard_size: source files a shard.
        jobs: processes; -1: one a core.
        resume: keep the shards that are complete.
        strict: raise at the first file that cannot be used, in place of rejecting it.
        progress: show a bar.

    Raises:
        UserError: no files, none of them usable, shards there already without `resume`, or shards that were made
            from other files or with other settings.
    """
    out = Path(out)
    _check_settings(rate, shard_size, jobs)
    shards = out / "shards"
    if shards.exists() and not resume:
        raise UserError(f"{shards}: exists already; go on with --resume, or choose another folder")
    blocks = _blocks(source, shards, rate, shard_size, strict)
    missing = [block for block in blocks if not _is_complete(block)]
    _write_blocks(missing, sum(len(block.names) for block in blocks), jobs, progress)
    return _write_tables(out, blocks)


def _check_settings(rate: float, shard_size: int, jobs: int) -> None:
    if not (math.isfinite(rate) and rate > 0):
        raise UserError(f"rate {rate}: give a sample rate in Hz above 0")
    if shard_size < 1 or jobs == 0:
        raise UserError(f"shard size {shard_size}, jobs {jobs}: give at least 1 of each (jobs -1: one a core)")


@dataclass(frozen=True)
class _Block:
    """The files that become one shard."""

    source_folder: Path
    names: Tuple[str, ...]
    read: Callable[[Path], Recording]
    shard: Path
    first_idx: int
    rate: float
    strict: bool

    @property
    def part(self) -> Path:  # what is known of its recordings
        return self.shard.with_suffix(".part.json")

    @property
    def made_of(self) -> Dict[str, Any]:
        """What a shard on disk must have been made of to be this block's."""
        return {"rate": self.rate, "first_idx": self.first_idx, "files": list(self.names)}


def _blocks(source: Source, shards: Path, rate: float, shard_size: int, strict: bool) -> List[_Block]:
    names = sorted(Path(file).relative_to(source.folder).as_posix() for file in source.files)
    if not names:
        raise UserError(f"{source.folder}: no recordings found; give the folder that holds them")
    folder, blocks = Path(source.folder), []
    for first in range(0, len(names), shard_size):
        shard = shards / f"{first // shard_size:05d}.npy"
        files = tuple(names[first : first + shard_size])
        blocks.append(_Block(folder, files, source.read, shard, first, rate, strict))
    return blocks


def _is_complete(block: _Block) -> bool:
    if not all(path.is_file() for path in (block.shard, index_path(block.shard), block.part)):
        return False
    if _read_part(block)["made_of"] != block.made_of:
        raise UserError(
            f"{block.shard}: was made from other files or with another rate or shard size; "
            "choose another folder, or delete this one"
        )
    return True


def _read_part(block: _Block) -> Dict[str, Any]:
    try:
        return json.loads(block.part.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{block.part}: cannot be read ({error}); delete it and prepare again with --resume") from error


def _write_blocks(blocks: Sequence[_Block], total: int, jobs: int, progress: bool) -> None:
    from joblib import Parallel, delayed
    from tqdm import tqdm

    done = total - sum(len(block.names) for block in blocks)
    with tqdm(total=total, initial=done, desc="prepare", unit="file", disable=not progress) as bar:
        if jobs == 1 or len(blocks) <= 1:
            for block in blocks:
                _write_block(block, bar.update)
            return
        parallel = Parallel(n_jobs=jobs, return_as="generator_unordered")
        for files in parallel(delayed(_write_block)(block) for block in blocks):
            bar.update(files)


def _write_block(block: _Block, advance: Callable[[int], Any] = lambda files: None) -> int:
    """Write shard, part table and, last, the index, which marks the shard as complete; returns the number of files."""
    writer = ShardWriter(block.shard)
    rows: List[Dict[str, Any]] = []
    rejected: List[Tuple[str, str]] = []
    for number, name in enumerate(block.names):
        try:
            rows.append(_add(writer, block, name, block.first_idx + number))
        except UserError as error:
            path = block.source_folder / name
            reason = str(error).replace(f"{path}: ", "", 1)
            if block.strict:
                raise UserError(f"{path}: {reason}") from error
            rejected.append((name, reason))
        advance(1)
    block.shard.parent.mkdir(parents=True, exist_ok=True)
    with atomic(block.part) as temporary:
        temporary.write_text(json.dumps({"made_of": block.made_of, "rows": rows, "rejected": rejected}))
    writer.close()
    return len(block.names)


def _add(writer: ShardWriter, block: _Block, name: str, idx: int) -> Dict[str, Any]:
    recording = block.read(block.source_folder / name)
    counts, scale, zero, error = to_counts(recording, block.rate)
    row = len(writer)
    writer.add(
        counts,
        leads=recording.leads,
        scale=scale,
        zero=zero,
        sample_rate=block.rate,
        idx=idx,
        patient=recording.patient or name,
    )
    return {
        "idx": idx,
        "record_id": recording.record_id,
        "source_file": name,
        "patient": recording.patient,
        "start_time": recording.start_time.isoformat() if recording.start_time else None,
        "age": recording.age,
        "sex": recording.sex,
        "sample_rate": recording.sample_rate,
        "samples": counts.shape[1],
        "leads": ",".join(LEADS[lead] for lead in recording.leads),
        "statements": ";".join(recording.statements),
        "rounding_error_mv": error,
        "shard": f"shards/{block.shard.name}",
        "row": row,
    }


def _write_tables(out: Path, blocks: Sequence[_Block]) -> Summary:
    """Tables and manifest from the parts; raises `UserError` when no recording was usable."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([tuple(column.split(":")) for column in _TABLE_COLUMNS.split()])
    lines, seconds = [".\n"], 0.0
    rejected: List[Tuple[str, str]] = []
    with atomic(out / "recordings.parquet") as path, pq.ParquetWriter(path, schema) as writer:
        for block in blocks:
            part = _read_part(block)
            rejected += part["rejected"]
            seconds += sum(row["samples"] for row in part["rows"]) / block.rate
            writer.write_table(pa.Table.from_pylist(part["rows"], schema))
            lines += [f"{row['shard']}\t{row['row']}\t{row['samples']}\n" for row in part["rows"]]
    with atomic(out / "all.tsv") as path:
        path.write_bytes("".join(lines).encode())
    with atomic(out / "rejected.csv") as path, open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("source_file", "reason"), *rejected])
    recordings = len(lines) - 1
    if not recordings:
        (name, reason), count = rejected[0], len(rejected)
        raise UserError(f"{out / 'rejected.csv'}: all {count} files were rejected; the first, {name}: {reason}")
    return Summary(recordings, len(rejected), len(blocks), seconds / 3600)
