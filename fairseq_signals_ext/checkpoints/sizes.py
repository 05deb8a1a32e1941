"""Check that the sizes in a checkpoint, and of its parameters, are plausible, before anything is allocated.

Needs neither torch nor fairseq: uses only names and shapes of parameters.
"""

import re
from numbers import Integral, Real
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from fairseq_signals_ext.common.conv_layers import ConvLayer, parse_conv_layers

# the checkpoint of a training with 1,000 parameters has about 10,000 values
_MOST_VALUES = 1_000_000
_DEEPEST = 32
_MOST_LABELS = 100_000
_WIDEST = 2**16
# smallest and largest value of options of a model; far beyond any real model
_LIMITS = {
    "in_d": (1, 1024),
    "encoder_layers": (0, 1024),
    "encoder_embed_dim": (1, _WIDEST),
    "encoder_ffn_embed_dim": (1, 2**18),
    "encoder_attention_heads": (1, 1024),
    "conv_pos": (1, _WIDEST),
    "conv_pos_groups": (1, _WIDEST),
    "pos_conv_depth": (0, 64),
    "depthwise_conv_kernel_size": (1, _WIDEST),
    "final_dim": (-1, _WIDEST),
    "latent_dim": (-1, _WIDEST),
    "latent_vars": (1, 2**20),
    "latent_groups": (1, 1024),
    "quantizer_depth": (0, 64),
    "quantizer_factor": (1, 1024),
    "num_labels": (1, _MOST_LABELS),
    "adp_num": (-1, 1024),
    "adp_dim": (0, _WIDEST),
    "required_seq_len_multiple": (1, 1024),
    "crop_seq_to_multiple": (1, 1024),
    "pooling_heads": (1, 1024),
}
# probabilities
_SHARES = (
    *("dropout", "attention_dropout", "activation_dropout", "dropout_input", "dropout_features", "final_dropout"),
    "encoder_layerdrop",
)
# options of a task: above 0 and at most this; segments are held in memory
_TASK_LIMITS = {"sample_rate": 100_000, "segment_seconds": 2000, "max_sample_size": 10**9}
_MOST_UPDATES = 10**12
_PATCHINGS = ("leads_together", "per_lead")
_LIMITS_OF_PATCHES = {
    **{option: _LIMITS[option] for option in ("in_d", "encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim")},
    "encoder_attention_heads": _LIMITS["encoder_attention_heads"],
    "patch_size": (1, _WIDEST),
    "register_tokens": (0, 1024),
    "predictor_layers": (0, 1024),
    "predictor_embed_dim": (1, _WIDEST),
    "predictor_attention_heads": (1, 1024),
}
_LIMITS_OF_STATE_SPACE = {
    **{option: _LIMITS[option] for option in ("in_d", "encoder_layers", "encoder_embed_dim")},
    "state_size": (2, 1024),
}
# minimum bytes per parameter in a file, and parameters to allow for a file without sizes
_BYTES_PER_PARAMETER = 2
_ALLOWANCE = 100_000_000
# input of a classifier: the encoder's output, a mix of all layers, or one layer
_LAYERS = re.compile("last|mix|[0-9]{1,4}")
_LAYER = re.compile(r"(?:encoder\.)?encoder\.layers\.(\d+)\.")
# option by name of a parameter, without a classifier's prefix: axis with this size, and a description
_SHAPES = {
    "in_d": (r"feature_extractor\.conv_layers\.0\.0\.weight", 1, "leads"),
    "encoder_embed_dim": (r"encoder\.layer_norm\.weight", 0, "dimensions"),
    "encoder_ffn_embed_dim": (r"encoder\.layers\.0\.fc1\.weight", 0, "dimensions"),
    "num_labels": (r"proj\.weight", 0, "labels"),
}
_CHOICES = {
    "layer_type": ("transformer", "conformer", "trf_adp"),
    "extractor_mode": ("default", "layer_norm"),
    "activation_fn": ("relu", "gelu", "gelu_fast", "gelu_accurate", "tanh", "linear"),
    "pooling": ("mean", "attention", "query", "mean_std"),
    "attn_type": ("", "espnet"),
    "pos_enc_type": ("abs", "rel_pos", "rope"),
    **dict.fromkeys(("conv_bias", "layer_norm_first", "quantize_input", "quantize_targets"), (True, False)),
}
_DEFAULTS: Dict[str, Any] = {
    "conv_feature_layers": "[(256, 2, 2)] * 4",
    **{"in_d": 12, "encoder_layers": 12, "encoder_embed_dim": 768, "encoder_ffn_embed_dim": 3072},
    "encoder_attention_heads": 12,
    **{"conv_pos": 128, "conv_pos_groups": 16, "pos_conv_depth": 1, "final_dim": 256, "latent_dim": 0},
    **{"latent_vars": 320, "latent_groups": 2, "quantizer_depth": 1, "quantizer_factor": 3, "num_labels": 1},
    **{"depthwise_conv_kernel_size": 31, "adp_num": -1, "adp_dim": 64},
}


