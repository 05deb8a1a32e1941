"""Kinds of task: a model's outputs, and the names, metrics and plots of their scores.

To add a kind, pass an object of a subclass to `register_kind`; nothing else in the package depends on the name of a
kind. Needs torch only for methods that work on tensors.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, ClassVar, Dict, List, Mapping, Optional, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError

if TYPE_CHECKING:
    from fairseq_signals_ext.evaluation.evaluating import Evaluation, Evaluator
    from fairseq_signals_ext.evaluation.plots import Plot

# column of an evaluation's table, its title, and whether it has an interval
Measure = Tuple[str, str, bool]


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of log odds, without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * logits))


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


# of arrays, float64, N x labels
PROBABILITIES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {"sigmoid": sigmoid, "softmax": _softmax}


def tensor_probabilities(logits: Any, activation: str) -> Any:
    """The same for a torch tensor, with gradient."""
    return logits.softmax(-1) if activation == "softmax" else logits.sigmoid()


@dataclass(frozen=True)
class Kind:
    """A kind of task; this base class is for pretraining, without labels.

    Attributes:
        name: in checkpoints, exports and results.
        output_name: of an export's first output; None: there are only embeddings.
        score_name: prefix of columns with scores in tables.
        display_name: name of a score in answers and pictures.
        is_scaled: outputs are in standard deviations of the training labels; checkpoints contain mean and deviation.
        has_classes: labels are present (1), absent (0) or unknown (NaN), and scores are their probabilities, so
            thresholds are possible.
        measures: metrics of an evaluation that a report shows beside a score.
        measures_meaning: a short explanation of these metrics.
    """

    name: str
    output_name: Optional[str] = None
    score_name: str = "score"
    display_name: str = "score"
    is_scaled: bool = False
    has_classes: ClassVar[bool] = False
    measures: Tuple[Measure, ...] = ()
    measures_meaning: str = ""

    @property
    def has_labels(self) -> bool:
        """Whether there are labels to predict."""
        return self.output_name is not None

    def scores(self, outputs: np.ndarray, activation: str) -> np.ndarray:
        """Convert outputs of a network or an export, float64, N x L, to scores, float64, N x L."""
        return outputs

    def tensor_scores(self, outputs: Any, activation: str) -> Any:
        """The same for a torch tensor, with gradient."""
        return outputs

    def mean_of(self, outputs: Any, activation: str) -> Any:
        """The output (N x L) whose score is the mean of the scores of several models' outputs (models x N x L)."""
        return outputs.mean(0)

    def evaluator(self) -> "Evaluator":
        """The function that evaluates predictions of this kind.

        Raises:
            UserError: there are no labels to evaluate.
        """
        raise UserError(f"a model of kind {self.name!r} has no labels: there is nothing to evaluate")

    def text_of(self, evaluation: "Evaluation", intervals: str) -> List[str]:
        """Lines of an evaluation for a terminal of 100 columns; `intervals` describes the intervals."""
        raise NotImplementedError

    def plots(self) -> Mapping[str, "Plot"]:
        """The pictures of an evaluation, by their files' names."""
        return {}


@dataclass(frozen=True)
class Classes(Kind):
    """Independent binary labels, or classes that exclude one another, by the criterion's `activation`."""

    has_classes: ClassVar[bool] = True

    def scores(self, outputs: np.ndarray, activation: str) -> np.ndarray:
        """Probabilities of logits."""
        return PROBABILITIES[activation](outputs)

    def tensor_scores(self, outputs: Any, activation: str) -> Any:
        """Probabilities of logits, with gradient."""
        return tensor_probabilities(outputs, activation)

    def mean_of(self, outputs: Any, activation: str) -> Any:
        """See `Kind.mean_of`; computed with log probabilities, which are exact also near 0 and 1."""
        from torch.nn import functional

        if activation == "softmax":
            return _log_mean(functional.log_softmax(outputs, -1))
        return _log_mean(functional.logsigmoid(outputs)) - _log_mean(functional.logsigmoid(-outputs))

    def evaluator(self) -> "Evaluator":
        """Evaluation with areas under curves and metrics at thresholds."""
        from fairseq_signals_ext.evaluation.evaluating import of_classes

        return of_classes

    def text_of(self, evaluation: "Evaluation", intervals: str) -> List[str]:
        """Averages, then a line per label."""
        from fairseq_signals_ext.evaluation.report import text_of_classes

        return text_of_classes(evaluation, intervals)

    def plots(self) -> Mapping[str, "Plot"]:
        """Curves, calibration, and confusion at the threshold."""
        from fairseq_signals_ext.evaluation.plots import OF_CLASSES

        return OF_CLASSES


@dataclass(frozen=True)
class Numbers(Kind):
    """Labels that are numbers, such as an age; scores are in the label's unit."""

    measures: Tuple[Measure, ...] = (("mae", "MAE", True), ("r2", "R2", False))
    measures_meaning: str = "MAE: mean error in the label's unit."

    def evaluator(self) -> "Evaluator":
        """Evaluation with errors and correlation, without thresholds."""
        from fairseq_signals_ext.evaluation.evaluating import of_numbers

        return of_numbers

    def text_of(self, evaluation: "Evaluation", intervals: str) -> List[str]:
        """Errors, then correlations, with a line per label."""
        from fairseq_signals_ext.evaluation.report import text_of_numbers

        return text_of_numbers(evaluation, intervals)

    def plots(self) -> Mapping[str, "Plot"]:
        """Predicted against known values."""
        from fairseq_signals_ext.evaluation.plots import OF_NUMBERS

        return OF_NUMBERS


def _log_mean(logarithms: Any) -> Any:
    return logarithms.logsumexp(0) - math.log(len(logarithms))


KINDS: Dict[str, Kind] = {}


def register_kind(kind: Kind) -> Kind:
    """Register a kind for tasks, checkpoints and results; returns it."""
    if KINDS.get(kind.name, kind) != kind:
        raise ValueError(f"there is another kind {kind.name!r} already")
    KINDS[kind.name] = kind
    return kind


def kind_of(name: str) -> Kind:
    """The kind with this name.

    Raises:
        UserError: there is no such kind.
    """
    if name not in KINDS:
        raise UserError(f"kind {name!r}: use one of {', '.join(KINDS)}")
    return KINDS[name]


CLASSIFICATION = register_kind(
    Classes(
        "classification",
        output_name="logits",
        score_name="probability",
        display_name="probability",
        measures=(("auroc", "AUROC", True), ("ece", "ECE", False)),
        measures_meaning="ECE: how far probabilities are from frequencies, on average.",
    )
)
REGRESSION = register_kind(
    Numbers("regression", output_name="values", score_name="prediction", display_name="value", is_scaled=True)
)
PRETRAINING = register_kind(Kind("pretraining"))
