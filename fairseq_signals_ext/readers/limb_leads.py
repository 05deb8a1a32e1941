"""Compute missing limb leads from I and II."""

from dataclasses import replace
from typing import Any, List, Optional, Tuple

import numpy as np

from fairseq_signals_ext.readers.recording import Recording, StoredCounts, smallest_integers

_I, _II = 0, 1
_EXACT = 2.0**53
# lead -> (a, b, d): the lead is (a I + b II) / d; Einthoven's law and Goldberger's augmented leads
WEIGHTS = {2: (-1, 1, 1), 3: (-1, -1, 2), 4: (2, -1, 2), 5: (-1, 2, 2)}


def with_limb_leads(recording: Recording) -> Recording:
    """Return the recording with missing leads of III, aVR, aVL, aVF computed from I and II, if it has both.

    III = II - I, aVR = -(I + II) / 2, aVL = I - II / 2, aVF = II - I / 2. A sample is NaN where I or II is.

    Counts: if I and II share one scale, as in nearly every file, a derived lead is exact in integers
    (aVR is -(cI + cII) at half the scale). If not, it is rounded to half the finer of the two scales, and `signal`
    holds the rounded values, so that signal and counts always agree. The counts of stored leads do not change. No
    counts are kept if the scales differ so much that the integers would be too large.
    """
    missing = tuple(lead for lead in WEIGHTS if lead not in recording.leads)
    if not missing or not {_I, _II} <= set(recording.leads):
        return recording
    first, second = recording.leads.index(_I), recording.leads.index(_II)
    stored = recording.stored
    if recording.physical is None and stored is not None and stored.scale[first] == stored.scale[second]:
        return _with_derived_counts(recording, stored, (first, second), missing)
    pair = recording.signal[[first, second]]
    rows = [combined(pair, lead) for lead in missing]
    if stored is not None:
        stored, rows = _derived_counts(stored, (first, second), missing, rows) or (None, rows)
    leads = recording.leads + missing
    order = np.argsort(leads)
    return replace(
        recording,
        physical=np.concatenate([recording.signal, np.stack(rows)])[order],
        leads=tuple(leads[position] for position in order),
        stored=stored and StoredCounts(stored.counts[order], stored.scale[order], stored.zero[order]),
        derived=missing,
    )


def _with_derived_counts(
    recording: Recording, stored: StoredCounts, pair: Tuple[int, int], missing: Tuple[int, ...]
) -> Recording:
    """Compute the leads as integers, one at a time: as floats a day of ECG would take too much memory."""
    one, two = (stored.counts[row] for row in pair)
    zeros, scale = stored.zero[list(pair)], stored.scale[pair[0]]
    wide = np.int32 if stored.counts.dtype == np.int16 else np.int64
    rows = dict(zip(recording.leads, zip(stored.counts, stored.scale, stored.zero)))
    for lead in missing:
        derived = smallest_integers(_weighted((one.astype(wide), two.astype(wide)), lead))
        rows[lead] = (derived, scale / WEIGHTS[lead][2], _weighted(zeros, lead))
    leads = tuple(sorted(rows))
    counts, scales, zero = zip(*(rows[lead] for lead in leads))
    joined = StoredCounts(np.stack(counts), np.array(scales), np.array(zero))
    return replace(recording, leads=leads, stored=joined, derived=missing)


def combined(pair: Any, lead: int) -> Any:
    """Return a lead (a key of `WEIGHTS`) computed from I and II; numbers or arrays, in their unit."""
    a, b, divisor = WEIGHTS[lead]
    return (a * pair[0] + b * pair[1]) / divisor


def _derived_counts(
    stored: StoredCounts, pair: Tuple[int, int], missing: Tuple[int, ...], rows: List[np.ndarray]
) -> Optional[Tuple[StoredCounts, List[np.ndarray]]]:
    """Return the counts with the derived leads appended, and the derived signals from these counts.

    None if the counts are too large to be exact as float64.
    """
    scales, zeros = stored.scale[list(pair)], stored.zero[list(pair)]
    if scales[0] == scales[1]:
        counts = np.stack([_weighted(stored.counts[list(pair)].astype(np.int64), lead) for lead in missing])
        scale = np.array([scales[0] / WEIGHTS[lead][2] for lead in missing])
        zero = np.array([_weighted(zeros, lead) for lead in missing])
    else:
        step = float(np.abs(scales).min()) / 2
        if not all(np.abs(np.nan_to_num(row)).max(initial=0.0) < _EXACT * step for row in rows):
            return None
        counts = np.stack([np.rint(np.nan_to_num(row / step)).astype(np.int64) for row in rows])
        scale, zero = np.full(len(missing), step), np.zeros(len(missing))
        rows = [np.where(np.isnan(row), np.nan, count * step) for row, count in zip(rows, counts)]
    both = np.concatenate([stored.counts, counts])
    return StoredCounts(smallest_integers(both), np.append(stored.scale, scale), np.append(stored.zero, zero)), rows


def _weighted(pair: Any, lead: int) -> Any:
    a, b, _ = WEIGHTS[lead]
    return a * pair[0] + b * pair[1]
