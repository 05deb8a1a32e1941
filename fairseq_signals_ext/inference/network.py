"""The network that is used and exported: what a checkpoint's model computes, with nothing of training around it."""

import contextlib
import threading
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_signals_ext.checkpoints.description import ModelDescription
from fairseq_signals_ext.checkpoints.reading import Checkpoint
from fairseq_signals_ext.conv_layers import frames_of
from fairseq_signals_ext.errors import UserError, first_line
from fairseq_signals_ext.models.pooling import mean_over_frames
from fairseq_signals_ext.requirements import quiet_fairseq


class EcgNetwork(nn.Module):
    """From standardised segments to outputs and embeddings, made of the modules of a fairseq model.

    It computes what the model's own forward does, without branches that depend on data, so that it can be exported for
    any number of segments. Shapes: N segments, L leads, S samples, T frames, E = `encoder_embed_dim`.
    """

    def __init__(self, model: nn.Module, description: ModelDescription):
        """Take over a model's modules; its weight norm is folded into the weights, so do not train it afterwards.

        Args:
            model: of `build_model`.
            description: of the same checkpoint.
        """
        super().__init__()
        self.has_output = description.output_name is not None
        # a classifier's encoder is a whole model of pretraining, whose own encoder is the transformer
        body: Any = model.encoder if self.has_output else model
        self.conv_layers = body.conv_layers
        self.crop_to = int(body.crop_seq_to_multiple)
        self.feature_extractor, self.layer_norm = body.feature_extractor, body.layer_norm
        self.post_extract_proj = body.post_extract_proj
        self.input_quantizer = body.input_quantizer
        if body.input_quantizer is not None:
            self.project_inp = body.project_inp
        self.encoder = body.encoder
        if self.has_output:
            self.pooling, self.proj = model.pooling, model.proj
        self.is_scaled = description.of_kind.is_scaled
        if self.is_scaled:
            self.register_buffer("target_mean", torch.tensor(description.target_mean))
            self.register_buffer("target_std", torch.tensor(description.target_std))
        _fold_weight_norm(self)

    def forward(self, source: Tensor, padding_mask: Tensor) -> Tuple[Tensor, ...]:
        """Outputs and embeddings of segments.

        Args:
            source: float32, N x L x S, standardised.
            padding_mask: bool, N x S, True where a sample is padding, which is at the end.

        Returns:
            Output (N x labels: logits, or values in the label's unit) and embedding (N x E: the mean over frames that
            are not padding of the encoder's output); of a pretrained model the embedding only.
        """
        x, padding = self.frames(source, padding_mask)
        embedding = mean_over_frames(x, padding)
        if not self.has_output:
            return (embedding,)
        output = self.proj(self.pooling(x, padding))
        return (output * self.target_std + self.target_mean if self.is_scaled else output), embedding

    @property
    def layers(self) -> int:
        """Number of transformer layers."""
        return len(self.encoder.layers)

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
        features = self.layer_norm(self.feature_extractor(source).transpose(1, 2))
        frames = int(features.size(1)) // self.crop_to * self.crop_to
        valid = frames_of((~padding_mask).sum(-1, keepdim=True), self.conv_layers)
        # counted on the input's device: tracing would keep the device of arange
        numbers = torch.ones_like(features[:1, :frames, 0]).cumsum(1) - 1
        padding = numbers >= valid
        return self._encode(self._project(features[:, :frames]), padding, layer), padding

    def attention(self, source: Tensor, padding_mask: Tensor) -> Tensor:
        """Attention weights of all layers, means over their heads: N x layers x T (queries) x T (keys).

        Raises:
            UserError: the layers are no plain transformer's (conformer), and have none to give.
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

    def _encode(self, x: Tensor, padding: Tensor, last: Optional[int] = None) -> Tensor:
        """fairseq's `TransformerEncoder.forward` in evaluation mode, whose own cannot be traced.

        Args:
            padding: bool, N x T, always given.
            last: number of layers that are run; None: all, and what follows them.
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
        for layer in encoder.layers[:last]:
            x, _ = layer(x, self_attn_padding_mask=padding, need_weights=False)
        x = x.transpose(0, 1)[:, :frames]
        return encoder.layer_norm(x) if encoder.layer_norm_first and last is None else x


def build_network(checkpoint: Checkpoint, description: ModelDescription) -> EcgNetwork:
    """The network of a checkpoint, in evaluation mode, on the CPU.

    Raises:
        UserError: see `build_model`.
    """
    return EcgNetwork(build_model(checkpoint), description).requires_grad_(False).eval()


@quiet_fairseq()
def build_model(checkpoint: Checkpoint) -> Any:
    """The fairseq model of a checkpoint with its parameters, in evaluation mode; no task, hydra or data are needed.

    Raises:
        UserError: it is of another model than ours, its config cannot be used, or a parameter is missing, unknown or
            of another shape.
    """
    from fairseq.models import build_model as build
    from omegaconf import OmegaConf

    options = checkpoint.model_config
    if options.get("_name") not in _our_models():
        raise UserError(f"{checkpoint.path}: model {options.get('_name')!r}; use one of {', '.join(_our_models())}")
    if options.get("layer_type") == "trf_adp" or options.get("pos_enc_type", "abs") != "abs":
        told = f"layer_type={options.get('layer_type')}, pos_enc_type={options.get('pos_enc_type')}"
        raise UserError(f"{checkpoint.path}: {told}: fairseq cannot run these on ECGs; use another model")
    # fairseq would wrap the layers, for training
    config = OmegaConf.create({**options, "checkpoint_activations": False})
    try:
        model = build(config, None, from_checkpoint=True)
        model.load_state_dict(checkpoint.parameters)
    except Exception as error:  # OmegaConf, fairseq and torch have kinds of their own for options that do not fit
        raise UserError(f"{checkpoint.path}: {first_line(error, 1000)}; give the checkpoint as it was saved") from None
    return model.eval()


def _our_models() -> Tuple[str, ...]:
    """Names of the models; importing registers them."""
    from fairseq.models import MODEL_REGISTRY

    from fairseq_signals_ext.models.ecg_classifier import EcgTransformerClassifier
    from fairseq_signals_ext.models.ecg_wav2vec2 import EcgWav2Vec2Model

    ours = (EcgTransformerClassifier, EcgWav2Vec2Model)
    return tuple(sorted(name for name, model in MODEL_REGISTRY.items() if issubclass(model, ours)))


def _fold_weight_norm(module: nn.Module) -> None:
    """Replace weight norm by the weight that it gives, in place; torch has two ways to store it."""
    from torch.nn.utils import parametrize, remove_weight_norm

    for part in module.modules():
        if parametrize.is_parametrized(part, "weight"):
            parametrize.remove_parametrizations(part, "weight")
        elif hasattr(part, "weight_g"):
            remove_weight_norm(part)
