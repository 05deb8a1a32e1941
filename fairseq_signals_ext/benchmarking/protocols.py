"""The two protocols: training and test of probes, and intervals. Values of different protocols are not comparable.

* `strict`: no patient is in two folds. Five stratified folds by patient (or the folds of a column), repeated with three
  seeds; each recording is scored by a probe that was trained on other patients; penalty and layer are chosen inside the
  training folds. Metrics are for defined labels, within each source if there are several. Intervals resample patients,
  the same for all models, and seeds.
* `iclr2026`: as in ecg-fm-benchmarking (ICLR 2026): fixed parts for training, choosing the epoch and testing; a head is
  trained by AdamW; records are resampled, and a label that is undefined in a resample counts 0.5.
"""

from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Tuple

from fairseq_signals_ext.common.errors import UserError

# probe: description
PROBES: Mapping[str, str] = {
    "last": "the last layer's mean over frames",
    "layer": "the mean over frames of the layer that does best inside the training folds",
    "last-std": "as last, of mean and deviation",
    "layer-std": "as layer, of mean and deviation",
    "attention": "one learned query over the last layer's frames",
    "fine-tune": "the whole model, fine-tuned from the checkpoint by fairseq's own command",
    "scratch": "the whole model, from random weights by fairseq's own command",
}
# probes that must agree before a model is called better
JUDGES = ("last", "layer")
PROTOCOLS = ("strict", "iclr2026")


@dataclass(frozen=True)
class BenchmarkSettings:
    """Settings for probes and intervals.

    Attributes:
        protocol: one of `PROTOCOLS`.
        probes: names from `PROBES`.
        percents: shares of the training patients used for probes, ascending.
        folds: number of folds of strict.
        fold_seeds: seeds of strict, one per repetition of the folds.
        folds_column: column of the table with the folds; None: folds are random.
        min_test_positives: smallest number of positives of a label among the tested recordings.
        drop_unlabelled: leave out recordings without any label of a task.
        resamples, seed, confidence: settings of the intervals.
    """

    protocol: str = "strict"
    probes: Tuple[str, ...] = JUDGES
    percents: Tuple[float, ...] = (100.0,)
    folds: int = 5
    fold_seeds: Tuple[int, ...] = (1, 2, 3)
    folds_column: Optional[str] = None
    min_test_positives: int = 1
    drop_unlabelled: bool = False
    resamples: int = 2000
    seed: int = 1
    confidence: float = 0.95

    @property
    def is_strict(self) -> bool:
        """Whether the protocol is strict."""
        return self.protocol == "strict"

    @property
    def seeds(self) -> Tuple[int, ...]:
        """Return the seeds of the runs of a probe: only one if the folds are given."""
        return self.fold_seeds if self.is_strict and self.folds_column is None else self.fold_seeds[:1]

    def check(self) -> None:
        """Raise a `UserError` for settings that do not fit together."""
        for kind, given, known in (("protocol", [self.protocol], PROTOCOLS), ("probe", self.probes, tuple(PROBES))):
            unknown = [one for one in given if one not in known]
            if unknown or not given:
                raise UserError(f"{kind} {unknown[0] if unknown else ''!r}: no such {kind}; use {', '.join(known)}")
        percents = self.percents
        if list(percents) != sorted(set(percents)) or not percents or not 0 < percents[0] <= percents[-1] == 100:
            text = " ".join(f"{percent:g}" for percent in percents)
            raise UserError(f"fractions {text}: give different percentages above 0, ascending, the last one 100")
        if not 3 <= self.folds <= 20:
            raise UserError(f"folds {self.folds}: give 3 to 20; two are needed to choose inside the training folds")
        if self.folds_column is not None and not self.is_strict:
            raise UserError(f"--folds {self.folds_column}: iclr2026 has the split of each task; leave --folds out")
        if self.resamples < 1 or not 0 < self.confidence < 1 or not self.fold_seeds:
            raise UserError("resamples, confidence or fold seeds: give 1 or more resamples and seeds, and e.g. 0.95")

    def as_json(self) -> Dict[str, Any]:
        """Return the settings as plain values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
