"""Facts on an encoder from its config and the names of its parameters; needs neither torch nor fairseq."""

from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any, Callable, Dict, Mapping, Optional, Tuple

from fairseq_signals_ext.checkpoints.sizes import check_model, check_patches, check_state_space
from fairseq_signals_ext.common.conv_layers import Geometry, parse_conv_layers

if TYPE_CHECKING:
    from torch import Tensor

Config = Mapping[str, Any]
# option of a classifier: name and options of its encoder; ECG-FM's options are in the same section instead
ENCODER = "encoder"
# limit of whole numbers in an encoder's options; far above any real value
_LARGEST = 2**16
_THEIR_POSITION = "conv_pos.pos_conv."
_OUR_POSITION = "encoder.pos_conv."
_FIRST = "0."
_WEIGHT_NORM = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}


def check_numbers(config: Config, parameters: Mapping[str, Any], file_size: int) -> None:
    """Raise a `ValueError` if a whole number in an encoder's options is larger than in any real encoder."""
    for option, value in config.items():
        if isinstance(value, Integral) and abs(int(value)) > _LARGEST:
            raise ValueError(f"its model.{option} is {str(value):.60}, not a number up to {_LARGEST:,}")


@dataclass(frozen=True)
class Architecture:
    """How to read an encoder's config.

    Attributes:
        options: options that determine its parameters and its computation.
        geometry: returns the samples that each frame covers, from its config; None if the config lacks this.
        check: raises a `ValueError` if sizes in a config are impossible or differ from the parameters; its arguments
            are the config, the parameters by the file's names, and the file's size in bytes.
        of_objective: prefixes of parameters that only pretraining needs.
        parts: prefixes of parameters by part of the model, for `inspect`.
        sizes: options that `inspect` shows, by their label there.
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
    of_objective=(
        *("quantizer.", "project_q.", "final_proj.", "target_glu.", "reconstruction_head."),
        *("regression_head.", "teacher."),
    ),
    parts={
        "convolutions": ("feature_extractor.",),
        "projection": ("post_extract_proj.", "layer_norm."),
        "positional convolution": ("encoder.pos_conv.", "conv_pos."),
        "transformer": ("encoder.",),
        "quantizer": ("quantizer.", "input_quantizer.", "project_q.", "project_inp."),
        "mask": ("mask_emb",),
        "pretraining heads": ("final_proj.", "target_glu.", "reconstruction_head.", "regression_head."),
        "teacher": ("teacher.",),
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
PATCHES = Architecture(
    options=(
        *("in_d", "patch_size", "patching", "register_tokens"),
        *("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads"),
    ),
    geometry=lambda config: Geometry(hop=int(config["patch_size"]), field=int(config["patch_size"])),
    check=check_patches,
    of_objective=("student.", "predictor."),
    parts={
        "patches": ("teacher.embed.", "teacher.register_tokens"),
        "transformer": ("teacher.stack.",),
        "pretraining heads": ("student.", "predictor."),
    },
    sizes={
        "leads": "in_d",
        "samples_per_patch": "patch_size",
        "patching": "patching",
        "layers": "encoder_layers",
        "dimensions": "encoder_embed_dim",
        "feed_forward_dimensions": "encoder_ffn_embed_dim",
        "heads": "encoder_attention_heads",
    },
)
STATE_SPACE = Architecture(
    options=("in_d", "conv_feature_layers", "encoder_layers", "encoder_embed_dim", "state_size"),
    geometry=_of_convolutions,
    check=check_state_space,
    of_objective=("predictor.",),
    parts={
        "convolutions": ("encoder.feature_extractor.", "encoder.projection."),
        "state-space layers": ("encoder.stack.", "encoder.norm."),
        "pretraining heads": ("predictor.",),
    },
    sizes={
        "leads": "in_d",
        "convolutions": "conv_feature_layers",
        "layers": "encoder_layers",
        "dimensions": "encoder_embed_dim",
        "states_per_dimension": "state_size",
    },
)
# by the name of a model; extensions are added when they are registered
ARCHITECTURES: Dict[str, Architecture] = dict.fromkeys(
    ("ecg_wav2vec2", "wav2vec2_cmsc", "ecg_data2vec", "ecg_transformer_classifier"), WAV2VEC2
)
ARCHITECTURES["ecg_jepa"] = PATCHES
ARCHITECTURES["ecg_cpc"] = STATE_SPACE


def encoder_config(model: Config) -> Config:
    """Return name and options of the encoder in a model's config: the model's own unless it names another."""
    # configs of the older omegaconf raise errors for `get`, too
    chosen = model[ENCODER] if ENCODER in model else None  # noqa: SIM401
    return chosen if isinstance(chosen, Mapping) else model


def architecture_of(model: Config) -> Architecture:
    """Return the architecture of the encoder in a model's config; ECG-FM's if the name is not registered."""
    return ARCHITECTURES.get(str(encoder_config(model).get("_name")), WAV2VEC2)


def geometry_of(model: Config) -> Optional[Geometry]:
    """Return the samples that each frame covers, from a model's config; None if unknown."""
    return architecture_of(model).geometry(encoder_config(model))


