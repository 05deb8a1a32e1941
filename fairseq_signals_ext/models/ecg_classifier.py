"""ECG-FM's classifier: an encoder, pooling over its frames, a linear head. It is also used for regression."""

import logging
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple

import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.models import BaseFairseqModel, register_model
from omegaconf import open_dict
from torch import Tensor, nn

from fairseq_signals_ext.checkpoints.reading import Checkpoint, read_checkpoint
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.models.ecg_wav2vec2 import EcgWav2Vec2Config, EcgWav2Vec2Model
from fairseq_signals_ext.models.encoder import LoadsStrictly, build_encoder
from fairseq_signals_ext.models.pooling import LayerMix, build_pooling
from fairseq_signals_ext.models.pretrained import (
    encoder_in,
    fit_to_encoder,
    is_classifier,
    load_encoder,
    parameters_of_encoder,
    take_architecture,
)

logger = logging.getLogger(__name__)


@dataclass
class EcgTransformerClassifierConfig(EcgWav2Vec2Config):
    """Options of the encoder and the classifier; the pretrained file sets the encoder's architecture."""

    num_labels: Optional[int] = field(
        default=None, metadata={"help": "number of labels; default: as many as task.label_file has"}
    )
    model_path: Optional[str] = field(
        default=None, metadata={"help": "checkpoint of the pretrained encoder, ours or ECG-FM's"}
    )
    encoder: Any = field(
        default=None,
        metadata={
            "help": "name (_name) and options of an encoder of another kind, which follow the pretrained file; "
            "default: ECG-FM's, whose options are here"
        },
    )
    no_pretrained_weights: bool = field(
        default=False,
        metadata={"help": "start from random weights; with model_path only its architecture is taken"},
    )
    linear_probe: bool = field(
        default=False, metadata={"help": "train the head only; the encoder is frozen, without dropout"}
    )
    freeze_finetune_updates: int = field(
        default=0, metadata={"help": "train the head only for so many updates, then everything"}
    )
    layer_decay: float = field(
        default=1.0,
        metadata={
            "help": "multiply the learning rate by this for each layer below the head (needs optimizer composite, "
            "see $(fairseq-signals-ext configs)/fine_tuning/mode/layer_decay.yaml)"
        },
    )
    pooling: ChoiceEnum(["mean", "attention", "query", "mean_std"]) = field(  # type: ignore[valid-type]
        default="mean",
        metadata={
            "help": "how frames become one vector: their mean; attention: a mean with learned weights; query: what a "
            "learned query of several heads finds; mean_std: mean and standard deviation"
        },
    )
    pooling_heads: int = field(default=16, metadata={"help": "heads of pooling=query; a divisor of the dimensions"})
    layers: Any = field(
        default="last",
        metadata={
            "help": "whose frames they are: last: the encoder's output; mix: of all layers, with learned weights; or "
            "the number of a layer, 0: the input of the first"
        },
    )
    final_dropout: float = field(default=0.0, metadata={"help": "dropout of the encoder's output"})
    apply_mask: bool = field(default=False, metadata={"help": "mask frames while training, as in pretraining"})
    # ECG-FM's values for fine-tuning
    dropout: float = field(default=0.0, metadata={"help": "dropout in the transformer"})
    attention_dropout: float = field(default=0.0, metadata={"help": "dropout of attention weights"})
    activation_dropout: float = field(default=0.1, metadata={"help": "dropout after the activation"})
    encoder_layerdrop: float = field(default=0.0, metadata={"help": "probability of dropping a layer"})
    dropout_input: float = field(default=0.0, metadata={"help": "dropout of the transformer's input"})
    dropout_features: float = field(default=0.0, metadata={"help": "unused: of pretraining"})
    feature_grad_mult: float = field(
        default=0.0, metadata={"help": "multiply the gradient of the convolutions by this; 0: they are not trained"}
    )


