"""Choose the ECGs among the waveforms of a file by their properties, not by their order."""

import hashlib
import math
import re
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Dict, FrozenSet, List, Optional, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.readers.facts import lead_position

_EIGHT = frozenset({0, 1, *range(6, 12)})  # the other four are computed from I and II
_BEAT = re.compile(r"median(?!.?filter)|representative|averag|\bavg|template|dominant|typical|\bbeat", re.IGNORECASE)
_NO_BEAT = re.compile(r"strip|rhythm|continuous", re.IGNORECASE)  # such as a representative strip of a day
_BEAT_SECONDS = 2.0  # an averaged beat is shorter, an ECG is longer
_COLUMN_SECONDS = 4.0  # columns of a printout are shorter: 2.5 s each, one after the other
_ECG_SECONDS = 5.0  # enough for a separate ECG, even beside a much longer one
_ALIKE = 0.9  # least correlation of two filtered versions of one signal
_REPEATED = re.compile(r"(.+)_\d+")  # ecgdatakit calls a second lead II "II_2"


@dataclass(eq=False)
class Part:
    """One waveform of a file: signals that were recorded together.

    Attributes:
        leads: ecgdatakit's leads; empty for an averaged beat, which is not decoded.
        sample_rate: Hz, exact; None if ecgdatakit gives only an integer.
        start: s after the file's reference time; None if unknown.
        began: time of the start, if the file gives one for this part.
        words: its name in the file.
        original: whether it was recorded, not derived by a device.
        statements: pairs of words from ecgdatakit, if the part has its own.
        remarks: ecgdatakit's warnings about this part, with their categories.
        source, times: its element in an XML file, and its times from ecgdatakit.
    """

    leads: List[Any]
    sample_rate: Optional[float] = None
    start: Optional[float] = None
    began: Optional[datetime] = None
    words: str = ""
    original: bool = True
    statements: Optional[List[Tuple[str, str]]] = None
    remarks: List[Tuple[str, Any]] = field(default_factory=list)
    source: Any = None
    times: Dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        positions = (lead_position(name) for name in lead_names(self.leads))
        self.positions: FrozenSet[int] = frozenset(position for position in positions if position is not None)
        self.samples = len(self.leads[0].samples) if self.leads else 0
        self.rate = self.sample_rate or (float(self.leads[0].sampling_rate) if self.leads else 1.0)
        # ecgdatakit rounds a rate below 0.5 Hz to 0; such recordings are refused later
        self.seconds = self.samples / self.rate if self.rate else math.inf

    def is_average(self, longest: float) -> bool:
        """Return whether it is an averaged beat; `longest` is the duration of the file's longest part in s."""
        if not self.leads or names_beat(self.words):
            return True
        return self.seconds < _BEAT_SECONDS and (not self.original or longest >= 2 * self.seconds)


class Whole:
    """A candidate for one ECG: one part, or parts with different leads over the same time."""

    def __init__(self, parts: List[Part], place: int) -> None:
        self.parts, self.place, first = parts, place, parts[0]
        self.positions: FrozenSet[int] = frozenset().union(*(part.positions for part in parts))
        self.is_complete = self.positions >= _EIGHT
        self.is_original = all(part.original for part in parts)
        self.seconds, self.start, self.rate = first.seconds, first.start, first.rate
        self.rank = (self.is_complete, self.is_original, self.seconds, len(self.positions) or len(first.leads))

    def is_outside(self, other: "Whole") -> bool:
        """Return whether both have known starts and do not overlap in time."""
        if self.start is None or other.start is None:
            return False
        return self.start + self.seconds <= other.start or other.start + other.seconds <= self.start

    def is_of_kind(self, best: "Whole") -> bool:
        """Return whether it is an ECG of the same kind as the best, not a short or processed extract."""
        if (self.is_complete, self.is_original) != (best.is_complete, best.is_original):
            return False
        if not best.is_complete and self.positions != best.positions:
            return False
        return 2 * self.seconds >= best.seconds or (self.seconds >= _ECG_SECONDS and self.is_outside(best))

    def digest(self) -> bytes:
        """Return a hash of the signals; leads that can be computed from others are ignored."""
        leads = {lead_position(name): lead for name, lead in zip(lead_names(self.leads()), self.leads())}
        positions = sorted(_EIGHT if self.is_complete else self.positions)
        found = hashlib.sha256(repr((self.rate, self.start, positions)).encode())
        for lead in [leads[position] for position in positions] or self.leads():
            found.update(repr((lead.resolution, lead.offset, lead.resolution_unit, lead.units)).encode())
            found.update(np.ascontiguousarray(lead.samples).tobytes())
        return found.digest()

    def leads(self) -> List[Any]:
        """Return all of its signals; a lead in two parts is returned once."""
        found, taken = list(self.parts[0].leads), set(self.parts[0].positions)
        for part in self.parts[1:]:
            for name, lead in zip(lead_names(part.leads), part.leads):
                if lead_position(name) not in taken:
                    found.append(lead)
            taken |= part.positions
        return found


def names_beat(words: str) -> bool:
    """Return whether the name of a waveform is that of an averaged beat."""
    text = words.replace("_", " ")
    return _BEAT.search(text) is not None and _NO_BEAT.search(text) is None


def lead_names(leads: List[Any]) -> List[str]:
    """Return the name of each signal in the file."""
    return [repeated.group(1) if (repeated := _REPEATED.fullmatch(lead.label)) else lead.label for lead in leads]


