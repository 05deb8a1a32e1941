"""Criterion `softmax`: labels are classes; each recording has exactly one."""

from dataclasses import dataclass, field
from typing import Any, Dict, List

import torch
import torch.nn.functional as F
from fairseq.logging import metrics
from torch import Tensor

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.criterions.classification import (
    ClassificationConfig,
    ClassificationCriterion,
    LabelCriterion,
    total,
)
from fairseq_signals_ext.criterions.objective import Better, register_objective


@dataclass
class SoftmaxConfig(ClassificationConfig):
    """Options of the criterion."""

    pos_weight: Any = field(
        default=None, metadata={"help": "must be empty, as in configs of the other criterion: see weight"}
    )
    label_smoothing: float = field(
        default=0.0, metadata={"help": "part of a target, from 0 to below 1, that is spread over all classes"}
    )


@register_objective("softmax", dataclass=SoftmaxConfig)
class SoftmaxCriterion(ClassificationCriterion):
    """Cross entropy of classes; recordings with an unknown class are ignored.

    Logs for segments `loss` (bits per segment) and `accuracy`, and for validation sets the values of
    `ClassificationCriterion`, computed from probabilities.
    """

    activation = "softmax"
    SUMMED = {"loss": Better.LOWER, "accuracy": Better.HIGHER}

    def __init__(self, cfg: SoftmaxConfig, task: Any):
        super().__init__(cfg, task)
        if cfg.pos_weight is not None:
            raise UserError(
                "criterion.pos_weight: classes are weighted by criterion.weight, one number per class; use that"
            )
        if not 0 <= cfg.label_smoothing < 1:
            raise UserError(f"criterion.label_smoothing={cfg.label_smoothing}: use a number from 0 to below 1")

    def known(self, targets: Tensor) -> Tensor:
        """Return which recordings have a known class: bool, N x 1."""
        return (targets == 1).any(-1, keepdim=True)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each segment, float, N x 1, from logits and one-hot targets."""
        weight = self.on_device(outputs.device, "_label_weight")
        smoothing = self.cfg.label_smoothing
        losses = F.cross_entropy(
            outputs, targets.argmax(-1), weight=weight, label_smoothing=smoothing, reduction="none"
        )
        return losses.unsqueeze(-1)

    def counts(self, scores: Tensor, targets: Tensor, known: Tensor) -> Dict[str, float]:
        """Count the segments with a known class, and those for which it is the most probable class."""
        of_class = targets == 1
        correct = (scores.argmax(-1, keepdim=True) == torch.arange(scores.size(-1), device=scores.device)) & of_class
        return dict(zip(("correct", "count"), torch.stack([correct.sum(), of_class.sum()]).tolist()))

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        """Aggregate logging outputs of all ranks."""
        LabelCriterion.reduce_metrics(logging_outputs)
        correct, count = (total(logging_outputs, key) for key in ("correct", "count"))
        if count:
            metrics.log_scalar("accuracy", correct / count, count, round=5)
