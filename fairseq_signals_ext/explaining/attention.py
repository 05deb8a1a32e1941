"""Saliency from attention: which frames the transformer's frames took from."""

from typing import Any, Callable, Optional

import numpy as np

from fairseq_signals_ext.conv_layers import Geometry
from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.explaining.frames import samples_of_frames
from fairseq_signals_ext.inference.model import LoadedModel


def attention_map(model: LoadedModel, layer: Optional[int], roll_out: bool) -> Callable[..., np.ndarray]:
    """What gives the saliency of segments from source and padding mask: N x samples, see `samples_of_frames`.

    Args:
        layer: 1 to the number of layers; None: the last.
        roll_out: follow the attention through all layers up to this one (Abnar and Zuidema 2020, arXiv 2005.00928):
            half of what a layer passes on is its input, and the mean over queries is taken. Otherwise the maximum
            over queries of the layer's own weights, which is ECG-FM's saliency (arXiv 2408.05178). Heads are averaged.

    Raises:
        UserError: the model cannot be looked into, or has no such layer.
    """
    network = model.network
    last = network.layers if layer is None else layer
    if not 1 <= last <= network.layers:
        raise UserError(f"layer {layer}: {model.source} has layers 1 to {network.layers}; give one of them")

    def of_frames(source: Any, padding_mask: Any) -> Any:
        attention = network.attention(source, padding_mask)[:, :last].float()
        is_padding = _padding_frames(padding_mask, attention.shape[-1], network.geometry)
        return (_rolled_out(attention, is_padding) if roll_out else _strongest(attention[:, -1], is_padding),)

    def of_samples(source: np.ndarray, padding_mask: np.ndarray) -> np.ndarray:
        (values,) = model.backend.run(of_frames, source, padding_mask)  # type: ignore[attr-defined]
        return samples_of_frames(values, padding_mask, network.geometry)

    return of_samples


def _padding_frames(padding_mask: Any, frames: int, geometry: Geometry) -> Any:
    """Bool tensor, N x T."""
    import torch

    valid = geometry.frames((~padding_mask).sum(-1, keepdim=True))
    return torch.arange(frames, device=padding_mask.device) >= valid


def _strongest(attention: Any, is_padding: Any) -> Any:
    """The most that any frame takes from each, N x T, of N x T (queries) x T (keys)."""
    return attention.masked_fill(is_padding.unsqueeze(-1), 0).amax(dim=1)


def _rolled_out(attention: Any, is_padding: Any) -> Any:
    """How much of each frame has come to the frames of the last layer, N x T, of N x layers x T x T."""
    import torch

    unchanged = torch.eye(attention.shape[-1], device=attention.device)
    rolled = unchanged
    for weights in attention.unbind(1):
        rolled = (weights + unchanged) / 2 @ rolled
    kept = (~is_padding).float()
    return torch.einsum("nq,nqk->nk", kept / kept.sum(1, keepdim=True), rolled)