def only_beats(path: Path) -> UserError:
    """Return the error for a file that contains only averaged beats."""
    return UserError(f"{path}: it contains averaged beats only, no rhythm; export the ECG with its rhythm")


def choose(path: Path, parts: List[Part]) -> List[Whole]:
    """Return the ECGs of a file in the order of their times, or in the file's order if it has no times.

    Preference: complete twelve leads (or the eight that determine the rest), then recorded over derived signals, then
    the longest, then most leads. Other waveforms of the same kind are further ECGs, unless they are the same signal
    over the same time. Parts with different leads over the same time are joined.

    Raises:
        UserError: there are only averaged beats, or the leads cover different times.
    """
    longest = max((part.seconds for part in parts), default=0.0)
    signals = [part for part in parts if not part.is_average(longest)]
    if not signals:
        raise only_beats(path)
    if len(signals) == 1:
        return [Whole(signals, 0)]
    wholes = _joined(path, [part for part in signals if part.positions] or signals)
    best = max(wholes, key=lambda whole: whole.rank)
    if not best.is_complete and any(whole.positions - best.positions for whole in wholes):
        raise _not_together(path, len(wholes))
    return _without_repeats([whole for whole in wholes if whole.is_of_kind(best)])


def _not_together(path: Path, count: int) -> UserError:
    return UserError(
        f"{path}: its leads are in {count} groups over different times, as in the columns of a printout, and no group "
        "has all of them; export all leads over the same time"
    )


def _joined(path: Path, parts: List[Part]) -> List[Whole]:
    """Join parts with different leads over the same time."""
    together: Dict[Any, List[Tuple[int, Part]]] = defaultdict(list)
    for place, part in enumerate(parts):
        start = None if part.start is None else round(part.start, 3)
        together[start, part.rate, part.samples].append((place, part))
    wholes: List[Whole] = []
    for same in together.values():
        split = any(part.positions >= _EIGHT for _, part in same)
        # without times, columns of a printout cannot be distinguished from simultaneous leads
        column = same[0][1].start is None and same[0][1].seconds < _COLUMN_SECONDS
        if len(same) == 1 or split or column:
            wholes += [Whole([part], place) for place, part in same]
        else:
            wholes += _join(path, same)
    return sorted(wholes, key=lambda whole: whole.place)


def _join(path: Path, same: List[Tuple[int, Part]]) -> List[Whole]:
    """Join all parts that add a lead; return this ECG and the other parts."""
    same = sorted(same, key=lambda pair: (-len(pair[1].positions), not pair[1].original, sorted(pair[1].positions)))
    joined: List[Part] = []
    others: List[Tuple[int, Part]] = []
    covered: FrozenSet[int] = frozenset()
    for place, part in same:
        if part.positions - covered or not joined:
            joined.append(part)
            covered |= part.positions
        else:
            others.append((place, part))
    of_joined = {part.positions for part in joined}
    if len(joined) > 1 and any(part.positions in of_joined for _, part in others):
        raise UserError(
            f"{path}: its leads are in {len(same)} groups without times, so it is unknown which were taken together; "
            "export each ECG as one group"
        )
    place = min(place for place, part in same if part in joined)
    return [Whole(joined, place), *(Whole([part], place) for place, part in others)]


def _without_repeats(wholes: List[Whole]) -> List[Whole]:
    """Return the candidates in order without repeats: the same samples, or the same signal with another filter."""
    if len(wholes) == 1:
        return wholes
    best: Dict[bytes, Whole] = {}
    for whole in wholes:
        digest = whole.digest()
        if digest not in best or whole.rank > best[digest].rank:
            best[digest] = whole
    wholes = sorted(best.values(), key=lambda whole: whole.place)
    if any(whole.start is None for whole in wholes):
        return wholes
    order = {id(whole): (whole.start, -whole.rate, -whole.seconds, digest) for digest, whole in best.items()}
    kept: List[Whole] = []
    for whole in sorted(wholes, key=lambda whole: order[id(whole)]):
        if not kept or whole.is_outside(kept[-1]) or not _are_alike(kept[-1], whole):
            kept.append(whole)
    return kept


def _are_alike(first: Whole, second: Whole) -> bool:
    """Return whether a lead of both is the same signal where they overlap; assumed if their rates differ."""
    if first.rate != second.rate or first.start is None or second.start is None:
        return True
    shift = round((second.start - first.start) * first.rate)
    common = min(first.positions & second.positions, default=None)
    one, two = (np.asarray(_signal(whole, common), np.float64) for whole in (first, second))
    length = min(len(one) - shift, len(two))
    one, two = one[shift : shift + length], two[:length]
    valid = np.isfinite(one) & np.isfinite(two)
    if not valid.any():
        return False
    one, two = one[valid] - one[valid].mean(), two[valid] - two[valid].mean()
    power = float(np.sqrt((one**2).sum() * (two**2).sum()))
    return power == 0.0 or float((one * two).sum()) >= _ALIKE * power


def _signal(whole: Whole, position: Optional[int]) -> np.ndarray:
    """Return the samples of one lead, or of the first signal if the file names no lead."""
    leads = whole.leads()
    rows = [row for row, name in enumerate(lead_names(leads)) if lead_position(name) == position]
    return np.asarray(leads[rows[0] if rows else 0].samples)
