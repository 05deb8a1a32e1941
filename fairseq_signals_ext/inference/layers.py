"""Outputs of a network's layers on a backend: of one layer, or of all in one pass."""

from typing import Any, Callable, List, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.inference.backends import Outputs

OUTPUT = "output"
Run = Callable[[np.ndarray, np.ndarray], Outputs]


def one_layer(backend: Any, network: Any, layer: Optional[int], is_mean: bool) -> Run:
    """Return a function that computes a layer's output (None: the encoder's), per frame or as their mean.

    Raises:
        UserError: there is no such layer.
    """
    from fairseq_signals_ext.models.pooling import mean_over_frames

    if layer is not None and not 0 <= layer <= network.layers:
        raise UserError(f"layer {layer}: the model has layers 1 to {network.layers}; 0 is the input of the first")

    def frames(source: Any, padding_mask: Any) -> Tuple[Any]:
        x, padding = network.frames(source, padding_mask, layer)
        return (mean_over_frames(x, padding) if is_mean else x.masked_fill(padding.unsqueeze(-1), 0),)

    return lambda source, padding_mask: backend.run(frames, source, padding_mask)


def all_layers(backend: Any, network: Any, kept: Sequence[int] = ()) -> Run:
    """Return a function that computes statistics of all layers of N segments in one pass, see `Encoder.all_frames`.

    Frames of padding never count. Outputs: means (float32, N x layers x E), variances (same shape), the number of
    frames (int64, N), and for each of `kept` the frames (float32, N x T x E).

    Args:
        kept: positions among the layers, ascending.
    """
    import torch

    from fairseq_signals_ext.models.pooling import mean_over_frames

    def statistics(source: Any, padding_mask: Any) -> List[Any]:
        found, padding = network.all_frames(source, padding_mask)
        means, variances = [], []
        for x in map(torch.Tensor.float, found):
            means.append(mean_over_frames(x, padding))
            variances.append(mean_over_frames((x - means[-1].unsqueeze(1)) ** 2, padding))
        frames = [found[layer] for layer in kept]
        return [torch.stack(means, 1), torch.stack(variances, 1), (~padding).sum(1), *frames]

    return lambda source, padding_mask: backend.run(statistics, source, padding_mask)


def names_of_layers(network: Any, found: int) -> List[str]:
    """Names of the layers of `all_layers`: numbers from 0, and "output" for one that follows them.

    Args:
        found: number of layers.
    """
    numbered = network.layers + 1 if network.layers else 0
    return [*map(str, range(numbered)), OUTPUT][:found]