def check_tensors(state: Any) -> None:
    """Raise a `ValueError` unless all tensors in nested lists and dictionaries are plain, with all their values stored.

    A tensor that repeats one stored value, or has none, would need memory for all values once it is used.
    """
    left: List[Tuple[Any, str, int]] = [(state, "", 0)]
    values = 0
    while left:
        value, place, depth = left.pop()
        values += 1
        if values + len(left) > _MOST_VALUES:
            raise ValueError(f"it holds more than {_MOST_VALUES:,} values")
        if hasattr(value, "element_size"):
            problem = _what_is_wrong_with(value)
            if problem:
                raise ValueError(f"its tensor {place!r:.100} {problem}")
        elif isinstance(value, (dict, list, tuple, set)):
            if depth >= _DEEPEST:
                raise ValueError(f"what it holds is more than {_DEEPEST} levels deep, or goes in a circle")
            items = value.items() if isinstance(value, dict) else enumerate(value)
            left += [(inner, key if isinstance(key, str) else place, depth + 1) for key, inner in items]


def _what_is_wrong_with(tensor: Any) -> str:
    """Return why a training cannot have saved a tensor; empty if it can."""
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_nested:
        return "is not of plain numbers (it is sparse, quantized, complex or nested)"
    if tensor.device.type != "cpu":
        return f"has no values (it is on the device {tensor.device.type!r})"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"claims {tensor.numel():,} values, but the file contains fewer"
    return ""


def check_limits(model: Mapping[str, Any]) -> None:
    """Raise a `ValueError` unless the sizes and probabilities in a model's config are possible."""
    for option, (least, most) in _LIMITS.items():
        value = model.get(option)
        if value is not None and not (_is_whole(value) and least <= value <= most):
            raise ValueError(f"its model.{option} is {value!r:.60}, not a whole number from {least} to {most:,}")
    for option in _SHARES:
        value = model.get(option)
        if value is not None and not (_is_number(value) and 0 <= value <= 1):
            raise ValueError(f"its model.{option} is {value!r:.60}, not a number from 0 to 1")
    layers = model.get("layers")  # may have another meaning in encoders of other packages
    if layers is not None and model.get("num_labels") is not None and not _LAYERS.fullmatch(f"{layers!s:.60}"):
        raise ValueError(f"its model.layers is {layers!r:.60}, not last, mix or the number of a layer")
    if model.get("conv_feature_layers") is not None:
        for layer in parse_conv_layers(model["conv_feature_layers"]):
            if max(layer) > _WIDEST:
                raise ValueError(f"its model.conv_feature_layers has {max(layer):,}, more than {_WIDEST:,}")


def check_task(task: Mapping[str, Any]) -> None:
    """Raise a `ValueError` unless the lengths and rates in a task's config are possible for an ECG."""
    for option, most in _TASK_LIMITS.items():
        value = task.get(option)
        if value is not None and not (_is_number(value) and 0 <= value <= most):
            raise ValueError(f"its task.{option} is {value!r:.60}, not a number from 0 to {most:,}")


def check_model(model: Mapping[str, Any], parameters: Mapping[str, Any], file_size: int) -> None:
    """Raise a `ValueError` if a config of one of our models is inconsistent, or does not fit the parameters.

    This makes sure that the model can be built; loading checks each parameter later.

    Args:
        model: its config, after `check_limits`.
        parameters: tensors by the file's names.
        file_size: bytes.
    """
    for option in (*_DEFAULTS, *_CHOICES):
        if option in model and model[option] is None and option != "num_labels":
            raise ValueError(f"its model.{option} is null, not a value")
    for option, choices in _CHOICES.items():
        if model.get(option) is not None and model[option] not in choices:
            raise ValueError(f"its model.{option} is {model[option]!r:.60}, not one of {', '.join(map(repr, choices))}")
    for option, found, kind in _found(parameters):
        if found is not None and model.get(option) is not None and model[option] != found:
            raise ValueError(f"its model.{option} is {model[option]}, but its parameters are of {found} {kind}")
    size = {**_DEFAULTS, **{option: value for option, value in model.items() if value is not None}}
    for option in ("encoder_attention_heads", "conv_pos_groups"):
        if size["encoder_embed_dim"] % size[option]:
            width = size["encoder_embed_dim"]
            raise ValueError(f"its model.{option} is {size[option]}, which does not divide encoder_embed_dim={width}")
    _check_fits(_count(size, parse_conv_layers(size["conv_feature_layers"])), file_size)


