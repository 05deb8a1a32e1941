"""Processes that do not outlive the one that started them."""

import os
import threading
import time
from typing import Any, Dict

_SECONDS_BETWEEN_LOOKS = 0.5


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


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os._exit(1)
