"""Criterion `future_contrast`: for models that identify the features of a later frame, such as `ecg_cpc`."""

from dataclasses import dataclass
from typing import Any, Dict, List

from fairseq_signals_ext.criterions.latent_prediction import LatentPrediction, LatentPredictionConfig
from fairseq_signals_ext.criterions.objective import Better, register_objective
from fairseq_signals_ext.criterions.ranks import log_average
from fairseq_signals_ext.evaluation.training_curve import CurvePage

_CORRECT = "correct"


@dataclass
class FutureContrastConfig(LatentPredictionConfig):
    """fairseq's options."""


@register_objective("future_contrast", dataclass=FutureContrastConfig)
class FutureContrast(LatentPrediction):
    """Sums the losses that a model computes.

    It logs `loss`, the cross-entropy in nats per predicted frame, and `accuracy`, the share of predicted frames for
    which the right frame is the nearest.
    """

    also_logged = (_CORRECT,)
    curve = CurvePage(
        title="Pretraining",
        loss="loss (nats per predicted frame)",
        parts={},
        results={"accuracy": "predicted frame"},
        result="accuracy (%)",
        scale=100.0,
    )

    def logged(self, model: Any) -> Dict[str, Better]:
        """Return all names that are logged for a validation set, and which values are better."""
        return {**super().logged(model), "accuracy": Better.HIGHER}

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        """Aggregate logging outputs of all ranks, added up by fairseq or not."""
        LatentPrediction.reduce_metrics(logging_outputs)
        correct, frames = (sum(log[key] for log in logging_outputs) for key in (_CORRECT, "sample_size"))
        log_average("accuracy", correct / frames, frames, round=4)
