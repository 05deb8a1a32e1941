"""Which values of a metric are better; criterions declare it of all that they log."""

from enum import Enum


class Better(Enum):
    """Which of two values is the better one; `NEITHER`: the metric says nothing of how good a model is."""

    HIGHER = "higher"
    LOWER = "lower"
    NEITHER = "neither"
