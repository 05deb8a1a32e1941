"""data2vec's regression on a teacher, instead of ECG-FM's quantized contrast or with it, and optionally CMSC."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

from torch import Tensor

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.criterions.objective import Better, register_objective
from fairseq_signals_ext.criterions.wav2vec2_with_cmsc import Wav2Vec2WithCmscConfig, Wav2Vec2WithCmscCriterion
from fairseq_signals_ext.evaluation.training_curve import CurvePage

# logged values of optional parts
_OF_CONTRAST = ("loss_0", "loss_1", "loss_2", "accuracy")
_OF_CMSC = ("loss_3", "cmsc_accuracy")


@dataclass
class Data2VecWithCmscConfig(Wav2Vec2WithCmscConfig):
    """Options of `wav2vec2_with_cmsc`, and weights of regression and contrast."""

    regression_weight: float = field(default=1.0, metadata={"help": "weight of the regression on the teacher"})
    contrast_weight: float = field(
        default=1.0, metadata={"help": "weight of the contrast and its penalties, with model.loss=both"}
    )
    log_keys: List[str] = field(default_factory=list, metadata={"help": "outputs of the model to log"})


@register_objective("data2vec_with_cmsc", dataclass=Data2VecWithCmscConfig)
class Data2VecWithCmscCriterion(Wav2Vec2WithCmscCriterion):
    """Objective of `ecg_data2vec`; with a CMSC weight of 0 also for single segments (`task.pairs=none`).

    Logs `loss` and its parts, each per masked frame: `loss_regression`, `loss_3` (CMSC, nats), and for the contrast
    the same values as `wav2vec2_with_cmsc`, in nats. The model itself logs signs of a collapse.
    """

    unit = 1.0
    curve = CurvePage(
        title="Pretraining",
        loss="loss (per masked frame)",
        parts={"loss_regression": "regression", "loss_0": "contrastive (InfoNCE, nats)", "loss_3": "CMSC (nats)"},
        results={"target_std": "deviation of teacher's frames"},
        result="deviation",
    )

    def __init__(
        self,
        task: Any,
        infonce: bool = True,
        loss_weights: Optional[List[float]] = None,
        log_keys: Optional[List[str]] = None,
        temp: float = 0.1,
        eps: float = 1e-8,
        cmsc_weights: Optional[float] = None,
        cmsc_gather: bool = False,
        reconstruction_weight: float = 0.0,
        regression_weight: float = 1.0,
        contrast_weight: float = 1.0,
    ):
        super().__init__(
            task, infonce, loss_weights, log_keys, temp, eps, cmsc_weights, cmsc_gather, reconstruction_weight
        )
        self.regression_weight = regression_weight
        self.contrast_weight = contrast_weight
        self.needs_pairs = self.cmsc_weight > 0

    def _of_frames(self, model: Any, output: Dict[str, Any]) -> Tuple[Dict[str, Tensor], Dict[str, Any]]:
        if "regression" not in output:
            raise UserError("criterion data2vec_with_cmsc regresses on a teacher; use it with model._name=ecg_data2vec")
        parts = {"loss_regression": self.regression_weight * output["regression"]}
        log: Dict[str, Any] = {}
        if "x" in output:
            of_contrast, log = super()._of_frames(model, output)
            parts.update((name, self.contrast_weight * part) for name, part in of_contrast.items())
        return parts, {**log, "sample_size": output["frames"]}

    def logged(self, model: Any) -> Dict[str, Better]:
        """Return all names that are logged for a validation set, and which values are better."""
        absent = {name for name in _OF_CONTRAST if model.final_proj is None}
        absent |= {name for name in _OF_CMSC if not self.needs_pairs}
        names = {name: better for name, better in super().logged(model).items() if name not in absent}
        return {**names, "loss_regression": Better.LOWER}
