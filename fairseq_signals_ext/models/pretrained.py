"""Pretrained encoders: what a checkpoint of ours or of ECG-FM holds of one, and taking over what it fixes."""

from pathlib import Path
from typing import Any, Dict, Mapping, NamedTuple

import torch
from torch import Tensor

from fairseq_signals_ext.checkpoints.parameter_names import difference_of_parameters, rename_ecg_fm_parameters
from fairseq_signals_ext.checkpoints.reading import ARCHITECTURE, Checkpoint
from fairseq_signals_ext.errors import UserError

# parts of a pretraining model, or of a classifier, that an encoder does without
_NOT_ENCODER = (
    *("quantizer.", "project_q.", "final_proj.", "target_glu.", "reconstruction_head."),
    *("proj.", "pooling."),
)
_CLASSIFIER = "encoder.encoder."


class Pretrained(NamedTuple):
    """What a checkpoint says of its encoder: the model's config and the parameters, by the encoder's own names."""

    path: Path
    config: Dict[str, Any]
    state: Dict[str, Tensor]


def encoder_in(checkpoint: Checkpoint) -> Pretrained:
    """The encoder in a checkpoint of a pretraining or of a classifier."""
    return Pretrained(checkpoint.path, checkpoint.model_config, parameters_of_encoder(checkpoint.parameters))


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


def fit_to_encoder(state: Dict[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Give, in place, an encoder's parameters the names that the model has, and the one that masking alone needs.

    Args:
        own: the model's parameters.
    """
    rename_ecg_fm_parameters(state, own)
    if "mask_emb" not in own:
        state.pop("mask_emb", None)
    elif "mask_emb" not in state:  # of a classifier that masked nothing
        state["mask_emb"] = own["mask_emb"]


def load_encoder(encoder: torch.nn.Module, pretrained: Pretrained) -> None:
    """Load the pretrained parameters into an encoder, all of them.

    Raises:
        UserError: the encoder is of another architecture; names the first parameters that differ.
    """
    state, own = dict(pretrained.state), encoder.state_dict()
    fit_to_encoder(state, own)
    problem = difference_of_parameters(state, own)
    if problem:
        raise UserError(f"{pretrained.path}: is of another architecture than the model here: {problem}")
    encoder.load_state_dict(state)
