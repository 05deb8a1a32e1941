"""Convert values to JSON and to readable text."""

import argparse
import math
from typing import Any


def as_json(value: Any) -> Any:
    """Convert a value to JSON types; a number that is not finite becomes None, other types become text."""
    if isinstance(value, argparse.Namespace):  # of old checkpoints
        value = vars(value)
    if isinstance(value, dict):
        return {str(key): as_json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(inner) for inner in value]
    if hasattr(value, "tolist"):  # a tensor, or a number of numpy
        return as_json(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def as_size(size: float) -> str:
    """Return bytes as text with three digits, such as "1.25 MB"; the units are powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB" if size < 999.5 else f"{size:,.0f} TB"


def as_time(seconds: float) -> str:
    """Return a duration as text, such as 4 min 30 s."""
    hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {seconds % 60:.0f} s" if minutes else f"{seconds:.1f} s"


def counted(number: int, noun: str) -> str:
    """Return a number of things as text, such as 1 recording or 2,000 recordings."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
