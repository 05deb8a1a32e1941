"""Files too large for the memory of the machine are refused before they are read, not by the system after it."""

import contextlib
import functools
import os
from pathlib import Path
from typing import Union

from fairseq_signals_ext.errors import UserError

# what reading takes at most, in sizes of the file: integers, floats in mV, and one more copy of some leads
_COPIES = 4


def check_size(path: Union[str, Path]) -> None:
    """Raise a `UserError` if reading a file could take all memory; a file that is not there is left to the reader."""
    with contextlib.suppress(OSError):
        size = os.stat(path).st_size
        if _COPIES * size > _memory():
            gigabytes = f"{size / 1e9:.1f} GB is too large for this machine's {_memory() / 1e9:.0f} GB of memory"
            raise UserError(f"{path}: {gigabytes}; cut it into pieces")


@functools.lru_cache(maxsize=None)
def _memory() -> float:
    """Bytes of the machine; endless where the system does not say it."""
    if not hasattr(os, "sysconf"):
        return float("inf")
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
