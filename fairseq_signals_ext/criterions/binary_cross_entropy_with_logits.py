"""Criterion `binary_cross_entropy_with_logits`: any number of labels, each present or absent."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

import numpy as np
import torch
import torch.nn.functional as F
from fairseq.dataclass import ChoiceEnum
from fairseq.logging import metrics
from torch import Tensor

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.criterions.classification import (
    ClassificationConfig,
    ClassificationCriterion,
    LabelCriterion,
    total,
    vector,
)
from fairseq_signals_ext.criterions.objective import Better, register_objective
from fairseq_signals_ext.evaluation.cinc2021 import check_scored, score_predictions
from fairseq_signals_ext.evaluation.predictions import Predictions, to_recordings

_SMALLEST = 1e-8
_COUNTS = ("correct", "count", "exact", "items", "tp", "fp", "fn")


@dataclass
class BinaryCrossEntropyWithLogitsConfig(ClassificationConfig):
    """Options of the criterion, with ECG-FM's names if ECG-FM has them."""

    pos_weight: Any = field(
        default=None,
        metadata={
            "help": "weight of positives, one number per label: a list, or the pos_weight.txt of the label command"
        },
    )
    loss: ChoiceEnum(["cross_entropy", "focal", "asymmetric"]) = field(  # type: ignore[valid-type]
        default="cross_entropy", metadata={"help": "focal: arXiv 1708.02002; asymmetric: arXiv 2009.14119"}
    )
    gamma: float = field(default=2.0, metadata={"help": "focal: how much less sure cases count"})
    gamma_pos: float = field(default=0.0, metadata={"help": "asymmetric: gamma of positives"})
    gamma_neg: float = field(default=4.0, metadata={"help": "asymmetric: gamma of negatives"})
    clip: float = field(default=0.05, metadata={"help": "asymmetric: negatives below this probability cost nothing"})
    threshold: float = field(
        default=0.5,
        metadata={"help": "lowest probability at which a label counts as found, in accuracy, F1 and CinC score"},
    )
    report_cinc_score: bool = field(
        default=False, metadata={"help": "log the score of the PhysioNet/CinC Challenge 2021 of validation sets"}
    )
    weights_file: Optional[str] = field(default=None, metadata={"help": "the Challenge's weights.csv"})


