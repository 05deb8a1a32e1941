"""Settings of a split, with checks before any data is read; and proofs that a finished split fulfils them."""

from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import check_folder_name
from fairseq_signals_ext.prepared.split_filtering import Filters, Selection, parse_time

SUBSETS = ("train", "valid", "test")
STRATEGIES = ("random", "patient", "time", "patient-time", "column")
CROSSINGS = ("later", "drop")
DEFAULT_FRACTIONS = (0.8, 0.1, 0.1)

# setting: the strategies that it belongs to; None: no strategy is given
_BELONGS_TO: Dict[str, Tuple[Optional[str], ...]] = {
    "fractions": (None, "random", "patient", "time", "patient-time"),
    "kfold": (None, "random", "patient"),
    "cuts": ("time", "patient-time"),
    "crossing": ("patient-time",),
    "column": ("column",),
    "values": ("column",),
    "allow_shared_patients": ("column",),
}


@dataclass(frozen=True)
class SplitSettings:
    """Settings of a split.

    Attributes:
        name: of its folder.
        by: one of `STRATEGIES`; None: patient if the patient of any recording is known, random otherwise.
        fractions: of train, valid and test; None: `DEFAULT_FRACTIONS`.
        seed: 0 to 2^32 - 1.
        cuts: two times (ISO 8601) at which valid and test begin, in place of fractions.
        crossing: for patients with recordings before and after a cut: `later` (the default): all of the patient's
            recordings go to the last subset that has one; `drop`: those after the first subset's end are left out.
        column, values: a column of the table and its values for train, valid and test, see `column_parts`.
        allow_shared_patients: with a column, a patient may be in two subsets.
        stratify: folder of labels to stratify by, see `read_labels`.
        kfold: number of folds, in place of fractions; 0: no folds.
        subsets: nested subsets of the training set, in % of it.
        filters: conditions for recordings.
        manifest_lines: longest manifest; a longer one is written in pieces.
    """

    name: str
    by: Optional[str] = None
    fractions: Optional[Sequence[float]] = None
    seed: int = 1
    cuts: Sequence[str] = ()
    crossing: Optional[str] = None
    column: str = ""
    values: Sequence[Sequence[str]] = ()
    allow_shared_patients: bool = False
    stratify: Optional[Path] = None
    kfold: int = 0
    subsets: Sequence[float] = ()
    filters: Filters = field(default_factory=Filters)
    manifest_lines: int = 500_000

    def check(self) -> None:
        """Raise a `UserError` for invalid settings, or settings that contradict each other."""
        check_folder_name(self.name)
        _check_choice("by", self.by, STRATEGIES)
        _check_choice("crossing", self.crossing, CROSSINGS)
        for setting, strategies in _BELONGS_TO.items():
            if getattr(self, setting) and self.by not in strategies:
                fitting = ", ".join(name for name in strategies if name)
                by = f"by {self.by}" if self.by else "the default for by"
                raise UserError(f"{setting.replace('_', ' ')}: does not go with {by}, only with by {fitting}")
        _check_numbers(self)
        if self.fractions is not None:
            check_fractions(self.fractions)
        if self.by == "column":
            _check_column(self)
        if self.cuts:
            _check_cuts(self)
        if self.stratify is not None and not self.subsets and self.by not in (None, "random", "patient"):
            raise UserError(f"stratify: does not go with by {self.by}, unless for subsets of its training set")
        self.filters.check()

    @property
    def used_fractions(self) -> Sequence[float]:
        """Return the given fractions, or the default."""
        return DEFAULT_FRACTIONS if self.fractions is None else self.fractions

    def as_json(self) -> Dict[str, Any]:
        """Return the settings that are set, and the seed; only the names of folders."""
        found = {name: value for name, value in {**vars(self), **vars(self.filters)}.items() if value}
        del found["filters"]
        if self.stratify is not None:
            found["stratify"] = self.stratify.resolve().name
        if not (self.cuts or self.column or self.kfold):
            found["fractions"] = self.used_fractions
        return {**found, "seed": self.seed}


