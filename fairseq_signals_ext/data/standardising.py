"""From counts to standardised values: one gain and one offset a lead, the same in training and in use."""

from typing import Tuple

import numpy as np


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
