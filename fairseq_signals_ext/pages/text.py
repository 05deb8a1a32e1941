"""Texts from outside in pictures and on pages: harmless, and no wider than their place; lengths in mm."""

from typing import Any, Dict

# the first is always there, the others are for a browser without it
_FAMILY = ["DejaVu Sans", "sans-serif"]
_MM_A_POINT = 25.4 / 72
# no place is wider, in characters
_LONGEST = 400


def style(size: float, weight: str = "normal") -> Dict[str, Any]:
    """How matplotlib's `text` draws it: size in points, and a $ is no mathematics."""
    return {"family": _FAMILY, "fontsize": size, "fontweight": weight, "parse_math": False}


def visible(text: str) -> str:
    """The text with a space for each character that cannot be seen: line breaks, control characters, half letters."""
    return text if text.isprintable() else "".join(one if one.isprintable() else " " for one in text)


def cleaned(text: object) -> str:
    """One line of what can be seen, at most 400 characters."""
    return " ".join(visible(str(text)[: 2 * _LONGEST]).split())[:_LONGEST]


def width(text: str, size: float, weight: str = "normal") -> float:
    """How wide a line is."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    if not text:
        return 0.0
    font = FontProperties(family=_FAMILY, size=size, weight=weight)
    return float(text_to_path.get_text_width_height_descent(text, font, False)[0]) * _MM_A_POINT


def fitting(text: str, most: float, size: float, weight: str = "normal") -> str:
    """The text, or as much of its beginning as is no wider than `most`, then "…"."""
    if width(text, size, weight) <= most:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if width(f"{text[:middle]}…", size, weight) <= most:
            low = middle
        else:
            high = middle - 1
    return f"{text[:low].rstrip()}…" if low else ""
