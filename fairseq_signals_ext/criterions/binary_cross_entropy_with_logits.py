"""Criterion `binary_cross_entropy_with_logits`: any number of labels, each of which may be there or not."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

import numpy as np
import torch
import torch.nn.functional as F
from fairseq.criterions import register_criterion
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor

from fairseq_signals_ext.criterions.better import Better
from fairseq_signals_ext.criterions.label_criterion import LabelCriterion, total
from fairseq_signals_ext.criterions.losses import asymmetric_loss, focal_loss
from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.evaluation.aggregation import to_recordings
from fairseq_signals_ext.evaluation.cinc2021 import check_scored, score_predictions
from fairseq_signals_ext.evaluation.metrics import auprc, auroc, macro, micro_auprc, micro_auroc
from fairseq_signals_ext.evaluation.predictions import Predictions

_COUNTS = ("correct", "count", "exact", "items", "tp", "fp", "fn")


@dataclass
class BinaryCrossEntropyWithLogitsConfig(FairseqDataclass):
    """Options of the criterion; names as in ECG-FM where it has them."""

    pos_weight: Any = field(
        default=None,
        metadata={"help": "weight of positives, a number a label: a list, or the pos_weight.txt of label.py"},
    )
    weight: Any = field(default=None, metadata={"help": "weight of each label: a list"})
    loss: ChoiceEnum(["cross_entropy", "focal", "asymmetric"]) = field(  # type: ignore[valid-type]
        default="cross_entropy", metadata={"help": "focal: arXiv 1708.02002; asymmetric: arXiv 2009.14119"}
    )
    gamma: float = field(default=2.0, metadata={"help": "focal: how much less sure cases count"})
    gamma_pos: float = field(default=0.0, metadata={"help": "asymmetric: gamma of positives"})
    gamma_neg: float = field(default=4.0, metadata={"help": "asymmetric: gamma of negatives"})
    clip: float = field(default=0.05, metadata={"help": "asymmetric: negatives below this probability cost nothing"})
    threshold: float = field(
        default=0.5, metadata={"help": "probability from which on a label is found, in accuracy, F1 and CinC score"}
    )
    report_auc: bool = field(default=True, metadata={"help": "log AUROC and AUPRC of validation sets"})
    auc_average: ChoiceEnum(["macro", "micro"]) = field(  # type: ignore[valid-type]
        default="macro", metadata={"help": "macro: mean over labels that are defined; micro: all labels pooled"}
    )
    per_label: bool = field(default=False, metadata={"help": "also log AUROC and AUPRC of each label"})
    report_cinc_score: bool = field(
        default=False, metadata={"help": "log the score of the PhysioNet/CinC Challenge 2021 of validation sets"}
    )
    weights_file: Optional[str] = field(default=None, metadata={"help": "the Challenge's weights.csv"})


@register_criterion("binary_cross_entropy_with_logits", dataclass=BinaryCrossEntropyWithLogitsConfig)
class BinaryCrossEntropyWithLogitsCriterion(LabelCriterion):
    """Logged: of segments `loss` (bits a known label), `accuracy`, `exact_match`, `f1` (labels pooled, at `threshold`);
    of validation sets also `auroc` and `auprc` of recordings, over the `defined_labels` that have both classes,
    `segment_auroc`, `segment_auprc`, `cinc_score`.
    """

    kind = "classification"
    SUMMED = {
        "loss": Better.LOWER,
        "accuracy": Better.HIGHER,
        "exact_match": Better.HIGHER,
        "f1": Better.HIGHER,
    }

    def __init__(self, cfg: BinaryCrossEntropyWithLogitsConfig, task: Any):
        super().__init__(task)
        self.cfg = cfg
        # no buffers, which fairseq would round with fp16 and bf16
        self._pos_weight, self._label_weight = _vector(cfg.pos_weight), _vector(cfg.weight)
        if cfg.report_cinc_score:
            if not cfg.weights_file:
                raise UserError("criterion.report_cinc_score needs criterion.weights_file, the Challenge's weights.csv")
            check_scored(cfg.weights_file, task.label_names, task.label_codes)  # before anything trains

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of each label: float, N x L, of logits and of targets that are 0 or 1."""
        cfg, weight = self.cfg, self._on(outputs.device, "_pos_weight")
        if cfg.loss == "focal":
            losses = focal_loss(outputs, targets, cfg.gamma, weight)
        elif cfg.loss == "asymmetric":
            losses = asymmetric_loss(outputs, targets, cfg.gamma_pos, cfg.gamma_neg, cfg.clip, weight)
        else:
            losses = F.binary_cross_entropy_with_logits(outputs, targets, pos_weight=weight, reduction="none")
        label_weight = self._on(outputs.device, "_label_weight")
        return losses if label_weight is None else losses * label_weight

    def _on(self, device: torch.device, name: str) -> Optional[Tensor]:
        weight: Optional[Tensor] = getattr(self, name)
        if weight is not None and weight.device != device:
            weight = weight.to(device)
            setattr(self, name, weight)  # once
        return weight

    def scores(self, outputs: Tensor) -> Tensor:
        """Probabilities."""
        return torch.sigmoid(outputs)

    def counts(self, scores: Tensor, targets: Tensor, known: Tensor) -> Dict[str, float]:
        """Of known labels: correct ones, their number, true and false positives, false negatives; recordings with all
        labels known and correct, and with all known.
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
        areas: List[str] = []
        if self.cfg.report_auc:
            areas += ["auroc", "auprc", "segment_auroc", "segment_auprc"]
        if self.cfg.report_auc and self.cfg.per_label:
            areas += [f"{metric}_{label}" for label in self.task.label_names for metric in ("auroc", "auprc")]
        names = dict.fromkeys(areas, Better.HIGHER)
        if self.cfg.report_auc:
            names["defined_labels"] = Better.NEITHER
        if self.cfg.report_cinc_score:
            names["cinc_score"] = Better.HIGHER
        return names

    def validation_metrics(self, segments: Predictions) -> Dict[str, float]:
        """AUROC and AUPRC of segments and of recordings, of labels that are defined; the Challenge's score."""
        recordings = to_recordings(segments)
        values: Dict[str, float] = {}
        if self.cfg.report_auc:
            for prefix, predictions in (("", recordings), ("segment_", segments)):
                values.update(self._areas(predictions, prefix))
        if self.cfg.report_cinc_score:
            thresholds = np.full(len(recordings.label_names), self.cfg.threshold)
            score = score_predictions(recordings, self.task.label_codes, str(self.cfg.weights_file), thresholds)
            values["cinc_score"] = score.score
        return values

    def _areas(self, predictions: Predictions, prefix: str) -> Dict[str, float]:
        scores, targets = predictions.scores, predictions.targets
        areas = {"auroc": auroc(scores, targets), "auprc": auprc(scores, targets)}
        values = {f"{prefix}{name}": macro(area) for name, area in areas.items()}
        if self.cfg.auc_average == "micro":
            values = {f"{prefix}auroc": micro_auroc(scores, targets), f"{prefix}auprc": micro_auprc(scores, targets)}
        if not prefix:
            values["defined_labels"] = int((~np.isnan(areas["auroc"])).sum())
            for name, area in areas.items():
                values.update((f"{name}_{label}", value) for label, value in zip(predictions.label_names, area))
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


def _vector(values: Any) -> Optional[Tensor]:
    return None if values is None else torch.tensor([float(value) for value in values])
