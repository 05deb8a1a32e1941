"""Samples that a file marks as missing, told from signal that happens to have the same value."""

import numpy as np

_LEADS_AT_ONCE = 3  # fewer leads meet at a value of the signal by chance
_SHORTEST_RUN = 0.04  # s
_LONGER = 2  # than the signal stays at any other value nearby
_NEARBY = 5  # counts


def padding_mask(counts: np.ndarray, marker: float, sample_rate: float) -> np.ndarray:
    """Which samples are padding, in a file that gives a value for it.

    A marker far outside of the signal marks wherever it stands. One within the signal's range is passed by the signal
    itself, so it marks only where all leads (three at least) have it at once, or where one lead has it for longer than
    the signal stays at any value nearby, 0.04 s at least.

    Args:
        counts: leads x samples, as the file stores them.
        marker: the value.
        sample_rate: Hz.

    Returns:
        leads x samples, bool.
    """
    marked = counts == marker
    if not marked.any():
        return marked
    rest = counts[~marked]
    rest = rest[np.isfinite(rest)]
    if rest.size == 0:
        return marked
    low, high = float(rest.min()), float(rest.max())
    if max(low - marker, marker - high) > high - low:
        return marked
    found = np.zeros_like(marked)
    if len(counts) >= _LEADS_AT_ONCE:
        found |= marked.all(axis=0)
    for row, lead in zip(found, counts):
        nearby = (_longest_run(lead == marker + step) for step in range(-_NEARBY, _NEARBY + 1) if step)
        least = max(_SHORTEST_RUN * sample_rate, _LONGER * max(nearby))
        for start, end in _runs(lead == marker):
            if end - start > least:
                row[start:end] = True
    return found


def _runs(where: np.ndarray) -> np.ndarray:
    """Start and end of each run of True, a row each."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], where, [False]))))
    return edges.reshape(-1, 2)


def _longest_run(where: np.ndarray) -> int:
    runs = _runs(where)
    return int((runs[:, 1] - runs[:, 0]).max()) if len(runs) else 0
