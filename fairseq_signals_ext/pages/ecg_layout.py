"""Positions of leads on ECG paper, and closer rows if there is little room; lengths in mm."""

import math
from itertools import accumulate
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS, parse_leads
from fairseq_signals_ext.pages.excerpt import PAPER_SECONDS, Excerpt, thinned

MM_A_SECOND, MM_A_MILLIVOLT = 25.0, 10.0
# distance of the paper's thick lines
SQUARE = 5
# no heart gives more, so higher values do not change the distance of rows
MOST_MILLIVOLTS = 10.0
LAYOUTS = ("3x4", "12x1")
GAP = 1.0
LOWEST_NAME, NAME_HEIGHT = 8.0, 3.5
# each row has room for the calibration pulse
LEAST_ABOVE, LEAST_BELOW = MM_A_MILLIVOLT, 5.0
_COLUMNS = 4
_COLUMN_SECONDS = PAPER_SECONDS / _COLUMNS
_CLIPPED, _CLIPPED_NAME_WIDTH = 20.0, 50.0
_LEAST_DISTANCE = 15
# evenly spaced rows may take at most this many times the height that the rows need
_MOST_FOR_EVEN_ROWS = 1.5
# room for names and pulses above the first baseline and below the last
_LEAST_EDGES = (15, 10)
_NAME_STEP, _HIGHEST_NAME = 0.5, 25.0
# mm; lines this close look like one
_ASIDE = (-0.5, -0.25, 0.0, 0.25, 0.5)
# x, and y from the baseline of the first row
_Line = Tuple[np.ndarray, np.ndarray]


class Cell(NamedTuple):
    """A box with one lead.

    Attributes:
        lead: position in `leads.LEADS`.
        left: s, left end of the box on the paper.
        start: s, time at the left end of the box.
        seconds: width.
    """

    lead: int
    left: float
    start: float
    seconds: float


class Trace(NamedTuple):
    """The drawn line of a lead in its box.

    Attributes:
        cell: the box.
        x: from the left end of the paper.
        y: from the row's baseline; NaN: a gap. Empty for a lead that was not recorded.
        beyond: where y was clipped at the edge of the row or the paper; None: nowhere.
        reached: lowest and highest value before clipping, mV from the median.
        name: height of the lower edge of the name above the row's baseline.
    """

    cell: Cell
    x: np.ndarray
    y: np.ndarray
    beyond: Optional[np.ndarray] = None
    reached: Tuple[float, float] = (0.0, 0.0)
    name: float = LOWEST_NAME

    def name_ends(self, widths: Sequence[float]) -> Tuple[float, float]:
        """Left and right end of the name with its note, from the left end of the paper.

        Args:
            widths: of the name of each lead in `leads.LEADS`.
        """
        width = widths[self.cell.lead]
        left = MM_A_SECOND * self.cell.left
        return left, left + (width if self.beyond is None else max(width, _CLIPPED_NAME_WIDTH))


class Row(NamedTuple):
    """Traces side by side.

    Attributes:
        traces: from left to right.
        above, below: extent of the row from its baseline.
    """

    traces: Tuple[Trace, ...]
    above: float
    below: float


def arrange(excerpt: Excerpt, layout: str, rhythm_leads: Sequence[str], name_widths: Sequence[float]) -> List[Row]:
    """Arrange the leads in rows, from top to bottom.

    Args:
        name_widths: mm, width of the name with its note, for each lead in `leads.LEADS`.

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
    """Time between the starts of columns, and the width of a column (s).

    Each has a quarter of the time, in multiples of 0.1 s so that columns begin on the grid; a recording that is too
    short for that is shown whole in each column.
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
    """A row with the height of its pulse, traces and names."""
    heights = np.concatenate([trace.y for trace in traces])
    absurd = np.abs(heights) > MM_A_MILLIVOLT * MOST_MILLIVOLTS
    # a clipped value must not look like a small wave
    edges = np.where(absurd, np.clip(heights, -_CLIPPED, _CLIPPED), heights)
    lowest = float(np.fmin.reduce(edges, initial=-LEAST_BELOW))
    highest = float(np.fmax.reduce(edges, initial=LEAST_ABOVE))
    traces = [clipped(trace, lowest, highest) for trace in traces]
    name = max(LOWEST_NAME, GAP + max(_highest_under_name(trace, name_widths) for trace in traces))
    traces = [trace._replace(name=name) for trace in traces]
    return Row(tuple(traces), GAP + max(highest, name + NAME_HEIGHT), GAP - lowest)


