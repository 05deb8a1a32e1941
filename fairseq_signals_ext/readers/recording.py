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

    counts: np.ndarray  # leads x samples, integer; any value where the recording's signal is NaN
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
        codes: diagnostic codes such as SNOMED's `426783006` or SCP's `NORM`; `CODE:LIKELIHOOD` (in %) where known.
        statements: what the file says in words: the lines of a report or of a machine's interpretation.
        stored: the file's own integers for exactly these leads, where it holds integers.
        derived: those of `leads` that the file does not hold and that were computed from I and II.
    """

    record_id: str
    signal: np.ndarray
    leads: Tuple[int, ...]
    sample_rate: float
    patient: Optional[str] = None
    start_time: Optional[datetime] = None
    age: Optional[float] = None
    sex: Optional[str] = None
    codes: Tuple[str, ...] = field(default=())
    statements: Tuple[str, ...] = field(default=())
    stored: Optional[StoredCounts] = None
    derived: Tuple[int, ...] = field(default=())