def check_fractions(fractions: Sequence[float], names: Sequence[str] = SUBSETS) -> None:
    """Raise a `UserError` unless there is one fraction per name, none below 0, and they add up to 1."""
    text = " ".join(f"{fraction:g}" for fraction in fractions)
    if len(fractions) != len(names) or not all(fraction >= 0 for fraction in fractions):
        raise UserError(f"fractions {text}: give one per subset ({', '.join(names)}), none below 0")
    if abs(sum(fractions) - 1) > 1e-6:
        raise UserError(f"fractions {text}: they add up to {sum(fractions):g}; they must add up to 1")


def _check_choice(setting: str, value: Optional[str], choices: Sequence[str]) -> None:
    if value is not None and value not in choices:
        raise UserError(f"{setting} {value!r}: no such choice; choose from {', '.join(choices)}")


def _check_numbers(settings: SplitSettings) -> None:
    if not 0 <= settings.seed < 2**32:
        raise UserError(f"seed {settings.seed}: give a number from 0 to {2**32 - 1}")
    if settings.kfold and (settings.kfold < 2 or settings.fractions is not None):
        raise UserError(f"kfold {settings.kfold}: give 2 folds or more, and no fractions")
    if settings.manifest_lines < 1:
        raise UserError(f"manifest lines {settings.manifest_lines}: give at least 1")
    percents = [f"{percent:g}" for percent in settings.subsets]
    if len(set(percents)) < len(percents) or not all(0 < percent < 100 for percent in settings.subsets):
        raise UserError(f"subsets {' '.join(percents)}: give different percentages of train, above 0 and below 100")


def _check_column(settings: SplitSettings) -> None:
    if not settings.column:
        raise UserError("by column: name the column with --column, and its values with --train, --valid and --test")
    if len(settings.values) != len(SUBSETS) or not any(settings.values):
        raise UserError(f"column {settings.column!r}: give its values with --train, --valid and --test")


def _check_cuts(settings: SplitSettings) -> None:
    text = f"cuts {' '.join(settings.cuts)}"
    times = np.array([parse_time(cut, text) for cut in settings.cuts])
    if len(times) != 2 or not times[0] < times[1]:
        raise UserError(f"{text}: give two times, at which valid and test begin, the earlier first")
    if settings.fractions is not None:
        raise UserError(f"{text}: give cuts or fractions, not both")


def prove_whole(subsets: Sequence[np.ndarray], selection: Selection) -> None:
    """Raise a `RuntimeError` unless each recording is in exactly one subset or counted as left out.

    Args:
        subsets: rows of the table, int64.
        selection: kept recordings, and counts of the others.
    """
    rows = np.sort(np.concatenate(subsets))
    counted = len(rows) + sum(selection.left_out.values())
    if not np.array_equal(rows, np.flatnonzero(selection.kept)) or counted != len(selection.kept):
        raise _defect("a recording is in no subset or in two")


def prove_apart(subsets: Sequence[np.ndarray], group: np.ndarray) -> None:
    """Raise a `RuntimeError` if a group is in two subsets.

    Args:
        subsets: rows of the table, int64.
        group: number of each row's group.
    """
    for one, other in combinations([np.unique(group[rows]) for rows in subsets], 2):
        if len(np.intersect1d(one, other, assume_unique=True)):
            raise _defect("a patient or a recording and its duplicate are in two subsets")


def prove_nested(subsets: Sequence[np.ndarray]) -> None:
    """Raise a `RuntimeError` unless each subset has all rows of the one before it."""
    for smaller, larger in zip(subsets, subsets[1:]):
        if len(np.setdiff1d(smaller, larger)):
            raise _defect("a subset of the training set does not contain the smaller ones")


def _defect(what: str) -> RuntimeError:
    return RuntimeError(f"defect in fairseq_signals_ext: {what}; the split was not written; please report it")
