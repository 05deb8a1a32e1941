"""Declarations of a criterion: which batches it needs, its layers, its logged values and which of them are better.

The task reads them from the class that a config names; no other code of the package depends on a criterion's name.
"""

from enum import Enum
from typing import Any, Callable, ClassVar, Dict, Type, TypeVar

from fairseq.criterions import register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.registry import REGISTRIES

from fairseq_signals_ext.checkpoints.allowed import allow
from fairseq_signals_ext.evaluation.training_curve import PRETRAINING, CurvePage

_Criterion = TypeVar("_Criterion", bound=Type[Any])


class Better(Enum):
    """Which of two values is better; `NEITHER`: the metric does not measure how good a model is."""

    HIGHER = "higher"
    LOWER = "lower"
    NEITHER = "neither"


class Objective:
    """Mixin for fairseq's criterions; its defaults are for an objective on single segments without layers of its own.

    Attributes:
        needs_pairs: an item of a batch is two adjacent segments of a recording: `task.pairs` is "fixed" unless it is
            given, and "none" is refused. Set by the class, or by an instance with certain options.
        needs_recordings: an item is all segments of a recording, in order: `task.pairs` is "recording".
        curve: the plot that the command `curve` draws of a training: parts of the loss, and results.
    """

    needs_pairs: bool = False
    needs_recordings: ClassVar[bool] = False
    curve: ClassVar[CurvePage] = PRETRAINING

    @property
    def needs_signal(self) -> bool:
        """Whether batches contain the segments before augmentation, as `original` (N x leads x samples)."""
        return False

    @property
    def needs_head(self) -> bool:
        """Whether `add_head` adds anything to the model."""
        return False

    def add_head(self, model: Any) -> None:
        """Add layers to the model that only this objective needs; called once, before an optimizer is made.

        `model.add_head(name, module)` saves them with the encoder, and drops them when the encoder is used.
        """

    def check_items(self, items: int) -> None:
        """Raise a `UserError` if batches with this number of items per rank cannot train anything."""

    def logged(self, model: Any) -> Dict[str, Better]:
        """Return all names that are logged for a validation set, and which values are better."""
        return {"loss": Better.LOWER}


def register_objective(name: str, dataclass: Type[FairseqDataclass]) -> Callable[[_Criterion], _Criterion]:
    """Register a criterion with fairseq, and allow checkpoints to name it.

    Args:
        name: for `criterion._name`.
        dataclass: its options.
    """

    def register(criterion: _Criterion) -> _Criterion:
        register_criterion(name, dataclass=dataclass)(criterion)
        allow("criterion", name)
        return criterion

    return register


def pairs_needed(name: str) -> str:
    """Return the default of `task.pairs` for a registered criterion."""
    criterion = REGISTRIES["criterion"]["registry"].get(name)
    if getattr(criterion, "needs_recordings", False):
        return "recording"
    return "fixed" if getattr(criterion, "needs_pairs", False) else "none"
