"""Convert counts to a model's input: one gain and one offset per lead, the same in training and inference.

There are four ways. "lead": each lead by its mean and standard deviation over the whole recording, as ECG-FM;
"recording": all leads by one mean and one deviation over the whole recording, which keeps the ratio of amplitudes
between leads; "fixed": mV over a constant per lead, clipped, which keeps the voltage as well; "segment": each segment
by its own mean and deviation over all leads. Needs numpy only.
"""

from typing import Any, Dict, List, Tuple, Union

import numpy as np

STANDARDIZATIONS = ("lead", "segment", "recording", "fixed")
# ways that need values in mV: leads that were standardised separately have lost their amplitudes
KEEP_AMPLITUDE = ("recording", "fixed")
# typical deviation of each lead in mV, in standard order, and the largest value, in these: of ECG-JEPA
# (arXiv 2410.13867), which subtracts no mean
FIXED_DEVIATIONS = np.array([0.191, 0.166, 0.173, 0.142, 0.149, 0.147, 0.235, 0.338, 0.335, 0.299, 0.294, 0.242])
LARGEST_FIXED = 5.0

# as in torch's layer_norm
_EPSILON = 1e-5
# rows of a model's input; a slice for all in their order
Columns = Union[slice, List[int]]


def standardising(
    scale: np.ndarray, zero: np.ndarray, mean: np.ndarray, std: np.ndarray
) -> Tuple[np.ndarray, np.ndarray]:
    """Return gain and offset, float64: `counts * gain + offset` has zero mean and unit deviation over a recording.

    Both are zero for leads that are absent or constant. All arrays have one shape.

    Args:
        scale: mV per count.
        zero: count at 0 mV.
        mean, std: of the recording, mV.
    """
    inverse = 1 / np.where(std > 0, std.astype(np.float64), np.inf)
    return scale * inverse, -(zero * scale + mean) * inverse


def gain_and_offset(
    way: str, scale: np.ndarray, zero: np.ndarray, mean: np.ndarray, std: np.ndarray
) -> Tuple[np.ndarray, np.ndarray]:
    """Return gain and offset, float64: `counts * gain + offset` is a recording's input before `finish`.

    Leads that are absent or constant become zeros, and are not counted in a mean over leads; with "segment" they do not
    change. Arrays are recordings x 12, leads in standard order.

    Args:
        way: one of `STANDARDIZATIONS`.
        scale, zero, mean, std: see `standardising`; std is also zero for leads that are not in the model's input.
    """
    if way == "segment":
        return to_millivolts(scale, zero)
    if way == "recording":
        mean, std = _over_leads(mean.astype(np.float64), std.astype(np.float64))
    elif way == "fixed":
        mean, std = np.zeros_like(mean), np.where(std > 0, FIXED_DEVIATIONS, 0)
    return standardising(scale, zero, mean, std)


def _over_leads(mean: np.ndarray, std: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation over all leads that are not constant, for each of these; recordings x 12."""
    there = std > 0
    leads = np.maximum(there.sum(axis=-1, keepdims=True), 1)
    center = np.where(there, mean, 0).sum(axis=-1, keepdims=True) / leads
    squares = np.where(there, std**2 + (mean - center) ** 2, 0).sum(axis=-1, keepdims=True) / leads
    return np.where(there, center, 0), np.where(there, np.sqrt(squares), 0)


def to_millivolts(scale: np.ndarray, zero: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Return gain and offset: `counts * gain + offset` are mV."""
    return scale, -zero * scale


def columns_of(leads: List[int], rows: int) -> Columns:
    """Return the rows of leads in the input; a slice if they are all rows, which avoids a copy in numpy."""
    return slice(None) if leads == list(range(rows)) else leads


def place_counts(into: np.ndarray, counts: np.ndarray, columns: Columns) -> None:
    """Write counts into their place in a batch, and zeros elsewhere.

    Args:
        into: float32, (segments x) leads x samples, of any content.
        counts: (segments x) leads x samples, of the leads in `columns`; possibly fewer samples than `into`.
        columns: rows of the leads in `into`.
    """
    samples = counts.shape[-1]
    if not isinstance(columns, slice) or samples < into.shape[-1]:
        into[...] = 0
    into[..., columns, :samples] = counts


def scale(values: Any, gain: Any, offset: Any) -> None:
    """Convert counts to standardised values or mV in place: `counts * gain + offset`, all float32.

    Args:
        values: (segments x) leads x samples, an array or a tensor.
        gain, offset: (segments x) leads, of the same kind.
    """
    values *= gain[..., None]
    values += offset[..., None]


def finish(way: str, into: np.ndarray, columns: Columns, samples: int) -> None:
    """Finish standardising in place after gain and offset; padding may be nonzero afterwards.

    Args:
        way: one of `STANDARDIZATIONS`.
        into: (segments x) leads x samples.
        columns: rows of the recording's leads in `into`.
        samples: that are not padding.
    """
    if way == "segment":
        _normalise(into, columns, samples)
    elif way == "fixed":
        np.clip(into, -LARGEST_FIXED, LARGEST_FIXED, out=into)


def _normalise(into: np.ndarray, columns: Columns, samples: int) -> None:
    """Normalise each segment over some rows and their first samples, like torch's layer_norm."""
    values = into[..., columns, :samples]
    both: Dict[str, Any] = {"axis": (-2, -1), "keepdims": True, "dtype": np.float64}
    into[..., columns, :samples] = (values - values.mean(**both)) / np.sqrt(values.var(**both) + _EPSILON)
