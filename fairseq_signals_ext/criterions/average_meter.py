"""Averages that are logged without waiting for the device: it is asked for a value when one is displayed or saved."""

from typing import Any, Dict

import torch
from fairseq.logging import meters, metrics


# of this name, as fairseq restores the meters of a checkpoint by the names of their classes
class AverageMeter(meters.AverageMeter):
    """fairseq's weighted average, of numbers or of tensors with one value on any device."""

    def update(self, val: Any, n: Any = 1) -> None:
        """Add `val` with weight `n`."""
        self.val = val
        self.sum: Any = meters.type_as(self.sum, val) + val * n
        self.count: Any = meters.type_as(self.count, n) + n

    @property
    def smoothed_value(self) -> Any:
        """The average, rounded; still on its device, if it is none that can be read at once."""
        if self.val is None:
            return None
        if not torch.is_tensor(self.count) and not self.count:
            return float("nan")
        average = self.sum / self.count
        if not torch.is_tensor(average):
            return meters.safe_round(average, self.round)
        # fairseq asks for this after each update, but looks at it only where it logs
        rounded = torch.round(average.double(), decimals=self.round)
        return rounded.item() if rounded.device.type == "cpu" else rounded

    def state_dict(self) -> Dict[str, Any]:
        """fairseq's, as plain numbers."""
        state = super().state_dict()
        return {key: value.item() if torch.is_tensor(value) else value for key, value in state.items()}


def log_average(key: str, value: Any, weight: Any = 1, round: int = 3) -> None:  # noqa: A002 - fairseq's name
    """`fairseq.logging.metrics.log_scalar`, without waiting for the device."""
    metrics.log_custom(lambda: AverageMeter(round=round), key, value, weight, priority=10)
