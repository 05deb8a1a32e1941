"""From counts to a model's input: one gain and one offset per lead, the same in training and in use.

Needs numpy only.
"""

from typing import List, Tuple, Union

import numpy as np

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


def to_millivolts(scale: np.ndarray, zero: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Gain and offset: `counts * gain + offset` are mV."""
    return scale, -zero * scale


def columns_of(leads: List[int], rows: int) -> Columns:
    """Where leads go in an input of so many rows, so that `write_input` can write in place where that is possible."""
    return slice(None) if leads == list(range(rows)) else leads


def write_input(
    into: np.ndarray, counts: np.ndarray, gain: np.ndarray, offset: np.ndarray, columns: Columns, as_whole: bool
) -> None:
    """Write one segment, or several of one length, where a batch has room for it; what has no counts becomes zero.

    Args:
        into: float32, (segments x) leads x samples, of any content.
        counts: (segments x) leads x samples, of the leads in `columns`; fewer samples are filled up at the end.
        gain, offset: float32, (segments x) leads: `counts * gain + offset` is the input.
        columns: rows of `into` that the leads go to.
        as_whole: normalise each segment as a whole afterwards, over its leads and samples.
    """
    samples = counts.shape[-1]
    in_place = isinstance(columns, slice)
    if not in_place or samples < into.shape[-1]:
        into[...] = 0
    # a slice is written in place
    values = into[..., :samples] if in_place else np.empty(counts.shape, np.float32)
    # numpy converts faster than it multiplies numbers of two kinds
    values[...] = counts
    values *= gain[..., None]
    values += offset[..., None]
    if as_whole:
        both = {"axis": (-2, -1), "keepdims": True, "dtype": np.float64}
        values[...] = (values - values.mean(**both)) / np.sqrt(values.var(**both) + _EPSILON)
    if not in_place:
        into[..., columns, :samples] = values
