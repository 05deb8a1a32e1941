"""Ctrl-C in a training: one line on how to continue, instead of a traceback."""

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any, Optional

from fairseq.distributed.utils import get_global_rank
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from fairseq_signals_ext.tasks._options import LAST, typed


def end_in_one_line(options: Optional[DictConfig]) -> None:
    """From now on, make Ctrl-C end the command with status 130, after one line on stderr.

    A training in another program, or with another handler, is not changed.

    Args:
        options: of all sections.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if typed(options) is None or not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    process = os.getpid()
    hint = _how_to_continue(options)

    def end(number: int, frame: Optional[FrameType]) -> None:
        if os.getpid() != process:  # a worker that loads data; it ends with the main process
            raise KeyboardInterrupt
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if get_global_rank() == 0:
            print(f"\ninterrupted; {hint()}", file=sys.stderr, flush=True)
        raise SystemExit(128 + number)

    signal.signal(signal.SIGINT, end)


def _how_to_continue(options: Any) -> Any:
    """Return a function that returns the hint, for the checkpoints at the time of the call."""
    here = Path.cwd()
    folder = here / options.checkpoint.save_dir
    is_same = Path(options.checkpoint.save_dir).is_absolute() or _is_typed("hydra.run.dir")

    def hint() -> str:
        if not (folder / LAST).is_file():
            return "no checkpoint was saved yet: the same command begins again"
        how = "the same command" if is_same else f"the same command with hydra.run.dir={here}"
        return f"{how} continues from {folder / LAST}"

    return hint


def _is_typed(option: str) -> bool:
    """Whether an option of hydra's own was given on the command line."""
    given = HydraConfig.get().overrides.hydra if HydraConfig.initialized() else []
    return any(str(override).split("=")[0] == option for override in given)
