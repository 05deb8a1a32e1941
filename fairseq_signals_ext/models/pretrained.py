"""Pretrained encoders: reading a checkpoint of ours or of ECG-FM, and taking over what it fixes."""

from pathlib import Path
from typing import Any, Dict, NamedTuple

import torch
from torch import Tensor

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.models.checkpoint_names import difference_of_parameters, rename_ecg_fm_parameters

# what decides which parameters an encoder has, and what it computes
ARCHITECTURE = (
    *("in_d", "extractor_mode", "conv_feature_layers", "conv_bias"),
    *("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads", "activation_fn"),
    *("layer_type", "layer_norm_first", "attn_type", "pos_enc_type", "depthwise_conv_kernel_size"),
    *("conv_pos", "conv_pos_groups", "pos_conv_depth", "required_seq_len_multiple"),
    *("quantize_input", "latent_vars", "latent_groups", "latent_dim", "quantizer_depth", "quantizer_factor"),
)

# parts of a pretraining model, or of a classifier, that an encoder does without
_NOT_ENCODER = (
    *("quantizer.", "project_q.", "final_proj.", "target_glu.", "reconstruction_head."),
    *("proj.", "pooling."),
)


class Pretrained(NamedTuple):
    """What a checkpoint says of its encoder: the model's config and the parameters, by the encoder's own names."""

    path: Path
    config: Dict[str, Any]
    state: Dict[str, Tensor]


def read_pretrained(path: Path) -> Pretrained:
    """The encoder in a checkpoint of a pretraining or of a classifier.

    Raises:
        UserError: no such file, not a checkpoint, or one that would run code when it is loaded.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; mend model.model_path, or set model.no_pretrained_weights=true")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        state, config = checkpoint["model"], checkpoint["cfg"]["model"]
        if not isinstance(config, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise TypeError("no parameters with their config")
    except Exception as error:  # torch raises many kinds for a damaged file, and for one with foreign objects
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: not a checkpoint of fairseq or ECG-FM ({reason}); give another model_path") from None
    if any(name.startswith("encoder.encoder.") for name in state):  # a classifier
        state = {name[len("encoder.") :]: value for name, value in state.items() if name.startswith("encoder.")}
    return Pretrained(path, config, {name: value for name, value in state.items() if not name.startswith(_NOT_ENCODER)})


def take_architecture(config: Dict[str, Any], defaults: Dict[str, Any], pretrained: Dict[str, Any]) -> Dict[str, Any]:
    """Options of the pretrained encoder for all of `ARCHITECTURE` that `config` leaves at their defaults."""
    return {
        key: pretrained[key]
        for key in ARCHITECTURE
        if key in pretrained and config.get(key, defaults[key]) == defaults[key]
    }


def load_encoder(encoder: torch.nn.Module, pretrained: Pretrained) -> None:
    """Load the pretrained parameters into an encoder, all of them.

    Raises:
        UserError: the encoder is of another architecture; names the first parameters that differ.
    """
    state, own = dict(pretrained.state), encoder.state_dict()
    rename_ecg_fm_parameters(state, own)
    if "mask_emb" not in own:
        state.pop("mask_emb", None)
    elif "mask_emb" not in state:  # of a classifier that masked nothing
        state["mask_emb"] = own["mask_emb"]
    problem = difference_of_parameters(state, own)
    if problem:
        raise UserError(f"{pretrained.path}: is of another architecture than the model here: {problem}")
    encoder.load_state_dict(state)
