"""Pretrained encoders: what a checkpoint of ours or of ECG-FM holds of one, and taking over what it fixes."""

from pathlib import Path
from typing import Any, Dict, Mapping, NamedTuple, Optional

import torch
from torch import Tensor

from fairseq_signals_ext.checkpoints.parameter_names import difference_of_parameters, rename_ecg_fm_parameters
from fairseq_signals_ext.checkpoints.reading import ARCHITECTURE, Checkpoint
from fairseq_signals_ext.conv_layers import parse_conv_layers
from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.models.encoder import HEADS

# parts of a pretraining model that an encoder does without
_NOT_ENCODER = ("quantizer.", "project_q.", "final_proj.", "target_glu.", "reconstruction_head.", HEADS)
# options of `ARCHITECTURE` that matter only where the input is quantized
_OF_QUANTIZER = ("latent_vars", "latent_groups", "latent_dim", "quantizer_depth", "quantizer_factor")
_CLASSIFIER = "encoder.encoder."


class Pretrained(NamedTuple):
    """What a checkpoint says of its encoder: the model's config and the parameters, by the encoder's own names."""

    path: Path
    config: Dict[str, Any]
    state: Dict[str, Tensor]
    of_classifier: bool


def encoder_in(checkpoint: Checkpoint) -> Pretrained:
    """The encoder in a checkpoint of a pretraining or of a classifier."""
    parameters = checkpoint.parameters
    state = parameters_of_encoder(parameters)
    return Pretrained(checkpoint.path, checkpoint.model_config, state, is_classifier(parameters))


def is_classifier(state: Mapping[str, Tensor]) -> bool:
    """Whether parameters are those of a classifier, whose encoder has a name of its own before its names."""
    return any(name.startswith(_CLASSIFIER) for name in state)


def parameters_of_encoder(state: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Those of a pretraining model, or of a classifier, that its encoder consists of, by the encoder's own names."""
    if is_classifier(state):
        prefix = "encoder."
        state = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    return {name: value for name, value in state.items() if not name.startswith(_NOT_ENCODER)}


def take_architecture(config: Dict[str, Any], defaults: Dict[str, Any], pretrained: Dict[str, Any]) -> Dict[str, Any]:
    """Options of the pretrained encoder for all of `ARCHITECTURE` that `config` leaves at their defaults."""
    return {
        key: pretrained[key]
        for key in ARCHITECTURE
        if key in pretrained and config.get(key, defaults[key]) == defaults[key]
    }


def different_option(theirs: Mapping[str, Any], own: Any) -> Optional[str]:
    """The first option of the architecture in which two models' configs differ, in one line; None if there is none.

    Parameters of one shape may be of models that compute differently.
    """
    for option in ARCHITECTURE:
        there, here = theirs.get(option), getattr(own, option, None)
        unknown = there is None or here is None  # an older config need not say it
        matters = option not in _OF_QUANTIZER or getattr(own, "quantize_input", False)
        if matters and not unknown and _plain(option, there) != _plain(option, here):
            return f"{option} is {there} there and {here} here"
    return None


def _plain(option: str, value: Any) -> str:
    return str(parse_conv_layers(value) if option == "conv_feature_layers" else value)


def fit_to_encoder(state: Dict[str, Tensor], own: Mapping[str, Tensor], of_classifier: bool) -> None:
    """Give, in place, an encoder's parameters the names that the model has, and the one that masking alone needs.

    Args:
        own: the model's parameters.
        of_classifier: the encoder is of a classifier, which may have masked nothing.
    """
    rename_ecg_fm_parameters(state, own)
    if "mask_emb" not in own:
        state.pop("mask_emb", None)
    elif "mask_emb" not in state and of_classifier:
        state["mask_emb"] = own["mask_emb"]


def load_encoder(encoder: torch.nn.Module, pretrained: Pretrained) -> None:
    """Load the pretrained parameters into an encoder, all of them.

    Raises:
        UserError: the encoder is of another architecture; names the first parameters that differ.
    """
    state, own = dict(pretrained.state), encoder.state_dict()
    fit_to_encoder(state, own, pretrained.of_classifier)
    problem = difference_of_parameters(state, own) or different_option(pretrained.config, encoder.cfg)
    if problem:
        raise UserError(f"{pretrained.path}: is of another architecture than the model here: {problem}")
    encoder.load_state_dict(state)
