"""Processes that do not outlive the one that started them."""

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Dict, List, Sequence

_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_TO_END = 5


def end_with(parent: int) -> None:
    """Let this process end as soon as the one that started it is gone, however that came about.

    A process that was killed cannot end those that it started, and they would work on for nobody.

    Args:
        parent: process number of the one that started this one, as that one knows it (`os.getpid()` there).
    """
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def joblib_settings() -> Dict[str, Any]:
    """What `joblib.Parallel` is to be given: processes that end with this one, and leave no files behind."""
    return {"backend": "loky", "initializer": end_with, "initargs": (os.getpid(),), "max_nbytes": None}


def run(command: Sequence[str], **options: Any) -> "subprocess.CompletedProcess[Any]":
    """As `subprocess.run`, of a command that is ended when this process is gone."""
    return subprocess.run([sys.executable, "-m", __name__, str(os.getpid()), *command], **options)


def _supervise(parent: int, command: List[str]) -> int:
    """Run a command for as long as there is a parent; returns its exit status, as a shell has it."""
    # a terminal's Ctrl-C reaches the command, too, which is waited for
    signal.signal(signal.SIGINT, lambda *_: None)
    with subprocess.Popen(command) as process:
        while os.getppid() == parent:
            try:
                status = process.wait(_SECONDS_BETWEEN_LOOKS)
            except subprocess.TimeoutExpired:
                continue
            return status if status >= 0 else 128 - status
        process.terminate()
        try:
            process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
    return 1


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(_supervise(int(sys.argv[1]), sys.argv[2:]))
