"""How a report is laid out so that its ECG, which cannot be made smaller, and all else are on one printed page.

Heights are estimated from the widths of texts in DejaVu Sans, which few browsers' fonts exceed; lengths in mm.
"""

import math
import re
from typing import Callable, NamedTuple

from fairseq_signals_ext.plotting import text
from fairseq_signals_ext.reporting.about import model_facts, patient_facts, statements_line
from fairseq_signals_ext.reporting.ecg import caption, quality_lines
from fairseq_signals_ext.reporting.findings import Findings
from fairseq_signals_ext.reporting.scores import THRESHOLD, header_of, score_notes, scores_of

# A4 landscape and its margins
_HEIGHT, _MARGIN, _WIDTH = 210.0, 5.0, 273.0
# header, ends of sections and footer, less what is empty at the edges of the ECG
_FRAME = 12.4
# above this many labels, tables are as many as have room, else they have so many rows
_MANY, _ROWS, _ROWS_MEASURED = 24, 6, 9
_MEASURE_WIDTH, _GAP = 21.0, 7.0
_OTHER_LETTERS = re.compile(r"[^\u0020-\u024f\u25b2\u2026]")
_NO_STRIP = "No rhythm strip: with it, the ECG would not fit on the printed page at its true scale."


class Layout(NamedTuple):
    """How the page is printed.

    Attributes:
        kind: classes of the page: "dense": in smaller letters; "apart": what the model says is on a second page;
            "ticks": thresholds are ticks on the bars only.
        tables: that the labels are divided into.
        has_strip: whether the ECG has its rhythm strip.
        height: of the sheet, 210 for A4; more if the ECG alone is too high for that.
    """

    kind: str
    tables: int
    has_strip: bool
    height: float = _HEIGHT

    @property
    def note(self) -> str:
        """What a reader must know of it."""
        if self.height > _HEIGHT:
            cure = "on smaller paper it is not to scale"
            return f"The ECG is too high for A4: the printed page is 297 x {self.height:.0f} mm; {cure}."
        return "" if self.has_strip else _NO_STRIP


class _Style(NamedTuple):
    """Sizes of letters (points) and heights of lines: of a row, of each further line in it, of notes."""

    kind: str
    size: float
    row: float
    more: float
    note_size: float
    note: float


_LARGE = _Style("", 6.8, 4.5, 2.8, 6.0, 2.5)
_DENSE = _Style("dense", 5.6, 3.5, 2.2, 5.2, 2.2)


def choose_layout(findings: Findings, ecg_height: Callable[[bool], float]) -> Layout:
    """The first that fits of: large letters, small ones, these without the rhythm strip; two pages; a larger sheet.

    Args:
        ecg_height: of the picture with (True) or without a rhythm strip.
    """
    tables, ticks = _tables(findings), "ticks" if _has_ticks_only(findings) else ""
    below = {style: _scores(findings, style, tables) + _side(findings, style) for style in (_LARGE, _DENSE)}
    most = _HEIGHT - 2 * _MARGIN
    for style, has_strip in ((_LARGE, True), (_DENSE, True), (_DENSE, False)):
        layout = Layout(_classes(style.kind, ticks), tables, has_strip)
        if _above(findings, layout) + ecg_height(has_strip) + below[style] <= most:
            return layout
    style = _LARGE if below[_LARGE] <= most else _DENSE
    for has_strip in (True, False):
        layout = Layout(_classes(style.kind, "apart", ticks), tables, has_strip)
        if _above(findings, layout) + ecg_height(has_strip) <= most:
            return layout
    layout = Layout(_classes(style.kind, ticks), tables, True, 2 * _HEIGHT)
    total = _above(findings, layout) + ecg_height(True) + below[style]
    return layout._replace(height=math.ceil(total + 2 * _MARGIN))


def _classes(*names: str) -> str:
    return " ".join(filter(None, names))


def _has_ticks_only(findings: Findings) -> bool:
    return findings.thresholds is not None and len(findings.thresholds) > _MANY


def _tables(findings: Findings) -> int:
    labels, measured = len(scores_of(findings)), findings.options.calibration is not None
    if labels > _MANY:
        return 4 if measured else 6
    return max(1, math.ceil(labels / (_ROWS_MEASURED if measured else _ROWS)))


def _lines(line: str, size: float, room: float, weight: str = "normal") -> int:
    # the font lacks the letters of many languages, of which none is wider than a W
    measured = _OTHER_LETTERS.sub("W", text.cleaned(line))
    # a line breaks between words, so it is not full
    return math.ceil(1.04 * text.width(measured, size, weight) / room)


def _above(findings: Findings, layout: Layout) -> float:
    """All but the ECG and what the model says: the frame, what is known of the patient, and notes on the ECG."""
    facts = "     ".join(f"{name} {value}" for name, value in patient_facts(findings))
    said = statements_line(findings.recording.statements)
    quality = " ".join(map(": ".join, quality_lines(findings)))
    lines = (said, f"Signal quality: {quality}", caption(findings, layout.note))
    return _FRAME + 3.4 * _lines(facts, 7.5, _WIDTH) + 3.2 * sum(_lines(line, 7.0, _WIDTH) for line in lines)


def _scores(findings: Findings, style: _Style, tables: int) -> float:
    """Heading, the highest table, and notes."""
    rows, header = scores_of(findings), header_of(findings)
    measures = _MEASURE_WIDTH if findings.options.calibration is not None else 0.0
    shown = [name for name in header[1:] if name != THRESHOLD or not _has_ticks_only(findings)]
    numbers = sum(1.5 + text.width(name, style.note_size, "bold") for name in shown) + measures
    cell = (_WIDTH - _GAP * (tables - 1)) / tables - numbers
    heights = [style.row + style.more * (_lines(row.name, style.size, cell, "bold") - 1) for row in rows]
    size = max(1, math.ceil(len(rows) / tables))
    highest = max((sum(heights[first : first + size]) for first in range(0, len(rows), size)), default=0.0)
    return 6.5 + highest + style.note * _lines(" ".join(score_notes(findings)), style.note_size, _WIDTH)


def _side(findings: Findings, style: _Style) -> float:
    """The model, and the nearest recordings beside it if there are any."""
    model = ";  ".join(f"{name}: {value}" for name, value in model_facts(findings))
    if findings.neighbours is None:
        return style.more * _lines(model, style.size, _WIDTH)
    nearest = 9 + (style.more + 0.6) * len(findings.neighbours)
    return max(nearest, 3 + style.more * _lines(model, style.size, _WIDTH / 2 - _GAP))
