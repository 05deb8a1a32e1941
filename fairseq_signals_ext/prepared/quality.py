"""Assess recordings (flags for likely problems) and the gain of a source (likely correction factor)."""

import functools
import math
import statistics
from collections import Counter
from typing import TYPE_CHECKING, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.prepared.counts import Counts
from fairseq_signals_ext.readers import Recording
from fairseq_signals_ext.readers.limb_leads import WEIGHTS, combined

if TYPE_CHECKING:
    import pandas as pd

# flag: its meaning; in this order in the table
FLAGS = {
    "nan": "the source marks samples as invalid; they are interpolated",
    "constant": "a lead never changes",
    "flat": "a lead that changes stands still for half a second",
    "clipped": "a lead stays at its largest or smallest value for 20 ms, 1 mV or more off its median",
    "short": "shorter than the shortest length asked for",
    "amplitude": "amplitudes are outside what is plausible for an ECG in mV",
    "einthoven": "limb leads do not follow from I and II: leads are swapped, wrongly named, or differ in gain or time",
    "filled": "leads that are absent in the source are filled with zeros",
    "duplicate": "the same samples as those of an earlier recording",
}
FLAT_SECONDS, CLIPPED_SECONDS, CLIPPED_MV = 0.5, 0.02, 1.0
PLAUSIBLE_RECORDING_MV = (0.1, 10.0)  # median over the leads of largest minus smallest value
# standard deviation of (limb lead - the same computed from I and II), relative to the leads' (at most 0.034 in 1,600
# recordings of six collections; 0.5 where each lead is scaled separately), and in mV, as small leads are rounded; the
# median over pieces of EINTHOVEN_SECONDS
EINTHOVEN_RATIO, EINTHOVEN_MV, EINTHOVEN_SECONDS = 0.15, 0.01, 1.0
# number of samples for a first check; if it is far below the limit, no more are read
_EINTHOVEN_SAMPLES = 200
# columns of the table of recordings that `likely_factors` needs; folders of earlier versions lack the last one
FOR_FACTORS = ("source", "amplitude_mv", "gain_fix", "counts_per_mv")
# median over a source's recordings of the median over the leads of largest minus smallest value, in mV
PLAUSIBLE_SOURCE_MV = (0.5, 4.0)
TYPICAL_MV = 1.4
# counts per mV of devices and archives: 1 uV, 5 uV, 12 bits over 20 mV, and 4.88 uV per count
_COMMON_GAINS = (1000.0, 200.0, 204.8, 1 / 4.88e-3)
# common errors of gain: units of uV, nV or V, a shifted decimal point, and counts of 4.88 uV taken for 1 uV
_LIKELY_FACTORS = (4.88, 10.0, 100.0, 1000.0, 1e6)
_DIGITS = 3  # of a round gain; more digits mean that it was computed from a range
_ALIKE = 0.05  # factors that differ by less cannot be distinguished by amplitudes


class Quality(NamedTuple):
    """Result of `assess`; names of flags in the order of `FLAGS`."""

    flags: Tuple[str, ...]
    constant: Tuple[int, ...]  # leads, positions in LEADS
    amplitude_mv: float


def assess(stored: Counts, rate: float, min_seconds: float) -> Quality:
    """Return the flags of a recording, except "duplicate", which needs all recordings.

    Args:
        stored: the recording as it is stored.
        rate: Hz.
        min_seconds: shorter is "short".
    """
    counts, scale, leads = stored.counts, stored.scale, stored.leads
    if stored.filled:
        present = [row for row, lead in enumerate(leads) if lead not in stored.filled]
        counts, scale, leads = counts[present], scale[present], tuple(leads[row] for row in present)
    signed, scale = scale, np.abs(scale)
    low, high = counts.min(axis=1).astype(np.int64), counts.max(axis=1).astype(np.int64)
    changing = high > low
    # for twelve numbers this is twenty times faster than numpy
    amplitude = statistics.median(((high - low) * scale).tolist())
    found = {
        "nan": stored.nan_samples > 0,
        "constant": not changing.all(),
        "flat": _any_flat(counts, changing, max(2, round(FLAT_SECONDS * rate))),
        "clipped": _any_clipped(counts, low, high, CLIPPED_MV / scale, max(2, round(CLIPPED_SECONDS * rate))),
        "short": counts.shape[1] < min_seconds * rate,
        "amplitude": not PLAUSIBLE_RECORDING_MV[0] <= amplitude <= PLAUSIBLE_RECORDING_MV[1],
        "einthoven": _breaks_einthoven(counts, leads, signed, changing, rate),
        "filled": bool(stored.filled),
    }
    constant = tuple(leads[row] for row in np.flatnonzero(~changing))
    return Quality(tuple(flag for flag in FLAGS if found.get(flag)), constant, amplitude)


