"""ECG-FM's encoder for inference and export: it computes the same as fairseq's forward, without code for training.

Also collects the outputs of layers in fairseq's own forward.
"""

import contextlib
import functools
import threading
from collections import deque
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_signals_ext.common.conv_layers import Geometry
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.models.encoder import padding_of_frames


class Wav2Vec2InUse(nn.Module):
    """Computes frames from standardised segments, with the modules of a fairseq model.

    It computes the same as the model's forward. No branch depends on data, so that it can be exported for any number of
    segments. Shapes: N segments, L leads, S samples, T frames, E = `encoder_embed_dim`.
    """

    def __init__(self, model: Any):
        """Take over a model's modules."""
        super().__init__()
        self.geometry: Geometry = model.geometry
        self.crop_to = int(model.crop_seq_to_multiple)
        self.feature_extractor, self.layer_norm = model.feature_extractor, model.layer_norm
        self.post_extract_proj = model.post_extract_proj
        self.input_quantizer = model.input_quantizer
        if model.input_quantizer is not None:
            self.project_inp = model.project_inp
        # in a model of pretraining, `encoder` is the transformer
        self.encoder = model.encoder

    @property
    def is_smooth(self) -> bool:
        """Whether the input is not quantized."""
        return self.input_quantizer is None

    @property
    def layers(self) -> int:
        """Number of transformer layers."""
        return len(self.encoder.layers)

    @property
    def ends_with_norm(self) -> bool:
        """Whether the last layer's output is normalised once more."""
        return bool(self.encoder.layer_norm_first)

    def frames(self, source: Tensor, padding_mask: Tensor, layer: Optional[int] = None) -> Tuple[Tensor, Tensor]:
        """Return the transformer's output for each frame.

        Args:
            source, padding_mask: as for `Encoder.frames`.
            layer: 1 to `layers`: the output of that layer; 0: the input of the first; None: the encoder's output: the
                last layer's, normalised if the layers normalise their inputs.

        Returns:
            x: N x T x E.
            padding: bool, N x T, True where a frame is padding.
        """
        states, padding = self._states(source, padding_mask, layer)
        (x,) = deque(states, maxlen=1)  # frees the others at once
        return x, padding

    def all_frames(self, source: Tensor, padding_mask: Tensor) -> Tuple[List[Tensor], Tensor]:
        """Return the frames of all layers in one pass, see `Encoder.all_frames`."""
        states, padding = self._states(source, padding_mask)
        return list(states), padding

    def _states(
        self, source: Tensor, padding_mask: Tensor, last: Optional[int] = None
    ) -> Tuple[Iterator[Tensor], Tensor]:
        features = self.layer_norm(self.feature_extractor(source).transpose(1, 2))
        frames = int(features.size(1)) // self.crop_to * self.crop_to
        features = features[:, :frames]
        padding = padding_of_frames(features, padding_mask, self.geometry)
        return self._encode(self._project(features), padding, last), padding

    def attention(self, source: Tensor, padding_mask: Tensor) -> Tensor:
        """Return the attention weights of all layers, mean over heads: N x layers x T (queries) x T (keys).

        Raises:
            UserError: the layers (conformer) do not return attention weights.
        """
        with self._keeping_attention() as kept:
            frames = self.frames(source, padding_mask)[1].size(1)
        # frames may have been added, to a multiple of a number
        return torch.stack(kept, dim=1)[..., :frames, :frames]

    @contextlib.contextmanager
    def _keeping_attention(self) -> Iterator[List[Tensor]]:
        """Collect the attention weights of each layer, which fairseq's layers neither request nor return."""
        kept: List[Tensor] = []
        asking = threading.get_ident()  # other threads may use the same layers meanwhile

        def ask(module: nn.Module, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Tuple[Any, Dict[str, Any]]:
            return args, {**kwargs, "need_weights": kwargs["need_weights"] or threading.get_ident() == asking}

        def keep(module: nn.Module, args: Tuple[Any, ...], result: Tuple[Tensor, Optional[Tensor]]) -> None:
            if threading.get_ident() != asking:
                return
            if result[1] is None or result[1].dim() != 3:
                raise UserError("layers of this kind give no attention weights; use another way to explain")
            kept.append(result[1])

        hooks: List[Any] = []
        try:
            for layer in self.encoder.layers:
                hooks.append(layer.self_attn.register_forward_pre_hook(ask, with_kwargs=True))
                hooks.append(layer.self_attn.register_forward_hook(keep))
            yield kept
        finally:
            for hook in hooks:
                hook.remove()

    def _project(self, x: Tensor) -> Tensor:
        """Return the transformer's input, N x T x E, for features."""
        if self.post_extract_proj is not None:
            x = self.post_extract_proj(x)
        if self.input_quantizer is not None:
            x = self.project_inp(self.input_quantizer(x, produce_targets=False)["x"])
        return x

    def _encode(self, x: Tensor, padding: Tensor, last: Optional[int] = None) -> Iterator[Tensor]:
        """fairseq's `TransformerEncoder.forward` in evaluation mode, in a form that can be traced.

        Args:
            padding: bool, N x T, always given.
            last: number of layers that are run; None: all, and the norm after them.

        Yields:
            The input of the first layer, the output of each layer, and the final output.
        """
        encoder = self.encoder
        x = x.masked_fill(padding.unsqueeze(-1), 0)
        if encoder.pos_conv is not None:
            x = x + encoder.pos_conv(x.transpose(1, 2)).transpose(1, 2)
        if not encoder.layer_norm_first:
            x = encoder.layer_norm(x)
        frames = int(x.size(1))
        added = -frames % encoder.required_seq_len_multiple
        if added:
            x, padding = F.pad(x, (0, 0, 0, added)), F.pad(padding, (0, added), value=True)
        x = x.transpose(0, 1)
        yield x.transpose(0, 1)[:, :frames]
        for layer in encoder.layers[:last]:
            x, _ = layer(x, self_attn_padding_mask=padding, need_weights=False)
            yield x.transpose(0, 1)[:, :frames]
        if encoder.layer_norm_first and last is None:
            yield encoder.layer_norm(x.transpose(0, 1)[:, :frames])


@contextlib.contextmanager
def keeping_layers(layers: Iterable[nn.Module]) -> Iterator[Dict[int, Tensor]]:
    """Collect, while a model's own forward runs, the output of each layer, T x N x E, by its number from 0.

    Number -1 is the input of the first layer that runs. fairseq returns neither this nor which layers were dropped.
    """
    kept: Dict[int, Tensor] = {}

    def keep(number: int, module: nn.Module, inputs: Tuple[Tensor, ...], output: Tuple[Tensor, Any]) -> None:
        kept.setdefault(-1, inputs[0])
        kept[number] = output[0]

    hooks = [layer.register_forward_hook(functools.partial(keep, number)) for number, layer in enumerate(layers)]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def in_order(kept: Dict[int, Tensor], layers: int, output: Tensor) -> List[Tensor]:
    """Return frames, N x T x E, of the layers 0 to `layers`, from `keeping_layers`; 0 is the first layer's input.

    Args:
        output: N x T x E, the final output, which is used if every layer was dropped.
    """
    states = [kept.get(-1, output.transpose(0, 1))]
    for number in range(layers):
        states.append(kept.get(number, states[-1]))
    # frames may have been added, to a multiple of a number
    return [state.transpose(0, 1)[:, : output.size(1)] for state in states]