def _on_the_grid(rows: Sequence[Row]) -> List[Row]:
    """Extend the rows so that baselines, top and bottom of the paper are thick lines of its grid.

    Baselines are evenly spaced, unless a few high rows would make the paper much higher.
    """
    distances = [squares(upper.below + lower.above) for upper, lower in zip(rows, rows[1:])]
    if distances and max(distances) * len(distances) <= _MOST_FOR_EVEN_ROWS * sum(distances):
        distances = [max(distances)] * len(distances)
    belows = [distance - lower.above for distance, lower in zip(distances, rows[1:])]
    rows = [row._replace(below=below) for row, below in zip(rows, [*belows, squares(rows[-1].below)])]
    return [rows[0]._replace(above=squares(rows[0].above)), *rows[1:]]


def squares(length: float) -> int:
    """A length rounded up to whole squares, in mm."""
    return SQUARE * math.ceil(length / SQUARE - 1e-9)


def clipped(trace: Trace, lowest: float, highest: float) -> Trace:
    """Clip a trace to the range between two heights."""
    beyond = (trace.y < lowest) | (trace.y > highest)
    if not beyond.any():
        return trace
    moved = trace._replace(y=np.clip(trace.y, lowest, highest))
    if trace.beyond is not None:
        return moved._replace(beyond=trace.beyond | beyond)
    reached = (float(np.nanmin(trace.y)) / MM_A_MILLIVOLT, float(np.nanmax(trace.y)) / MM_A_MILLIVOLT)
    return moved._replace(beyond=beyond, reached=reached)


def _highest_under_name(trace: Trace, name_widths: Sequence[float]) -> float:
    """Highest point of the trace in the name's range of x; a line between points is never above its ends."""
    last = np.searchsorted(trace.x, trace.name_ends(name_widths)[1], side="right") + 1
    return float(np.nan_to_num(trace.y[:last], nan=0.0).max(initial=0.0))


def moved_together(rows: Sequence[Row], most: float, name_widths: Sequence[float]) -> List[Row]:
    """Move rows together so that their total height is at most `most`; the scale does not change.

    First all rows come closer, evenly, until traces touch; then only rows with free space; then traces overlap with
    neighbouring rows, all by the same amount. Baselines stay at least 15 mm apart. A trace that would still leave the
    paper is clipped at its edge. Names are moved to places with few traces.

    Args:
        most: height of the paper; the height of pulses and names is always available.
        name_widths: width of the name with its note, for each lead in `leads.LEADS`.
    """
    distances = [squares(upper.below + lower.above) for upper, lower in zip(rows, rows[1:])]
    touching = [touching_distance(upper, lower) + GAP for upper, lower in zip(rows, rows[1:])]
    while sum(_edges(rows, distances)) + sum(distances) > most:
        closer = [distance - SQUARE for distance in distances]
        if all(distance >= max(_LEAST_DISTANCE, least) for distance, least in zip(closer, touching)):
            distances = closer
            continue
        left = [number for number, distance in enumerate(distances) if distance > _LEAST_DISTANCE]
        if not left:
            break
        distances[max(left, key=lambda number: distances[number] - touching[number])] -= SQUARE
    edges = _shared(_edges(rows, distances), most - sum(distances))
    return _with_free_names(_clipped_at(edges, _placed(rows, distances, edges)), name_widths)


def overlap(rows: Sequence[Row]) -> bool:
    """Whether traces of different rows cross or touch."""
    baselines = _baselines(rows)
    return any(
        touching_distance(rows[upper], rows[lower]) >= baselines[upper] - baselines[lower]
        for lower in range(len(rows))
        for upper in range(lower)
    )


def touching_distance(upper: Row, lower: Row) -> float:
    """The distance between baselines at which traces of two rows just touch; minus infinity if they never do.

    Traces touch if one is above the other at the same time, or up to half a millimetre (20 ms) to the side.
    """
    pairs = ((one, other) for one in upper.traces for other in lower.traces if len(one.x) and len(other.x))
    return max((_highest_over(one, other) for one, other in pairs), default=-np.inf)


def _highest_over(upper: Trace, lower: Trace) -> float:
    """How far the lower trace rises above the upper one if both have the same baseline."""
    start, end = max(upper.x[0], lower.x[0]), min(upper.x[-1], lower.x[-1])
    if start >= end:
        # neighbouring columns share their border
        return -np.inf
    x = np.union1d(upper.x, lower.x)
    x = x[(x >= start) & (x <= end)]
    highest = np.interp(x, upper.x, upper.y)
    over = [np.interp(x + aside, lower.x, lower.y) - highest for aside in _ASIDE]
    return float(np.fmax.reduce(np.concatenate(over), initial=-np.inf))


