"""Saliency as colour under a trace: a few rectangles at any sample rate."""

from typing import Dict, List, NamedTuple, Tuple

import numpy as np

from fairseq_signals_ext.analysis.saliency import Saliency
from fairseq_signals_ext.pages.ecg_layout import MM_A_SECOND, Cell
from fairseq_signals_ext.pages.excerpt import Excerpt
from fairseq_signals_ext.readers import Recording

# steps of colour, from none to full
LEVELS = 16
UNKNOWN = -1
_BAND_SECONDS, _SEEN_SECONDS = 0.01, 0.04


class Band(NamedTuple):
    """A rectangle under a trace.

    Attributes:
        left, right: mm from the left end of the paper.
        level: 1 to `LEVELS`, or `UNKNOWN`.
    """

    left: float
    right: float
    level: int


def drawn_values(saliency: Saliency, recording: Recording) -> np.ndarray:
    """The values of a map at the recording's samples, as `ecg_paper` draws them.

    A map with different values per lead is averaged over 40 ms (1 mm), because a single sample would be invisible.
    """
    values = saliency.at(recording)
    return smoothed(values, round(_SEEN_SECONDS * recording.sample_rate)) if saliency.leads else values


def smoothed(rows: np.ndarray, samples: int) -> np.ndarray:
    """Moving average of the known values: float64, the same shape as `rows`; NaN stays NaN.

    Args:
        rows: 0 or more, or NaN.
        samples: length of the window; samples outside the recording are unknown.
    """
    from scipy.ndimage import uniform_filter1d

    known = np.isfinite(rows)
    total = uniform_filter1d(np.where(known, rows, 0).astype(np.float64), max(1, samples), mode="constant")
    number = uniform_filter1d(known.astype(np.float64), max(1, samples), mode="constant")
    # a running sum has rounding errors, so a sum can be slightly negative
    return np.where(known, np.maximum(total, 0) / np.where(known, number, 1), np.nan)


def bands(excerpt: Excerpt, cell: Cell, least: float, maximum: float) -> List[Band]:
    """The bands of one box, from left to right; places with almost no saliency have none.

    A band shows the highest value in 10 ms, or of one sample if that is longer, and reaches from half a sample before
    its first sample to half a sample after its last. Neighbours of the same level are merged.

    Args:
        least, maximum: of the whole recording: its lowest value, which has no colour, and the highest value above
            that, which has full colour.
    """
    if excerpt.saliency is None or cell.lead not in excerpt.leads:
        return []
    samples = excerpt.samples_between(cell.start, cell.start + cell.seconds)
    values = excerpt.saliency[excerpt.leads.index(cell.lead), samples]
    if not len(values):
        return []
    size = int(np.ceil(_BAND_SECONDS * excerpt.sample_rate))
    levels = _levels(np.fmax.reduceat(values, np.arange(0, len(values), size)), least, maximum)
    firsts = np.flatnonzero(np.diff(levels, prepend=levels[0] + 1))
    edges = np.append(samples.start + size * firsts, samples.start + len(values)) - 0.5
    times = np.clip(excerpt.seconds_at(edges) - cell.start, 0, cell.seconds) + cell.left
    positions = (MM_A_SECOND * times).tolist()
    found = zip(positions, positions[1:], levels[firsts].tolist())
    return [Band(*band) for band in found if band[2] and band[1] > band[0]]


def _levels(values: np.ndarray, least: float, maximum: float) -> np.ndarray:
    levels = np.full(len(values), UNKNOWN)
    known = ~np.isnan(values)
    levels[known] = np.round(LEVELS * (values[known] - least) / maximum) if maximum > 0 else 0
    return levels


def by_level(found: Dict[Tuple[float, float], List[Band]]) -> Dict[int, np.ndarray]:
    """Corners of all bands of a level: bands x 4 x 2 (mm), by level.

    Args:
        found: bands by the lower and upper edge of their row.
    """
    corners: Dict[int, List[List[Tuple[float, float]]]] = {}
    for (low, high), row in found.items():
        for left, right, level in row:
            corners.setdefault(level, []).append([(left, low), (right, low), (right, high), (left, high)])
    return {level: np.array(rectangles) for level, rectangles in sorted(corners.items())}
