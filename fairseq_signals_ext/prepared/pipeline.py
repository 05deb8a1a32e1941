"""Preparation: recordings of a source become shards, a table and a manifest.

The plan (`plan.py`) assigns items to shards. Each shard is written by one worker, together with its part of the table,
and appears complete or not at all. The table and the manifest are made of all parts at the end.
"""

import contextlib
import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.common.errors import MissingPackageError, OneOfSeveralError, PlaceError, UserError
from fairseq_signals_ext.common.files import PLAN_NAME, check_text, only_one, remove_unfinished
from fairseq_signals_ext.common.leads import LEADS, leads_to_mask
from fairseq_signals_ext.common.processes import BACKENDS, run_jobs
from fairseq_signals_ext.common.progress import Progress
from fairseq_signals_ext.data.checksums import CHECKSUMS_NAME
from fairseq_signals_ext.data.shards import STORAGES, ShardWriter, patient_key
from fairseq_signals_ext.prepared.counts import Counts, Processing, to_counts
from fairseq_signals_ext.prepared.plan import Block, BlockSettings, check_addition, extended, read_plan, write_plan
from fairseq_signals_ext.prepared.quality import Quality, assess, gain_of, likely_factor
from fairseq_signals_ext.prepared.resuming import check_facts, facts_hash, item_of, to_try_again
from fairseq_signals_ext.prepared.table import (
    MANIFEST_NAME,
    PART_COLUMNS,
    REJECTED_NAME,
    TABLE_NAME,
    Summary,
    files_with_several,
    read_parts,
    write_part,
    write_tables,
)
from fairseq_signals_ext.readers import Recording
from fairseq_signals_ext.readers.facts import shown
from fairseq_signals_ext.sources import Item, Source
from fairseq_signals_ext.sources.source import one_person

if TYPE_CHECKING:
    import pyarrow as pa

# files that a preparation writes to the folder itself; other commands may write other files there
FILES = (PLAN_NAME, TABLE_NAME, MANIFEST_NAME, REJECTED_NAME)
# recordings of a part of a source that are read to find its gain
_GAIN_SAMPLE = 100
# digits of a patient's id that is only a number within a collection, such as INCART's 1 to 32
_COUNTED_DIGITS = 3
_FACTS_OF_RECORDING = ("record_id", "patient", "start_time", "age", "sex", "codes", "statements")
_COLUMNS_OF_THE_FOLDER = set(PART_COLUMNS) - set(_FACTS_OF_RECORDING)


@dataclass(frozen=True)
class RunOptions:
    """How the work is done; the result depends only on `shard_size`.

    Attributes:
        shard_size: items per shard.
        jobs: processes; -1: one per core.
        backend: "processes" on this machine, or "dask" or "ray" for an existing cluster.
        resume: continue with a source in the folder: keep complete shards, add new items.
        retry_rejected: with `resume`, try rejected items again.
        strict: raise at the first item that cannot be used instead of rejecting it.
        progress: show a bar.
    """

    shard_size: int = 1024
    jobs: int = 1
    backend: str = "processes"
    resume: bool = False
    retry_rejected: bool = False
    strict: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        if self.shard_size < 1 or self.jobs == 0:
            raise UserError(
                f"shard-size {self.shard_size}, jobs {self.jobs}: give at least 1 of each (jobs -1: one per core)"
            )
        if self.backend not in BACKENDS:
            raise UserError(f"backend {self.backend!r}: use one of {', '.join(BACKENDS)}")


