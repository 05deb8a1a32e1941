"""Which checkpoint a training goes on from when the last one is damaged: the newest of its folder that is whole."""

import re
from pathlib import Path
from typing import Optional, Tuple

from fairseq_signals_ext.checkpoints.file_kinds import what_is_wrong_with
from fairseq_signals_ext.checkpoints.reading import read_checkpoint

# as fairseq names those in the middle of an epoch, by epoch and updates, and those at its end
_REGULAR = re.compile(r"checkpoint_?(\d+)(?:_(\d+))?\.pt")
# they may be of an earlier time, and of another run where somebody put one here
_BEST = "checkpoint[_.]best*.pt"


def newest_whole(folder: Path, with_best: bool) -> Optional[Path]:
    """The newest checkpoint of a run's folder, but `checkpoint_last.pt`, that is whole; None if there is none.

    Args:
        with_best: also those that were the best of their time.
    """
    regular = sorted(folder.glob("checkpoint*.pt"), key=_position, reverse=True)
    newest = next((path for path in regular if _REGULAR.fullmatch(path.name) and _is_whole(path)), None)
    found = [] if newest is None else [newest]
    if with_best:
        found += filter(_is_whole, sorted(folder.glob(_BEST)))
    return max(found, key=_updates, default=None)


def _position(path: Path) -> Tuple[int, float]:
    """Epoch and updates; the end of an epoch comes last."""
    found = _REGULAR.fullmatch(path.name)
    return (int(found[1]), float(found[2] or "inf")) if found else (0, 0.0)


def _is_whole(path: Path) -> bool:
    return what_is_wrong_with(path) is None


def _updates(path: Path) -> int:
    return read_checkpoint(path).updates or 0
