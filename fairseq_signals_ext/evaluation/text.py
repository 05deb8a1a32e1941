"""Values and tables as text."""

from typing import Any, List, Mapping, Sequence

import numpy as np

# significant digits for a value in any unit
SIGNIFICANT = ".4g"
WIDTH = 100
_SHORTEST_NAME = 8


def with_interval(row: Mapping[str, Any], metric: str, style: str = ".3f") -> str:
    """A value with its interval, such as `0.912 [0.900, 0.923]`, from columns METRIC, METRIC_low and METRIC_high.

    An interval without width, possible with few positives, would look like certainty, so it is shown as `[-]`.
    """
    low, high = (row.get(f"{metric}_{end}", np.nan) for end in ("low", "high"))
    interval = "" if np.isnan(low) or np.isnan(high) else f" [{low:{style}}, {high:{style}}]"
    interval = " [-]" if np.isclose(low, high, rtol=1e-9, atol=1e-12) else interval
    return "undefined" if np.isnan(row[metric]) else f"{row[metric]:{style}}{interval}"


def lacking(known: int, positives: int) -> str:
    """What is missing among a label's known targets; empty if both classes are present."""
    if not known:
        return "none known"
    if not positives:
        return "no positives"
    return "no negatives" if positives == known else ""


def aligned(rows: Sequence[Sequence[str]]) -> List[str]:
    """Format a table as lines of at most 100 characters: the first column is cut, the others are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    widths[0] = max(_SHORTEST_NAME, min(widths[0], WIDTH - sum(width + 2 for width in widths[1:])))
    lines = []
    for name, *values in rows:
        name = name if len(name) <= widths[0] else f"{name[: widths[0] - 1]}…"
        cells = [f"{name:{widths[0]}}", *(f"{value:>{width}}" for value, width in zip(values, widths[1:]))]
        lines.append("  ".join(cells).rstrip())
    return lines
