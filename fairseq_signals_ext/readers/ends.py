"""Cut samples that are no ECG from the ends of a recording: calibration pulses and constant padding.

A calibration pulse is a rectangle of the same height in all leads at once: baseline, plateau, baseline, or only parts
of these. An ECG cannot look like this: its limb leads depend on each other (III = II - I), so they never step by the
same voltage. In padding all leads are constant. Only the ends are examined; in most ECGs only a few samples.
"""

import functools
import math
import statistics
from dataclasses import replace
from datetime import timedelta
from typing import List, NamedTuple, Optional

import numpy as np

from fairseq_signals_ext.readers.limb_leads import WEIGHTS, combined
from fairseq_signals_ext.readers.recording import Recording, StoredCounts

# seconds: the shortest part of a pulse, the longest edge between two parts, the longest part
_SHORTEST_PART, _LONGEST_EDGE, _LONGEST_PART = 0.02, 0.01, 2.0
# mV: heights of a pulse; largest difference between two leads (absolute, as counts are rounded; and relative)
_HEIGHTS, _ROUNDING, _RELATIVE = (0.08, 12.0), 0.012, 0.02
# s; shorter constant ends are not padding: all recordings of PTB-XL end with 0.1 s of their last value
_SHORTEST_PADDING = 0.2
# s; a plateau without edges, with the same voltage in all leads
_SHORTEST_PLATEAU = 0.05
# s of ECG that must be left
_LEAST_LEFT = 1.0
# with fewer leads than this a pulse must be complete and exact
_FEW = 3
_MOST_ROUNDS, _MOST_PARTS = 4, 32
_BLOCK = 2**16
_WINDOW = 64
# number of samples that usually show that a lead changes
_SAMPLED = 50


def without_ends(recording: Recording) -> Recording:
    """Return the recording without calibration pulses and padding at its ends; `Recording.cut` has their lengths.

    A pulse is cut where all leads (except leads that are constant throughout) are constant, step by the same voltage
    (0.08 to 12 mV, of either sign; III, aVR, aVL and aVF may step as computed from I and II), and are constant again.
    A single plateau of one voltage in all leads is cut as well. With fewer than three leads only a complete rectangle
    is a pulse. Padding is cut where all leads are constant for at least 0.2 s up to the end, and for more than twice as
    long as anywhere else, or are all invalid. The recording is unchanged if less than 1 s would be left. Gaps that are
    not at an end stay.
    """
    samples = recording.samples
    least = _LEAST_LEFT * recording.sample_rate
    if samples < least or not _may_have_ends(recording):
        return recording
    ends = [_End(recording, is_start) for is_start in (True, False)]
    at_start, at_end = (end.beyond() for end in ends)
    if at_start + at_end and samples - at_start - at_end >= least and any(end.has_padding for end in ends):
        longest = ends[0].longest_still(at_start, samples - at_end)
        at_start, at_end = (end.beyond(longest) for end in ends)
    if not at_start + at_end or samples - at_start - at_end < least:
        return recording
    return _cut(recording, at_start, at_end)


def _may_have_ends(recording: Recording) -> bool:
    """Return whether the first or last samples may be constant; a fast check that is false for most recordings."""
    values, inwards = _values(recording), _shortest(recording.sample_rate) - 1
    if inwards >= values.shape[1]:
        return False
    ends = (values[:, 0], values[:, inwards]), (values[:, -1], values[:, -1 - inwards])
    if values.dtype.kind == "f":
        return any(bool(np.all(_equal(outer, inner))) for outer, inner in ends)
    return any(outer.tobytes() == inner.tobytes() for outer, inner in ends)  # five times faster


def _cut(recording: Recording, at_start: int, at_end: int) -> Recording:
    kept = slice(at_start, recording.samples - at_end)
    stored, physical, start = recording.stored, recording.physical, recording.start_time
    seconds = (at_start / recording.sample_rate, at_end / recording.sample_rate)
    return replace(
        recording,
        # copies, as a view would keep the cut samples in memory
        physical=None if physical is None else physical[:, kept].copy(),
        stored=stored and StoredCounts(stored.counts[:, kept].copy(), stored.scale, stored.zero),
        start_time=start and start + timedelta(seconds=seconds[0]),
        cut=seconds,
    )


