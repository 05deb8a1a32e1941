"""From counts to a model's input: one gain and one offset per lead, the same in training and in use.

There are four ways. "lead": each lead by its mean and deviation over the whole recording, as ECG-FM; "recording": all
leads by one mean and one deviation over the whole recording, which keeps how large leads are beside each other;
"fixed": mV over a constant per lead, clipped, which keeps the voltage as well; "segment": each segment by its own mean
and deviation over all leads. Needs numpy only.
"""

from typing import Any, Dict, List, Tuple, Union

import numpy as np

STANDARDIZATIONS = ("lead", "segment", "recording", "fixed")
# those that need values in mV: leads that were standardised one by one have lost what they keep
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
    """Gain and offset, float64: `counts * gain + offset` has zero mean and unit deviation over a recording.

    They are zero where the deviation is, so for leads that are absent or constant. All arrays have one shape.

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
    """Gain and offset, float64: `counts * gain + offset` is a recording's input, but for what `finish` does.

    Leads that are absent or constant become zeros, and are not counted in a mean over leads; of a segment's way they
    stay as they are. Arrays are recordings x 12, leads in standard order.

    Args:
        way: one of `STANDARDIZATIONS`.
        scale, zero, mean, std: as of `standardising`; std is zero for leads that the model is not given, too.
    """
    if way == "segment":
        return to_millivolts(scale, zero)
    if way == "recording":
        mean, std = _over_leads(mean.astype(np.float64), std.astype(np.float64))
    elif way == "fixed":
        mean, std = np.zeros_like(mean), np.where(std > 0, FIXED_DEVIATIONS, 0)
    return standardising(scale, zero, mean, std)


def _over_leads(mean: np.ndarray, std: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Mean and deviation over all leads that are not constant, for each of these; recordings x 12."""
    there = std > 0
    leads = np.maximum(there.sum(axis=-1, keepdims=True), 1)
    center = np.where(there, mean, 0).sum(axis=-1, keepdims=True) / leads
    squares = np.where(there, std**2 + (mean - center) ** 2, 0).sum(axis=-1, keepdims=True) / leads
    return np.where(there, center, 0), np.where(there, np.sqrt(squares), 0)


def to_millivolts(scale: np.ndarray, zero: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Gain and offset: `counts * gain + offset` are mV."""
    return scale, -zero * scale


def columns_of(leads: List[int], rows: int) -> Columns:
    """Where leads go in an input of so many rows; a slice where they are all of them, which numpy need not copy."""
    return slice(None) if leads == list(range(rows)) else leads


def place_counts(into: np.ndarray, counts: np.ndarray, columns: Columns) -> None:
    """Write counts where a batch has room for them; what has no counts becomes zero.

    Args:
        into: float32, (segments x) leads x samples, of any content.
        counts: (segments x) leads x samples, of the leads in `columns`; maybe fewer samples than `into` has.
        columns: rows of `into` that the leads go to.
    """
    samples = counts.shape[-1]
    if not isinstance(columns, slice) or samples < into.shape[-1]:
        into[...] = 0
    into[..., columns, :samples] = counts


def scale(values: Any, gain: Any, offset: Any) -> None:
    """Counts become standardised values or mV, in place: `counts * gain + offset`, all float32.

    Args:
        values: (segments x) leads x samples, an array or a tensor.
        gain, offset: (segments x) leads, of the same kind.
    """
    values *= gain[..., None]
    values += offset[..., None]


def finish(way: str, into: np.ndarray, columns: Columns, samples: int) -> None:
    """What is left to do, in place, after gain and offset; padding need not be zero afterwards.

    Args:
        way: one of `STANDARDIZATIONS`.
        into: (segments x) leads x samples.
        columns: rows of `into` that the recording's leads are in.
        samples: that are not padding.
    """
    if way == "segment":
        _normalise(into, columns, samples)
    elif way == "fixed":
        np.clip(into, -LARGEST_FIXED, LARGEST_FIXED, out=into)


def _normalise(into: np.ndarray, columns: Columns, samples: int) -> None:
    """Normalise each segment as a whole, over some rows and their first samples; as torch's layer_norm."""
    values = into[..., columns, :samples]
    both: Dict[str, Any] = {"axis": (-2, -1), "keepdims": True, "dtype": np.float64}
    into[..., columns, :samples] = (values - values.mean(**both)) / np.sqrt(values.var(**both) + _EPSILON)
