"""The network for inference and export: the computation of a checkpoint's model without the parts for training."""

from typing import Any, List, Optional, Tuple

import torch
from torch import Tensor, nn

from fairseq_signals_ext.checkpoints.description import ModelDescription
from fairseq_signals_ext.checkpoints.reading import Checkpoint
from fairseq_signals_ext.common.conv_layers import Geometry
from fairseq_signals_ext.common.errors import UserError, first_line
from fairseq_signals_ext.common.requirements import quiet_fairseq
from fairseq_signals_ext.models.pooling import mean_over_frames


class EcgNetwork(nn.Module):
    """Computes outputs and embeddings of standardised segments with the modules of a fairseq model.

    It computes the same as the model's forward, without branches that depend on data, so it can be exported for any
    number of segments. Shapes: N segments, L leads, S samples, T frames, E = the encoder's `dimensions`.
    """

    def __init__(self, model: nn.Module, description: ModelDescription):
        """Use a model's modules; weight norm is folded into the weights, so do not train the model afterwards.

        Args:
            model: from `build_model`.
            description: of the same checkpoint.
        """
        super().__init__()
        self.has_output = description.output_name is not None
        encoder: Any = model.encoder if self.has_output else model
        self.encoder = encoder.for_use()
        if self.has_output:
            self.pooling, self.proj, self.layer_mix = model.pooling, model.proj, model.layer_mix
        self.layer: Optional[int] = model.layer if self.has_output else None
        self.has_mix = self.has_output and self.layer_mix is not None
        self.is_scaled = description.of_kind.is_scaled
        if self.is_scaled:
            self.register_buffer("target_mean", torch.tensor(description.target_mean))
            self.register_buffer("target_std", torch.tensor(description.target_std))
        _fold_weight_norm(self)

    def forward(self, source: Tensor, padding_mask: Tensor) -> Tuple[Tensor, ...]:
        """Compute outputs and embeddings of segments.

        Args:
            source: float32, N x L x S, standardised.
            padding_mask: bool, N x S, True where a sample is padding, always at the end.

        Returns:
            Output (N x labels: logits, or values in the label's unit) and embedding (N x E: the classifier's input, or
            without a classifier the encoder's output, as mean over frames that are not padding); for a pretrained
            model only the embedding.
        """
        x, padding = self.frames(source, padding_mask)
        embedding = mean_over_frames(x, padding)
        if not self.has_output:
            return (embedding,)
        output = self.proj(self.pooling(x, padding))
        return (output * self.target_std + self.target_mean if self.is_scaled else output), embedding

    @property
    def layers(self) -> int:
        """Number of the encoder's layers."""
        return int(self.encoder.layers)

    @property
    def last_layer(self) -> int:
        """The last layer that outputs depend on."""
        return self.layers if self.layer is None else self.layer

    @property
    def is_smooth(self) -> bool:
        """Whether gradients can explain its predictions."""
        return bool(self.encoder.is_smooth)

    @property
    def has_attention(self) -> bool:
        """Whether the encoder's class defines attention weights."""
        from fairseq_signals_ext.models.encoder import Encoder  # fairseq is imported already, without its log

        defined = getattr(type(self.encoder), "attention", Encoder.attention)
        return defined is not Encoder.attention

    @property
    def geometry(self) -> Geometry:
        """Positions of frames in samples."""
        return self.encoder.geometry

    def frames(self, source: Tensor, padding_mask: Tensor, layer: Optional[int] = None) -> Tuple[Tensor, Tensor]:
        """The encoder's output per frame, see `Encoder.frames`; with `layer=None` the classifier's input."""
        if layer is None and self.has_mix:
            layers, padding = self.encoder.all_frames(source, padding_mask)
            return self.layer_mix(layers), padding
        return self.encoder.frames(source, padding_mask, self.layer if layer is None else layer)

    def all_frames(self, source: Tensor, padding_mask: Tensor) -> Tuple[List[Tensor], Tensor]:
        """Output per frame of each layer, see `Encoder.all_frames`."""
        return self.encoder.all_frames(source, padding_mask)

    def attention(self, source: Tensor, padding_mask: Tensor) -> Tensor:
        """Attention weights, see `Encoder.attention`."""
        return self.encoder.attention(source, padding_mask)


def build_network(checkpoint: Checkpoint, description: ModelDescription, seed: Optional[int] = None) -> EcgNetwork:
    """Build the network of a checkpoint, in evaluation mode, on the CPU.

    Args:
        seed: see `build_model`.

    Raises:
        UserError: see `build_model`.
    """
    return EcgNetwork(build_model(checkpoint, seed), description).requires_grad_(False).eval()


@quiet_fairseq()
def build_model(checkpoint: Checkpoint, seed: Optional[int] = None) -> Any:
    """Build the fairseq model of a checkpoint in evaluation mode, without task, hydra or data.

    Args:
        seed: instead of the checkpoint's parameters, use the initial ones of a training with this seed.

    Raises:
        UserError: it belongs to another model, its config cannot be used, or a parameter is missing, unknown or has
            another shape.
    """
    from fairseq.models import build_model as build
    from omegaconf import OmegaConf

    options = checkpoint.model_config
    if options.get("_name") not in _our_models():
        raise UserError(f"{checkpoint.path}: model {options.get('_name')!r}; use one of {', '.join(_our_models())}")
    if options.get("layer_type") == "trf_adp" or options.get("pos_enc_type", "abs") != "abs":
        problem = f"layer_type={options.get('layer_type')}, pos_enc_type={options.get('pos_enc_type')}"
        raise UserError(f"{checkpoint.path}: {problem}: fairseq cannot run these on ECGs; use another model")
    # for training only: fairseq would wrap the layers
    config = OmegaConf.create({**options, "checkpoint_activations": False})
    try:
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            model = build(config, None, from_checkpoint=True)
        if seed is None:
            model.load_state_dict(checkpoint.parameters)
    except Exception as error:  # OmegaConf, fairseq and torch raise different errors for wrong options
        raise UserError(f"{checkpoint.path}: {first_line(error, 1000)}; give the checkpoint as it was saved") from None
    return model.eval()


def _our_models() -> Tuple[str, ...]:
    """Names of this package's models; the import registers them."""
    from fairseq.models import MODEL_REGISTRY

    import fairseq_signals_ext.models.ecg_cpc  # noqa: F401
    import fairseq_signals_ext.models.ecg_data2vec  # noqa: F401
    import fairseq_signals_ext.models.ecg_jepa  # noqa: F401
    from fairseq_signals_ext.models.ecg_classifier import EcgTransformerClassifier
    from fairseq_signals_ext.models.encoder import Encoder

    ours = (EcgTransformerClassifier, Encoder)
    return tuple(sorted(name for name, model in MODEL_REGISTRY.items() if issubclass(model, ours)))


def _fold_weight_norm(module: nn.Module) -> None:
    """Replace weight norm by the resulting weight, in place; torch has two ways to store it."""
    from torch.nn.utils import parametrize, remove_weight_norm

    for part in module.modules():
        if parametrize.is_parametrized(part, "weight"):
            parametrize.remove_parametrizations(part, "weight")
        elif hasattr(part, "weight_g"):
            remove_weight_norm(part)
