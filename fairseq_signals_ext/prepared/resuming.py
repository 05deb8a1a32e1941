"""Continue a preparation: find the items to try again, and check that the metadata of stored items is unchanged."""

from pathlib import Path
from typing import Mapping, Sequence, Set

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.prepared.plan import Block
from fairseq_signals_ext.prepared.table import rejected_items, stored_facts
from fairseq_signals_ext.sources import Item, Source
from fairseq_signals_ext.sources.source import split_number


def check_facts(out: Path, plan: Sequence[Block], source: Source, items: Mapping[str, Item]) -> None:
    """Raise a `UserError` if the metadata of stored items has changed, as stored items are not updated."""
    changed = []
    for name, known in stored_facts(out, plan, source.name).items():
        item = item_of(items, name)
        if (name in items or item.number is not None) and facts_hash(item) != known:
            changed.append(name)
    if changed:
        raise UserError(
            f"{out}: {len(changed)} prepared recordings would get other metadata (the first: {changed[0]}), but stored "
            "metadata do not change; give the same --table as before, or prepare into a new folder"
        )


def facts_hash(item: Item) -> str:
    """Return a hash of an item's metadata from tables and of its settings for reading."""
    import xxhash

    facts = sorted((name, value) for name, value in {**item.facts, **item.reading}.items() if value is not None)
    return str(xxhash.xxh3_64_hexdigest(repr((item.source, facts)).encode("utf-8", "surrogatepass")))


def to_try_again(out: Path, plan: Sequence[Block], source: str) -> Set[str]:
    """Return the rejected items of a source, except those of shards that are not written yet."""
    waiting = {name for block in plan if block.source == source and not block.is_complete(out) for name in block.items}
    return set(rejected_items(out, plan, source)) - waiting


def item_of(items: Mapping[str, Item], name: str) -> Item:
    """Return the item of a name in the plan, which may be a further ECG of a file.

    Items that were removed from the source since it was planned are read like the others, and rejected.
    """
    if name in items:
        return items[name]
    numbered = split_number(name)
    if numbered is None or numbered[0] not in items:
        return Item(name)
    return items[numbered[0]].numbered(numbered[1])