@register_objective("binary_cross_entropy_with_logits", dataclass=BinaryCrossEntropyWithLogitsConfig)
class BinaryCrossEntropyWithLogitsCriterion(ClassificationCriterion):
    """Logs for segments `loss` (bits per known label), `accuracy`, `exact_match`, `f1` (labels pooled, at `threshold`).

    For validation sets it also logs the values of `ClassificationCriterion`, and `cinc_score`.
    """

    SUMMED = {
        "loss": Better.LOWER,
        "accuracy": Better.HIGHER,
        "exact_match": Better.HIGHER,
        "f1": Better.HIGHER,
    }

    def __init__(self, cfg: BinaryCrossEntropyWithLogitsConfig, task: Any):
        super().__init__(cfg, task)
        self._pos_weight = vector(cfg.pos_weight)
        if cfg.report_cinc_score:
            if not cfg.weights_file:
                raise UserError("criterion.report_cinc_score needs criterion.weights_file, the Challenge's weights.csv")
            check_scored(cfg.weights_file, task.label_names, task.label_codes)  # before anything trains

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each label, float, N x L, from logits and targets of 0 or 1."""
        cfg, weight = self.cfg, self.on_device(outputs.device, "_pos_weight")
        if cfg.loss == "focal":
            losses = focal_loss(outputs, targets, cfg.gamma, weight)
        elif cfg.loss == "asymmetric":
            losses = asymmetric_loss(outputs, targets, cfg.gamma_pos, cfg.gamma_neg, cfg.clip, weight)
        else:
            losses = F.binary_cross_entropy_with_logits(outputs, targets, pos_weight=weight, reduction="none")
        label_weight = self.on_device(outputs.device, "_label_weight")
        return losses if label_weight is None else losses * label_weight

    def counts(self, scores: Tensor, targets: Tensor, known: Tensor) -> Dict[str, float]:
        """Count for known labels: correct ones, all, true and false positives, false negatives.

        Also count recordings with all labels known, and those with all labels known and correct.
        """
        found, true = scores >= self.cfg.threshold, targets == 1
        correct = (found == true) & known
        counted = [
            correct,
            known,
            correct.sum(-1) == targets.size(-1),
            known.all(-1),
            found & true,
            found & ~true & known,
            ~found & true,
        ]
        return dict(zip(_COUNTS, torch.stack([flags.sum() for flags in counted]).tolist()))

    def metric_names(self) -> Dict[str, Better]:
        """Keys of `validation_metrics`, and which values are better."""
        names = super().metric_names()
        return {**names, "cinc_score": Better.HIGHER} if self.cfg.report_cinc_score else names

    def validation_metrics(self, segments: Predictions) -> Dict[str, float]:
        """Return AUROC and AUPRC of segments and recordings, for labels with both classes; the Challenge's score."""
        values = super().validation_metrics(segments)
        if self.cfg.report_cinc_score:
            recordings = to_recordings(segments)
            thresholds = np.full(len(recordings.label_names), self.cfg.threshold)
            score = score_predictions(recordings, self.task.label_codes, str(self.cfg.weights_file), thresholds)
            values["cinc_score"] = score.score
        return values

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        """Aggregate logging outputs of all ranks."""
        LabelCriterion.reduce_metrics(logging_outputs)
        correct, count, exact, items, tp, fp, fn = (total(logging_outputs, key) for key in _COUNTS)
        if count:
            metrics.log_scalar("accuracy", correct / count, count, round=5)
        if items:
            metrics.log_scalar("exact_match", exact / items, items, round=5)
        for key, value in (("_tp", tp), ("_fp", fp), ("_fn", fn)):
            metrics.log_scalar(key, value)
        metrics.log_derived("f1", _f1)


def _f1(meters: Any) -> float:
    tp, errors = meters["_tp"].sum, meters["_fp"].sum + meters["_fn"].sum
    return round(float(2 * tp / (2 * tp + errors)), 5) if tp + errors else float("nan")


def focal_loss(logits: Tensor, targets: Tensor, gamma: float, pos_weight: Optional[Tensor] = None) -> Tensor:
    """Return cross entropy times (1 - p) ** gamma, where p is the probability of the true answer (arXiv 1708.02002).

    Args:
        logits, targets: float, of the same shape; targets are 0 or 1.
        gamma: 0 gives plain cross entropy.
        pos_weight: weight of positives, broadcast against `logits`.
    """
    # the slope of x ** gamma is infinite at 0 for gamma below 1
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    loss = entropy * (1 - torch.exp(-entropy)).clamp(min=_SMALLEST) ** gamma
    return loss if pos_weight is None else loss * torch.where(targets == 1, pos_weight, torch.ones_like(pos_weight))


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    gamma_pos: float,
    gamma_neg: float,
    clip: float,
    pos_weight: Optional[Tensor] = None,
) -> Tensor:
    """Return focal loss with separate gammas for positives and negatives; `clip` lowers the probability of negatives.

    Source: Ridnik et al., arXiv 2009.14119. Arguments as for `focal_loss`.
    """
    positive = F.logsigmoid(logits) * torch.sigmoid(-logits).clamp(min=_SMALLEST) ** gamma_pos
    if pos_weight is not None:
        positive = positive * pos_weight
    probability = (torch.sigmoid(logits) - clip).clamp(min=0)
    # with no clip the logarithm of a sigmoid is exact also where the probability rounds to 1
    log_negative = torch.log1p(-probability) if clip > 0 else F.logsigmoid(-logits)
    return -torch.where(targets == 1, positive, log_negative * probability.clamp(min=_SMALLEST) ** gamma_neg)