@register_model("ecg_transformer_classifier", dataclass=EcgTransformerClassifierConfig)
class EcgTransformerClassifier(LoadsStrictly, BaseFairseqModel):
    """Encoder, pooling, linear head.

    Shapes: B segments, 12 leads (`in_d`), S samples, T frames, E = the encoder's `dimensions`, L labels.
    """

    def __init__(self, cfg: EcgTransformerClassifierConfig):
        super().__init__()
        self.cfg = cfg
        self.num_updates = 0
        self.takes_encoders = False
        self.encoder: Any = build_encoder(cfg.encoder) if cfg.encoder else EcgWav2Vec2Model(cfg)
        self.encoder.drop_objective(keep_masks=cfg.apply_mask)
        self.layer, self.layer_mix = _chosen_layers(cfg.layers, self.encoder)
        self.pooling = build_pooling(cfg.pooling, self.encoder.dimensions, cfg.pooling_heads)
        self.final_dropout = nn.Dropout(cfg.final_dropout)
        self.proj = nn.Linear(self.pooling.outputs, cfg.num_labels)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)
        if cfg.linear_probe and cfg.layer_decay != 1:
            raise UserError(
                "model.linear_probe trains the head only, so model.layer_decay has no effect; leave one out"
            )
        if cfg.linear_probe:
            self.encoder.requires_grad_(False)
        if self.layer is not None:
            for name, parameter in self.encoder.named_parameters():
                if self.encoder.is_above(name, self.layer):
                    parameter.requires_grad_(False)
        if cfg.layer_decay != 1:
            self._decay_learning_rates(cfg.layer_decay)

    @classmethod
    def build_model(cls, cfg: EcgTransformerClassifierConfig, task: Any = None) -> "EcgTransformerClassifier":
        """Build the model for a config, without pretrained weights; see `load_pretrained`."""
        return cls(cfg)

    def load_pretrained(self, checkpoint: Checkpoint) -> None:
        """Load the encoder of a checkpoint.

        Raises:
            UserError: it has another architecture.
        """
        load_encoder(self.encoder, encoder_in(checkpoint))

    def take_encoders(self) -> None:
        """From now on, also load checkpoints of pretraining: only the encoder, the head is not changed.

        For a training started with `checkpoint.finetune_from_model`; elsewhere it would be a mistake.
        """
        self.takes_encoders = True

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str) -> Dict[str, Tensor]:
        """Turn, in place, parameters of a pretraining into a classifier's, if `take_encoders` allowed it."""
        if self.takes_encoders and not is_classifier(state_dict, self.encoder.architecture):
            own = self.state_dict()
            prefix = "encoder."
            pretrained = parameters_of_encoder(state_dict, self.encoder.architecture)
            fit_to_encoder(pretrained, self.encoder.state_dict(), of_classifier=False)
            state_dict.clear()
            state_dict.update({key: value for key, value in own.items() if not key.startswith(prefix)})
            state_dict.update({prefix + key: value for key, value in pretrained.items()})
        super().upgrade_state_dict_named(state_dict, name)
        return state_dict

    def train(self, mode: bool = True) -> "EcgTransformerClassifier":
        """As torch's, but the encoder of a linear probe stays in evaluation mode and computes the same each time."""
        super().train(mode)
        if self.cfg.linear_probe:
            self.encoder.eval()
        return self

    def set_num_updates(self, num_updates: int) -> None:
        """Set the number of updates so far, for `freeze_finetune_updates`."""
        super().set_num_updates(num_updates)
        self.num_updates = num_updates

    @property
    def encoder_learns(self) -> bool:
        """Whether this update trains the encoder."""
        return not self.cfg.linear_probe and self.num_updates >= self.cfg.freeze_finetune_updates

    def forward(self, source: Tensor, padding_mask: Optional[Tensor] = None, **masks: Tensor) -> Dict[str, Any]:
        """Return logits of segments.

        Args:
            source: float, B x in_d x S, standardised.
            padding_mask: bool, B x S, True where a sample is padding.
            masks: from the collater, with `apply_mask`; see `EcgWav2Vec2Model.forward`.

        Returns:
            `out` (B x L, logits, or values for regression), `encoder_out` (B x T x E, from the chosen layers),
            `padding_mask` (bool, B x T, or None).
        """
        if self.layer is not None:
            masks["layer"] = self.layer
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.encoder_learns):
            mask = self.cfg.apply_mask and self.training
            encode = self.encoder.encode if self.layer_mix is None else self.encoder.encode_all
            encoded = encode(source, padding_mask, mask=mask, **masks)
        x, padding = encoded["x"], encoded["padding_mask"]
        if self.layer_mix is not None:
            x = self.layer_mix(x)
        pooled = self.pooling(self.final_dropout(x), padding)
        return {"out": self.proj(pooled), "encoder_out": x.detach(), "padding_mask": padding}

    def mask_settings(self) -> Any:
        """Return how the collater masks inputs for the encoder; None: not at all."""
        return self.encoder.mask_settings() if self.cfg.apply_mask else None

    def get_logits(self, net_output: Dict[str, Any], **kwargs: Any) -> Tensor:
        """Return logits, B x L, from the output of `forward`."""
        return net_output["out"]

    def get_targets(self, sample: Dict[str, Any], net_output: Dict[str, Any]) -> Tensor:
        """Return the labels of a batch: float32, B x L; NaN where unknown."""
        return sample["label"].float()

    def _decay_learning_rates(self, decay: float) -> None:
        layers = self.encoder.layers if self.layer is None else self.layer
        for name, parameter in self.encoder.named_parameters():
            layer = self.encoder.layer_of(name)
            # fairseq's composite optimizer reads this
            parameter.optim_overrides = {"optimizer": {"lr_scale": decay ** (layers - layer)}}


