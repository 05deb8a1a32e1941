"""Contrastive predictive coding for ECGs (CPC, van den Oord et al. 2018, arXiv 1807.03748) with a state-space encoder.

From all frames up to a time, the features of one frame a little later are to be found among features of other times of
the same segment. With S4 layers this is the ECG-CPC of the ICLR 2026 benchmark and of arXiv 2605.12241.
"""

import contextlib
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

import torch
import torch.nn.functional as F
from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel
from torch import Tensor, nn

from fairseq_signals_ext.checkpoints.architecture import STATE_SPACE
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.models.encoder import Encoder, padding_of_frames, register_encoder
from fairseq_signals_ext.models.faster_parts import draw_negatives
from fairseq_signals_ext.models.state_space import StateSpaceEncoder

_FEWEST_FRAMES = 3  # with two that are predicted, one is the other's negative


@dataclass
class EcgCpcConfig(FairseqDataclass):
    """Options; the sizes are the published ones."""

    in_d: int = field(default=12, metadata={"help": "number of leads of the input"})
    conv_feature_layers: str = field(
        default="[(512, 5, 4)] + [(512, 1, 1)] * 3",
        metadata={"help": "convolutions as a list of (features, kernel size, stride); '+' and '*' are understood"},
    )
    encoder_layers: int = field(default=4, metadata={"help": "state-space layers"})
    encoder_embed_dim: int = field(default=512, metadata={"help": "dimensions of the encoder"})
    state_size: int = field(default=8, metadata={"help": "states per dimension; even"})
    prediction_steps: int = field(default=14, metadata={"help": "how many frames ahead features are predicted"})
    num_negatives: int = field(default=128, metadata={"help": "frames of the segment that are the wrong choices"})
    logit_temp: float = field(default=0.1, metadata={"help": "cosines are divided by this"})
    bf16_autocast: bool = field(
        default=False,
        metadata={"help": "training: compute in bf16 by autocast; weights, kernels, norms and losses stay fp32"},
    )


@register_encoder("ecg_cpc", dataclass=EcgCpcConfig)
class EcgCpcModel(Encoder, BaseFairseqModel):
    """Encoder and predictor; when it is used, the encoder alone.

    Shapes: N segments, L leads, S samples, T frames, E = `encoder_embed_dim`.
    """

    architecture = STATE_SPACE

    def __init__(self, cfg: Any):
        super().__init__()
        _check(cfg)
        self.cfg = cfg
        self.encoder = StateSpaceEncoder(cfg)
        self.predictor: Any = nn.Linear(cfg.encoder_embed_dim, cfg.encoder_embed_dim)

    @property
    def layers(self) -> int:
        """Number of state-space layers."""
        return self.encoder.layers

    @property
    def ends_with_norm(self) -> bool:
        """See `Encoder.ends_with_norm`."""
        return True

    def layer_of(self, parameter: str) -> int:
        """The layer of a parameter; -1 for the convolutions."""
        parts = parameter.split(".")
        if parts[:2] == ["encoder", "stack"]:
            return int(parts[2])
        return self.layers if parts[:2] == ["encoder", "norm"] else -1

    def frames(self, source: Tensor, padding_mask: Tensor, layer: Optional[int] = None) -> Tuple[Tensor, Tensor]:
        """See `Encoder.frames`."""
        return self.encoder.frames(source, padding_mask, layer)

    def all_frames(self, source: Tensor, padding_mask: Tensor) -> Tuple[List[Tensor], Tensor]:
        """See `Encoder.all_frames`; in one pass."""
        return self.encoder.all_frames(source, padding_mask)

    def for_use(self) -> nn.Module:
        """The encoder."""
        return self.encoder

    def drop_objective(self, keep_masks: bool = False) -> None:
        """Remove the predictor."""
        super().drop_objective(keep_masks)
        self.predictor = None

    def forward(self, source: Tensor, padding_mask: Optional[Tensor] = None) -> Dict[str, Any]:
        """The loss of a batch.

        Args:
            source: float, N x L x S.
            padding_mask: bool, N x S, True where a sample is padding, which is at the end; None: none is.

        Returns:
            `losses`: `contrast`, the sum of cross-entropies (nats) over predicted frames that are not padding;
            `correct`: in how many of these the right frame is the nearest; `sample_size`: their number, a tensor.

        Raises:
            UserError: segments are too short for one prediction and one negative.
        """
        in_bf16 = self.cfg.bf16_autocast and self.training
        with torch.autocast(source.device.type, torch.bfloat16) if in_bf16 else contextlib.nullcontext():
            outputs = self.encoder.outputs(source)
            predicted = self.predictor(self.encoder.norm(outputs[-1]))
        ahead = self.cfg.prediction_steps
        self._check_length(predicted.size(1))
        padding = None
        if padding_mask is not None:
            padding = padding_of_frames(predicted, padding_mask, self.encoder.geometry)[:, ahead:]
        scores = self._scores(predicted[:, :-ahead], outputs[0][:, ahead:], padding)
        return _contrast(scores, padding)

    def _check_length(self, frames: int) -> None:
        needed = self.cfg.prediction_steps + _FEWEST_FRAMES - 1
        if frames < needed:
            raise UserError(
                f"model.prediction_steps={self.cfg.prediction_steps}: segments have {frames} frames, {needed} are "
                f"needed; set a longer task.segment_seconds or a smaller model.prediction_steps"
            )

    def _scores(self, predicted: Tensor, wanted: Tensor, padding: Optional[Tensor]) -> Tensor:
        """Cosines over temperature, fp32, N x T x (1 + negatives), of predictions with the right frame first.

        Args:
            predicted, wanted: N x T x E.
            padding: bool, N x T: frames that are no choice.
        """
        cosines = F.normalize(predicted.float(), dim=-1) @ F.normalize(wanted.float(), dim=-1).mT
        if padding is not None:
            cosines = cosines.masked_fill(padding.unsqueeze(1), float("-inf"))
        segments, frames, _ = cosines.shape
        drawn = draw_negatives(segments, frames, self.cfg.num_negatives, cosines.device).permute(1, 2, 0)
        right = cosines.diagonal(dim1=1, dim2=2).unsqueeze(2)
        return torch.cat([right, cosines.gather(2, drawn)], dim=2) / self.cfg.logit_temp


def _contrast(scores: Tensor, padding: Optional[Tensor]) -> Dict[str, Any]:
    """See `EcgCpcModel.forward`; of scores, N x T x choices."""
    counted = torch.ones_like(scores[..., 0], dtype=torch.bool) if padding is None else ~padding
    # rows of padding have -inf in the right place, which would make the sum a NaN
    scores = scores.masked_fill(~counted.unsqueeze(-1), 0)
    distance = scores.logsumexp(-1) - scores[..., 0]
    correct = (scores[..., 0] > scores[..., 1:].amax(-1)) & counted
    return {
        "losses": {"contrast": (distance * counted).sum()},
        "correct": correct.sum(),
        "sample_size": counted.sum(),
    }


def _check(cfg: Any) -> None:
    """Raise a `UserError` if an option has no meaning."""
    if cfg.state_size < 2 or cfg.state_size % 2:
        raise UserError(f"model.state_size={cfg.state_size}: must be even, as states are in complex pairs")
    for option in ("prediction_steps", "num_negatives"):
        if getattr(cfg, option) < 1:
            raise UserError(f"model.{option}={getattr(cfg, option)}: must be at least 1")
    if not cfg.logit_temp > 0:
        raise UserError(f"model.logit_temp={cfg.logit_temp:g}: must be above 0")
