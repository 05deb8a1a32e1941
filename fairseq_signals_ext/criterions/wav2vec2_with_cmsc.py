"""ECG-FM's pretraining objective: wav2vec 2.0's InfoNCE and penalties, plus CMSC, plus optional reconstruction."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

import torch.nn.functional as F
from fairseq.criterions import register_criterion
from fairseq.criterions.wav2vec_criterion import Wav2vecCriterion, Wav2VecCriterionConfig
from fairseq.logging import metrics
from torch import Tensor

from fairseq_signals_ext.conv_layers import samples_per_frame
from fairseq_signals_ext.criterions.cmsc import CmscResult, cmsc_loss
from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.ranks import gather_from_all_ranks

_RETRIEVAL_KEYS = ("cmsc_correct", "cmsc_count")


@dataclass
class Wav2Vec2WithCmscConfig(Wav2VecCriterionConfig):
    """fairseq's wav2vec options and those of CMSC; names as in ECG-FM."""

    infonce: bool = field(default=True, metadata={"help": "cross entropy over positive and negatives (InfoNCE)"})
    loss_weights: Optional[List[float]] = field(
        default_factory=lambda: [0.1, 10.0],
        metadata={"help": "weights of the codebook's diversity loss and of the penalty on the features' size"},
    )
    log_keys: List[str] = field(
        default_factory=lambda: ["prob_perplexity", "code_perplexity", "temp"],
        metadata={"help": "outputs of the model to log"},
    )
    temp: float = field(default=0.1, metadata={"help": "temperature of CMSC"})
    eps: float = field(default=1e-8, metadata={"help": "least length that CMSC divides features by"})
    cmsc_weights: Optional[float] = field(default=None, metadata={"help": "weight of the CMSC loss (default 1)"})
    cmsc_gather: bool = field(
        default=False,
        metadata={"help": "take CMSC over the segments of all ranks, with gradient: N GPUs see N times the negatives"},
    )
    reconstruction_weight: float = field(
        default=0.0, metadata={"help": "weight of the mean squared error of the signal under masked frames"}
    )


class _KeepsOutput:
    """A model that remembers what it returned, which fairseq's criterion uses but does not hand on."""

    def __init__(self, model: Any):
        self.model = model
        self.output: Dict[str, Any] = {}

    def __call__(self, **net_input: Any) -> Dict[str, Any]:
        self.output = self.model(**net_input)
        return self.output

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


@register_criterion("wav2vec2_with_cmsc", dataclass=Wav2Vec2WithCmscConfig)
class Wav2Vec2WithCmscCriterion(Wav2vecCriterion):
    """Sum of the parts, each times the number of masked frames, so that fairseq's division gives a mean a frame.

    Logged, by fairseq: `loss` and its parts `loss_0` (InfoNCE), `loss_1` (diversity), `loss_2` (penalty on features),
    `loss_3` (CMSC), all in bits; `accuracy` of the InfoNCE; `cmsc_accuracy`, how often a segment's nearest one is of
    the same patient; `reconstruction_mse`, in squared units of the input; and `log_keys`.
    """

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
    ):
        super().__init__(task, infonce, loss_weights, log_keys)
        self.temp = temp
        self.eps = eps
        self.cmsc_weight = 1.0 if cmsc_weights is None else cmsc_weights
        self.cmsc_gather = cmsc_gather
        self.reconstruction_weight = reconstruction_weight

    def forward(self, model: Any, sample: Dict[str, Any], reduce: bool = True) -> Tuple[Tensor, int, Dict[str, Any]]:
        """Loss (summed over masked frames), their number, and what to log.

        Args:
            model: `wav2vec2_cmsc`.
            sample: a batch of `EcgDataset` with pairs.
            reduce: as in fairseq; CMSC has no value for each frame, so only True is possible.

        Raises:
            UserError: the batch has no pairs.
        """
        if not bool((sample["segment"] == 1).any()):
            raise UserError("wav2vec2_with_cmsc needs pairs of segments: set task.pairs to fixed or random")
        keeps = _KeepsOutput(model)
        loss, sample_size, log = super().forward(keeps, sample, reduce)
        cmsc = self._cmsc(model, keeps.output, sample)
        part = self.cmsc_weight * cmsc.loss * sample_size
        loss = loss + part
        log["loss_3"] = part.item()
        log["cmsc_correct"], log["cmsc_count"] = cmsc.correct.item(), cmsc.count
        if self.reconstruction_weight > 0:
            error = self._reconstruction_error(model, keeps.output, sample)
            loss = loss + self.reconstruction_weight * error * sample_size
            log["reconstruction_mse"] = error.item()
        log["loss"] = loss.item()
        return loss, sample_size, log

    def _cmsc(self, model: Any, output: Dict[str, Any], sample: Dict[str, Any]) -> CmscResult:
        features = model.get_features(output, aggregate=True).float()
        patient_id, segment = sample["patient_id"], sample["segment"]
        if self.cmsc_gather:
            features = gather_from_all_ranks(features)
            patient_id, segment = gather_from_all_ranks(patient_id), gather_from_all_ranks(segment)
        return cmsc_loss(features, patient_id, segment, self.temp, self.eps)

    def _reconstruction_error(self, model: Any, output: Dict[str, Any], sample: Dict[str, Any]) -> Tensor:
        masked = sample["net_input"]["mask_indices"]
        hop = samples_per_frame(model.conv_layers)
        signal = sample["original"][..., : masked.size(1) * hop]
        target = signal.unflatten(-1, (-1, hop)).transpose(1, 2)[masked]
        return F.mse_loss(model.reconstruct(output["features"][masked]).float(), target.float())

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        """Aggregate logging outputs of all ranks."""
        correct = sum(log.get("cmsc_correct", 0) for log in logging_outputs)
        count = sum(log.get("cmsc_count", 0) for log in logging_outputs)
        others = [{key: log[key] for key in log if key not in _RETRIEVAL_KEYS} for log in logging_outputs]
        Wav2vecCriterion.reduce_metrics(others)
        if count:
            metrics.log_scalar("cmsc_accuracy", correct / count, count, round=5)
