"""Text on figures, and figures as files or parts of pages; the same figure gives the same bytes."""

import hashlib
import io
import re
import threading
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Union

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# matplotlib always has the first; the second is for browsers without it
_FAMILY = ["DejaVu Sans", "sans-serif"]
_MM_AN_INCH = 25.4
_MM_A_POINT = _MM_AN_INCH / 72
# longest text in characters
_LONGEST = 400
# ten pixels per mm, so that all lines of the mm grid are equally thick
_DPI = 10 * _MM_AN_INCH
_SETTINGS: Dict[str, Dict[str, Any]] = {
    ".png": {"dpi": _DPI, "metadata": {"Software": None}},
    ".pdf": {"metadata": {"CreationDate": None}},
}
# matplotlib's settings for SVG are global
_ONE_AT_A_TIME = threading.Lock()


def style(size: float, weight: str = "normal") -> Dict[str, Any]:
    """Options of matplotlib's `text`: size in points, without mathematics between $."""
    return {"family": _FAMILY, "fontsize": size, "fontweight": weight, "parse_math": False}


def visible(text: str) -> str:
    """Replace invisible characters by spaces: line breaks, control characters, surrogates."""
    return text if text.isprintable() else "".join(one if one.isprintable() else " " for one in text)


def cleaned(text: object) -> str:
    """The visible characters of a text as one line of at most 400 characters."""
    return " ".join(visible(str(text)[: 2 * _LONGEST]).split())[:_LONGEST]


def width(text: str, size: float, weight: str = "normal") -> float:
    """The width of a line."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    if not text:
        return 0.0
    font = FontProperties(family=_FAMILY, size=size, weight=weight)
    return float(text_to_path.get_text_width_height_descent(text, font, False)[0]) * _MM_A_POINT


def fitting(text: str, most: float, size: float, weight: str = "normal") -> str:
    """The text, cut and with "…" at its end if it is wider than `most`."""
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


def save_figure(figure: "Figure", path: Union[str, Path]) -> None:
    """Write a figure as SVG, PNG (10 pixels per mm) or PDF, by the suffix.

    Raises:
        UserError: another suffix.
        PlaceError: the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".svg", *_SETTINGS):
        raise UserError(f"{path}: pictures are written as .svg, .png or .pdf; give one of these suffixes")
    with atomic(path) as temporary:
        if suffix == ".svg":
            text = f'<?xml version="1.0" encoding="utf-8"?>\n{svg_text(figure)}'
            temporary.write_bytes(text.encode())
        else:
            figure.savefig(temporary, format=suffix[1:], **_SETTINGS[suffix])


def svg_text(figure: "Figure") -> str:
    """Return a figure as an `<svg>` element in its true size, named by the figure's label.

    Text stays text. Ids begin with a digest of the picture and styles apply only inside it, so that a page can have
    several pictures.
    """
    from matplotlib import rc_context

    content = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with _ONE_AT_A_TIME, rc_context({"svg.hashsalt": "ecg", "svg.fonttype": "none"}):
        figure.savefig(content, format="svg", metadata=nothing)
    drawing = content.getvalue().decode()
    drawing = drawing[drawing.index("<svg") :]
    prefix = "ecg" + hashlib.sha256(drawing.encode()).hexdigest()[:10]
    # matplotlib escapes < and > in texts, so these are only its own tags
    drawing = re.sub(r"<[^<>]+>", lambda tag: _own_tag(tag.group(), prefix), drawing)
    drawing = drawing.replace("*{", f"#{prefix} *{{", 1)
    for side, inches in zip(("width", "height"), figure.get_size_inches()):
        drawing = re.sub(rf'(<svg[^>]* {side})="[^"]*"', rf'\g<1>="{_MM_AN_INCH * inches:.6g}mm"', drawing, count=1)
    label = escape(str(figure.get_label()))
    return drawing.replace("<svg ", f'<svg id="{prefix}" role="img" aria-label="{label}" ', 1)


def _own_tag(tag: str, prefix: str) -> str:
    """A tag with prefixed ids, and coordinates rounded to 0.001 points, which saves a third of the file."""
    if tag.startswith("<path"):
        tag = re.sub(r"(?<=\.\d{3})\d+", "", tag)
    tag = tag.replace(' id="', f' id="{prefix}-')
    return re.sub(r'(href="|url\()#', rf"\g<1>#{prefix}-", tag)
