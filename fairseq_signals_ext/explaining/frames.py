"""From the transformer's frames back to the samples that they were made of."""

from typing import Sequence

import numpy as np

from fairseq_signals_ext.conv_layers import ConvLayer, frames_of, receptive_field, samples_per_frame


def samples_of_frames(values: np.ndarray, padding_mask: np.ndarray, layers: Sequence[ConvLayer]) -> np.ndarray:
    """A value for each sample: the mean of those of the frames that it is part of.

    Frame t is made of the samples from `t * hop` to `t * hop + field - 1`, `hop` being the product of the strides and
    `field` the receptive field. Frames that reach into padding do not count.

    Args:
        values: N x T, a value a frame.
        padding_mask: bool, N x samples, True where a sample is padding.
        layers: the convolutions.

    Returns:
        float32, N x samples; NaN for samples that are part of no frame.
    """
    hop, field = samples_per_frame(layers), receptive_field(layers)
    segments, frames = values.shape
    counts = np.arange(frames) < frames_of((~padding_mask).sum(axis=1, keepdims=True), layers)
    totals, numbers = np.zeros((2, segments, padding_mask.shape[1]))
    starts = np.arange(frames) * hop
    for place in range(field):
        totals[:, starts + place] += np.where(counts, values, 0)
        numbers[:, starts + place] += counts
    return np.divide(totals, numbers, out=np.full_like(totals, np.nan), where=numbers > 0).astype(np.float32)
