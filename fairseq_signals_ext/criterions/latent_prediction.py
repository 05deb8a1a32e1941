"""Criterion `latent_prediction`: fairseq's `model`, for models that compute their loss; logging never waits."""

from dataclasses import dataclass
from typing import Any, ClassVar, Dict, List, Optional, Tuple

from fairseq.criterions.model_criterion import ModelCriterion, ModelCriterionConfig

from fairseq_signals_ext.criterions.objective import Better, Objective, register_objective
from fairseq_signals_ext.criterions.ranks import log_average
from fairseq_signals_ext.evaluation.training_curve import CurvePage


@dataclass
class LatentPredictionConfig(ModelCriterionConfig):
    """fairseq's options."""


@register_objective("latent_prediction", dataclass=LatentPredictionConfig)
class LatentPrediction(Objective, ModelCriterion):
    """Sums the losses that a model computes, such as distances of its predictions from its teacher's output.

    It logs `loss`, the mean over predicted values; the model itself logs signs of a collapse.

    Attributes:
        also_logged: other values of the model's output to log.
    """

    also_logged: ClassVar[Tuple[str, ...]] = ()

    curve = CurvePage(
        title="Pretraining",
        loss="loss (distance of a value)",
        parts={},
        results={"target_std": "deviation of teacher's tokens"},
        result="deviation",
    )

    def __init__(
        self,
        task: Any,
        loss_weights: Optional[Dict[str, float]] = None,
        log_keys: Optional[List[str]] = None,
        can_sum: bool = True,
    ):
        super().__init__(task, loss_weights or {}, [*self.also_logged, *(log_keys or [])], can_sum)

    def logged(self, model: Any) -> Dict[str, Better]:
        """Return all names that are logged for a validation set, and which values are better."""
        return {"loss": Better.LOWER, "ntokens": Better.NEITHER, "nsentences": Better.NEITHER}

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        """Aggregate logging outputs of all ranks, added up by fairseq or not."""
        totals = {key: sum(log[key] for log in logging_outputs) for key in logging_outputs[0]}
        tokens = totals["sample_size"]
        for key, value in totals.items():
            if key.startswith("loss"):
                log_average(key, value / tokens, tokens, round=4)
        for key in ("ntokens", "nsentences"):
            log_average(key, totals[key])
