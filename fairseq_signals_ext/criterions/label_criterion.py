"""What criterions on labels share: unknown labels take no part, and validation keeps what metrics need."""

import math
from typing import Any, Dict, List, Mapping, Tuple

from fairseq.criterions import FairseqCriterion
from fairseq.logging import metrics
from fairseq.registry import REGISTRIES
from torch import Tensor

from fairseq_signals_ext.criterions.objective import Better, Objective
from fairseq_signals_ext.evaluation.predictions import Predictions


class LabelCriterion(Objective, FairseqCriterion):
    """Sum of the losses of all known labels; fairseq divides by their number.

    A subclass gives `kind`, `losses`, `scores`, `metric_names` and `validation_metrics`.

    Attributes:
        kind: name of that of the tasks that it is for, see `evaluation.kinds`.
        SUMMED: what `reduce_metrics` logs, of segments, and which values are better.
    """

    kind: str
    SUMMED: Mapping[str, Better] = {"loss": Better.LOWER}

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of each label: float, N x L, of the model's outputs and of targets without NaN."""
        raise NotImplementedError

    def known(self, targets: Tensor) -> Tensor:
        """Which losses count, of targets with NaN: bool, of the shape of `losses`."""
        return ~targets.isnan()

    def scores(self, outputs: Tensor) -> Tensor:
        """What the outputs (N x L) say, in the unit of the targets: float64, N x L."""
        raise NotImplementedError

    def metric_names(self) -> Dict[str, Better]:
        """Keys of `validation_metrics`, and which values are better."""
        raise NotImplementedError

    def logged(self, model: Any) -> Dict[str, Better]:
        """All that is logged of a validation set, and which values are better."""
        return {**self.SUMMED, **self.metric_names()}

    def validation_metrics(self, segments: Predictions) -> Dict[str, float]:
        """Metrics of a whole validation set."""
        raise NotImplementedError

    def counts(self, scores: Tensor, targets: Tensor, known: Tensor) -> Dict[str, float]:
        """More to log, which can be summed over batches and ranks."""
        return {}

    def forward(self, model: Any, sample: Dict[str, Any], reduce: bool = True) -> Tuple[Tensor, int, Dict[str, Any]]:
        """Loss (summed over known labels), their number, and what to log.

        Args:
            model: `ecg_transformer_classifier`.
            sample: a batch of `LabelledEcgDataset`.
            reduce: as in fairseq; if False the loss is N x L, 0 where a label is not known.

        Returns:
            In evaluation mode the log also has `scores` (float64, N x L), which the task takes out.
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
    """Names of the registered criterions for tasks of a kind."""
    registered = REGISTRIES["criterion"]["registry"].items()
    return sorted(name for name, criterion in registered if getattr(criterion, "kind", None) == kind)


def total(logging_outputs: List[Dict[str, Any]], key: str) -> float:
    """Sum of a key of logging outputs."""
    return float(sum(log.get(key, 0) for log in logging_outputs))