def check_patches(model: Mapping[str, Any], parameters: Mapping[str, Any], file_size: int) -> None:
    """Raise a `ValueError` if sizes of a transformer of patches are impossible, or too large for the file.

    Args:
        model: its config.
        parameters: tensors by the file's names.
        file_size: bytes.
    """
    _check_numbers(model, _LIMITS_OF_PATCHES)
    if model.get("patching") not in _PATCHINGS:
        raise ValueError(f"its model.patching is {model.get('patching')!r:.60}, not one of {', '.join(_PATCHINGS)}")
    of_layer = 4 * model["encoder_embed_dim"] ** 2 + 2 * model["encoder_embed_dim"] * model["encoder_ffn_embed_dim"]
    asked = model["encoder_layers"] * of_layer + model["in_d"] * model["patch_size"] * model["encoder_embed_dim"]
    of_predictor = model["predictor_layers"] * model["predictor_embed_dim"] ** 2
    _check_fits(max(asked, of_predictor), file_size)


def check_state_space(model: Mapping[str, Any], parameters: Mapping[str, Any], file_size: int) -> None:
    """Raise a `ValueError` if sizes of a state-space encoder are impossible, or too large for the file.

    Args:
        model: its config.
        parameters: tensors by the file's names.
        file_size: bytes.
    """
    _check_numbers(model, _LIMITS_OF_STATE_SPACE)
    convolutions = parse_conv_layers(str(model.get("conv_feature_layers")))
    width = model["encoder_embed_dim"]
    of_layer = width * (2 * width + model["state_size"])
    asked = _count_of_convolutions(model["in_d"], convolutions)
    asked += convolutions[-1][0] * width + width**2 + model["encoder_layers"] * of_layer
    _check_fits(asked, file_size)


def _check_numbers(model: Mapping[str, Any], limits: Mapping[str, Tuple[int, int]]) -> None:
    for option, (least, most) in limits.items():
        value: Any = model.get(option)
        if not (_is_whole(value) and least <= value <= most):
            raise ValueError(f"its model.{option} is {value!r:.60}, not a whole number from {least} to {most:,}")


def _check_fits(asked: int, file_size: int) -> None:
    if asked > file_size // _BYTES_PER_PARAMETER + _ALLOWANCE:
        raise ValueError(
            f"its config asks for a model of {asked:,} parameters, which the file, of {file_size:,} bytes, cannot hold"
        )


def check_updates(updates: Any) -> None:
    """Raise a `ValueError` unless a number of updates is valid or None."""
    if updates is not None and not (_is_whole(updates) and 0 <= updates <= _MOST_UPDATES):
        raise ValueError(f"its number of updates is {updates!r:.60}, not a whole number from 0 on")


def _is_whole(value: Any) -> bool:
    """Whether a value is a whole number of Python or numpy, and not a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _found(parameters: Mapping[str, Any]) -> Iterator[Tuple[str, Optional[int], str]]:
    """Yield options, their sizes from the parameters (None if unknown), and descriptions."""
    yield "encoder_layers", len({found.group(1) for found in map(_LAYER.match, parameters) if found}) or None, "layers"
    for option, (name, axis, kind) in _SHAPES.items():
        ending = re.compile(rf"(?:encoder\.)?{name}")
        shape: Any = next((value.shape for key, value in parameters.items() if ending.fullmatch(key)), ())
        yield option, shape[axis] if axis < len(shape) else None, kind


def _count(size: Mapping[str, Any], conv_layers: Sequence[ConvLayer]) -> int:
    """Estimate the parameters created while a model is built, including parts that a classifier drops at once."""
    width, embed, forward = conv_layers[-1][0], size["encoder_embed_dim"], size["encoder_ffn_embed_dim"]
    convolutions = _count_of_convolutions(size["in_d"], conv_layers)
    position = embed * max(1, embed // size["conv_pos_groups"]) * size["conv_pos"] * max(1, size["pos_conv_depth"])
    layer = 4 * embed * embed + 2 * embed * forward + embed * size["depthwise_conv_kernel_size"]
    adapters = max(0, size["adp_num"]) * 2 * embed * size["adp_dim"]
    final = size["final_dim"] if size["final_dim"] > 0 else embed
    return (
        convolutions
        + position
        + size["encoder_layers"] * (layer + adapters)
        + width * embed
        + _count_of_quantizer(size, width, final)
        + embed * (final + size["num_labels"])
        + 2 * final * final
    )


def _count_of_convolutions(leads: int, conv_layers: Sequence[ConvLayer]) -> int:
    inputs = [leads, *(features for features, _, _ in conv_layers)]
    return sum(before * features * kernel for before, (features, kernel, _) in zip(inputs, conv_layers))


def _count_of_quantizer(size: Mapping[str, Any], width: int, final: int) -> int:
    codes = size["latent_vars"] * size["latent_groups"]
    codeword = size["latent_dim"] if size["latent_dim"] > 0 else final
    inner = width * (size["quantizer_factor"] if size["quantizer_depth"] > 1 else 1)
    between = max(0, size["quantizer_depth"] - 2) * inner * inner + (inner * width if inner != width else 0)
    return size["latent_vars"] * codeword + between + inner * codes + codeword * final
