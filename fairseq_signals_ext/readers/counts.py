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
    samples = np.stack(rows).astype(np.float64)
    scales, zeros = np.asarray(scale, np.float64), np.asarray(zero, np.float64)
    counts = _integers(samples)
    samples -= zeros[:, None]
    samples *= scales[:, None]
    return samples, None if counts is None else StoredCounts(counts, scales, zeros)


def _integers(samples: np.ndarray) -> Optional[np.ndarray]:
    valid = np.where(np.isnan(samples), 0.0, samples)
    if not np.isfinite(valid).all() or (np.rint(valid) != valid).any() or (np.abs(valid) >= 2**31).any():
        return None
    return smallest_integers(valid)


def smallest_integers(values: np.ndarray) -> np.ndarray:
    """Integral values (of any dtype, within int64) as the smallest of int16, int32 and int64 that holds them all."""
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    for dtype in (np.int16, np.int32):
        if low >= np.iinfo(dtype).min and high <= np.iinfo(dtype).max:
            return values.astype(dtype)
    return values.astype(np.int64)
