"""ECG-FM's pretraining objective: wav2vec 2.0's InfoNCE and penalties, plus CMSC, plus optional reconstruction."""

import logging
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Dict, List, Optional, Tuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from fairseq.criterions.wav2vec_criterion import Wav2vecCriterion, Wav2VecCriterionConfig
from torch import Tensor

from fairseq_signals_ext.common.conv_layers import samples_per_frame
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.criterions.objective import Better, Objective, register_objective
from fairseq_signals_ext.criterions.ranks import gather_segments, log_average
from fairseq_signals_ext.models.faster_parts import places_of

logger = logging.getLogger(__name__)
# for any batch, and outputs of the model that `log_keys` may name; high perplexity: all of a codebook is used
_LOGGED = {
    **dict.fromkeys(("loss", "loss_0", "loss_3"), Better.LOWER),
    **dict.fromkeys(("accuracy", "cmsc_accuracy"), Better.HIGHER),
    **dict.fromkeys(("ntokens", "nsentences"), Better.NEITHER),
}
_OF_CODEBOOK = {
    **dict.fromkeys(("prob_perplexity", "code_perplexity"), Better.HIGHER),
    **dict.fromkeys(("num_vars", "temp"), Better.NEITHER),
}
_OF_MODEL = {"features_pen": Better.LOWER}
# logged to divide other values by
_COUNTS = ("ntokens", "nsentences", "sample_size", "batches", "correct", "count", "cmsc_correct", "cmsc_count")


@dataclass(frozen=True)
class CmscResult:
    """Loss (scalar, nats) and retrieval: `correct` of `count` segments were nearest to one of the same patient.

    Segments without any segment of another patient, such as in a batch of one pair, are not counted.
    """

    loss: Tensor
    correct: Tensor
    count: Tensor


def cmsc_loss(
    features: Tensor,
    patient_id: Tensor,
    segment: Tensor,
    temp: float = 0.1,
    eps: float = 1e-8,
    present: Optional[Tensor] = None,
) -> CmscResult:
    """Compute InfoNCE between first and second segments, in both directions.

    Every first segment is compared with every second one; pairs of the same patient are positives, so a row has
    several positives if a patient occurs more than once. The loss is the mean over all positives of both directions.
    Nothing waits for the device, and shapes depend only on N and E.

    Args:
        features: N x E, one per segment (the encoder's output, averaged over time).
        patient_id: integer, N.
        segment: integer, N; 0 for a first and 1 for a second segment. There must be the same number of both, in any
            order; this is not checked, because checking would wait for the device.
        temp: temperature.
        eps: smallest length by which features are divided.
        present: bool, N; segments with False are ignored. Default: all are present.

    Raises:
        ValueError: N is odd.
    """
    if len(features) % 2:
        raise ValueError(f"{len(features)} segments: CMSC needs as many first as second segments")
    # no gradient flows through the length, as in ECG-FM
    length = features.detach().norm(dim=-1, keepdim=True)
    features = features / length.clamp(min=eps)
    first, second = segment.sort(stable=True).indices.chunk(2)
    logits = features[first] @ features[second].t() / temp
    positive = patient_id[first].unsqueeze(1) == patient_id[second].unsqueeze(0)
    to_second, to_first, rival = logits, logits.t(), ~positive
    if present is not None:
        both = present[first].unsqueeze(1) & present[second].unsqueeze(0)
        positive, rival = positive & both, rival & both
        to_second = to_second.masked_fill(~present[second], float("-inf"))
        to_first = to_first.masked_fill(~present[first], float("-inf"))
    loss = _mean_over_positives(to_second, positive) + _mean_over_positives(to_first, positive.t())
    sides = ((to_second, positive, rival.any(1)), (to_first, positive.t(), rival.any(0)))
    correct = torch.stack([_nearest_is_positive(*side) for side in sides]).sum()
    return CmscResult(loss / 2, correct, torch.stack([counted.sum() for _, _, counted in sides]).sum())


def _mean_over_positives(logits: Tensor, positive: Tensor) -> Tensor:
    chosen = F.log_softmax(logits, dim=-1).masked_fill(~positive, 0)
    return -chosen.sum() / positive.sum()


def _nearest_is_positive(logits: Tensor, positive: Tensor, counted: Tensor) -> Tensor:
    with torch.no_grad():
        return (positive.gather(1, logits.argmax(dim=-1, keepdim=True)).squeeze(1) & counted).sum()


