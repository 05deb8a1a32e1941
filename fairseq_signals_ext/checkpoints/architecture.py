"""What is known of an encoder by its config alone, before anything of it is built; needs neither torch nor fairseq."""

from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Callable, Dict, Mapping, Optional, Tuple

from fairseq_signals_ext.checkpoints.sizes import check_model
from fairseq_signals_ext.conv_layers import Geometry, parse_conv_layers

Config = Mapping[str, Any]
# option of a classifier: name and options of its encoder, unless that is ECG-FM's, whose options stand beside it
ENCODER = "encoder"
# of any whole number among an encoder's options; far more than any has
_LARGEST = 2**16


def check_numbers(config: Config, parameters: Mapping[str, Any], file_size: int) -> None:
    """Raise a `ValueError` if a whole number among an encoder's options is larger than any encoder has."""
    for option, value in config.items():
        if isinstance(value, Integral) and abs(int(value)) > _LARGEST:
            raise ValueError(f"its model.{option} is {str(value):.60}, not a number up to {_LARGEST:,}")


@dataclass(frozen=True)
class Architecture:
    """How an encoder's config is read.

    Attributes:
        options: that decide which parameters it has and what it computes.
        geometry: how its frames lie over samples, by its config; None where the config does not say.
        check: raises a `ValueError` where sizes in a config from outside are none that a model has, or not those of the
            parameters; given the config, the parameters by the file's names, and the file's size in bytes.
        of_objective: how the names of parameters begin that only a pretraining needs.
        parts: how the names of parameters begin, by the part of the model that they are of, for `inspect`.
        sizes: options to show, by what they are called there.
    """

    options: Tuple[str, ...]
    geometry: Callable[[Config], Optional[Geometry]]
    check: Callable[[Config, Mapping[str, Any], int], None] = check_numbers
    of_objective: Tuple[str, ...] = ()
    parts: Mapping[str, Tuple[str, ...]] = field(default_factory=dict)
    sizes: Mapping[str, str] = field(default_factory=dict)


def _of_convolutions(config: Config) -> Optional[Geometry]:
    text = config.get("conv_feature_layers")
    return None if text is None else Geometry.of_convolutions(parse_conv_layers(text))


WAV2VEC2 = Architecture(
    options=(
        *("in_d", "extractor_mode", "conv_feature_layers", "conv_bias"),
        *("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads", "activation_fn"),
        *("layer_type", "layer_norm_first", "attn_type", "pos_enc_type", "depthwise_conv_kernel_size"),
        *("conv_pos", "conv_pos_groups", "pos_conv_depth", "required_seq_len_multiple"),
        *("quantize_input", "latent_vars", "latent_groups", "latent_dim", "quantizer_depth", "quantizer_factor"),
    ),
    geometry=_of_convolutions,
    check=check_model,
    of_objective=("quantizer.", "project_q.", "final_proj.", "target_glu.", "reconstruction_head."),
    parts={
        "convolutions": ("feature_extractor.",),
        "projection": ("post_extract_proj.", "layer_norm."),
        "positional convolution": ("encoder.pos_conv.", "conv_pos."),
        "transformer": ("encoder.",),
        "quantizer": ("quantizer.", "input_quantizer.", "project_q.", "project_inp."),
        "mask": ("mask_emb",),
        "pretraining heads": ("final_proj.", "target_glu.", "reconstruction_head."),
    },
    sizes={
        "leads": "in_d",
        "convolutions": "conv_feature_layers",
        "layers": "encoder_layers",
        "dimensions": "encoder_embed_dim",
        "feed_forward_dimensions": "encoder_ffn_embed_dim",
        "heads": "encoder_attention_heads",
        "norm_first": "layer_norm_first",
        "positional_kernel": "conv_pos",
        "positional_groups": "conv_pos_groups",
    },
)
# by the name of a model; those of other people are added as they are registered
ARCHITECTURES: Dict[str, Architecture] = dict.fromkeys(
    ("ecg_wav2vec2", "wav2vec2_cmsc", "ecg_transformer_classifier"), WAV2VEC2
)


def encoder_config(model: Config) -> Config:
    """Name and options of the encoder in a model's config, which are the model's own unless it names another."""
    chosen = model.get(ENCODER)
    return chosen if isinstance(chosen, Mapping) else model


def architecture_of(model: Config) -> Architecture:
    """The architecture of the encoder in a model's config; ECG-FM's where the name is none that is registered."""
    return ARCHITECTURES.get(str(encoder_config(model).get("_name")), WAV2VEC2)


def geometry_of(model: Config) -> Optional[Geometry]:
    """How frames lie over samples, by a model's config; None where it does not say."""
    return architecture_of(model).geometry(encoder_config(model))


def check_encoder(model: Config, parameters: Mapping[str, Any], file_size: int) -> None:
    """Raise a `ValueError` unless the encoder that a model's config names is registered and of possible sizes."""
    chosen = model.get(ENCODER)
    if chosen is not None:
        if not isinstance(chosen, Mapping) or chosen.get("_name") not in ARCHITECTURES:
            raise ValueError(f"its model.{ENCODER} is {chosen!r:.60}; use one of {', '.join(sorted(ARCHITECTURES))}")
        _check_head(model, parameters)
    architecture_of(model).check(encoder_config(model), parameters, file_size)


def _check_head(model: Config, parameters: Mapping[str, Any]) -> None:
    head, labels = parameters.get("proj.weight"), model.get("num_labels")
    if head is not None and labels is not None and head.shape[0] != labels:
        raise ValueError(f"its model.num_labels is {labels}, but its parameters are of {head.shape[0]} labels")
