"""Finished runs: with --resume and nothing left to do, a command ends at once with the exit status of its run."""

import argparse
import json
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

from fairseq_signals_ext.commands._rejected import print_rejected, read_rejected
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import FINISHED_NAME, atomic
from fairseq_signals_ext.inference.results import REJECTED_FILE, UNFINISHED

# options that do not change the results, or that are part of the settings
_NOT_OF_RESULTS = {
    *("run", "out", "resume", "overwrite", "part", "backend", "jobs", "device", "threads", "batch_size"),
    *("command", "user_dir", "checkpoint", "ensemble", "inputs"),
}


def may_be_finished(options: argparse.Namespace) -> bool:
    """Whether a run is resumed in a folder with a finished run."""
    is_finished = (options.out / FINISHED_NAME).is_file() and not (options.out / UNFINISHED).exists()
    return options.resume and not options.overwrite and is_finished


def finished_status(options: argparse.Namespace, settings: Mapping[str, Any]) -> Optional[int]:
    """Print a line about a finished run and return its exit status; None if there is work to do.

    Args:
        settings: all settings that change the rows of the results.

    Raises:
        UserError: the results belong to another run.
    """
    if not may_be_finished(options):
        return None
    try:
        record = json.loads((options.out / FINISHED_NAME).read_text(encoding="utf-8"))
        theirs, files = dict(record["settings"]), list(record["files"])
    except (ValueError, KeyError, TypeError):  # damaged
        return None
    if not all((options.out / str(name)).is_file() for name in files):
        return None
    ours = _facts(options, settings)
    differing = [name for name in ours if theirs.get(name) != ours[name]]
    if differing:
        name = differing[0].replace("_", "-")
        raise UserError(
            f"{options.out}: its finished run had another {name}; give the same, or start again with --overwrite"
        )
    print(f"{options.out}: finished already; nothing is left to do")
    return status_of(options.out)


def status_of(out: Path) -> int:
    """Print the rejected files of a finished run; returns its exit status: 1 if there are any."""
    return print_rejected(out / REJECTED_FILE, read_rejected(out / REJECTED_FILE))


def note_finished(options: argparse.Namespace, settings: Mapping[str, Any]) -> None:
    """Mark a run as finished, after all its files are written."""
    with atomic(options.out / FINISHED_NAME) as temporary:
        record = {"settings": _facts(options, settings), "files": _files(options.out)}
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _facts(options: argparse.Namespace, settings: Mapping[str, Any]) -> Dict[str, Any]:
    """Plain values: the settings that change the rows, and the options that change the files made from them."""
    given = {name: value for name, value in vars(options).items() if name not in _NOT_OF_RESULTS}
    facts: Dict[str, Any] = json.loads(json.dumps({**given, **settings}, default=str))
    return facts


def _files(out: Path) -> List[str]:
    return sorted(path.name for path in out.iterdir() if path.is_file() and not path.name.startswith("."))
