"""Two measures of a signal that a wrong sample rate or exchanged signs change, and ordinary differences hardly do.

Needs numpy alone.
"""

from typing import Any, Callable, Iterator, NamedTuple, Sequence

import numpy as np

from fairseq_signals_ext.common.leads import LEADS

# changes over these times are compared, s: within a QRS complex, and over all of it
_SHORT, _LONG = 0.008, 0.08
# of leads in which most hearts have large positive deflections, and of aVR, which is the other way round
_SIGNS = {"I": 1.0, "II": 1.0, "aVR": -1.0, "V5": 1.0, "V6": 1.0}
# a long recording is represented by so many windows, spread evenly
_WINDOWS, _WINDOW_SECONDS = 6, 10.0


class SignalShape(NamedTuple):
    """Measures of a recording; NaN where they are unknown.

    Attributes:
        steepness: logarithm of the mean squared change over 8 ms, divided by that over 80 ms; median over these
            leads: I, II, aVR, V5 and V6.
        polarity: mean skewness of the same leads, with the other sign for aVR.
    """

    steepness: float = float("nan")
    polarity: float = float("nan")


UNKNOWN_SHAPE = SignalShape()


def shape_of(counts: np.ndarray, scale: np.ndarray, leads: Sequence[int], rate: float) -> SignalShape:
    """Measures of a recording.

    Args:
        counts: leads x samples.
        scale: of each lead, of which the sign counts.
        leads: positions in `LEADS`.
        rate: Hz.
    """
    short, long = max(1, round(_SHORT * rate)), max(2, round(_LONG * rate))
    rows = [row for row, lead in enumerate(leads) if LEADS[lead] in _SIGNS]
    if counts.shape[1] <= long or not rows:
        return UNKNOWN_SHAPE
    signs = np.array([_SIGNS[LEADS[leads[row]]] for row in rows]) * np.sign(scale[rows])
    steepness, polarity = [], []
    with np.errstate(invalid="ignore", divide="ignore"):
        for part in _windows(counts, rows, round(_WINDOW_SECONDS * rate)):
            steepness.append(np.log(_changes(part, short) / _changes(part, long)))
            polarity.append(_skewness(part) * signs)
    return SignalShape(_of_finite(np.median, steepness), _of_finite(np.mean, polarity))


def _windows(counts: np.ndarray, rows: Sequence[int], length: int) -> Iterator[np.ndarray]:
    """Parts of some rows as float32; one part of a short recording."""
    last = max(counts.shape[1] - length, 0)
    for start in np.unique(np.linspace(0, last, _WINDOWS).astype(np.int64)) if last > length else (0,):
        yield counts[rows, start : start + length].astype(np.float32)


def _changes(x: np.ndarray, samples: int) -> np.ndarray:
    difference = x[:, samples:] - x[:, :-samples]
    return np.einsum("ls,ls->l", difference, difference) / difference.shape[1]


def _skewness(x: np.ndarray) -> np.ndarray:
    apart = x - x.mean(axis=1, keepdims=True)
    square = apart * apart
    return np.einsum("ls,ls->l", square, apart) / x.shape[1] / square.mean(axis=1) ** 1.5


def _of_finite(summary: Callable[..., Any], values: Sequence[np.ndarray]) -> float:
    finite = [value for value in np.concatenate(values) if np.isfinite(value)]
    return float(summary(finite)) if finite else float("nan")
