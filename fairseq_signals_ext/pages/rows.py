"""Which lead stands where on the paper, and how far apart rows must be; lengths in mm."""

import math
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.leads import LEADS, parse_leads
from fairseq_signals_ext.pages.excerpt import PAPER_SECONDS, Excerpt, thinned

MM_A_SECOND, MM_A_MILLIVOLT = 25.0, 10.0
# thick lines of the paper
SQUARE = 5
# no heart gives more, so what lies beyond moves no row
MOST_MILLIVOLTS = 10.0
LAYOUTS = ("3x4", "12x1")
_COLUMNS = 4
_COLUMN_SECONDS = PAPER_SECONDS / _COLUMNS
GAP = 1.0
LOWEST_NAME, NAME_HEIGHT = 8.0, 3.5
# a row has room for the calibration pulse at least
LEAST_ABOVE, LEAST_BELOW = MM_A_MILLIVOLT, 5.0
_CLIPPED, _CLIPPED_NAME_WIDTH = 20.0, 50.0


class Cell(NamedTuple):
    """A box with one lead.

    Attributes:
        lead: position in `leads.LEADS`.
        left: s, where the box begins on the paper.
        start: s, the time at the left end of the box.
        seconds: width.
    """

    lead: int
    left: float
    start: float
    seconds: float


class Trace(NamedTuple):
    """A lead as it is drawn in its box.

    Attributes:
        cell: the box.
        x: from the left end of the paper.
        y: from the row's baseline; NaN: a gap. Empty for a lead that was not recorded.
        beyond: where y was moved to the edge of the row or the paper; None: nowhere.
        reached: lowest and highest value, mV from the median, before that.
        name: height of the lower edge of the name above the row's baseline.
    """

    cell: Cell
    x: np.ndarray
    y: np.ndarray
    beyond: Optional[np.ndarray] = None
    reached: Tuple[float, float] = (0.0, 0.0)
    name: float = LOWEST_NAME

    def name_ends(self, widths: Sequence[float]) -> Tuple[float, float]:
        """Where the name begins and ends with its note, from the left end of the paper.

        Args:
            widths: of the name of each lead of `leads.LEADS`.
        """
        width = widths[self.cell.lead]
        left = MM_A_SECOND * self.cell.left
        return left, left + (width if self.beyond is None else max(width, _CLIPPED_NAME_WIDTH))


class Row(NamedTuple):
    """Traces beside each other.

    Attributes:
        traces: from left to right.
        above, below: how far the row reaches from its baseline.
    """

    traces: Tuple[Trace, ...]
    above: float
    below: float


def arrange(excerpt: Excerpt, layout: str, rhythm_leads: Sequence[str], name_widths: Sequence[float]) -> List[Row]:
    """The rows of the paper from top to bottom.

    Args:
        name_widths: mm, what the name of each lead of `leads.LEADS` takes with its note.

    Raises:
        UserError: unknown layout or lead, or a lead named twice.
    """
    if layout not in LAYOUTS:
        raise UserError(f"layout {layout!r}: use one of {', '.join(LAYOUTS)}")
    if layout == "12x1":
        cells = [[Cell(lead, 0.0, 0.0, PAPER_SECONDS)] for lead in range(len(LEADS))]
    else:
        cells = _standard_cells(excerpt, parse_leads(rhythm_leads))
    return _on_the_grid([_row([_trace(excerpt, cell) for cell in row], name_widths) for row in cells])


def _standard_cells(excerpt: Excerpt, rhythm: Sequence[int]) -> List[List[Cell]]:
    step, seconds = _columns(excerpt.seconds)
    height = len(LEADS) // _COLUMNS
    rows = [
        [Cell(column * height + row, column * seconds, column * step, seconds) for column in range(_COLUMNS)]
        for row in range(height)
    ]
    strips = [lead for lead in rhythm if lead in excerpt.leads]
    if rhythm and not strips:
        strips = list(excerpt.leads[:1])
    return rows + [[Cell(lead, 0.0, 0.0, PAPER_SECONDS)] for lead in strips]


def _columns(seconds: float) -> Tuple[float, float]:
    """From the time of one column to that of the next, and the width of a column (s).

    A quarter each, in whole 0.1 s so that columns begin on the grid; what is too short for that is shown whole in each.
    """
    if seconds <= _COLUMN_SECONDS:
        return 0.0, _COLUMN_SECONDS
    quarter = min(_COLUMN_SECONDS, math.ceil(10 * seconds / _COLUMNS - 1e-6) / 10)
    return quarter, quarter


def _trace(excerpt: Excerpt, cell: Cell) -> Trace:
    if cell.lead not in excerpt.leads:
        return Trace(cell, np.empty(0), np.empty(0))
    samples = excerpt.samples_between(cell.start, cell.start + cell.seconds)
    numbers, values = thinned(excerpt.signal[excerpt.leads.index(cell.lead), samples], excerpt.sample_rate)
    times = excerpt.seconds_at(samples.start + numbers) - cell.start + cell.left
    return Trace(cell, MM_A_SECOND * times, MM_A_MILLIVOLT * values)


def _row(traces: Sequence[Trace], name_widths: Sequence[float]) -> Row:
    """A row no higher than its pulse, traces and names."""
    heights = np.concatenate([trace.y for trace in traces])
    absurd = np.abs(heights) > MM_A_MILLIVOLT * MOST_MILLIVOLTS
    # nobody must take what is clipped for a small wave
    edges = np.where(absurd, np.clip(heights, -_CLIPPED, _CLIPPED), heights)
    lowest = float(np.fmin.reduce(edges, initial=-LEAST_BELOW))
    highest = float(np.fmax.reduce(edges, initial=LEAST_ABOVE))
    traces = [clipped(trace, lowest, highest) for trace in traces]
    name = max(LOWEST_NAME, GAP + max(_highest_under_name(trace, name_widths) for trace in traces))
    traces = [trace._replace(name=name) for trace in traces]
    return Row(tuple(traces), GAP + max(highest, name + NAME_HEIGHT), GAP - lowest)


def _on_the_grid(rows: Sequence[Row]) -> List[Row]:
    """The rows with so much more below that baselines, top and bottom of the paper are thick lines of its grid."""
    first = rows[0]._replace(above=squares(rows[0].above))
    rows = [first, *rows[1:]]
    following = [row.above for row in rows[1:]] + [0.0]
    return [row._replace(below=squares(row.below + above) - above) for row, above in zip(rows, following)]


def squares(length: float) -> int:
    """The length rounded up to whole squares, in mm."""
    return SQUARE * math.ceil(length / SQUARE - 1e-9)


def clipped(trace: Trace, lowest: float, highest: float) -> Trace:
    """The trace with what is beyond moved to the nearest of the two heights."""
    beyond = (trace.y < lowest) | (trace.y > highest)
    if not beyond.any():
        return trace
    moved = trace._replace(y=np.clip(trace.y, lowest, highest))
    if trace.beyond is not None:
        return moved._replace(beyond=trace.beyond | beyond)
    reached = (float(np.nanmin(trace.y)) / MM_A_MILLIVOLT, float(np.nanmax(trace.y)) / MM_A_MILLIVOLT)
    return moved._replace(beyond=beyond, reached=reached)


def _highest_under_name(trace: Trace, name_widths: Sequence[float]) -> float:
    """How high the trace comes where the name stands; lines between points can be no higher than their ends."""
    last = np.searchsorted(trace.x, trace.name_ends(name_widths)[1], side="right") + 1
    return float(np.nan_to_num(trace.y[:last], nan=0.0).max(initial=0.0))