def check_encoder(model: Config, parameters: Mapping[str, Any], file_size: int) -> None:
    """Raise a `ValueError` unless the encoder in a model's config is registered and its sizes are possible."""
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


def rename_ecg_fm_parameters(state: Dict[str, "Tensor"], own: Mapping[str, "Tensor"], prefix: str = "") -> None:
    """Rename, in place, parameters that have other names in ECG-FM or another version of torch.

    Args:
        state: the checkpoint's parameters.
        own: the model's parameters, with no prefix.
        prefix: before the model's names in `state`, such as `"encoder."`.
    """
    theirs = prefix + _THEIR_POSITION
    for key in [key for key in state if key.startswith(theirs)]:
        _rename(state, key, prefix + _OUR_POSITION + key[len(theirs) :])
    position = _OUR_POSITION + _FIRST
    for old, new in _WEIGHT_NORM.items():
        # torch has two ways to store weight norm; the version of fairseq decides which one
        wanted, other = (old, new) if position + old in own else (new, old)
        _rename(state, prefix + position + other, prefix + position + wanted)


def _rename(state: Dict[str, "Tensor"], old: str, new: str) -> None:
    if old in state and new not in state:  # a file with both is wrong, and is refused later
        state[new] = state.pop(old)


def to_ecg_fm_names(state: Mapping[str, "Tensor"], prefix: str = "") -> Dict[str, "Tensor"]:
    """Return the same parameters with ECG-FM's names, and weight norm stored in its way.

    Args:
        prefix: before the encoder's names in `state`, such as `"encoder."`.
    """
    ours = prefix + _OUR_POSITION
    renamed = {}
    for key, value in state.items():
        if key.startswith(ours):
            name = key[len(ours) :]
            end = name[len(_FIRST) :]
            key = prefix + _THEIR_POSITION + (_FIRST + _WEIGHT_NORM[end] if end in _WEIGHT_NORM else name)
        renamed[key] = value
    return renamed


def is_ecg_fm(state: Mapping[str, "Tensor"]) -> bool:
    """Whether parameters have the names in ECG-FM's own framework."""
    return any(_THEIR_POSITION in key for key in state)


def difference_of_parameters(state: Mapping[str, "Tensor"], own: Mapping[str, "Tensor"]) -> Optional[str]:
    """Return one line on the first parameters that are missing, unknown or of another shape; None if all match."""
    missing = [key for key in own if key not in state]
    unknown = [key for key in state if key not in own]
    shapes = [key for key in own if key in state and state[key].shape != own[key].shape]
    parts = []
    if shapes:
        key = shapes[0]
        parts.append(f"{key} is {tuple(state[key].shape)} there and {tuple(own[key].shape)} here{_more(shapes)}")
    if missing:
        parts.append(f"it lacks {missing[0]}{_more(missing)}")
    if unknown:
        parts.append(f"it has the unknown {unknown[0]}{_more(unknown)}")
    return "; ".join(parts) or None


def _more(names: list) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
