"""Whether the files of a prepared folder are what was written; and how a user says that a change is meant.

What lies in `shards` is compared with its record by `check_shard`, in the processes that read it anyway.
"""

import contextlib
from pathlib import Path
from typing import Iterator, List

from fairseq_signals_ext.data.checksums import (
    CHECKSUMS_NAME,
    UPDATE_OPTION,
    Record,
    problems_of,
    read_record,
    record_files,
    record_of_shard,
    recordable,
)
from fairseq_signals_ext.data.shards import index_path
from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.files import PLAN_NAME, only_one
from fairseq_signals_ext.preparation.pipeline import FILES
from fairseq_signals_ext.preparation.plan import Block
from fairseq_signals_ext.verification.manifests import Checked

# a folder in one of these: the command that writes it
_COMMANDS = {"splits": "split", "labels": "label"}


def check_checksums(out: Path, plan: List[Block]) -> Checked:
    """Compare all files but those in `shards` with their records; notes on what is not recorded."""
    folders = list(_folders(out))
    problems = [line for folder in (out, *folders) for line in problems_of(folder / CHECKSUMS_NAME)]
    shards = [block.shard(out) for block in plan if block.is_complete(out)]
    without = {
        "shard(s)": sum(not record_of_shard(shard).is_file() for shard in shards),
        "folder(s) with manifests or labels": sum(not (folder / CHECKSUMS_NAME).is_file() for folder in folders),
        "table(s)": int(not (out / CHECKSUMS_NAME).is_file()),
    }
    notes = [line for folder in folders for line in _not_recorded(folder)]
    counted = ", ".join(f"{count} {name}" for name, count in without.items() if count)
    if counted:
        cure = f"record them as they are with fairseq-signals-ext verify {out} {UPDATE_OPTION}"
        notes.append(f"{out}: {counted} have no checksums, as older versions write none; {cure}")
    return Checked(problems, notes, len(folders))


def _folders(out: Path) -> Iterator[Path]:
    """Folders of splits, their folds, and labels; those that are unfinished are left out."""
    for name in _COMMANDS:
        for folder in sorted((out / name).glob("*/")):
            if not folder.name.startswith("."):
                yield from _with_folds(folder)


def _with_folds(folder: Path) -> Iterator[Path]:
    yield folder
    yield from (below for below in sorted(folder.glob("*/")) if any(below.glob("*.tsv")))


def _not_recorded(folder: Path) -> List[str]:
    try:
        known = read_record(folder / CHECKSUMS_NAME)
    except UserError:  # has a line of its own
        return []
    others = [path.name for path in recordable(folder) if path.name not in known.checksums] if known else []
    more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
    return [f"{folder / others[0]}: is not recorded in {CHECKSUMS_NAME}{more}, so it was added later"] if others else []


def update_checksums(folder: Path) -> List[str]:
    """Record the files of a prepared folder, or of one with manifests or labels, as they are now.

    Returns:
        a line for each file that is not as it was recorded.

    Raises:
        UserError: there is no such folder, or it is being prepared.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a prepared one, or one with manifests or labels")
    if not (folder / PLAN_NAME).is_file():
        return [line for each in _with_folds(folder) for line in _update_folder(each)]
    with only_one(folder, names=(*FILES, CHECKSUMS_NAME)):
        present = [folder / name for name in FILES if (folder / name).is_file()]
        lines = _update(folder / CHECKSUMS_NAME, "prepare", present)
        for index in sorted((folder / "shards").glob("*.index.npy")):
            shard = index.with_name(index.name.replace(".index", ""))
            files = [path for path in (index_path(shard), shard.with_suffix(".part.parquet")) if path.is_file()]
            lines += _update(record_of_shard(shard), "prepare", files)
        for each in _folders(folder):
            lines += _update_folder(each)
    return lines


def _update_folder(folder: Path) -> List[str]:
    above = (name for name in (folder.parent.name, folder.parent.parent.name) if name in _COMMANDS)
    return _update(folder / CHECKSUMS_NAME, _COMMANDS.get(next(above, ""), "other"), recordable(folder))


def _update(path: Path, command: str, files: List[Path]) -> List[str]:
    before = Record(command, {})
    with contextlib.suppress(UserError):  # a damaged record is replaced
        before = read_record(path) or before
    record_files(path, before.command, {file.name: file for file in files})
    after = read_record(path)
    now = after.checksums if after else {}
    changes = {name: (before.checksums.get(name), now.get(name)) for name in sorted({*before.checksums, *now})}
    return [
        f"{path.with_name(name)}: {_shown(was)} -> {_shown(found)}"
        for name, (was, found) in changes.items()
        if was != found
    ]


def _shown(checksums: object) -> str:
    return str(checksums[-1]) if isinstance(checksums, list) else "none"
