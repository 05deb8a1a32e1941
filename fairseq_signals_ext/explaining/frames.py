"""From the transformer's frames back to the samples that they were made of."""

import numpy as np

from fairseq_signals_ext.conv_layers import Geometry


def samples_of_frames(values: np.ndarray, padding_mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    """A value for each sample: the mean of those of the frames that it is part of.

    Frames that reach into padding do not count.

    Args:
        values: N x T, a value a frame.
        padding_mask: bool, N x samples, True where a sample is padding.
        geometry: how frames lie over samples.

    Returns:
        float32, N x samples; NaN for samples that are part of no frame.
    """
    (segments, frames), samples = values.shape, padding_mask.shape[1]
    counts = np.arange(frames) < geometry.frames((~padding_mask).sum(axis=1, keepdims=True))
    totals, numbers = np.zeros((2, segments, samples))
    for place in range(geometry.field):
        at = np.arange(frames) * geometry.hop - geometry.before + place
        inside = (at >= 0) & (at < samples)  # others are zeros that the encoder adds
        totals[:, at[inside]] += np.where(counts, values, 0)[:, inside]
        numbers[:, at[inside]] += counts[:, inside]
    return np.divide(totals, numbers, out=np.full_like(totals, np.nan), where=numbers > 0).astype(np.float32)
