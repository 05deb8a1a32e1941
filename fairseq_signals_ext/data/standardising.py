"""From counts to a model's input: one gain and one offset per lead, the same in training and in use.

Needs numpy only.
"""

from typing import Any, Dict, List, Tuple, Union

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


def normalise(into: np.ndarray, columns: Columns, samples: int) -> None:
    """Normalise each segment as a whole, in place, over some rows and their first samples; as torch's layer_norm."""
    values = into[..., columns, :samples]
    both: Dict[str, Any] = {"axis": (-2, -1), "keepdims": True, "dtype": np.float64}
    into[..., columns, :samples] = (values - values.mean(**both)) / np.sqrt(values.var(**both) + _EPSILON)