@dataclass
class Wav2Vec2WithCmscConfig(Wav2VecCriterionConfig):
    """fairseq's wav2vec options and options of CMSC, with ECG-FM's names."""

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


@register_objective("wav2vec2_with_cmsc", dataclass=Wav2Vec2WithCmscConfig)
class Wav2Vec2WithCmscCriterion(Objective, Wav2vecCriterion):
    """Sum of the parts, each times the number of masked frames, so that fairseq's division gives a mean per frame.

    fairseq logs `loss` and its parts `loss_0` (InfoNCE), `loss_1` (diversity), `loss_2` (penalty on features), `loss_3`
    (CMSC), all in bits; `accuracy` of InfoNCE; `cmsc_accuracy`, how often a segment's nearest segment belongs to the
    same patient; `reconstruction_mse`, in squared units of the input; and `log_keys`.
    """

    needs_pairs = True
    # logged losses, in nats
    unit: ClassVar[float] = math.log(2)

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
        if not infonce:
            raise UserError("criterion.infonce=false: fairseq's wav2vec 2.0 has no targets for it; leave it out")
        self.temp = temp
        self.eps = eps
        self.cmsc_weight = 1.0 if cmsc_weights is None else cmsc_weights
        self.cmsc_gather = cmsc_gather
        self.reconstruction_weight = reconstruction_weight
        self._warned_of_one_pair = False

    def forward(self, model: Any, sample: Dict[str, Any], reduce: bool = True) -> Tuple[Tensor, int, Dict[str, Any]]:
        """Return the loss (summed over masked frames), their number, and values to log, as tensors to avoid waiting.

        Args:
            model: `wav2vec2_cmsc`.
            sample: a batch of `EcgDataset` with pairs.
            reduce: as in fairseq; only True is possible, because CMSC has no value per frame.
        """
        output = model(**sample["net_input"])
        parts, log = self._of_frames(model, output)
        frames = log["sample_size"]
        if self.needs_pairs:
            cmsc = self._cmsc(model, output, sample)
            parts["loss_3"] = self.cmsc_weight * cmsc.loss * frames
            log.update(cmsc_correct=cmsc.correct, cmsc_count=cmsc.count)
        loss = sum(parts.values())
        log = {
            "loss": loss,
            **parts,
            **log,
            "ntokens": frames,
            "nsentences": sample["id"].numel(),
            "batches": 1,
            **{key: output[key] for key in self.log_keys or [] if key in output},
        }
        if self.reconstruction_weight > 0:
            error = self._reconstruction_error(model, output, sample)
            loss = loss + self.reconstruction_weight * error * frames
            log.update(loss=loss, reconstruction_mse=error)
        return loss, frames, {key: value.detach() if torch.is_tensor(value) else value for key, value in log.items()}

    def _of_frames(self, model: Any, output: Dict[str, Any]) -> Tuple[Dict[str, Tensor], Dict[str, Any]]:
        """Return parts of the loss, each summed over masked frames, and other values to log for them."""
        logits = model.get_logits(output).float()
        frames = logits.size(0)
        # the positive comes first
        contrast = F.cross_entropy(logits, logits.new_zeros(frames, dtype=torch.long), reduction="sum")
        parts = {"loss_0": contrast, **self._penalties(model, output, frames)}
        return parts, {"sample_size": frames, "correct": _first_is_nearest(logits), "count": frames}

    @property
    def needs_signal(self) -> bool:
        """Whether batches contain the segments before augmentation, for the reconstruction."""
        return self.reconstruction_weight > 0

    @property
    def needs_head(self) -> bool:
        """Whether the model needs a layer for the reconstruction."""
        return self.reconstruction_weight > 0

    def add_head(self, model: Any) -> None:
        """Add the layer for the reconstruction, if its weight is not 0."""
        if self.needs_head:
            model.add_reconstruction_head()

    def check_items(self, items: int) -> None:
        """Raise a `UserError` if CMSC only gets batches with one pair."""
        if items > 1 or not self.cmsc_weight:
            return
        if not (self.cmsc_gather and dist.is_initialized() and dist.get_world_size() > 1):
            raise UserError(
                "dataset.batch_size=1: CMSC compares the pairs of a batch with one another; use 2 or more, or on "
                "several GPUs criterion.cmsc_gather=true"
            )

    def logged(self, model: Any) -> Dict[str, Better]:
        """Return all names that are logged for a validation set, and which values are better."""
        has_codebook = model.quantizer is not None or model.input_quantizer is not None
        outputs = {**_OF_MODEL, **(_OF_CODEBOOK if has_codebook else {})}
        names = {**_LOGGED, **{key: outputs[key] for key in self.log_keys or [] if key in outputs}}
        kept = [weight for weight, there in zip(self._weights(2), (has_codebook, True)) if weight != 0 and there]
        names.update((f"loss_{number}", Better.LOWER) for number in range(1, len(kept) + 1))
        if self.reconstruction_weight > 0:
            names["reconstruction_mse"] = Better.LOWER
        return names

    def _penalties(self, model: Any, output: Dict[str, Any], frames: int) -> Dict[str, Tensor]:
        """Return diversity and size of features, each times its weight, in the order in which fairseq logs them."""
        penalties = model.get_extra_losses(output)
        kept = [
            weight * penalty.float() * frames
            for weight, penalty in zip(self._weights(len(penalties)), penalties)
            if weight != 0 and penalty is not None
        ]
        return {f"loss_{number}": part for number, part in enumerate(kept, start=1)}

    def _weights(self, penalties: int) -> List[float]:
        weights = list(self.loss_weights or [0.0] * penalties)
        if len(weights) == 1:
            weights = weights * penalties
        if len(weights) != penalties:
            raise UserError(f"criterion.loss_weights has {len(weights)} values; give one, or {penalties}")
        return weights

    def _cmsc(self, model: Any, output: Dict[str, Any], sample: Dict[str, Any]) -> CmscResult:
        features = model.get_features(output, aggregate=True).float()
        patient_id, segment, present = sample["patient_id"], sample["segment"], None
        if self.cmsc_gather:
            features, patient_id, segment, present = gather_segments(
                features, patient_id, segment, sample.get("most_segments"), counts=not sample.get("is_dummy", False)
            )
        if len(features) == 2 and not self._warned_of_one_pair:
            logger.warning(
                "CMSC: a batch with one pair of segments, whose loss is 0 as there is nothing to compare it with; it "
                "does not count in cmsc_accuracy (shown once)"
            )
            self._warned_of_one_pair = True
        with torch.autocast(features.device.type, enabled=False):
            return cmsc_loss(features, patient_id, segment, self.temp, self.eps, present)

    def _reconstruction_error(self, model: Any, output: Dict[str, Any], sample: Dict[str, Any]) -> Tensor:
        masks = sample["net_input"]
        places = places_of(masks["masked_frames"]) if "masked_frames" in masks else masks["mask_indices"]
        hop = samples_per_frame(model.conv_layers)
        signal = sample["original"][..., : masks["mask_indices"].size(1) * hop]
        target = signal.unflatten(-1, (-1, hop)).transpose(1, 2)[places]
        return F.mse_loss(model.reconstruct(output["features"][places]).float(), target.float())

    @classmethod
    def reduce_metrics(cls, logging_outputs: List[Dict[str, Any]]) -> None:
        """Aggregate logging outputs of all ranks, added up by fairseq or not."""
        keys = dict.fromkeys(key for log in logging_outputs for key in log)
        totals = {key: sum(log[key] for log in logging_outputs if key in log) for key in keys}
        frames, batches = totals["sample_size"], totals["batches"]
        for key in keys:
            if key.startswith("loss"):
                log_average(key, totals[key] / frames / cls.unit, frames)
            elif key not in _COUNTS:
                log_average(key, totals[key] / batches)
        for key in ("ntokens", "nsentences"):
            log_average(key, totals[key])
        for key, correct, count in (("accuracy", "correct", "count"), ("cmsc_accuracy", "cmsc_correct", "cmsc_count")):
            if count in totals:
                log_average(key, totals[correct] / _at_least_one(totals[count]), totals[count], round=5)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """True, so that ranks do not exchange pickled logs."""
        return True


def _at_least_one(count: Any) -> Any:
    return count.clamp(min=1) if torch.is_tensor(count) else max(count, 1)


def _first_is_nearest(logits: Tensor) -> Tensor:
    """Count the rows with their largest value first, without rows of equal values."""
    largest, smallest = logits.argmax(-1) == 0, logits.argmin(-1) == 0
    return (largest & ~smallest).sum()
