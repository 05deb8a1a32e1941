"""Targets from a teacher that is a moving average of the student: its updates, and detection of collapse.

Such a teacher may give the same output for all recordings. The student then predicts it perfectly: the loss is low,
and nothing is learned. So its output is monitored.
"""

import functools
from typing import Any, Optional

from fairseq.logging import metrics
from fairseq.modules import EMAModule
from torch import Tensor, nn

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.models.token_statistics import TokenStatistics

# updates between logs of the rank, which needs the eigenvalues of a matrix
_RANK_INTERVAL = 10


def keep_in_fp32(teacher: nn.Module) -> None:
    """Keep a teacher's weights in fp32 if the model is cast (`common.bf16`): small steps would be lost."""
    teacher._apply = functools.partial(_apply_in_fp32, teacher)


def may_be_cast(teacher: nn.Module) -> None:
    """Undo `keep_in_fp32`, for a teacher that becomes a normal module."""
    del teacher._apply


def _apply_in_fp32(module: nn.Module, fn: Any, *args: Any, **kwargs: Any) -> Any:
    def moved(tensor: Tensor) -> Tensor:
        result = fn(tensor)
        return tensor.to(result.device) if tensor.is_floating_point() else result

    return nn.Module._apply(module, moved, *args, **kwargs)


def follow(ema: EMAModule, student: nn.Module, first: float, last: float, done: float) -> None:
    """Update a teacher after one update of its student.

    Args:
        first, last: the decay at the start and at the end; linear in between.
        done: completed fraction of the schedule, from 0 to 1.
    """
    decay = first + (last - first) * done
    ema.set_decay(decay)
    ema.step(student)
    metrics.log_scalar("ema_decay", decay, priority=700, round=6)


class TargetWatch:
    """Checks that a teacher's outputs differ between the recordings of an update."""

    def __init__(self) -> None:
        self._statistics = TokenStatistics()
        self._with_rank = True

    def add(self, targets: Tensor, padding: Optional[Tensor] = None) -> None:
        """Add targets (float32, N x T x E) of a batch; `padding`: bool, N x T, True where one does not count."""
        self._statistics.add(targets, padding, self._with_rank)

    def finish(self, update: int, least: float) -> None:
        """Log deviation (`target_std`) and effective rank (`target_rank`) of an update, over all processes.

        Args:
            update: number of updates, including this one.
            least: a smaller deviation means that the training has collapsed.

        Raises:
            UserError: the training has collapsed.
        """
        spread = self._statistics.finish()
        self._with_rank = update % _RANK_INTERVAL == 0
        if spread is None:
            return
        metrics.log_scalar("target_std", spread.deviation, priority=710, round=4)
        if spread.rank is not None:
            metrics.log_scalar("target_rank", spread.rank, priority=720, round=2)
        if not spread.deviation >= least:
            raise UserError(
                f"update {update}: the training has collapsed: the teacher gives nearly the same output for all "
                f"recordings (deviation {spread.deviation:.2g}, model.min_target_std={least:g}); start again with a "
                f"lower optimization.lr, more lr_scheduler.warmup_updates or a higher model.ema_decay"
            )


def check_decays(cfg: Any) -> None:
    """Raise a `UserError` unless a config's `ema_decay` and `ema_end_decay` are between 0 and 1."""
    for option in ("ema_decay", "ema_end_decay"):
        if not 0 <= getattr(cfg, option) <= 1:
            raise UserError(f"model.{option}={getattr(cfg, option):g}: must be from 0 to 1")
