"""Samples at the ends of a recording that are no ECG: calibration pulses and constant padding.

A calibration pulse is a rectangle, of the same height in all leads at once: baseline, plateau, baseline, or only parts
of these. No ECG looks so: in one the limb leads follow from each other (III = II - I), so that they never step by the
same voltage. Padding holds all leads at one value each. Only the ends are looked at, and of a usual ECG no more than
its last samples.
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

# seconds: the shortest part of a pulse, the longest edge between two of them, the longest part
_SHORTEST_PART, _LONGEST_EDGE, _LONGEST_PART = 0.02, 0.01, 2.0
# mV: heights of a pulse, and how far those of two leads may be apart, which are rounded to counts
_HEIGHTS, _ROUNDING, _RELATIVE = (0.08, 12.0), 0.012, 0.02
# all leads standing still for less is not padding: PTB-XL's recordings all end in 0.1 s of their last value
_SHORTEST_PADDING = 0.2
# a plateau without its edges, which has the same voltage in all leads
_SHORTEST_PLATEAU = 0.05
# what is left must be an ECG
_LEAST_LEFT = 1.0
# of so few leads a pulse must be complete, and exact
_FEW = 3
_MOST_ROUNDS, _MOST_PARTS = 4, 32
_BLOCK = 2**16
_WINDOW = 64
# of these samples most leads are seen to change
_SAMPLED = 50


def without_ends(recording: Recording) -> Recording:
    """The recording without calibration pulses and constant padding at its ends; `Recording.cut` has their lengths.

    A pulse is cut where all leads that change at all stand still, step by the same voltage (0.08 to 12 mV, of either
    sign; III, aVR, aVL and aVF may step as they follow from I and II), and stand still again; and so is a plateau
    alone, of one voltage in all leads. Of fewer than three leads only a complete rectangle is one. Padding is cut where
    all leads stand still for 0.2 s or more up to the end, and for more than twice as long as anywhere else, or are all
    invalid. A recording of which less than 1 s would be left stays as it is, and so do gaps that are not at an end.
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
    """Whether all leads are at an end what they are some samples further in, which they are in few recordings."""
    values, inwards = _values(recording), _shortest(recording.sample_rate) - 1
    if inwards >= values.shape[1]:
        return False
    ends = (values[:, 0], values[:, inwards]), (values[:, -1], values[:, -1 - inwards])
    if values.dtype.kind == "f":
        return any(bool(np.all(_equal(outer, inner))) for outer, inner in ends)
    return any(outer.tobytes() == inner.tobytes() for outer, inner in ends)  # in a fifth of the time


def _cut(recording: Recording, at_start: int, at_end: int) -> Recording:
    kept = slice(at_start, recording.samples - at_end)
    stored, physical, start = recording.stored, recording.physical, recording.start_time
    seconds = (at_start / recording.sample_rate, at_end / recording.sample_rate)
    return replace(
        recording,
        # copies, as a view would keep what is cut in memory
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
        self.has_padding = False  # among what was found last, and not as invalid samples

    def beyond(self, still_elsewhere: int = 0) -> int:
        """Number of samples that are no ECG.

        Args:
            still_elsewhere: samples that all leads stand still for within the recording.
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
        """What stands still from a sample on inwards."""
        reference = self._values[:, first : first + 1]
        start, width = first, _WINDOW
        while start < self._samples:
            window = self._values[:, start : start + width]
            # the first of them shows nearly always how far it can be
            stop = _length_of_true(_equal(window[0], reference[0]))
            stop = _length_of_true(np.logical_and.reduce(_equal(window[:, :stop], reference), axis=0))
            start += stop
            if stop < window.shape[1]:
                break
            width = min(4 * width, _BLOCK)
        return _Part(first, start)

    def _level(self, part: _Part) -> np.ndarray:
        """Its voltages, mV."""
        values, stored = self._values[:, part.first], self._stored
        return values if stored is None else (values - stored.zero) * stored.scale

    def _pulse(self, here: _Part) -> Optional[int]:
        """Where a pulse that begins with this part stops, if it is one."""
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
        """The next part of a pulse: all leads have stepped by the same voltage and stand still again."""
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
        """The step from one part (None: from 0 mV) to another, mV, 0 for none; None if it is not that of a pulse."""
        steps = self._level(other) if part is None else self._level(other) - self._level(part)
        # the leads that change right here show nearly always that it is none
        if self._common(steps, self._changes_at(other.stop)) is None:
            return None
        height = self._common(steps, self._changing)
        if height is None or abs(height) <= _allowed(height):
            return height and 0.0
        return height if _HEIGHTS[0] <= abs(height) <= _HEIGHTS[1] else None

    def _common(self, steps: np.ndarray, changing: List[bool]) -> Optional[float]:
        """The step of all of these leads, mV, or of I and II where the others step as they follow from these."""
        # in Python, as numpy takes longer for twelve numbers
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
        """Which leads are other there than in the sample before."""
        changed: List[bool] = (~_equal(self._values[:, sample], self._values[:, sample - 1])).tolist()
        return changed

    def _plateau(self, here: _Part) -> Optional[int]:
        """Where a plateau without edges stops: all leads have the same voltage, which is not that of a baseline."""
        if here.stop - here.first < _SHORTEST_PLATEAU * self._rate or not self._height(None, here):
            return None
        return here.stop if sum(self._changing) >= _FEW else None

    def _padding(self, here: _Part, still_elsewhere: int) -> Optional[int]:
        """Where padding stops, if it is that, and not a signal that stands still again and again."""
        length = here.stop - here.first
        if length < _SHORTEST_PADDING * self._rate:
            return None
        if np.isnan(self._level(here)).all():
            return here.stop
        self.has_padding = True
        return here.stop if length > 2 * still_elsewhere else None

    def longest_still(self, first: int, stop: int) -> int:
        """The largest number of samples from one to another in which no lead changes, invalid ones aside."""
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
        """Which leads change at all."""
        last = self._values[:, -1:]
        some = np.logical_and.reduce(_equal(self._values[:, :: max(1, self._samples // _SAMPLED)], last), axis=1)
        seemingly = some.tolist()
        return [not (still and np.all(_equal(self._values[row], last[row]))) for row, still in enumerate(seemingly)]


def _values(recording: Recording) -> np.ndarray:
    """Leads x samples; counts where these say it all."""
    stored = recording.stored if recording.physical is None else None
    return recording.signal if stored is None else stored.counts


def _shortest(rate: float) -> int:
    """Samples of the shortest part of a pulse."""
    return max(3, math.ceil(_SHORTEST_PART * rate))


def _allowed(height: float) -> float:
    """How far steps of leads may be from that of a pulse, mV."""
    return _ROUNDING + _RELATIVE * abs(height)


def _length_of_true(mask: np.ndarray) -> int:
    """Number of values before the first False."""
    at = int(mask.argmin()) if len(mask) else 0
    return at if len(mask) and not mask[at] else len(mask)


def _equal(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether they are equal, or both invalid."""
    same = values == others
    return same if values.dtype.kind != "f" else same | (np.isnan(values) & np.isnan(others))
