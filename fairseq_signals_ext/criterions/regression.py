"""Criterion `regression`: numeric labels, such as age or ejection fraction."""

from dataclasses import dataclass, field
from typing import Any, Dict, List

import torch
import torch.nn.functional as F
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor

from fairseq_signals_ext.criterions.classification import LabelCriterion, total
from fairseq_signals_ext.criterions.objective import Better, register_objective
from fairseq_signals_ext.evaluation.kinds import REGRESSION as REGRESSION_KIND
from fairseq_signals_ext.evaluation.metrics import macro
from fairseq_signals_ext.evaluation.predictions import Predictions, to_recordings
from fairseq_signals_ext.evaluation.regression import label_metrics
from fairseq_signals_ext.evaluation.training_curve import REGRESSION

_METRICS = {"mae": Better.LOWER, "rmse": Better.LOWER, "r2": Better.HIGHER, "pearson_r": Better.HIGHER}


@dataclass
class RegressionConfig(FairseqDataclass):
    """Options of the criterion."""

    loss: ChoiceEnum(["mse", "mae"]) = field(  # type: ignore[valid-type]
        default="mse", metadata={"help": "mean squared or mean absolute error"}
    )
    per_label: bool = field(default=False, metadata={"help": "also log the metrics of each label"})


@register_objective("regression", dataclass=RegressionConfig)
class RegressionCriterion(LabelCriterion):
    """Error of labels that are standardised by the mean and standard deviation of the training set.

    Logs `loss` (for standardised labels), and for recordings `mae`, `rmse` (in the label's unit), `r2`, `pearson_r`, as
    means over labels.
    """

    kind = REGRESSION_KIND.name
    curve = REGRESSION

    def __init__(self, cfg: RegressionConfig, task: Any):
        super().__init__(task)
        self.cfg = cfg

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each label: float, N x L."""
        mean, std = self._scale(outputs)
        error = F.l1_loss if self.cfg.loss == "mae" else F.mse_loss
        return error(outputs, (targets - mean) / std, reduction="none")

    def scores(self, outputs: Tensor) -> Tensor:
        """Return values in the label's unit."""
        mean, std = self._scale(outputs)
        return outputs * std + mean

    def _scale(self, like: Tensor) -> List[Tensor]:
        return [torch.tensor(values).to(like) for values in self.task.target_scale()]

    def metric_names(self) -> Dict[str, Better]:
        """Return the names in `validation_metrics`, and which values are better."""
        labels = self.task.label_names if self.cfg.per_label else ()
        of_labels = {f"{metric}_{label}": better for label in labels for metric, better in _METRICS.items()}
        return {**_METRICS, **of_labels}

    def validation_metrics(self, segments: Predictions) -> Dict[str, float]:
        """Return errors and correlation for recordings."""
        table = label_metrics(to_recordings(segments))
        values = {metric: macro(table[metric].to_numpy()) for metric in _METRICS}
        for metric in _METRICS:
            values.update((f"{metric}_{label}", value) for label, value in zip(table["label"], table[metric]))
        return values

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        """Aggregate logging outputs of all ranks."""
        sample_size = total(logging_outputs, "sample_size")
        metrics.log_scalar("loss", total(logging_outputs, "loss") / (sample_size or 1), sample_size, round=5)
