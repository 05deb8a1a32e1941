"""wav2vec 2.0 on ECGs (arXiv 2006.11477, 2408.05178): fairseq's model with a first convolution over the leads."""

import contextlib
import copy
import functools
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple, Type

import torch
from fairseq.models.wav2vec.wav2vec2 import ConvFeatureExtractionModel, Wav2Vec2Config, Wav2Vec2Model
from fairseq.modules import MultiheadAttention
from fairseq.modules.checkpoint_activations import unwrap_checkpoint
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fairseq_signals_ext.checkpoints.architecture import WAV2VEC2, rename_ecg_fm_parameters
from fairseq_signals_ext.common.conv_layers import ConvLayer, Geometry, frames_of, parse_conv_layers, samples_per_frame
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data.time_masks import MaskSettings
from fairseq_signals_ext.models.encoder import Encoder, register_encoder
from fairseq_signals_ext.models.faster_parts import (
    FftConv1d,
    Fp32Quantizer,
    FusedSelfAttention,
    MaskedFrames,
    MatrixQuantizer,
    draw_negatives,
    places_of,
    similarities,
    similarities_by_place,
    targets_at,
)
from fairseq_signals_ext.models.pooling import mean_over_frames
from fairseq_signals_ext.models.wav2vec2_in_use import Wav2Vec2InUse, in_order, keeping_layers

_LAST_NORM = "encoder.layer_norm."
# options for negatives from other frames than the masked ones of the same segment, or changed after drawing
_NOT_OF_THE_SEGMENT = ("cross_sample_negatives", "negatives_from_everywhere")
_OTHER_NEGATIVES = (*_NOT_OF_THE_SEGMENT, "codebook_negatives", "target_glu")


@dataclass
class EcgWav2Vec2Config(Wav2Vec2Config):
    """fairseq's wav2vec 2.0 options, with ECG-FM's sizes and settings as defaults."""

    in_d: int = field(default=12, metadata={"help": "number of leads of the input"})
    conv_feature_layers: str = field(
        default="[(256, 2, 2)] * 4",
        metadata={"help": "convolutions as a list of (features, kernel size, stride); '+' and '*' are understood"},
    )
    quantize_targets: bool = field(default=True, metadata={"help": "use quantized targets"})
    final_dim: int = field(
        default=256,
        metadata={"help": "project the encoder's output and the targets to so many dimensions (0: encoder_embed_dim)"},
    )
    dropout_input: float = field(default=0.1, metadata={"help": "dropout of the transformer's input"})
    dropout_features: float = field(default=0.1, metadata={"help": "dropout of the features that become targets"})
    feature_grad_mult: float = field(
        default=0.1, metadata={"help": "multiply the gradient of the convolutions by this; 0: they are not trained"}
    )
    required_seq_len_multiple: int = field(
        default=1, metadata={"help": "pad the transformer's input to a multiple of so many frames"}
    )
    compile: bool = field(
        default=False,
        metadata={
            "help": "training: compile convolutions and transformer by torch.compile, which takes a minute or two "
            "at the start and needs a C++ compiler"
        },
    )
    fused_qkv: bool = field(
        default=False,
        metadata={"help": "training: one matrix product for queries, keys and values; equal up to rounding"},
    )
    fft_pos_conv: bool = field(
        default=False,
        metadata={"help": "training: the positional convolution by Fourier transform, in fp32; equal up to rounding"},
    )
    fused_contrast: bool = field(
        default=False,
        metadata={
            "help": "choose codewords and compare with negatives by matrix products, not with a copy of each "
            "negative; equal up to rounding, much less memory"
        },
    )
    bf16_autocast: bool = field(
        default=False,
        metadata={
            "help": "training: compute in bf16 by autocast; weights, softmax, norms, quantizer and losses stay fp32 "
            "(common.bf16 holds the weights in bf16, too)"
        },
    )


