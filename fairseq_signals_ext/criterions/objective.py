"""What a criterion declares: the batches it needs, what it adds to the model, what it logs and which values are better.

The task asks these of the class that a config names; nothing else in the package knows a criterion by its name.
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
    """Which of two values is the better one; `NEITHER`: the metric says nothing of how good a model is."""

    HIGHER = "higher"
    LOWER = "lower"
    NEITHER = "neither"


class Objective:
    """Mixin of fairseq's criterions, whose defaults are those of an objective on single segments that adds nothing.

    Attributes:
        needs_pairs: an item of a batch is two adjacent segments of a recording: `task.pairs` is "fixed" unless it is
            given, and "none" is refused. Of the class, or of an objective with certain options.
        needs_recordings: an item is all segments of a recording, in order: `task.pairs` is "recording".
        curve: what the command `curve` draws of a training: parts of the loss, and what is reached.
    """

    needs_pairs: bool = False
    needs_recordings: ClassVar[bool] = False
    curve: ClassVar[CurvePage] = PRETRAINING

    @property
    def needs_signal(self) -> bool:
        """Whether batches hold, as `original` (N x leads x samples), the segments before augmentation."""
        return False

    @property
    def needs_head(self) -> bool:
        """Whether `add_head` adds anything to the model."""
        return False

    def add_head(self, model: Any) -> None:
        """Add layers to the model that only this objective needs; called once, before an optimizer is made.

        `model.add_head(name, module)` keeps them apart from the encoder: saved with it, and dropped where it is used.
        """

    def check_items(self, items: int) -> None:
        """Raise a `UserError` if nothing can be learned from batches of so many items on this rank."""

    def logged(self, model: Any) -> Dict[str, Better]:
        """All that is logged of a validation set, and which values are better."""
        return {"loss": Better.LOWER}


def register_objective(name: str, dataclass: Type[FairseqDataclass]) -> Callable[[_Criterion], _Criterion]:
    """fairseq's `register_criterion`, and leave for checkpoints to name the criterion.

    Args:
        name: for `criterion._name`.
        dataclass: of its options.
    """

    def register(criterion: _Criterion) -> _Criterion:
        register_criterion(name, dataclass=dataclass)(criterion)
        allow("criterion", name)
        return criterion

    return register


def pairs_needed(name: str) -> str:
    """What `task.pairs` is for a registered criterion, unless it is given."""
    criterion = REGISTRIES["criterion"]["registry"].get(name)
    if getattr(criterion, "needs_recordings", False):
        return "recording"
    return "fixed" if getattr(criterion, "needs_pairs", False) else "none"
