"""`Recording`: one ECG as it was taken, whatever file it came from."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Optional, Tuple

import numpy as np


@dataclass(frozen=True)
class StoredCounts:
    """The integers that the source file holds, so that they can be stored again without loss.

    A count c of lead k stands for `(c - zero[k]) * scale[k]` mV.
    """

    counts: np.ndarray  # leads x samples, integer
    scale: np.ndarray  # leads, float64, mV per count
    zero: np.ndarray  # leads, float64


@dataclass(frozen=True)
class Recording:
    """One ECG.

    Attributes:
        record_id: the source's own name of the recording.
        signal: leads x samples, float64, mV; NaN where the file marks a sample as invalid.
        leads: positions of the rows in `leads.LEADS`, ascending.
        sample_rate: Hz.
        patient: the source's patient id, or None.
        start_time, age (years), sex ("female", "male"): None where unknown.
        statements: diagnostic codes or texts as the file has them.
        stored: the file's own integers, where it holds integers for exactly these leads.
    """

    record_id: str
    signal: np.ndarray
    leads: Tuple[int, ...]
    sample_rate: float
    patient: Optional[str] = None
    start_time: Optional[datetime] = None
    age: Optional[float] = None
    sex: Optional[str] = None
    statements: Tuple[str, ...] = field(default=())
    stored: Optional[StoredCounts] = None
