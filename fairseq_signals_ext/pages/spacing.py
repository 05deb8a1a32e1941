"""How close rows of an ECG stand where the paper has little room, as on an ECG machine's; lengths in mm."""

from itertools import accumulate
from typing import List, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.pages.rows import (
    GAP,
    LEAST_ABOVE,
    LEAST_BELOW,
    LOWEST_NAME,
    NAME_HEIGHT,
    SQUARE,
    Row,
    Trace,
    clipped,
    squares,
)

_LEAST_DISTANCE = 15
# room for names and pulses above the first baseline and below the last
_LEAST_EDGES = (15, 10)
_NAME_STEP, _HIGHEST_NAME = 0.5, 25.0
# two lines as near as this look like one
_ASIDE = (-0.5, -0.25, 0.0, 0.25, 0.5)

# x, and y from the baseline of the first row
_Line = Tuple[np.ndarray, np.ndarray]


def moved_together(rows: Sequence[Row], most: float, name_widths: Sequence[float]) -> List[Row]:
    """The rows no higher than `most` together; their scale stays.

    First rows come as close as their traces allow at each moment, then traces reach into neighbouring rows, all alike;
    baselines stay 15 mm apart. Where a trace would leave the paper even so, it is clipped at its edge. Names are moved
    to where few traces are.

    Args:
        most: height of the paper; less than the pulses and names need is no limit.
        name_widths: what the name of each lead of `leads.LEADS` takes with its note.
    """
    distances = [squares(upper.below + lower.above) for upper, lower in zip(rows, rows[1:])]
    touching = [touching_distance(upper, lower) + GAP for upper, lower in zip(rows, rows[1:])]
    while sum(_edges(rows, distances)) + sum(distances) > most:
        left = [number for number, distance in enumerate(distances) if distance > _LEAST_DISTANCE]
        if not left:
            break
        distances[max(left, key=lambda number: distances[number] - touching[number])] -= SQUARE
    edges = _shared(_edges(rows, distances), most - sum(distances))
    return _with_free_names(_clipped_at(edges, _placed(rows, distances, edges)), name_widths)


def overlap(rows: Sequence[Row]) -> bool:
    """Whether a trace crosses one of another row, or runs into it."""
    baselines = _baselines(rows)
    return any(
        touching_distance(rows[upper], rows[lower]) >= baselines[upper] - baselines[lower]
        for lower in range(len(rows))
        for upper in range(lower)
    )


def touching_distance(upper: Row, lower: Row) -> float:
    """The distance of their baselines at which traces of two rows just touch; minus infinity if none ever does.

    Traces touch where one is above the other at the same time, or half a millimetre (20 ms) aside.
    """
    pairs = ((one, other) for one in upper.traces for other in lower.traces if len(one.x) and len(other.x))
    return max((_highest_over(one, other) for one, other in pairs), default=-np.inf)


def _highest_over(upper: Trace, lower: Trace) -> float:
    """How far the lower trace comes above the upper one if they have one baseline."""
    start, end = max(upper.x[0], lower.x[0]), min(upper.x[-1], lower.x[-1])
    if start >= end:
        # neighbouring columns have their border in common
        return -np.inf
    x = np.union1d(upper.x, lower.x)
    x = x[(x >= start) & (x <= end)]
    highest = np.interp(x, upper.x, upper.y)
    over = [np.interp(x + aside, lower.x, lower.y) - highest for aside in _ASIDE]
    return float(np.fmax.reduce(np.concatenate(over), initial=-np.inf))


def _edges(rows: Sequence[Row], distances: Sequence[int]) -> Tuple[int, int]:
    """From the first baseline to the top of the paper, and from the last to its bottom, in whole squares."""
    depths = list(accumulate(distances, initial=0))
    reaches = [_reach(row) for row in rows]
    above = max(highest - depth for depth, (_, highest) in zip(depths, reaches))
    below = max(depth - depths[-1] - lowest for depth, (lowest, _) in zip(depths, reaches))
    return squares(max(above + GAP, _LEAST_EDGES[0])), squares(max(below + GAP, _LEAST_EDGES[1]))


def _shared(edges: Tuple[int, int], most: float) -> Tuple[int, int]:
    """No more than there is room for; the smaller edge gives up only what is over half of that."""
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
    """The rows with these distances; each pair shares what is between its baselines as it did."""
    shares = [upper.below / (upper.below + lower.above) for upper, lower in zip(rows, rows[1:])]
    belows = [round(distance * share) for distance, share in zip(distances, shares)]
    aboves = [distance - part for distance, part in zip(distances, belows)]
    ends = zip(rows, [edges[0], *aboves], [*belows, edges[1]])
    return [row._replace(above=above, below=below) for row, above, below in ends]


def _clipped_at(edges: Tuple[int, int], rows: Sequence[Row]) -> List[Row]:
    """The rows without what is beyond the edges of the paper."""
    baselines = _baselines(rows)
    limits = [(baselines[-1] - edges[1] + GAP - baseline, edges[0] - GAP - baseline) for baseline in baselines]
    return [
        row._replace(traces=tuple(clipped(trace, *limit) for trace in row.traces)) for row, limit in zip(rows, limits)
    ]


def _baselines(rows: Sequence[Row]) -> List[float]:
    """Heights of the baselines over the first one's, so 0 and less."""
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
            # of those that cover equally little the first
            traces.append(trace._replace(name=float(heights[covered.argmin()])))
        placed.append(row._replace(traces=tuple(traces)))
    return placed


def _heights(highest: float) -> np.ndarray:
    """Where a name may stand over its baseline, the usual place first, then the higher and the lower ones."""
    highest = min(highest, _HIGHEST_NAME)
    usual = np.arange(min(LOWEST_NAME, highest), highest + 1e-6, _NAME_STEP)
    return np.append(usual, np.arange(usual[0] - _NAME_STEP, 0, -_NAME_STEP))


def _covered(lines: Sequence[_Line], ends: Tuple[float, float], bottoms: np.ndarray) -> np.ndarray:
    """For each place of a name, the pieces of traces that it would lie upon."""
    pieces = [_pieces_between(line, *ends) for line in lines]
    lower, upper = np.concatenate(pieces, axis=1)
    tops = bottoms + NAME_HEIGHT
    return ((lower <= tops[:, None] + 0.5) & (upper >= bottoms[:, None] - 0.5)).sum(axis=1)


def _pieces_between(line: _Line, left: float, right: float) -> np.ndarray:
    """Lower and upper ends of the pieces of a trace: 2 x pieces."""
    x, y = line
    first, last = np.searchsorted(x, (left, right))
    y = y[max(0, first - 1) : last + 1]
    return np.array([np.fmin(y[:-1], y[1:]), np.fmax(y[:-1], y[1:])])
