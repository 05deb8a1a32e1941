"""Files too large for the memory of the machine are refused before they are read, not by the system after it."""

import os
from pathlib import Path
from typing import Union

from fairseq_signals_ext.errors import UserError

# what reading takes at most, in sizes of the file: integers, floats in mV, and one more copy of some leads
_COPIES = 4


def check_size(path: Union[str, Path]) -> None:
    """Raise a `UserError` if reading a file could take all memory; a file that is not there is left to the reader."""
    if not os.path.isfile(path) or not hasattr(os, "sysconf"):
        return
    size, memory = os.path.getsize(path), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if _COPIES * size > memory:
        gigabytes = f"{size / 1e9:.1f} GB is too large for this machine's {memory / 1e9:.0f} GB of memory"
        raise UserError(f"{path}: {gigabytes}; cut it into pieces")
