"""`Recording`: one ECG from any file format, with the integers of the file if it has integers."""

import functools
import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.common.leads import LEADS


@dataclass(frozen=True)
class StoredCounts:
    """The integers that the source file holds, so that they can be stored again without loss.

    A count c of lead k stands for `(c - zero[k]) * scale[k]` mV.
    """

    counts: np.ndarray  # leads x samples, integer; any value where the recording's signal is NaN
    scale: np.ndarray  # leads, float64, mV per count
    zero: np.ndarray  # leads, float64

    def is_finite(self) -> bool:
        """Return whether any integers of this type are finite in mV."""
        largest = 2.0 ** (8 * self.counts.dtype.itemsize - 1)  # in Python, which is faster for twelve numbers
        pairs = zip(self.scale.tolist(), self.zero.tolist())
        return all(math.isfinite((largest + abs(zero)) * scale) for scale, zero in pairs)

    def millivolts(self) -> np.ndarray:
        """Return the signal: leads x samples, float64, mV."""
        signal = self.counts.astype(np.float64)
        signal -= self.zero[:, None]
        signal *= self.scale[:, None]
        return signal


@dataclass(frozen=True)
class Recording:
    """One ECG.

    Attributes:
        record_id: the source's own name of the recording.
        physical: leads x samples, float64, mV; NaN where the file marks a sample as invalid. None if `stored` defines
            the signal, so that copying counts does not compute it.
        leads: positions of the rows in `leads.LEADS`, ascending.
        sample_rate: Hz.
        patient: the source's patient id, or None.
        start_time, age (years), sex ("female", "male"): None where unknown.
        codes: diagnostic codes such as SNOMED's `426783006` or SCP's `NORM`; `CODE:LIKELIHOOD` (in %) where known.
        statements: lines of the report or of the automatic interpretation in the file.
        stored: integers of the file for exactly these leads, if it holds integers.
        derived: those of `leads` that were computed from I and II.
        assumed: those of "leads", "unit" and "sample_rate" that neither file nor user gave, so that defaults were used:
            the twelve leads in standard order, mV, 500 Hz of CPSC 2018's files.
        cut: s that were cut off at start and end: a calibration pulse or constant padding, see `ends`.
        number, ecgs: number of the ECG in its file, from 1, and number of ECGs in the file.

    Examples:
        >>> import numpy as np
        >>> from fairseq_signals_ext import Recording
        >>> Recording("mine", np.zeros((2, 5000)), leads=(0, 6), sample_rate=500, patient="1234", age=54)
        <Recording 'mine': I, V1; 500 Hz, 10 s; 54 years>
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
        """Return one row of `signal` without computing the others."""
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

    def __repr__(self) -> str:
        """Return leads, length and metadata as text, but not the patient's id, as reprs are logged."""
        names = ", ".join(LEADS[lead] if lead in range(len(LEADS)) else str(lead) for lead in self.leads)
        rows = self.physical if self.stored is None else self.stored.counts
        length = "no signal" if rows is None else f"{rows.shape[-1] / (self.sample_rate or math.nan):.4g} s"
        facts = [self.sex, None if self.age is None else f"{self.age:g} years"]
        facts.append(None if self.start_time is None else f"{self.start_time:%Y-%m-%d %H:%M}")
        for several, what in ((self.codes, "code"), (self.statements, "statement")):
            facts.append(f"{len(several)} {what}{'s' * (len(several) != 1)}" if several else None)
        known = ", ".join(filter(None, facts))
        which = f"; ECG {self.number} of {self.ecgs}" if self.ecgs > 1 else ""
        return (
            f"<Recording {self.record_id!r}: {names}; {self.sample_rate:.10g} Hz, {length}{which}"
            f"{'; ' * bool(known)}{known}>"
        )


def signal_and_counts(
    rows: Sequence[np.ndarray], scale: Sequence[float], zero: Sequence[float]
) -> Tuple[np.ndarray, Optional[StoredCounts]]:
    """Return the signal in mV, and the counts if every sample is an integer of at most 32 bits.

    Args:
        rows: one row per lead, all of one length; any real dtype, NaN where a sample is invalid.
        scale: mV per unit of each row.
        zero: value of each row at 0 mV.

    Returns:
        leads x samples, float64, mV, `(row - zero) * scale`; and the counts, 0 where the signal is NaN, or None.
    """
    scales, zeros = np.asarray(scale, np.float64), np.asarray(zero, np.float64)
    counts = _integers(rows)
    samples = np.empty((len(rows), len(rows[0])))
    for sample, row in zip(samples, rows):  # a row at a time, as a day of ECG is large
        sample[:] = row
    samples -= zeros[:, None]
    samples *= scales[:, None]
    return samples, None if counts is None else StoredCounts(counts, scales, zeros)


def _integers(rows: Sequence[np.ndarray]) -> Optional[np.ndarray]:
    """Return the rows as int16 or int32, with 0 for NaN; None if this would change a value."""
    whole = []
    for row in rows:
        if row.dtype.kind in "iu" and row.dtype.itemsize <= 2:
            whole.append(row)
            continue
        valid = np.asarray(row, np.float64)
        if np.isnan(valid).any():
            valid = np.where(np.isnan(valid), 0.0, valid)
        if not (valid.size == 0 or (valid.min() > -(2.0**31) and valid.max() < 2.0**31)):
            return None
        counts = valid.astype(np.int32)
        if (counts != valid).any():
            return None
        whole.append(smallest_integers(counts))
    return smallest_integers(np.stack(whole))


def smallest_integers(values: np.ndarray) -> np.ndarray:
    """Return integral values (any dtype) in the smallest of int16, int32 and int64 that holds them all."""
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    for dtype in (np.int16, np.int32):
        if low >= np.iinfo(dtype).min and high <= np.iinfo(dtype).max:
            return values.astype(dtype)
    return values.astype(np.int64)
