"""From a file's samples to mV, keeping its integers where it holds integers."""

from typing import Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.readers.recording import StoredCounts


def signal_and_counts(
    rows: Sequence[np.ndarray], scale: Sequence[float], zero: Sequence[float]
) -> Tuple[np.ndarray, Optional[StoredCounts]]:
    """Signal in mV, and the counts if every sample of every row is an integer of at most 32 bits.

    Args:
        rows: a row a lead, all of one length; any real dtype, NaN where a sample is invalid.
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
    """The rows as int16 or int32, with 0 for NaN; None if that would change a value."""
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
    """Integral values (of any dtype, within int64) as the smallest of int16, int32 and int64 that holds them all."""
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    for dtype in (np.int16, np.int32):
        if low >= np.iinfo(dtype).min and high <= np.iinfo(dtype).max:
            return values.astype(dtype)
    return values.astype(np.int64)
