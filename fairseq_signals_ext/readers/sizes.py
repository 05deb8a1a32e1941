"""Limits on the size of recordings: a file's claims are compared with its size and with the machine's memory.

A file too large for the memory is refused before it is read, so the system does not kill the process; and a file of a
few bytes cannot make this process take gigabytes.
"""

import contextlib
import functools
import os
from pathlib import Path
from typing import Union

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.values import as_size

# most memory per value while it is read: as stored, as float in mV, as integer, and the same for derived leads
_BYTES_A_VALUE = 64
# most values per byte in formats with compression or gaps; no ECG reaches it
_VALUES_A_BYTE = 100
# values that a file of any size may claim: 12 leads of 45 minutes at 500 Hz, a gigabyte in memory
_ALWAYS = 2**24


def check_size(path: Union[str, Path], copies: float = 4) -> None:
    """Raise a `UserError` if reading a file could take all memory; a missing file is ignored.

    Args:
        copies: most memory that reading takes, in multiples of the file's size; 4 is for integers of 16 bits, floats in
            mV, and one more copy of some leads.
    """
    with contextlib.suppress(OSError):
        size = os.stat(path).st_size
        if copies * size > _memory():
            large = f"{as_size(size)} is too large for this machine's {as_size(_memory())} of memory"
            raise UserError(f"{path}: {large}; cut it into pieces")


def check_values(path: Union[str, Path], values: int) -> None:
    """Raise a `UserError` if this number of values, of all leads together, does not fit into memory."""
    if _BYTES_A_VALUE * values > _memory():
        needed = f"{as_size(_BYTES_A_VALUE * values)} of this machine's {as_size(_memory())} of memory"
        raise UserError(f"{path}: its signals would take {needed}; cut it into pieces")


def check_claim(path: Union[str, Path], values: int, stored: int) -> None:
    """Raise a `UserError` if a file claims more values than it can hold, or than fit into memory.

    Args:
        values: of all leads together, as the file claims.
        stored: bytes of the file that hold them, compressed or with gaps between them.
    """
    if values > max(_ALWAYS, _VALUES_A_BYTE * stored):
        claim = f"{values:,} values in {stored:,} bytes" if values < 10**15 else "more values than any file has"
        raise UserError(f"{path}: it claims {claim}; it is damaged, get it again")
    check_values(path, values)


@functools.lru_cache(maxsize=None)
def _memory() -> float:
    """Return the machine's memory in bytes; infinite if the system does not report it."""
    if not hasattr(os, "sysconf"):
        return float("inf")
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