def prepare(
    source: Source,
    out: Union[str, Path],
    processing: Optional[Processing] = None,
    options: Optional[RunOptions] = None,
    *,
    storage: str = "raw",
    gain_fix: Union[None, str, Dict[str, float]] = None,
) -> Summary:
    """Write the recordings of a source to the folder `out`, which may contain other sources.

    Writes `plan.jsonl`, `shards/NNNNN.npy` with `.index.npy`, `.part.parquet` and `.checksums.json`,
    `recordings.parquet`, `rejected.csv` (source, source_file, reason), `all.tsv` (manifest) and `checksums.json`.

    Args:
        processing: how recordings become counts.
        options: how the work is done.
        storage: "raw" or "flac".
        gain_fix: factors for amplitudes by part of the source; "auto": the likely ones, from a sample.

    Raises:
        UserError: wrong options, no items, no usable items, a source or shards that exist already without `resume`,
            shards made with other settings, or no space left.
    """
    # a worker of a cluster may run in another folder
    out, source = Path(out).absolute(), dataclasses.replace(source, folder=source.folder.absolute())
    processing, options = processing or Processing(), options or RunOptions()
    if storage not in STORAGES:
        raise UserError(f"storage {storage!r}: use one of {', '.join(STORAGES)}")
    items = _by_name(source)
    check_text(out)
    with _write_errors(out), only_one(out, names=(*FILES, CHECKSUMS_NAME)):
        plan = read_plan(out)
        settings = BlockSettings(processing, storage, _gain_fixes(source, plan, processing, gain_fix))
        check_addition(out, plan, source.name, settings, options.resume)
        check_facts(out, plan, source, items)
        again = to_try_again(out, plan, source.name) if options.retry_rejected else set()
        # items of further ECGs in a file are known only from the plan
        names = [*items, *sorted(again - items.keys())]
        plan = extended(plan, source.name, names, settings, options.shard_size, again)
        write_plan(out, plan)
        remove_unfinished(out / "shards")
        has_changed = not (out / TABLE_NAME).exists()
        has_changed |= _write_blocks(source, items, out, plan, options)
        parts = read_parts(out, plan)
        longer = extended(plan, source.name, _later_ecgs(source, items, parts), settings, options.shard_size)
        if len(longer) > len(plan):
            write_plan(out, longer)
            has_changed |= _write_blocks(source, items, out, longer, options)
            parts += read_parts(out, longer[len(plan) :])
        return dataclasses.replace(write_tables(out, longer, parts), has_changed=has_changed)


def _later_ecgs(source: Source, items: Dict[str, Item], parts: Sequence["pa.Table"]) -> List[str]:
    """Return items for the second and further ECGs of files that contain several.

    They come last, in the order of their files, so that interrupted runs give the same result.
    """
    several = files_with_several(parts, source.name)
    later = [f"{name}#{number}" for name, ecgs in several.items() for number in range(2, ecgs + 1)]
    clash = next((name for name in later if name in items), None)
    if clash is not None:
        file = source.folder / clash
        raise UserError(f"{file}: is named as the ECG of a file with several; rename it and continue with --resume")
    return later


def _by_name(source: Source) -> Dict[str, Item]:
    items: Dict[str, Item] = {}
    for item in source.items:
        if item.name in items:
            raise UserError(f"{source.folder}: {item.name!r} is listed twice; remove one from the source's table")
        if not item.name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in item.name):
            raise UserError(f"{source.folder}: the file name {item.name!r} is not UTF-8; rename it")
        items[item.name] = item
        clash = next((name for name in item.facts if name in _COLUMNS_OF_THE_FOLDER), None)
        if clash:
            raise UserError(f"{source.folder}: the source's table has a column {clash!r}, which is ours; rename it")
    if not items:
        raise UserError(f"{source.folder}: no recordings found; give the folder with them")
    return items


@contextlib.contextmanager
def _write_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except PlaceError:
        raise
    except OSError as error:
        raise UserError(
            f"{error.filename or out}: {error.strerror or error}; fix it, then continue with --resume"
        ) from error


