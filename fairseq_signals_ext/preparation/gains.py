"""What may be wrong with the gain of a whole source: its amplitudes are not those of an ECG, and by which factor."""

import math
from collections import Counter
from typing import TYPE_CHECKING, Dict, List, Optional, Sequence

import numpy as np

from fairseq_signals_ext.readers import Recording

if TYPE_CHECKING:
    import pandas as pd

# columns of the table of recordings that `likely_factors` needs; folders of earlier versions lack the last one
FOR_FACTORS = ("source", "amplitude_mv", "gain_fix", "counts_per_mv")

# median over a source's recordings of the median over the leads of largest minus smallest value, in mV
PLAUSIBLE_SOURCE_MV = (0.5, 4.0)
TYPICAL_MV = 1.4
# counts per mV that devices and archives have: 1 uV, 5 uV, 12 bits over 20 mV, and 4.88 uV per count
_COMMON_GAINS = (1000.0, 200.0, 204.8, 1 / 4.88e-3)
# errors of gain that occur where nothing is known of the counts: units of uV, nV or V, a shifted decimal point, and
# counts of 4.88 uV taken for counts of 1 uV
_LIKELY_FACTORS = (4.88, 10.0, 100.0, 1000.0, 1e6)
_DIGITS = 3  # of a gain that somebody wrote; more are what a file's range divided by its bits gives
_ALIKE = 0.05  # factors that differ by less cannot be told apart by amplitudes


def gain_of(recording: Recording) -> Optional[float]:
    """Counts per mV in a recording's file; None where its leads have several, or it holds no counts."""
    if recording.stored is None:
        return None
    scale = {abs(one) for one in recording.stored.scale.tolist()}  # in Python, as numpy takes longer for twelve numbers
    least, most = min(scale, default=0.0), max(scale, default=0.0)
    return float(f"{1 / most:.9g}") if 0 < most <= least * (1 + 1e-6) and 0 < 1 / most < math.inf else None


def likely_factor(amplitudes_mv: Sequence[float], gains: Sequence[Optional[float]] = ()) -> Optional[float]:
    """The factor that would make the amplitudes of a source plausible; None where they are.

    A gain that somebody wrote into the files (4880 counts per mV) is compared with those that are common: the counts
    are right, so their quotient is the factor, and amplitudes tell which of the common gains it is. Where nothing is
    known of gains, or none of these is plausible, amplitudes alone choose among the errors that occur.

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
    """`likely_factor` of the sources of a prepared folder that have one, sorted by name.

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
    """By the gain that most recordings have, if it is one that is written."""
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
