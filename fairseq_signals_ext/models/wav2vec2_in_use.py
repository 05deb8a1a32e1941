"""ECG-FM's encoder as it is used and exported: what fairseq's forward computes, with nothing of training around it."""

import contextlib
import threading
from collections import deque
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_signals_ext.common.conv_layers import Geometry
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.models.encoder import padding_of_frames


class Wav2Vec2InUse(nn.Module):
    """From standardised segments to frames, made of the modules of a fairseq model.

    It computes what the model's own forward does, without branches that depend on data, so that it can be exported for
    any number of segments. Shapes: N segments, L leads, S samples, T frames, E = `encoder_embed_dim`.
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
        # a whole model of pretraining, whose own encoder is the transformer
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
        """What the transformer makes of each frame.

        Args:
            source, padding_mask: as `forward`.
            layer: 1 to `layers`: after that layer; 0: what the first is given; None: the encoder's output, which is
                that of the last layer, normalised where the layers normalise their inputs.

        Returns:
            x: N x T x E.
            padding: bool, N x T, True where a frame is of padding.
        """
        states, padding = self._states(source, padding_mask, layer)
        (x,) = deque(states, maxlen=1)  # others are let go at once
        return x, padding

    def all_frames(self, source: Tensor, padding_mask: Tensor) -> Tuple[List[Tensor], Tensor]:
        """Frames of all layers in one pass, see `Encoder.all_frames`."""
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
        """Attention weights of all layers, means over their heads: N x layers x T (queries) x T (keys).

        Raises:
            UserError: the layers are not plain transformer's (conformer), and have none to give.
        """
        with self._keeping_attention() as kept:
            frames = self.frames(source, padding_mask)[1].size(1)
        # frames may have been added, to a multiple of a number
        return torch.stack(kept, dim=1)[..., :frames, :frames]

    @contextlib.contextmanager
    def _keeping_attention(self) -> Iterator[List[Tensor]]:
        """Collects each layer's weights, which fairseq's layers neither ask for nor pass on."""
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
        """The transformer's input, N x T x E, of features."""
        if self.post_extract_proj is not None:
            x = self.post_extract_proj(x)
        if self.input_quantizer is not None:
            x = self.project_inp(self.input_quantizer(x, produce_targets=False)["x"])
        return x

    def _encode(self, x: Tensor, padding: Tensor, last: Optional[int] = None) -> Iterator[Tensor]:
        """fairseq's `TransformerEncoder.forward` in evaluation mode, whose own cannot be traced.

        Args:
            padding: bool, N x T, always given.
            last: number of layers that are run; None: all, and what follows them.

        Yields:
            What the first layer is given, what each layer gives, and what follows them.
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
