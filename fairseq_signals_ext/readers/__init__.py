"""One ECG file in any supported format -> one `Recording`."""

import os
from pathlib import Path
from typing import Union

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.readers.recording import Recording, StoredCounts

__all__ = ["Recording", "StoredCounts", "read_ecg"]


def read_ecg(path: Union[str, Path]) -> Recording:
    """Read one ECG; the format is told by the file. Supported: WFDB (`.hea`).

    Raises:
        UserError: no such file, a kind of file that is not supported, or damaged content.
    """
    from fairseq_signals_ext.readers.wfdb import read_wfdb

    text = os.fspath(path)
    if text.endswith(".hea") or (not os.path.exists(text) and os.path.isfile(text + ".hea")):
        return read_wfdb(path)
    if not os.path.exists(text):
        raise UserError(f"{path}: no such file; check the path")
    raise UserError(f"{path}: this kind of file is not supported; give WFDB (the record's .hea file)")