def _chosen_layers(chosen: Any, encoder: Any) -> Tuple[Optional[int], Optional[LayerMix]]:
    """Return the number of the layer that `model.layers` chooses, or a mix of all; None, None for the output."""
    text = str(chosen)
    if text == "last":
        return None, None
    if not encoder.layers:
        raise UserError(f"model.layers={text:.60}: this encoder gives no layers of its own; use model.layers=last")
    if text == "mix":
        return None, LayerMix(encoder.layers + 1 + encoder.ends_with_norm)
    if not (text.isascii() and text.isdecimal() and int(text[:9]) <= encoder.layers):
        raise UserError(
            f"model.layers={text:.60}: the encoder has layers 0 to {encoder.layers}; use one of them, last or mix"
        )
    return int(text), None


def resolve_config(cfg: Any) -> Optional[Checkpoint]:
    """Complete a classifier's config, in place, with the architecture of the file in `model_path`.

    fairseq saves this config, so that the classifier can be loaded without the pretrained file.

    Returns:
        The pretrained file, to load the encoder from; None if the start is random.

    Raises:
        UserError: neither a file nor `no_pretrained_weights` is set, or the file cannot be read.
    """
    path = cfg.get("model_path")
    if not path:
        if not cfg.get("no_pretrained_weights"):
            raise UserError(
                "no pretrained encoder: set model.model_path to a checkpoint, "
                "or model.no_pretrained_weights=true to start from random weights"
            )
        return None
    if cfg.get("no_pretrained_weights") and not cfg.get("feature_grad_mult"):
        logger.warning("random weights, and convolutions that do not learn: set model.feature_grad_mult=1")
    checkpoint = read_checkpoint(Path(path), "correct model.model_path, or set model.no_pretrained_weights=true")
    take_over_architecture(cfg, checkpoint.model_config)
    return None if cfg.get("no_pretrained_weights") else checkpoint


def take_over_architecture(cfg: Any, pretrained: Mapping[str, Any]) -> None:
    """Set, in place, options of the architecture that `cfg` leaves at their defaults, as in `pretrained`."""
    defaults = {option.name: option.default for option in fields(EcgTransformerClassifierConfig)}
    with open_dict(cfg):
        cfg.update(take_architecture(dict(cfg), defaults, pretrained))
