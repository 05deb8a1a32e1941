"""Pretrained encoders in checkpoints of ours or of ECG-FM: reading them, and taking over their architecture."""

from pathlib import Path
from typing import Any, Dict, Mapping, NamedTuple, Optional

import torch
from omegaconf import DictConfig
from torch import Tensor

from fairseq_signals_ext.checkpoints.architecture import (
    ENCODER,
    WAV2VEC2,
    Architecture,
    architecture_of,
    difference_of_parameters,
    encoder_config,
    rename_ecg_fm_parameters,
)
from fairseq_signals_ext.checkpoints.reading import Checkpoint
from fairseq_signals_ext.common.conv_layers import parse_conv_layers
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.models.encoder import HEADS

# options of ECG-FM's architecture that matter only where the input is quantized
_OF_QUANTIZER = ("latent_vars", "latent_groups", "latent_dim", "quantizer_depth", "quantizer_factor")
_PREFIX = "encoder."
_CLASSIFIER = f"{_PREFIX}encoder."
_HEAD = "proj.weight"


class Pretrained(NamedTuple):
    """The encoder of a checkpoint: the model's config, and the parameters by the encoder's own names."""

    path: Path
    config: Dict[str, Any]
    state: Dict[str, Tensor]
    of_classifier: bool


def encoder_in(checkpoint: Checkpoint) -> Pretrained:
    """Return the encoder in a checkpoint of a pretraining or of a classifier."""
    parameters = checkpoint.parameters
    architecture = architecture_of(checkpoint.model_config)
    state = parameters_of_encoder(parameters, architecture)
    return Pretrained(checkpoint.path, checkpoint.model_config, state, is_classifier(parameters, architecture))


def is_classifier(state: Mapping[str, Tensor], architecture: Architecture) -> bool:
    """Whether parameters belong to a classifier, which adds a prefix to the names of its encoder."""
    is_ecg_fms = architecture is WAV2VEC2
    return any(name.startswith(_CLASSIFIER) if is_ecg_fms else name == _HEAD for name in state)


def parameters_of_encoder(state: Mapping[str, Tensor], architecture: Architecture) -> Dict[str, Tensor]:
    """Select the encoder's parameters of a pretraining model or a classifier, by the encoder's own names."""
    if is_classifier(state, architecture):
        state = {name[len(_PREFIX) :]: value for name, value in state.items() if name.startswith(_PREFIX)}
    dropped = (*architecture.of_objective, HEADS)
    return {name: value for name, value in state.items() if not name.startswith(dropped)}


def take_architecture(
    config: Dict[str, Any], defaults: Dict[str, Any], pretrained: Mapping[str, Any]
) -> Dict[str, Any]:
    """Return the pretrained encoder's options for those of the architecture that `config` leaves at their defaults.

    For an encoder other than ECG-FM's, return all options as `encoder`, except those given there.
    """
    architecture, theirs = architecture_of(pretrained), encoder_config(pretrained)
    if architecture is not WAV2VEC2:
        return {ENCODER: {**theirs, **(config.get(ENCODER) or {})}}
    return {
        key: theirs[key]
        for key in architecture.options
        if key in theirs and config.get(key, defaults[key]) == defaults[key]
    }


def different_option(theirs: Mapping[str, Any], own: Any) -> Optional[str]:
    """Return one line on the first option of the architecture that differs between two configs; None if none does.

    Models with parameters of the same shapes may compute differently.
    """
    architecture, theirs, here_all = architecture_of(theirs), encoder_config(theirs), encoder_config(_mapping(own))
    if architecture is not architecture_of(_mapping(own)):
        return f"the encoder is {theirs.get('_name')} there and {here_all.get('_name')} here"
    for option in architecture.options:
        there, here = theirs.get(option), here_all.get(option)
        unknown = there is None or here is None  # older configs may lack the option
        matters = option not in _OF_QUANTIZER or here_all.get("quantize_input", False)
        if matters and not unknown and _plain(option, there) != _plain(option, here):
            return f"{option} is {there} there and {here} here"
    return None


def _mapping(config: Any) -> Mapping[str, Any]:
    return config if isinstance(config, (dict, DictConfig)) else vars(config)


def _plain(option: str, value: Any) -> str:
    return str(parse_conv_layers(value) if option == "conv_feature_layers" else value)


def fit_to_encoder(state: Dict[str, Tensor], own: Mapping[str, Tensor], of_classifier: bool) -> None:
    """Rename, in place, an encoder's parameters as in the model, and add the one that only masking needs.

    Args:
        own: the model's parameters.
        of_classifier: the encoder is from a classifier, which may not have used masks.
    """
    rename_ecg_fm_parameters(state, own)
    if "mask_emb" not in own:
        state.pop("mask_emb", None)
    elif "mask_emb" not in state and of_classifier:
        state["mask_emb"] = own["mask_emb"]


def load_encoder(encoder: torch.nn.Module, pretrained: Pretrained) -> None:
    """Load all pretrained parameters into an encoder.

    Raises:
        UserError: the encoder has another architecture; names the first parameters that differ.
    """
    state, own = dict(pretrained.state), encoder.state_dict()
    fit_to_encoder(state, own, pretrained.of_classifier)
    problem = difference_of_parameters(state, own) or different_option(pretrained.config, encoder.cfg)
    if problem:
        raise UserError(f"{pretrained.path}: is of another architecture than the model here: {problem}")
    encoder.load_state_dict(state)
