"""What may be wrong with a recording: flags."""

import statistics
from typing import NamedTuple, Tuple

import numpy as np

from fairseq_signals_ext.preparation.counts import Counts

# flag: what it says; in this order in the table
FLAGS = {
    "nan": "the source marks samples as invalid; they are interpolated",
    "constant": "a lead never changes",
    "flat": "a lead that changes stands still for half a second",
    "clipped": "a lead stays at its largest or smallest value for 20 ms, 1 mV or more off its median",
    "short": "shorter than the shortest length asked for",
    "amplitude": "amplitudes are outside what is plausible for an ECG in mV",
    "filled": "leads that are absent in the source are filled with zeros",
    "duplicate": "the same samples as those of an earlier recording",
}
FLAT_SECONDS, CLIPPED_SECONDS, CLIPPED_MV = 0.5, 0.02, 1.0
PLAUSIBLE_RECORDING_MV = (0.1, 10.0)  # median over the leads of largest minus smallest value


class Quality(NamedTuple):
    """What `assess` finds; names of flags in the order of `FLAGS`."""

    flags: Tuple[str, ...]
    constant: Tuple[int, ...]  # leads, positions in LEADS
    amplitude_mv: float


def assess(stored: Counts, rate: float, min_seconds: float) -> Quality:
    """Flags of a recording, apart from "duplicate", which takes all others to be known.

    Args:
        stored: the recording as it is stored.
        rate: Hz.
        min_seconds: shorter is "short".
    """
    counts, scale, leads = stored.counts, np.abs(stored.scale), stored.leads
    if stored.filled:
        present = [row for row, lead in enumerate(leads) if lead not in stored.filled]
        counts, scale, leads = counts[present], scale[present], tuple(leads[row] for row in present)
    low, high = counts.min(axis=1).astype(np.int64), counts.max(axis=1).astype(np.int64)
    changing = high > low
    # of twelve numbers, for which numpy's takes twenty times as long
    amplitude = statistics.median(((high - low) * scale).tolist())
    found = {
        "nan": stored.nan_samples > 0,
        "constant": not changing.all(),
        "flat": _any_flat(counts, changing, max(2, round(FLAT_SECONDS * rate))),
        "clipped": _any_clipped(counts, low, high, CLIPPED_MV / scale, max(2, round(CLIPPED_SECONDS * rate))),
        "short": counts.shape[1] < min_seconds * rate,
        "amplitude": not PLAUSIBLE_RECORDING_MV[0] <= amplitude <= PLAUSIBLE_RECORDING_MV[1],
        "filled": bool(stored.filled),
    }
    constant = tuple(leads[row] for row in np.flatnonzero(~changing))
    return Quality(tuple(flag for flag in FLAGS if found.get(flag)), constant, amplitude)


def _any_flat(counts: np.ndarray, changing: np.ndarray, run: int) -> bool:
    """Whether one of the rows that change has `run` equal samples in a row."""
    if counts.shape[1] < run:
        return False
    # such a run holds a whole block of half its length; the exact look is for rows where one seems to stand still
    block = max(1, run // 2)
    blocks = counts[:, : counts.shape[1] // block * block].reshape(len(counts), -1, block)
    first, *others = (blocks[:, :, at] for at in (0, block // 3, 2 * block // 3, block - 1))
    still = np.logical_and.reduce([first == other for other in others])
    candidates = still.any(axis=1) & changing
    return any(_longest_run(np.diff(row) == 0) >= run - 1 for row in counts[candidates])


def _any_clipped(counts: np.ndarray, low: np.ndarray, high: np.ndarray, distance: np.ndarray, run: int) -> bool:
    """Whether a row stays at an end of its range for `run` samples, that end `distance` counts off its median."""
    # two neighbours on a grid of half its length belong to such a run; the exact look is for rows that have them
    grid = counts[:, :: run // 2]
    for ends in (low, high):
        at_end = grid == ends[:, None]
        candidates = (at_end[:, 1:] & at_end[:, :-1]).any(axis=1) & (high - low >= distance)
        for row, end, needed in zip(counts[candidates], ends[candidates], distance[candidates]):
            if _longest_run(row == end) >= run and abs(end - np.median(row)) >= needed:
                return True
    return False


def _longest_run(mask: np.ndarray) -> int:
    """Length of the longest run of True."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    return int((edges[1::2] - edges[::2]).max()) if len(edges) else 0