class EcgFeatureExtractor(ConvFeatureExtractionModel):
    """fairseq's convolutions, the first one over all leads: B x leads x samples to B x features x frames."""

    def __init__(self, conv_layers: List[ConvLayer], in_d: int, mode: str, conv_bias: bool):
        super().__init__(conv_layers, mode=mode, conv_bias=conv_bias)
        features, kernel, stride = conv_layers[0]
        first = nn.Conv1d(in_d, features, kernel, stride=stride, bias=conv_bias)
        nn.init.kaiming_normal_(first.weight)
        self.conv_layers[0][0] = first

    def forward(self, x: Tensor) -> Tensor:
        """Return features, B x features x frames, for x, B x leads x samples."""
        # fairseq adds a dimension for its single channel here
        for layer in self.conv_layers:
            x = layer(x)
        return x


@register_encoder("ecg_wav2vec2", dataclass=EcgWav2Vec2Config)
class EcgWav2Vec2Model(Encoder, Wav2Vec2Model):
    """wav2vec 2.0 for ECGs of `in_d` leads.

    Shapes: B segments, L leads, S samples, T frames, E = `encoder_embed_dim`, F features of the last convolution,
    M masked frames per segment, N negatives.
    """

    architecture = WAV2VEC2

    def __init__(self, cfg: EcgWav2Vec2Config):
        conv_layers = parse_conv_layers(cfg.conv_feature_layers)
        # fairseq evaluates this text as code, so write it anew
        cfg = copy.deepcopy(cfg)
        cfg.conv_feature_layers = str(conv_layers)
        super().__init__(cfg)
        self.conv_layers = conv_layers
        self.feature_extractor = EcgFeatureExtractor(conv_layers, cfg.in_d, cfg.extractor_mode, cfg.conv_bias)
        # keep untrained parameters from the optimizer: its weight decay would shrink them
        self.feature_extractor.requires_grad_(cfg.feature_grad_mult > 0)
        self.reconstruction_head: Optional[nn.Linear] = None
        self._choose_parts(cfg)
        self._encoder_output: Optional[Tensor] = None
        self.encoder.register_forward_hook(self._keep_encoder_output)

    @property
    def geometry(self) -> Geometry:
        """The samples that each frame covers."""
        return Geometry.of_convolutions(self.conv_layers)

    @property
    def layers(self) -> int:
        """Number of layers of the transformer."""
        return len(self.encoder.layers)

    def layer_of(self, parameter: str) -> int:
        """Return the transformer layer that a parameter belongs to; -1: before the first layer."""
        parts = parameter.split(".")
        return int(parts[2]) if parts[:2] == ["encoder", "layers"] else -1

    def frames(self, source: Tensor, padding_mask: Tensor, layer: Optional[int] = None) -> Tuple[Tensor, Tensor]:
        """See `Encoder.frames`."""
        return Wav2Vec2InUse(self).frames(source, padding_mask, layer)

    @property
    def ends_with_norm(self) -> bool:
        """Whether layers normalise their inputs, so that a norm follows the last layer."""
        return bool(self.encoder.layer_norm_first)

    def all_frames(self, source: Tensor, padding_mask: Tensor) -> Tuple[List[Tensor], Tensor]:
        """See `Encoder.all_frames`; in one pass."""
        return Wav2Vec2InUse(self).all_frames(source, padding_mask)

    def is_above(self, parameter: str, layer: int) -> bool:
        """See `Encoder.is_above`; the norm after the last layer is above all layers."""
        return super().is_above(parameter, layer) or (self.ends_with_norm and parameter.startswith(_LAST_NORM))

    def encode(
        self,
        source: Tensor,
        padding_mask: Optional[Tensor] = None,
        mask: bool = False,
        layer: Optional[int] = None,
        **masks: Tensor,
    ) -> Dict[str, Any]:
        """Frames by fairseq's own forward, see `extract_features`."""
        if layer == 0:  # fairseq's first number is the output of the first layer
            result = self.encode_all(source, padding_mask, mask=mask, layer=0, **masks)
            return {**result, "x": result["x"][0]}
        last = None if layer is None else layer - 1
        return self.extract_features(source, padding_mask, mask=mask, layer=last, **masks)

    def encode_all(
        self, source: Tensor, padding_mask: Optional[Tensor] = None, mask: bool = False, **options: Any
    ) -> Dict[str, Any]:
        """Return frames of all layers by fairseq's own forward; a dropped layer returns its input."""
        with keeping_layers(self.encoder.layers) as kept:
            result = self.extract_features(source, padding_mask, mask=mask, **options)
        x = [_in_fp32(frames) for frames in in_order(kept, self.layers, result["x"])]
        return {**result, "x": [*x, result["x"]] if self.ends_with_norm else x}

    def for_use(self) -> Wav2Vec2InUse:
        """Return the part for inference and export."""
        return Wav2Vec2InUse(self)

    def drop_objective(self, keep_masks: bool = False) -> None:
        """Remove the parts that only pretraining needs."""
        super().drop_objective(keep_masks)
        self.remove_pretraining_modules()
        if not keep_masks:
            self.mask_emb: Any = None

    def mask_settings(self) -> MaskSettings:
        """Return how the collater masks inputs."""
        return MaskSettings.from_model_config(self.cfg)

    def _choose_parts(self, cfg: EcgWav2Vec2Config) -> None:
        """Replace the classes of modules that fairseq built; parameters, names and random numbers stay the same."""
        if cfg.checkpoint_activations:
            for layer in self.encoder.layers:
                _checkpoint_by_torch(layer)
        if cfg.fused_qkv:
            _exchange(self.encoder, MultiheadAttention, FusedSelfAttention)
        if cfg.fft_pos_conv:
            _exchange(self.encoder.pos_conv, nn.Conv1d, FftConv1d)
        if self.quantizer is not None and (cfg.fused_contrast or cfg.bf16_autocast):
            self.quantizer.__class__ = MatrixQuantizer if cfg.fused_contrast else Fp32Quantizer
        if cfg.fused_contrast:
            others = [name for name in _OTHER_NEGATIVES if getattr(cfg, name)]
            if others:
                raise UserError(
                    f"model.fused_contrast compares with negatives of the same segment only; "
                    f"set model.{others[0]} to its default, or model.fused_contrast=false"
                )
            generator = torch.Generator().manual_seed(0)
            weights = torch.randint(-(2**63), 2**63 - 1, (self.final_proj.out_features,), generator=generator)
            self.register_buffer("_fingerprint_weights", weights, persistent=False)

    def __getstate__(self) -> Dict[str, Any]:
        """Support copies and pickles: torch does not copy computed tensors, such as weights with weight norm.

        Each forward computes them again.
        """
        self._detach_weights()
        return {**self.__dict__, "_encoder_output": None}

    def _detach_weights(self) -> None:
        for part in self.encoder.pos_conv.modules():
            if hasattr(part, "weight_g"):
                part.weight = part.weight.detach()

    def copy_of_transformer(self) -> nn.Module:
        """Copy the transformer with its positional convolution."""
        self._detach_weights()
        transformer = copy.deepcopy(self.encoder, {id(self): self})
        transformer._forward_hooks.clear()  # they keep the output of the original
        return transformer

    def _keep_encoder_output(self, module: nn.Module, inputs: Any, output: Tuple[Tensor, Any]) -> None:
        self._encoder_output = output[0]

    def forward(
        self,
        source: Tensor,
        padding_mask: Optional[Tensor] = None,
        mask: bool = True,
        features_only: bool = False,
        layer: Optional[int] = None,
        mask_indices: Optional[Tensor] = None,
        mask_channel_indices: Optional[Tensor] = None,
        masked_frames: Optional[Tensor] = None,
        **kwargs: Any,
    ) -> Dict[str, Any]:
        """fairseq's forward for `source` of B x L x S.

        Args:
            source: float, B x L x S.
            padding_mask: bool, B x S or B x L x S, True where a sample is padding.
            mask: mask frames in time (and features, if so configured).
            features_only: stop after the encoder.
            layer: stop after this layer of the encoder.
            mask_indices: bool, B x T, the frames to mask; drawn if None. Each row masks the same number.
            mask_channel_indices: bool, B x E, the features to mask; drawn if None and so configured.
            masked_frames: int64, B x M, the numbers of the frames in `mask_indices`. With them, the host does not wait
                for the device.

        Returns:
            The result of fairseq's model; with `features_only=False` also `features`, the encoder's output for the
            masked input, B x T x E.
        """
        if padding_mask is not None and padding_mask.dim() == 3:
            padding_mask = padding_mask.all(dim=1)
        if mask_channel_indices is not None and mask_channel_indices.dim() == 2:
            frames = frames_of(source.size(-1), self.conv_layers)
            mask_channel_indices = mask_channel_indices.unsqueeze(1).expand(-1, frames, -1)
        in_bf16 = self.cfg.bf16_autocast and self.training
        with torch.autocast(source.device.type, torch.bfloat16) if in_bf16 else contextlib.nullcontext():
            result = super().forward(
                source,
                padding_mask,
                mask=mask,
                features_only=features_only,
                layer=layer,
                # fairseq passes this to `apply_mask` unchanged
                mask_indices=(mask_indices, masked_frames),
                mask_channel_indices=mask_channel_indices,
                **kwargs,
            )
        encoder_output, self._encoder_output = self._encoder_output, None
        if not features_only:
            result["features"] = encoder_output
        return {key: _in_fp32(value) for key, value in result.items()} if in_bf16 else result

    def apply_mask(
        self,
        x: Tensor,
        padding_mask: Optional[Tensor],
        mask_indices: Any = None,
        mask_channel_indices: Optional[Tensor] = None,
    ) -> Tuple[Tensor, Optional[MaskedFrames]]:
        """As fairseq's, without waiting for the device if `masked_frames` is given; see `forward`."""
        mask_indices, masked_frames = mask_indices if isinstance(mask_indices, tuple) else (mask_indices, None)
        if mask_indices is None or (self.mask_channel_before and self.mask_channel_prob > 0):
            # with autocast, x in bf16 cannot take the fp32 vector for masked frames
            return super().apply_mask(x.type_as(self.mask_emb), padding_mask, mask_indices, mask_channel_indices)
        x = torch.where(mask_indices.unsqueeze(-1), self.mask_emb.type_as(x), x)
        if mask_channel_indices is not None:
            x = x.masked_fill(mask_channel_indices, 0)
        if masked_frames is None or self.negatives_from_everywhere:
            return x, mask_indices
        return x, places_of(masked_frames)

    def sample_negatives(self, y: Tensor, num: int, padding_count: Optional[int] = None) -> Tuple[Tensor, Any]:
        """Draw negatives on the device of `y`; with `fused_contrast` return their places, N x B x M, not copies."""
        if self.n_negatives == 0 and self.cross_sample_negatives == 0:
            raise UserError("model.num_negatives=0: there is nothing to compare with; use 1 or more")
        if any(getattr(self.cfg, name) for name in _NOT_OF_THE_SEGMENT) or padding_count:
            return super().sample_negatives(y, num, padding_count)
        places = draw_negatives(len(y), num, self.n_negatives, y.device)
        return (places if self.cfg.fused_contrast else targets_at(y, places)), places

    def compute_preds(self, x: Tensor, y: Tensor, negatives: Tensor) -> Tensor:
        """Return similarities over temperature, (1 + N) x B x M, as fairseq, but without waiting for the device."""
        if self.cfg.bf16_autocast:
            x = x.float()
        with torch.autocast(x.device.type, enabled=False):
            if negatives.is_floating_point():
                cosines = similarities(x, y, negatives)
            else:
                cosines = similarities_by_place(x, y, negatives, self._fingerprint_weights)
            return (cosines / self.logit_temp).type_as(x)

    def extract_features(
        self,
        source: Tensor,
        padding_mask: Optional[Tensor] = None,
        mask: bool = False,
        layer: Optional[int] = None,
        **kwargs: Any,
    ) -> Dict[str, Any]:
        """Return the output `x` (B x T x E), convolution `features` (B x T x F), `padding_mask`, `layer_results`."""
        return self.forward(source, padding_mask, mask=mask, features_only=True, layer=layer, **kwargs)

    def get_extra_losses(self, net_output: Dict[str, Any]) -> List[Optional[Tensor]]:
        """Return the codebook's diversity loss (None with continuous targets) and the penalty on features."""
        losses = super().get_extra_losses(net_output)
        return losses if "prob_perplexity" in net_output else [None, *losses]

    def add_reconstruction_head(self) -> None:
        """Add the layer that predicts the signal of each frame; see `reconstruct`."""
        if self.reconstruction_head is None:
            outputs = self.cfg.in_d * samples_per_frame(self.conv_layers)
            self.reconstruction_head = nn.Linear(self.cfg.encoder_embed_dim, outputs).to(self.mask_emb)

    def reconstruct(self, features: Tensor) -> Tensor:
        """Predict the signal of frames, ... x L x (samples per frame), from encoder output, ... x E.

        Frame t corresponds to samples `t * hop` to `(t + 1) * hop`; `hop` is the product of the strides.
        """
        if self.reconstruction_head is None:
            raise UserError("the model has no reconstruction head: train it with criterion.reconstruction_weight > 0")
        return self.reconstruction_head(features).unflatten(-1, (self.cfg.in_d, -1))

    def _get_feat_extract_output_lengths(self, input_lengths: Tensor) -> Tensor:
        # here too fairseq evaluates the config's text as code
        return frames_of(input_lengths, self.conv_layers)

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str) -> Dict[str, Tensor]:
        """Map ECG-FM's parameter names to fairseq's, in place."""
        super().upgrade_state_dict_named(state_dict, name)
        prefix = f"{name}." if name else ""
        rename_ecg_fm_parameters(state_dict, self.state_dict(), prefix)
        if not prefix and "reconstruction_head.weight" in state_dict:  # a classifier's encoder has none
            self.add_reconstruction_head()
        return state_dict


@dataclass
class Wav2Vec2CmscConfig(EcgWav2Vec2Config):
    """ECG-FM's pretraining model: wav2vec 2.0 with contrastive multi-segment coding."""


@register_encoder("wav2vec2_cmsc", dataclass=Wav2Vec2CmscConfig)
class Wav2Vec2CmscModel(EcgWav2Vec2Model):
    """The model that `wav2vec2_with_cmsc` trains."""

    def get_features(self, net_output: Dict[str, Any], aggregate: bool = False) -> Tensor:
        """Return encoder output, B x T x E; with `aggregate` its mean over the frames that are not padding, B x E."""
        features = net_output["features"]
        return mean_over_frames(features, net_output["padding_mask"]) if aggregate else features


def _checkpoint_by_torch(layer: nn.Module) -> None:
    """Recompute a layer in torch's way: fairseq's ignores autocast, and cannot be compiled."""
    unwrap_checkpoint(layer)
    layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)


def _exchange(part: nn.Module, old: Type[nn.Module], new: Type[nn.Module]) -> None:
    for module in part.modules():
        if type(module) is old:
            module.__class__ = new


def _in_fp32(value: Any) -> Any:
    return value.float() if torch.is_tensor(value) and value.dtype == torch.bfloat16 else value