def _edges(rows: Sequence[Row], distances: Sequence[int]) -> Tuple[int, int]:
    """Distance of the first baseline to the top of the paper, and of the last to its bottom, in whole squares."""
    depths = list(accumulate(distances, initial=0))
    reaches = [_reach(row) for row in rows]
    above = max(highest - depth for depth, (_, highest) in zip(depths, reaches))
    below = max(depth - depths[-1] - lowest for depth, (lowest, _) in zip(depths, reaches))
    return squares(max(above + GAP, _LEAST_EDGES[0])), squares(max(below + GAP, _LEAST_EDGES[1]))


def _shared(edges: Tuple[int, int], most: float) -> Tuple[int, int]:
    """Reduce the edges to the available room; the smaller edge loses only its part above half of the room."""
    room = max(sum(_LEAST_EDGES), SQUARE * int(most // SQUARE))
    above, below = edges
    if above + below <= room:
        return edges
    above = min(above, max(squares(room / 2), room - below))
    return above, min(below, room - above)


def _reach(row: Row) -> Tuple[float, float]:
    """Lowest and highest point of traces and pulse."""
    heights = np.concatenate([trace.y for trace in row.traces])
    lowest = float(np.fmin.reduce(heights, initial=-LEAST_BELOW))
    return lowest, float(np.fmax.reduce(heights, initial=LEAST_ABOVE))


def _placed(rows: Sequence[Row], distances: Sequence[int], edges: Tuple[int, int]) -> List[Row]:
    """Place the rows at these distances; the space between baselines is divided as before."""
    shares = [upper.below / (upper.below + lower.above) for upper, lower in zip(rows, rows[1:])]
    belows = [round(distance * share) for distance, share in zip(distances, shares)]
    aboves = [distance - part for distance, part in zip(distances, belows)]
    ends = zip(rows, [edges[0], *aboves], [*belows, edges[1]])
    return [row._replace(above=above, below=below) for row, above, below in ends]


def _clipped_at(edges: Tuple[int, int], rows: Sequence[Row]) -> List[Row]:
    """Clip the rows at the edges of the paper."""
    baselines = _baselines(rows)
    limits = [(baselines[-1] - edges[1] + GAP - baseline, edges[0] - GAP - baseline) for baseline in baselines]
    return [
        row._replace(traces=tuple(clipped(trace, *limit) for trace in row.traces)) for row, limit in zip(rows, limits)
    ]


def _baselines(rows: Sequence[Row]) -> List[float]:
    """Heights of the baselines relative to the first one: 0 and less."""
    distances = (upper.below + lower.above for upper, lower in zip(rows, rows[1:]))
    return [-depth for depth in accumulate(distances, initial=0.0)]


def _with_free_names(rows: Sequence[Row], name_widths: Sequence[float]) -> List[Row]:
    baselines = _baselines(rows)
    lines = [
        (trace.x, trace.y + baseline) for row, baseline in zip(rows, baselines) for trace in row.traces if len(trace.x)
    ]
    placed = []
    for number, (row, baseline) in enumerate(zip(rows, baselines)):
        room = row.above if number == 0 else baselines[number - 1] - baseline
        heights = _heights(room - NAME_HEIGHT - GAP)
        traces = []
        for trace in row.traces:
            covered = _covered(lines, trace.name_ends(name_widths), baseline + heights)
            # the first place that covers least
            traces.append(trace._replace(name=float(heights[covered.argmin()])))
        placed.append(row._replace(traces=tuple(traces)))
    return placed


def _heights(highest: float) -> np.ndarray:
    """Possible heights of a name above its baseline: the usual one first, then higher and lower ones."""
    highest = min(highest, _HIGHEST_NAME)
    usual = np.arange(min(LOWEST_NAME, highest), highest + 1e-6, _NAME_STEP)
    return np.append(usual, np.arange(usual[0] - _NAME_STEP, 0, -_NAME_STEP))


def _covered(lines: Sequence[_Line], ends: Tuple[float, float], bottoms: np.ndarray) -> np.ndarray:
    """For each possible place of a name, the number of trace pieces that it would cover."""
    pieces = [_pieces_between(line, *ends) for line in lines]
    lower, upper = np.concatenate(pieces, axis=1)
    tops = bottoms + NAME_HEIGHT
    return ((lower <= tops[:, None] + 0.5) & (upper >= bottoms[:, None] - 0.5)).sum(axis=1)


def _pieces_between(line: _Line, left: float, right: float) -> np.ndarray:
    """Lower and upper ends of a trace's pieces: 2 x pieces."""
    x, y = line
    first, last = np.searchsorted(x, (left, right))
    y = y[max(0, first - 1) : last + 1]
    return np.array([np.fmin(y[:-1], y[1:]), np.fmax(y[:-1], y[1:])])
