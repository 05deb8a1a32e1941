"""What criterions of classifiers share: the areas under the curves of a validation set."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

import numpy as np
import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from torch import Tensor

from fairseq_signals_ext.criterions.label_criterion import LabelCriterion
from fairseq_signals_ext.criterions.objective import Better
from fairseq_signals_ext.evaluation.activations import tensor_probabilities
from fairseq_signals_ext.evaluation.aggregation import to_recordings
from fairseq_signals_ext.evaluation.kinds import CLASSIFICATION as CLASSIFICATION_KIND
from fairseq_signals_ext.evaluation.metrics import auprc, auroc, macro, micro_auprc, micro_auroc
from fairseq_signals_ext.evaluation.predictions import Predictions
from fairseq_signals_ext.training_curve import CLASSIFICATION


@dataclass
class ClassificationConfig(FairseqDataclass):
    """Options that criterions of classifiers share; names as in ECG-FM where it has them."""

    weight: Any = field(default=None, metadata={"help": "weight of each label: a list"})
    report_auc: bool = field(default=True, metadata={"help": "log AUROC and AUPRC of validation sets"})
    auc_average: ChoiceEnum(["macro", "micro"]) = field(  # type: ignore[valid-type]
        default="macro", metadata={"help": "macro: mean over labels that are defined; micro: all labels pooled"}
    )
    per_label: bool = field(default=False, metadata={"help": "also log AUROC and AUPRC of each label"})


class ClassificationCriterion(LabelCriterion):
    """Logged of validation sets: `auroc` and `auprc` of recordings, over the `defined_labels` that have both classes,
    `segment_auroc`, `segment_auprc`.

    Attributes:
        activation: of `ModelDescription`: how logits become probabilities.
    """

    kind = CLASSIFICATION_KIND.name
    activation = "sigmoid"
    curve = CLASSIFICATION

    def __init__(self, cfg: Any, task: Any):
        super().__init__(task)
        self.cfg = cfg
        # no buffer, which fairseq would round with fp16 and bf16
        self._label_weight = vector(cfg.weight)

    def scores(self, outputs: Tensor) -> Tensor:
        """Probabilities."""
        return tensor_probabilities(outputs, self.activation)

    def on_device(self, device: torch.device, name: str) -> Optional[Tensor]:
        """An attribute's weights, on a device."""
        weight: Optional[Tensor] = getattr(self, name)
        if weight is not None and weight.device != device:
            weight = weight.to(device)
            setattr(self, name, weight)  # once
        return weight

    def metric_names(self) -> Dict[str, Better]:
        """Keys of `validation_metrics`, and which values are better."""
        if not self.cfg.report_auc:
            return {}
        areas: List[str] = ["auroc", "auprc", "segment_auroc", "segment_auprc"]
        if self.cfg.per_label:
            areas += [f"{metric}_{label}" for label in self.task.label_names for metric in ("auroc", "auprc")]
        return {**dict.fromkeys(areas, Better.HIGHER), "defined_labels": Better.NEITHER}

    def validation_metrics(self, segments: Predictions) -> Dict[str, float]:
        """AUROC and AUPRC of segments and of recordings, of labels that are defined."""
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
    """Numbers as a tensor; None stays None."""
    return None if values is None else torch.tensor([float(value) for value in values])