def _any_flat(counts: np.ndarray, changing: np.ndarray, run: int) -> bool:
    """Return whether a row that is not constant has `run` equal consecutive samples."""
    if counts.shape[1] < run:
        return False
    # such a run contains a whole block of half its length; only rows with a constant block are checked exactly
    block = max(1, run // 2)
    blocks = counts[:, : counts.shape[1] // block * block].reshape(len(counts), -1, block)
    first, *others = (blocks[:, :, at] for at in (block // 3, 0, 2 * block // 3, block - 1))
    still = first == others[0]
    for other in others[1:]:
        still &= first == other
    if not still.any():
        return False
    candidates = still.any(axis=1) & changing
    return any(_longest_run(np.diff(row) == 0) >= run - 1 for row in counts[candidates])


def _any_clipped(counts: np.ndarray, low: np.ndarray, high: np.ndarray, distance: np.ndarray, run: int) -> bool:
    """Return whether a row stays for `run` samples at an end of its range at least `distance` counts off its median."""
    # such a run contains two neighbours on a grid of half its length; only rows with such pairs are checked exactly
    grid = np.ascontiguousarray(counts[:, :: run // 2])
    is_wide = high - low >= distance
    for ends in (low, high):
        # in the counts' type, as numpy would otherwise convert all of them
        at_end = grid == ends.astype(counts.dtype)[:, None]
        pairs = at_end[:, 1:] & at_end[:, :-1]
        if not pairs.any():
            continue
        candidates = pairs.any(axis=1) & is_wide
        for row, end, needed in zip(counts[candidates], ends[candidates], distance[candidates]):
            if _longest_run(row == end) >= run and abs(end - np.median(row)) >= needed:
                return True
    return False


def _breaks_einthoven(
    counts: np.ndarray, leads: Tuple[int, ...], scale: np.ndarray, changing: np.ndarray, rate: float
) -> bool:
    """Return whether III, aVR, aVL or aVF differs from the lead computed from I and II; offsets do not matter.

    Leads that were derived from I and II are not checked, and constant leads have their own flag. See `limb_leads`.
    """
    rows, laws = _laws(leads if changing.all() else tuple(np.where(changing, leads, -1).tolist()))
    if not len(laws):
        return False
    # first check, which is enough for nearly all recordings; no deviation is above half the range
    step = max(1, counts.shape[1] // _EINTHOVEN_SAMPLES)
    signal = counts[rows, ::step] * scale[rows, None]
    left = laws @ signal
    if (left.max(axis=1) - left.min(axis=1)).max() <= 2 * EINTHOVEN_MV:
        return False
    if _einthoven_ratios(signal, laws) <= EINTHOVEN_RATIO / 3:
        return False
    step, second = max(1, round(rate / 100)), max(2, round(EINTHOVEN_SECONDS * rate))
    second -= second % step
    ratios: List[float] = []
    # one minute at a time, as a day of ECG is large
    for start in range(0, max(1, counts.shape[1] - second + 1), 60 * second):
        minute = counts[rows, start : start + 60 * second : step] * scale[rows, None]
        seconds = max(1, minute.shape[1] * step // second)
        parts = minute[:, : seconds * second // step].reshape(len(minute), seconds, -1)
        ratios.extend(_einthoven_ratios(parts.swapaxes(0, 1), laws))
    return statistics.median(ratios) > EINTHOVEN_RATIO


@functools.lru_cache(maxsize=None)
def _laws(leads: Tuple[int, ...]) -> Tuple[Union[slice, List[int]], np.ndarray]:
    """Return rows of the limb leads, and the weights of each law (none without I and II); -1 stands for no lead."""
    rows = [row for row, lead in enumerate(leads) if lead in (0, 1) or lead in WEIGHTS]
    limb = [leads[row] for row in rows]
    if not {0, 1} < {*limb}:
        return rows, np.zeros((0, len(rows)))
    laws = np.zeros((len(limb) - 2, len(limb)))
    for law, lead in zip(laws, (lead for lead in limb if lead in WEIGHTS)):
        law[limb.index(lead)] = 1
        law[[limb.index(0), limb.index(1)]] = -combined(np.eye(2), lead)
    # a slice of an array is faster than a list of its rows
    return slice(rows[0], rows[-1] + 1) if rows == list(range(rows[0], rows[-1] + 1)) else rows, laws


def _einthoven_ratios(signal: np.ndarray, laws: np.ndarray) -> np.ndarray:
    """Return the largest residual deviation of a law, relative to the deviation of the largest lead.

    Args:
        signal: ... x leads x samples, mV.
        laws: laws x leads.

    Returns:
        one for each of ...; 0 where there is no residual.
    """
    samples = signal.shape[-1]
    signal = signal - (signal @ np.full(samples, 1 / samples))[..., None]
    covariance = signal @ signal.swapaxes(-1, -2) / samples
    left = np.einsum("...wl,wl->...w", laws @ covariance, laws).max(axis=-1)
    largest = np.diagonal(covariance, axis1=-2, axis2=-1).max(axis=-1)
    # if the residual is about zero, the largest lead may be as well
    ratios: np.ndarray = np.sqrt(np.where(left > EINTHOVEN_MV**2, left / np.maximum(largest, EINTHOVEN_MV**2), 0.0))
    return ratios


def _longest_run(mask: np.ndarray) -> int:
    """Return the length of the longest run of True."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    return int((edges[1::2] - edges[::2]).max()) if len(edges) else 0


def gain_of(recording: Recording) -> Optional[float]:
    """Return the counts per mV in a recording's file; None if its leads differ or it holds no counts."""
    if recording.stored is None:
        return None
    scale = {abs(one) for one in recording.stored.scale.tolist()}  # in Python, which is faster for twelve numbers
    least, most = min(scale, default=0.0), max(scale, default=0.0)
    return float(f"{1 / most:.9g}") if 0 < most <= least * (1 + 1e-6) and 0 < 1 / most < math.inf else None


def likely_factor(amplitudes_mv: Sequence[float], gains: Sequence[Optional[float]] = ()) -> Optional[float]:
    """Return the factor that would make the amplitudes of a source plausible; None if they are plausible.

    A round gain in the files (4880 counts per mV) is compared with common gains: the counts are right, so the quotient
    is the factor, and amplitudes select the common gain. If gains are unknown, or none is plausible, amplitudes select
    one of the common errors.

    Args:
        amplitudes_mv: `Quality.amplitude_mv` of its recordings.
        gains: `gain_of` its recordings.
    """
    positive = [amplitude for amplitude in amplitudes_mv if amplitude > 0]
    if not positive:
        return None
    median = float(np.median(positive))
    if _is_plausible(median):
        return None
    by_gain = [factor for factor in _factors_of(gains) if _is_plausible(factor * median)]
    factors = by_gain or [*_LIKELY_FACTORS, *(1 / factor for factor in _LIKELY_FACTORS)]
    nearest = min(_distance(factor * median) for factor in factors)
    alike = [factor for factor in factors if _distance(factor * median) < nearest + _ALIKE]
    return next((factor for factor in alike if _is_power_of_ten(factor)), alike[0])


def likely_factors(table: "pd.DataFrame") -> Dict[str, float]:
    """Return the `likely_factor` of sources in a prepared folder that have one, sorted by name.

    Args:
        table: columns `FOR_FACTORS`.
    """
    found: Dict[str, float] = {}
    for name, rows in table.groupby("source", observed=True):
        gains: Sequence[Optional[float]] = ()
        if "counts_per_mv" in rows.columns:
            now = (rows["counts_per_mv"].astype("float64") / rows["gain_fix"].astype("float64")).tolist()
            gains = [float(f"{gain:.9g}") if gain == gain else None for gain in now]
        factor = likely_factor(rows["amplitude_mv"].tolist(), gains)
        if factor is not None:
            found[str(name)] = factor
    return dict(sorted(found.items()))


def _factors_of(gains: Sequence[Optional[float]]) -> List[float]:
    """Return possible factors from the most frequent gain, if it is a round one."""
    known = Counter(gain for gain in gains if gain is not None)
    gain, times = known.most_common(1)[0] if known else (0.0, 0)
    if not gain or 2 * times <= len(gains) or not (_is_short(gain) or _is_short(1 / gain) or _is_common(gain)):
        return []
    return [float(f"{gain / common:.6g}") for common in _COMMON_GAINS]


def _is_plausible(median_mv: float) -> bool:
    return PLAUSIBLE_SOURCE_MV[0] <= median_mv <= PLAUSIBLE_SOURCE_MV[1]


def _distance(median_mv: float) -> float:
    return abs(math.log(median_mv / TYPICAL_MV))


def _is_short(number: float) -> bool:
    return math.isclose(float(f"{number:.{_DIGITS}g}"), number, rel_tol=1e-6)


def _is_common(gain: float) -> bool:
    """Up to a wrong unit."""
    return any(_is_power_of_ten(gain / common) for common in _COMMON_GAINS)


def _is_power_of_ten(number: float) -> bool:
    exponent = math.log10(number)
    return abs(exponent - round(exponent)) < 1e-4
