"""Shared by criterions on labels: unknown labels are ignored; areas under the curves of a validation set."""

import math
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np
import torch
from fairseq.criterions import FairseqCriterion
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.logging import metrics
from fairseq.registry import REGISTRIES
from torch import Tensor

from fairseq_signals_ext.criterions.objective import Better, Objective
from fairseq_signals_ext.evaluation.kinds import CLASSIFICATION as CLASSIFICATION_KIND
from fairseq_signals_ext.evaluation.kinds import tensor_probabilities
from fairseq_signals_ext.evaluation.metrics import auprc, auroc, macro, micro_auprc, micro_auroc
from fairseq_signals_ext.evaluation.predictions import Predictions, to_recordings
from fairseq_signals_ext.evaluation.training_curve import CLASSIFICATION


class LabelCriterion(Objective, FairseqCriterion):
    """Sum of the losses of all known labels; fairseq divides by their number.

    A subclass gives `kind`, `losses`, `scores`, `metric_names` and `validation_metrics`.

    Attributes:
        kind: name of the kind of its tasks, see `evaluation.kinds`.
        SUMMED: names that `reduce_metrics` logs for segments, and which values are better.
    """

    kind: str
    SUMMED: Mapping[str, Better] = {"loss": Better.LOWER}

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each label, float, N x L, from the model's outputs and targets without NaN."""
        raise NotImplementedError

    def known(self, targets: Tensor) -> Tensor:
        """Return which losses count, from targets with NaN: bool, with the shape of `losses`."""
        return ~targets.isnan()

    def scores(self, outputs: Tensor) -> Tensor:
        """Convert outputs (N x L) to the unit of the targets: float64, N x L."""
        raise NotImplementedError

    def metric_names(self) -> Dict[str, Better]:
        """Return the names in `validation_metrics`, and which values are better."""
        raise NotImplementedError

    def logged(self, model: Any) -> Dict[str, Better]:
        """Return all names that are logged for a validation set, and which values are better."""
        return {**self.SUMMED, **self.metric_names()}

    def validation_metrics(self, segments: Predictions) -> Dict[str, float]:
        """Return metrics of a whole validation set."""
        raise NotImplementedError

    def counts(self, scores: Tensor, targets: Tensor, known: Tensor) -> Dict[str, float]:
        """Return other values to log, which can be summed over batches and ranks."""
        return {}

    def forward(self, model: Any, sample: Dict[str, Any], reduce: bool = True) -> Tuple[Tensor, int, Dict[str, Any]]:
        """Return the loss (summed over known labels), their number, and values to log.

        Args:
            model: `ecg_transformer_classifier`.
            sample: a batch of `LabelledEcgDataset`.
            reduce: as in fairseq; if False, the loss is N x L, 0 for unknown labels.

        Returns:
            In evaluation mode the log also has `scores` (float64, N x L), which the task removes.
        """
        net_output = model(**sample["net_input"])
        outputs = model.get_logits(net_output).float()
        targets = model.get_targets(sample, net_output)
        known = self.known(targets)
        losses = self.losses(outputs, targets.nan_to_num()) * known
        loss, sample_size = losses.sum(), int(known.sum())
        scores = self.scores(outputs.detach().double())
        log = {
            "loss": loss.item(),
            "sample_size": sample_size,
            "ntokens": sample_size,
            "nsentences": len(targets),
            **self.counts(scores, targets, known),
        }
        if not self.training:
            log["scores"] = scores
        return (loss if reduce else losses), sample_size, log

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        """Aggregate logging outputs of all ranks: the loss in bits, as fairseq does."""
        sample_size = total(logging_outputs, "sample_size")
        loss = total(logging_outputs, "loss") / (sample_size or 1) / math.log(2)
        metrics.log_scalar("loss", loss, sample_size, round=5)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """True: all of them are sums."""
        return True


def criterions_of(kind: str) -> List[str]:
    """Return the names of the registered criterions for tasks of a kind."""
    registered = REGISTRIES["criterion"]["registry"].items()
    return sorted(name for name, criterion in registered if getattr(criterion, "kind", None) == kind)


def total(logging_outputs: List[Dict[str, Any]], key: str) -> float:
    """Return the sum of a value over logging outputs."""
    return float(sum(log.get(key, 0) for log in logging_outputs))


@dataclass
class ClassificationConfig(FairseqDataclass):
    """Options of all criterions of classifiers, with ECG-FM's names if ECG-FM has them."""

    weight: Any = field(default=None, metadata={"help": "weight of each label: a list"})
    report_auc: bool = field(default=True, metadata={"help": "log AUROC and AUPRC of validation sets"})
    auc_average: ChoiceEnum(["macro", "micro"]) = field(  # type: ignore[valid-type]
        default="macro", metadata={"help": "macro: mean over labels that are defined; micro: all labels pooled"}
    )
    per_label: bool = field(default=False, metadata={"help": "also log AUROC and AUPRC of each label"})


class ClassificationCriterion(LabelCriterion):
    """Logs for validation sets `auroc` and `auprc` of recordings, and `segment_auroc` and `segment_auprc`.

    They are means over the `defined_labels`, which have both classes.

    Attributes:
        activation: converts logits to probabilities, see `ModelDescription`.
    """

    kind = CLASSIFICATION_KIND.name
    activation = "sigmoid"
    curve = CLASSIFICATION

    def __init__(self, cfg: Any, task: Any):
        super().__init__(task)
        self.cfg = cfg
        # not a buffer: fairseq would round it with fp16 and bf16
        self._label_weight = vector(cfg.weight)

    def scores(self, outputs: Tensor) -> Tensor:
        """Return probabilities."""
        return tensor_probabilities(outputs, self.activation)

    def on_device(self, device: torch.device, name: str) -> Optional[Tensor]:
        """Return the weights in an attribute, on a device."""
        weight: Optional[Tensor] = getattr(self, name)
        if weight is not None and weight.device != device:
            weight = weight.to(device)
            setattr(self, name, weight)  # once
        return weight

    def metric_names(self) -> Dict[str, Better]:
        """Return the names in `validation_metrics`, and which values are better."""
        if not self.cfg.report_auc:
            return {}
        areas: List[str] = ["auroc", "auprc", "segment_auroc", "segment_auprc"]
        if self.cfg.per_label:
            areas += [f"{metric}_{label}" for label in self.task.label_names for metric in ("auroc", "auprc")]
        return {**dict.fromkeys(areas, Better.HIGHER), "defined_labels": Better.NEITHER}

    def validation_metrics(self, segments: Predictions) -> Dict[str, float]:
        """Return AUROC and AUPRC of segments and recordings, for labels with both classes."""
        values: Dict[str, float] = {}
        if self.cfg.report_auc:
            for prefix, predictions in (("", to_recordings(segments)), ("segment_", segments)):
                values.update(self._areas(predictions, prefix))
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


def vector(values: Any) -> Optional[Tensor]:
    """Convert numbers to a tensor; None stays None."""
    return None if values is None else torch.tensor([float(value) for value in values])
