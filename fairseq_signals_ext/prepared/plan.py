"""The plan of a prepared folder, `plan.jsonl`: it assigns items to shards and numbers, and only grows.

A line is a shard: its source, its settings, the number (`idx`) of its first item, and the names of its items. An item
keeps its shard and its `idx` forever, even if it is rejected; new items of a source, or a new source, are appended. So
the result does not depend on the machine, the number of processes, or interruptions.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Collection, Dict, List, Sequence, Tuple

from fairseq_signals_ext.common.errors import UserError, first_line
from fairseq_signals_ext.common.files import PLAN_NAME
from fairseq_signals_ext.data.checksums import check, replacing
from fairseq_signals_ext.data.shards import index_path
from fairseq_signals_ext.prepared.counts import Processing

_PLAN_AGAIN = "copy it again, or delete the folder and prepare again"


@dataclass(frozen=True)
class BlockSettings:
    """Settings of all shards of a source.

    Attributes:
        processing: how recordings become counts.
        storage: "raw" or "flac".
        gain_fix: factor for the amplitudes of a part of the source, by its name.
    """

    processing: Processing
    storage: str
    gain_fix: Dict[str, float]


@dataclass(frozen=True)
class Block:
    """The items of one shard.

    Attributes:
        number: of the shard.
        source: name of the source.
        first_idx: `idx` of the first item; the others follow.
        settings: of the shard.
        items: their names.
    """

    number: int
    source: str
    first_idx: int
    settings: BlockSettings
    items: Tuple[str, ...]

    def shard(self, out: Path) -> Path:
        """Return the path of its shard in the prepared folder `out`."""
        return out / "shards" / f"{self.number:05d}.npy"

    def part(self, out: Path) -> Path:
        """Return the path of its part of the table, beside the shard."""
        return self.shard(out).with_suffix(".part.parquet")

    def is_complete(self, out: Path) -> bool:
        """Return whether all its files exist."""
        shard = self.shard(out)
        return all(path.is_file() for path in (shard, index_path(shard), self.part(out)))


def read_plan(out: Path) -> List[Block]:
    """Read the plan of a prepared folder; empty for a new folder.

    Raises:
        UserError: its checksum differs, or it is missing although there are shards.
    """
    path = out / PLAN_NAME
    if not path.exists():
        if (out / "shards").exists():
            raise UserError(f"{path}: no such file, though there are shards; choose another folder, or delete this one")
        return []
    check(path, again=_PLAN_AGAIN)
    try:
        with open(path, encoding="utf-8") as file:
            return [_block(json.loads(line)) for line in file]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}); {_PLAN_AGAIN}") from error


def _block(entry: Dict[str, Any]) -> Block:
    settings = entry.pop("settings")
    processing = Processing(**settings.pop("processing"))
    items = tuple(entry.pop("items"))
    return Block(settings=BlockSettings(processing=processing, **settings), items=items, **entry)


def write_plan(out: Path, plan: Sequence[Block]) -> None:
    """Write the plan, completely or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out, [PLAN_NAME]) as (path,), open(path, "w", encoding="utf-8", newline="\n") as file:
        for block in plan:
            file.write(json.dumps(asdict(block)) + "\n")


def extended(
    plan: Sequence[Block],
    source: str,
    items: Sequence[str],
    settings: BlockSettings,
    size: int,
    again: Collection[str] = (),
) -> List[Block]:
    """Return the plan with the new items of a source appended, `size` per shard.

    Args:
        again: items of the plan to try again.
    """
    known = {name for block in plan if block.source == source for name in block.items}
    new = [name for name in items if name not in known or name in again]
    number = len(plan)
    first_idx = plan[-1].first_idx + len(plan[-1].items) if plan else 0
    added = [
        Block(number + at // size, source, first_idx + at, settings, tuple(new[at : at + size]))
        for at in range(0, len(new), size)
    ]
    return [*plan, *added]


def check_addition(out: Path, plan: Sequence[Block], source: str, settings: BlockSettings, resume: bool) -> None:
    """Raise a `UserError` if a source cannot be prepared, or continued, in a folder with this plan."""
    own = [block for block in plan if block.source == source]
    if own and not resume:
        raise UserError(
            f"{out}: has source {source!r} already; continue with --resume, or give this one another name with --source"
        )
    if own and own[0].settings != settings:
        raise UserError(
            f"{out}: source {source!r} was prepared with {_difference(own[0].settings, settings)}; "
            "give the same options, or choose another folder"
        )
    for block in plan:
        if block.settings.processing.rate != settings.processing.rate:
            raise UserError(
                f"{out}: has recordings at {block.settings.processing.rate:g} Hz; prepare this source with "
                f"--rate {block.settings.processing.rate:g}, or choose another folder"
            )
        if block.source != source and not block.is_complete(out):
            raise UserError(f"{out}: source {block.source!r} is not complete; finish it with --resume first")


def _difference(there: BlockSettings, wanted: BlockSettings) -> str:
    """Return the first option that differs, with its former value."""
    was, now = asdict(there), asdict(wanted)
    was, now = ({**options.pop("processing"), **options} for options in (was, now))
    name = next(name for name in was if was[name] != now[name])
    return f"{name.replace('_', '-')} {was[name]}, not {now[name]}"
