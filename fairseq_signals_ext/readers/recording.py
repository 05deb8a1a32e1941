"""`Recording`: one ECG as it was taken, whatever file it came from."""

import functools
import math
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

    def is_finite(self) -> bool:
        """Whether all that these integers can stand for is finite."""
        largest = 2.0 ** (8 * self.counts.dtype.itemsize - 1)  # in Python, as numpy takes longer for twelve numbers
        pairs = zip(self.scale.tolist(), self.zero.tolist())
        return all(math.isfinite((largest + abs(zero)) * scale) for scale, zero in pairs)

    def millivolts(self) -> np.ndarray:
        """What the counts stand for: leads x samples, float64, mV."""
        signal = self.counts.astype(np.float64)
        signal -= self.zero[:, None]
        signal *= self.scale[:, None]
        return signal


@dataclass(frozen=True)
class Recording:
    """One ECG.

    Attributes:
        record_id: the source's own name of the recording.
        physical: leads x samples, float64, mV; NaN where the file marks a sample as invalid. None where `stored` says
            it all, so that what only copies counts, a million times, need not compute it.
        leads: positions of the rows in `leads.LEADS`, ascending.
        sample_rate: Hz.
        patient: the source's patient id, or None.
        start_time, age (years), sex ("female", "male"): None where unknown.
        codes: diagnostic codes such as SNOMED's `426783006` or SCP's `NORM`; `CODE:LIKELIHOOD` (in %) where known.
        statements: what the file says in words: the lines of a report or of a machine's interpretation.
        stored: the file's own integers for exactly these leads, where it holds integers.
        derived: those of `leads` that the file does not hold and that were computed from I and II.
        assumed: "leads", "unit" or "sample_rate", where neither the file nor who read it said these: the twelve in
            standard order, mV, 500 Hz of CPSC 2018's files.
        cut: s that were cut off its start and its end: a calibration pulse or constant padding, see `ends`.
        number, ecgs: which of the ECGs of its file it is, from 1, and how many these are.
    """

    record_id: str
    physical: Optional[np.ndarray]
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
    assumed: Tuple[str, ...] = field(default=())
    cut: Tuple[float, float] = (0.0, 0.0)
    number: int = 1
    ecgs: int = 1

    @functools.cached_property
    def signal(self) -> np.ndarray:
        """Leads x samples, float64, mV; NaN where the file marks a sample as invalid."""
        if self.physical is not None:
            return self.physical
        if self.stored is None:
            raise ValueError(f"recording {self.record_id!r} has neither a physical signal nor counts")
        return self.stored.millivolts()

    def lead_signal(self, row: int) -> np.ndarray:
        """One row of `signal`, without the others."""
        if self.physical is not None:
            return self.physical[row]
        if self.stored is None:
            return self.signal[row]
        rows = (values[row : row + 1] for values in (self.stored.counts, self.stored.scale, self.stored.zero))
        return StoredCounts(*rows).millivolts()[0]

    @property
    def samples(self) -> int:
        """Samples per lead."""
        rows = self.signal if self.stored is None else self.stored.counts
        return int(rows.shape[1])