class _Part(NamedTuple):
    """Samples in which no lead changes, numbered from the end inwards."""

    first: int
    stop: int


class _End:
    """One end of a recording; its samples are numbered from there inwards."""

    def __init__(self, recording: Recording, is_start: bool):
        self._stored = recording.stored if recording.physical is None else None
        values = _values(recording)
        self._values = values if is_start else values[:, ::-1]
        self._leads, self._rate, self._samples = recording.leads, recording.sample_rate, values.shape[1]
        self._shortest = _shortest(self._rate)
        self._longest_edge = math.ceil(_LONGEST_EDGE * self._rate)
        self.has_padding = False  # whether the last search found padding of valid samples

    def beyond(self, still_elsewhere: int = 0) -> int:
        """Return the number of samples at this end that are no ECG.

        Args:
            still_elsewhere: longest run of constant samples within the recording.
        """
        found, self.has_padding = 0, False
        for _ in range(_MOST_ROUNDS):
            here = self._part(found)
            if here.stop - here.first < self._shortest or here.stop == self._samples:
                break
            stop = self._pulse(here) or self._plateau(here) or self._padding(here, still_elsewhere)
            if stop is None:
                break
            found = stop
        return found

    def _part(self, first: int) -> _Part:
        """Return the constant part that begins at a sample, inwards."""
        reference = self._values[:, first : first + 1]
        start, width = first, _WINDOW
        while start < self._samples:
            window = self._values[:, start : start + width]
            # the first lead nearly always shows the longest possible length
            stop = _length_of_true(_equal(window[0], reference[0]))
            stop = _length_of_true(np.logical_and.reduce(_equal(window[:, :stop], reference), axis=0))
            start += stop
            if stop < window.shape[1]:
                break
            width = min(4 * width, _BLOCK)
        return _Part(first, start)

    def _level(self, part: _Part) -> np.ndarray:
        """Return the voltages of a part, mV."""
        values, stored = self._values[:, part.first], self._stored
        return values if stored is None else (values - stored.zero) * stored.scale

    def _pulse(self, here: _Part) -> Optional[int]:
        """Return where the pulse that begins with this part stops; None if it is no pulse."""
        parts = [here]
        while len(parts) < _MOST_PARTS and (following := self._after_edge(parts[-1])):
            parts.append(following)
        if len(parts) == 1:
            return None
        if sum(self._changing) >= _FEW:
            return parts[-1].stop
        is_complete = len(parts) > 2 and self._height(parts[0], parts[2]) == 0
        is_long = all(part.stop - part.first >= 2 * self._shortest for part in parts)
        return parts[-1].stop if is_complete and is_long else None

    def _after_edge(self, part: _Part) -> Optional[_Part]:
        """Return the next part of a pulse: all leads have stepped by the same voltage and are constant again."""
        window = self._values[:, part.stop : part.stop + self._longest_edge + self._shortest]
        at_once = _equal(window[:, 1:], window[:, :-1]).all(axis=0)
        if np.count_nonzero(at_once) < self._shortest - 1:
            return None
        for first in range(part.stop, min(part.stop + self._longest_edge + 1, self._samples)):
            found = self._part(first)
            if found.stop - first >= self._shortest:
                is_part = found.stop - first <= _LONGEST_PART * self._rate and found.stop < self._samples
                return found if is_part and self._height(part, found) else None
        return None

    def _height(self, part: Optional[_Part], other: _Part) -> Optional[float]:
        """Return the step from one part (None: from 0 mV) to another in mV, 0 for none; None if no pulse has it."""
        steps = self._level(other) if part is None else self._level(other) - self._level(part)
        # the leads that change at this sample nearly always rule out a pulse
        if self._common(steps, self._changes_at(other.stop)) is None:
            return None
        height = self._common(steps, self._changing)
        if height is None or abs(height) <= _allowed(height):
            return height and 0.0
        return height if _HEIGHTS[0] <= abs(height) <= _HEIGHTS[1] else None

    def _common(self, steps: np.ndarray, changing: List[bool]) -> Optional[float]:
        """Return the common step of these leads in mV; III, aVR, aVL and aVF may step as computed from I and II."""
        # in Python, which is faster than numpy for twelve numbers
        by_lead = zip(self._leads, steps.tolist(), changing)
        known = [(lead, step) for lead, step, changes in by_lead if changes and math.isfinite(step)]
        own = [step for lead, step in known if lead not in WEIGHTS] or [step for _, step in known]
        if not own:
            return None
        height = statistics.median(own)
        allowed = _allowed(height)
        if max(own) - height > allowed or height - min(own) > allowed:
            return None
        followed = [(step, combined((height, height), lead)) for lead, step in known if lead in WEIGHTS]
        are_equal = all(abs(step - height) <= allowed for step, _ in followed)
        if not are_equal and any(abs(step - expected) > allowed for step, expected in followed):
            return None
        return height

    def _changes_at(self, sample: int) -> List[bool]:
        """Return which leads differ from the sample before."""
        changed: List[bool] = (~_equal(self._values[:, sample], self._values[:, sample - 1])).tolist()
        return changed

    def _plateau(self, here: _Part) -> Optional[int]:
        """Return where a plateau without edges stops: all leads have the same voltage, and it is not the baseline."""
        if here.stop - here.first < _SHORTEST_PLATEAU * self._rate or not self._height(None, here):
            return None
        return here.stop if sum(self._changing) >= _FEW else None

    def _padding(self, here: _Part, still_elsewhere: int) -> Optional[int]:
        """Return where padding stops; None if it is a signal that is often constant."""
        length = here.stop - here.first
        if length < _SHORTEST_PADDING * self._rate:
            return None
        if np.isnan(self._level(here)).all():
            return here.stop
        self.has_padding = True
        return here.stop if length > 2 * still_elsewhere else None

    def longest_still(self, first: int, stop: int) -> int:
        """Return the longest run of samples in a range in which no lead changes; invalid samples do not count."""
        longest = run = 1
        for start in range(first, stop - 1, _BLOCK):
            window = self._values[:, start : min(start + _BLOCK + 1, stop)]
            still = (window[:, 1:] == window[:, :-1]).all(axis=0)
            changes = np.flatnonzero(~still)
            if not len(changes):
                run += len(still)
                continue
            longest = max(longest, run + int(changes[0]), int(np.diff(changes).max(initial=1)))
            run = len(still) - int(changes[-1])
        return max(longest, run)

    @functools.cached_property
    def _changing(self) -> List[bool]:
        """Which leads are not constant throughout."""
        last = self._values[:, -1:]
        some = np.logical_and.reduce(_equal(self._values[:, :: max(1, self._samples // _SAMPLED)], last), axis=1)
        seemingly = some.tolist()
        return [not (still and np.all(_equal(self._values[row], last[row]))) for row, still in enumerate(seemingly)]


def _values(recording: Recording) -> np.ndarray:
    """Return leads x samples: the counts if they define the signal, else mV."""
    stored = recording.stored if recording.physical is None else None
    return recording.signal if stored is None else stored.counts


def _shortest(rate: float) -> int:
    """Return the length of the shortest part of a pulse in samples."""
    return max(3, math.ceil(_SHORTEST_PART * rate))


def _allowed(height: float) -> float:
    """Return how far steps of leads may differ from the height of a pulse, mV."""
    return _ROUNDING + _RELATIVE * abs(height)


def _length_of_true(mask: np.ndarray) -> int:
    """Return the number of values before the first False."""
    at = int(mask.argmin()) if len(mask) else 0
    return at if len(mask) and not mask[at] else len(mask)


def _equal(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return whether values are equal, or both invalid."""
    same = values == others
    return same if values.dtype.kind != "f" else same | (np.isnan(values) & np.isnan(others))
