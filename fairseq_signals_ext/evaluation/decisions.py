"""Output of a calibrated classifier: probabilities, decisions with guaranteed error rates, or a refusal.

It is stored with the model as plain values, and needs only numpy.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Dict, Mapping, Optional, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation.kinds import sigmoid
from fairseq_signals_ext.evaluation.refusal import Refusal

NEGATIVE, UNCERTAIN, POSITIVE = DECISIONS = ("negative", "uncertain", "positive")
METHODS = ("none", "shift", "temperature", "platt", "isotonic")
# smallest distance of probabilities from 0 and 1, where log odds are infinite
_SMALLEST = 1e-7


@dataclass(frozen=True)
class LabelCalibration:
    """Conversion of one label's score to a probability and a decision.

    Attributes:
        method: one of `METHODS`; "isotonic" interpolates between `knots`, the others take log odds times `slope` plus
            `intercept`.
        slope, intercept: of the log odds.
        knots, values: ascending scores and their probabilities.
        low: scores below it are negative; None: no score is negative.
        high: scores of at least this value are positive; None: no score is positive.
        miss: guaranteed highest share of positive patients that are called negative; None: no guarantee.
        false_alarm: the same of negative patients that are called positive.
        positives, negatives: number of patients used for the fit.
    """

    method: str = "none"
    slope: float = 1.0
    intercept: float = 0.0
    knots: Tuple[float, ...] = ()
    values: Tuple[float, ...] = ()
    low: Optional[float] = None
    high: Optional[float] = None
    miss: Optional[float] = None
    false_alarm: Optional[float] = None
    positives: int = 0
    negatives: int = 0

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of scores: float64, N, between 0 and 1, increasing with the score."""
        if self.method == "none":
            return np.asarray(scores, np.float64)
        if self.method == "isotonic":
            return np.interp(scores, self.knots, self.values)
        return sigmoid(self.slope * log_odds(scores) + self.intercept)

    def decisions(self, scores: np.ndarray) -> np.ndarray:
        """Decisions for scores as positions in `DECISIONS`: int64, N."""
        positive = np.full(len(scores), False) if self.high is None else scores >= self.high
        negative = np.full(len(scores), False) if self.low is None else scores < self.low
        return 1 + positive.astype(np.int64) - negative.astype(np.int64)

    def check(self) -> None:
        """Check that the values are consistent.

        Raises:
            UserError: an unknown method, or numbers that do not fit.
        """
        if self.method not in METHODS:
            raise UserError(f"calibration method {self.method!r}: use one of {', '.join(METHODS)}")
        numbers = [self.slope, self.intercept, *self.knots, *self.values]
        numbers += [value for value in (self.low, self.high, self.miss, self.false_alarm) if value is not None]
        if not all(isinstance(value, (int, float)) and np.isfinite(value) for value in numbers):
            raise UserError("calibration: a value is not a finite number; calibrate again")
        is_isotonic = self.method == "isotonic"
        ascending = all((np.diff(each) >= 0).all() for each in (self.knots, self.values))
        if len(self.knots) != len(self.values) or is_isotonic != bool(self.knots) or not ascending:
            raise UserError("calibration: knots and values do not fit; calibrate again")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise UserError("calibration: low is above high; calibrate again")


@dataclass(frozen=True)
class Calibration:
    """The calibration that `calibrate` adds to a classifier.

    Attributes:
        labels: calibration of each label, in order.
        refusal: rules for refusing a recording; None: never refuse.
        provenance: recordings and options of the calibration.
    """

    labels: Tuple[LabelCalibration, ...]
    refusal: Optional[Refusal] = None
    provenance: Dict[str, Any] = field(default_factory=dict)

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Calibrated probabilities: float64, N x L.

        Args:
            scores: float64, N x L, of recordings.
        """
        return np.stack([one.probabilities(scores[:, label]) for label, one in enumerate(self.labels)], axis=1)

    def decisions(self, scores: np.ndarray) -> np.ndarray:
        """Decisions as positions in `DECISIONS`: int64, N x L; `scores` as for `probabilities`."""
        return np.stack([one.decisions(scores[:, label]) for label, one in enumerate(self.labels)], axis=1)

    def check(self, labels: int) -> None:
        """Check that the values are consistent, and fit a model with this number of labels.

        Raises:
            UserError: they do not.
        """
        if len(self.labels) != labels:
            raise UserError(f"calibration: of {len(self.labels)} labels, but there are {labels}; calibrate again")
        for one in self.labels:
            one.check()
        if self.refusal is not None:
            self.refusal.check()

    def as_plain(self) -> Dict[str, Any]:
        """The calibration as JSON values, for `calibration_of`."""
        return asdict(self)


def calibration_of(plain: Any) -> Optional[Calibration]:
    """Convert the output of `Calibration.as_plain` to a calibration; None for None.

    Raises:
        UserError: the input has another form.
    """
    if plain is None:
        return None
    try:
        labels = tuple(_of(LabelCalibration, one) for one in plain["labels"])
        refusal = None if plain["refusal"] is None else _of(Refusal, plain["refusal"])
        return Calibration(labels, refusal, dict(plain["provenance"]))
    except (KeyError, TypeError, ValueError):
        raise UserError("calibration: not one of this version; calibrate again") from None


def _of(kind: Any, plain: Mapping[str, Any]) -> Any:
    unknown = {*plain} - {one.name for one in fields(kind)}
    if unknown:
        raise ValueError(sorted(unknown)[0])
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()})


def log_odds(scores: np.ndarray) -> np.ndarray:
    """Log odds of probabilities, clipped near 0 and 1."""
    kept = np.clip(scores, _SMALLEST, 1 - _SMALLEST)
    return np.log(kept) - np.log1p(-kept)