def _gain_fixes(
    source: Source, plan: Sequence[Block], processing: Processing, wanted: Union[None, str, Dict[str, float]]
) -> Dict[str, float]:
    """Return the gain factor of each part of the source; "auto": those of the plan, or from a sample of each part."""
    parts: Dict[str, List[Item]] = {}
    for item in source.items:
        parts.setdefault(item.source or source.name, []).append(item)
    if isinstance(wanted, dict):
        for name, factor in wanted.items():
            if name not in parts:
                raise UserError(f"gain-fix {name}={factor:g}: no such part of this source; it has {', '.join(parts)}")
            if not (np.isfinite(factor) and factor > 0):
                raise UserError(f"gain-fix {name}={factor:g}: give a factor above 0")
        return dict(sorted(wanted.items()))
    if wanted is None:
        return {}
    own = [block for block in plan if block.source == source.name]
    if own:
        return own[0].settings.gain_fix
    found = {name: likely_factor(*_sampled(source, items, processing)) for name, items in parts.items()}
    return {name: factor for name, factor in sorted(found.items()) if factor is not None}


def _sampled(
    source: Source, items: Sequence[Item], processing: Processing
) -> Tuple[List[float], List[Optional[float]]]:
    """Return amplitudes and gains of some of the items."""
    amplitudes, gains = [], []
    for item in items[:: max(1, len(items) // _GAIN_SAMPLE)]:
        with contextlib.suppress(UserError):  # such items will be rejected, with the reason, when their turn comes
            recording, _, quality = _processed(source, BlockSettings(processing, "raw", {}), item)
            amplitudes.append(quality.amplitude_mv)
            gains.append(gain_of(recording))
    return amplitudes, gains


def _write_blocks(
    source: Source, items: Dict[str, Item], out: Path, plan: Sequence[Block], options: RunOptions
) -> bool:
    """Write those blocks of a source that are not complete; return whether there were any."""
    blocks = [block for block in plan if block.source == source.name]
    missing = [block for block in blocks if not block.is_complete(out)]
    total = sum(len(block.items) for block in blocks)
    jobs = []
    for block in missing:
        chosen = [item_of(items, name) for name in block.items]
        jobs.append((dataclasses.replace(source, items=chosen), block, out, options.strict))
    done = total - sum(len(block.items) for block in missing)
    with Progress("prepare", total, "item", done, options.progress) as bar:
        run_jobs(_write_block, jobs, options.backend, options.jobs, bar.update)
    return bool(missing)


def _write_block(
    source: Source, block: Block, out: Path, strict: bool, advance: Callable[[int], Any] = lambda items: None
) -> int:
    """Write part of the table, shard and, last, its index; return the number of items."""
    rows = []
    with ShardWriter(block.shard(out), block.settings.storage, beside=[block.part(out)]) as writer:
        for number, item in enumerate(source.items):
            row: Dict[str, Any] = {"idx": block.first_idx + number, "collection": source.name}
            row.update(source=item.source or source.name, source_file=item.name, facts=facts_hash(item))
            try:
                row.update(_add(writer, source, block.settings, item, row["idx"]))
            except MissingPackageError:
                raise
            except UserError as error:
                path = source.folder / item.file
                row["ecgs"] = _ecgs(item, error)
                row["reason"] = str(error).replace(f"{path}: ", "", 1)
                if strict:
                    raise UserError(f"{path}: {row['reason']}") from error
            rows.append(row)
            advance(1)
        write_part(block.part(out), rows)
    return len(rows)


def _ecgs(item: Item, of: Union[Recording, UserError]) -> Optional[int]:
    """Return the number of ECGs in an item's file if the item is the first of several."""
    ecgs: int = getattr(of, "ecgs", 1)
    return ecgs if ecgs > 1 and item.number is None else None


def _add(writer: ShardWriter, source: Source, settings: BlockSettings, item: Item, idx: int) -> Dict[str, Any]:
    """Add an item to the shard; return its columns of the table."""
    recording, stored, quality = _processed(source, settings, item)
    patient = recording.patient or f"{source.name} {_of_unknown(source, item)}"
    # `patient 1` in a file is valid only in its collection; ids in a user's table may be shared by several sources
    counted = "patient" not in item.facts and patient.isdecimal() and len(patient) <= _COUNTED_DIGITS
    patient = f"{source.name} {patient}" if source.own_patients or counted else patient
    row = {
        "shard": f"shards/{writer.path.name}",
        "row": len(writer),
        "gain_fix": _gain_fix(source, settings, item),
        "patient_key": patient_key(patient),
        "ecgs": _ecgs(item, recording),
        **_columns(recording, stored, quality, settings.processing.rate),
        **{name: value for name, value in item.facts.items() if name not in _FACTS_OF_RECORDING},
    }
    writer.add(
        stored.counts,
        leads=stored.leads,
        scale=stored.scale,
        zero=stored.zero,
        sample_rate=settings.processing.rate,
        idx=idx,
        patient=patient,
    )
    return row


def _of_unknown(source: Source, item: Item) -> str:
    """Return a unique id for an unknown patient; ECGs of one person in a file share it."""
    is_first = item.number is None or not one_person(source.folder / item.file)
    return item.name if is_first else item.file


def _gain_fix(source: Source, settings: BlockSettings, item: Item) -> float:
    return settings.gain_fix.get(item.source or source.name, 1.0)


def _processed(source: Source, settings: BlockSettings, item: Item) -> Tuple[Recording, Counts, Quality]:
    """Return the recording of an item, its counts and its quality."""
    recording = None
    try:
        recording = _with_facts(source.read(source.folder, item), item)
        stored = to_counts(recording, settings.processing, _gain_fix(source, settings, item))
        if len(stored.counts) != len(stored.leads):
            raise ValueError(f"{len(stored.counts)} rows for {len(stored.leads)} leads")
        return recording, stored, assess(stored, settings.processing.rate, settings.processing.min_seconds)
    except ImportError:
        raise
    except Exception as error:  # noqa: BLE001 - one damaged file must not stop a run over millions
        is_user_error = isinstance(error, UserError)
        reason = str(error) if is_user_error else f"cannot be used ({type(error).__name__}: {shown(error)})"
        if recording is not None and recording.ecgs > 1:
            raise OneOfSeveralError(reason, recording.ecgs) from error
        if is_user_error:
            raise
        raise UserError(reason) from error


def _with_facts(recording: Recording, item: Item) -> Recording:
    known = {name: item.facts[name] for name in _FACTS_OF_RECORDING if item.facts.get(name) not in (None, ())}
    return dataclasses.replace(recording, **known) if known else recording


def _columns(recording: Recording, stored: Counts, quality: Quality, rate: float) -> Dict[str, Any]:
    return {
        "record_id": recording.record_id,
        "patient": recording.patient,
        "start_time": recording.start_time,
        "age": recording.age,
        "sex": recording.sex,
        "sample_rate": recording.sample_rate,
        "stored_rate": rate,
        "samples": stored.counts.shape[1],
        "seconds": stored.counts.shape[1] / rate,
        "cut_start": recording.cut[0],
        "cut_end": recording.cut[1],
        "leads": _names(stored.leads),
        "derived_leads": _names(recording.derived),
        "filled_leads": _names(stored.filled),
        "constant_leads": _names(quality.constant),
        "nan_samples": stored.nan_samples,
        "amplitude_mv": quality.amplitude_mv,
        "counts_per_mv": gain_of(recording),
        "rounding_error_mv": stored.rounding_error_mv,
        "flags": list(quality.flags),
        "codes": list(recording.codes),
        "statements": list(recording.statements),
        "content": _content(stored, quality),
    }


@functools.lru_cache(maxsize=1000)
def _names(leads: Tuple[int, ...]) -> str:
    return ",".join(LEADS[lead] for lead in leads)


def _content(stored: Counts, quality: Quality) -> Optional[str]:
    """Return a hash of the stored counts, independent of the gain; None if all leads are constant."""
    if len(quality.constant) + len(stored.filled) == len(stored.leads):
        return None
    counts = np.ascontiguousarray(stored.counts, "<i2")
    import xxhash

    return f"{leads_to_mask(stored.leads):03x}{xxhash.xxh3_128_hexdigest(counts.data)}"
