"""Splits: which recordings are for training, validation and testing.

A split is made from the table sorted by idx: filters leave recordings out, a strategy assigns the others to subsets,
and before anything is written an independent check proves that the subsets do not overlap. Recordings of the same
content (`duplicate_of`) are never in two subsets.
"""

import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Sequence, Union

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import atomic_folder, named_folder
from fairseq_signals_ext.common.hints import did_you_mean
from fairseq_signals_ext.common.values import counted
from fairseq_signals_ext.data.checksums import record_folder
from fairseq_signals_ext.data.label_table import label_sets
from fairseq_signals_ext.prepared import split_assigning
from fairseq_signals_ext.prepared.split_assigning import Groups
from fairseq_signals_ext.prepared.split_filtering import Selection, parse_time, select
from fairseq_signals_ext.prepared.split_settings import SUBSETS, SplitSettings, prove_apart, prove_nested, prove_whole
from fairseq_signals_ext.prepared.table import TABLE_NAME, manifest_lines, read_table

if TYPE_CHECKING:
    import pandas as pd

_Subsets = Dict[str, np.ndarray]  # name of the manifest: rows of the table

_COLUMNS = ("idx", "patient", "patient_key", "duplicate_of", "shard", "row", "samples")
_SETTINGS_NAME = "split.json"


@dataclass(frozen=True)
class SubsetCounts:
    """Size of a subset: recordings, known patients, and recordings without a known patient."""

    recordings: int
    patients: int
    without_patient: int


@dataclass(frozen=True)
class SplitSummary:
    """Summary of a split.

    Attributes:
        folder: of the split.
        recordings: in the table.
        subsets: name of the manifest -> its size.
        left_out: reason -> recordings.
        notes: `by` (the strategy), `cuts` (where valid and test begin), `moved` (recordings that follow their patient
            to a later subset), `shared_patients` (patients in more than one of train, valid and test).
    """

    folder: Path
    recordings: int
    subsets: Dict[str, SubsetCounts]
    left_out: Dict[str, int]
    notes: Dict[str, Any]


@dataclass
class _Split:
    """A split that is being made."""

    out: Path
    settings: SplitSettings
    table: "pd.DataFrame"  # sorted by idx
    groups: Groups
    selection: Selection
    notes: Dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> np.ndarray:
        """Rows of the table that are kept."""
        return np.flatnonzero(self.selection.kept)

    @property
    def unit(self) -> np.ndarray:
        """Number of the unit of each row of the table; units are never divided."""
        return self.groups.duplicate if self.notes["by"] in ("random", "time") else self.groups.person


def split_recordings(out: Union[str, Path], settings: SplitSettings, overwrite: bool = False) -> SplitSummary:
    """Split the recordings of a prepared folder into manifests.

    Writes `out/splits/NAME/{train,valid,test}.tsv` (with folds `fold-N/{train,valid}.tsv`), `train_P.tsv` for a subset
    of P %, `split.json` with settings and counts, and each folder's `checksums.json`. The same table, settings and seed
    give the same bytes, for any order of the table's rows. The folder appears complete or not at all.

    Args:
        out: folder written by `prepare`.
        settings: of the split.
        overwrite: replace a split of this name.

    Raises:
        UserError: settings that do not fit the data or each other, a split of this name without `overwrite`, a subset
            that would be empty, or a patient in two subsets of a column.
        RuntimeError: the proof failed; nothing is written.
    """
    out = Path(out)
    settings.check()
    folder = named_folder(out / "splits", settings.name, overwrite)
    if folder.exists() and not (folder / _SETTINGS_NAME).is_file():
        raise UserError(f"{folder}: holds no {_SETTINGS_NAME}, so it was not made here; delete it yourself")
    split = _begin(out, settings)
    if settings.kfold:
        split.selection.require_some(out)
        part = _by_chance(split, split.rows, [1 / settings.kfold] * settings.kfold)
        folders = _folds(split, part)
    else:
        part = _assign(split)
        folders = {"": _subsets(split, [split.rows[part == number] for number in range(len(SUBSETS))])}
    _prove(split, folders)
    summary = _summary(split, folder, part, folders)
    _write(summary, split, folders)
    return summary


def _labels_of(out: Path, given: Path) -> Path:
    """The path of labels, which are given by it or by their name in a prepared folder."""
    if given.exists():
        return given
    sets = label_sets(out / "labels")
    names = [path.name for path in sets]
    if str(given) in names:
        return out / "labels" / given
    listed = f"give one of {', '.join(names)}" if names else "make some with fairseq-signals-ext label"
    raise UserError(f"stratify {given}: no such labels; {did_you_mean(given.name, names, listed)}")


def _begin(out: Path, settings: SplitSettings) -> _Split:
    if settings.stratify is not None:
        settings = replace(settings, stratify=_labels_of(out, settings.stratify))
    columns = [*_COLUMNS, *settings.filters.columns]
    columns += ["start_time"] if settings.by in ("time", "patient-time") else []
    columns += [settings.column] if settings.column else []
    table = read_table(out, list(dict.fromkeys(columns))).sort_values("idx", ignore_index=True)
    twice = table["idx"][table["idx"].duplicated()]
    if len(twice):
        raise UserError(f"{out / TABLE_NAME}: idx {twice.iloc[0]} occurs twice; prepare the folder again")
    selection = select(out, table, settings.filters)
    by = settings.by or ("patient" if table["patient"].notna().any() else "random")
    return _Split(out, settings, table, split_assigning.find_groups(table), selection, {"by": by})


def _assign(split: _Split) -> np.ndarray:
    """Return the part of each kept recording, in the order of `split.rows`, 0 to 2 as in `SUBSETS`."""
    split.selection.require_some(split.out)
    by = split.notes["by"]
    if by == "column":
        return _by_column(split)
    if by in ("time", "patient-time"):
        return _by_time(split)
    return _by_chance(split, split.rows, split.settings.used_fractions)


def _by_chance(split: _Split, rows: np.ndarray, fractions: Sequence[float], stream: int = 0) -> np.ndarray:
    unit, seed = split.unit[rows], (split.settings.seed, stream)
    if split.settings.stratify is None:
        return split_assigning.random_parts(unit, fractions, seed)
    labels = split_assigning.stratifying_labels(split.settings.stratify, split.table["idx"].to_numpy()[rows])
    return split_assigning.stratified_parts(unit, labels, fractions, seed)


def _by_time(split: _Split) -> np.ndarray:
    settings, times = split.settings, split.table["start_time"].to_numpy("datetime64[us]")
    split.selection.leave_out(np.isnat(times), "without start_time")
    split.selection.require_some(split.out)
    times, person = times[split.rows], split.groups.person[split.rows]
    moves = split.notes["by"] == "patient-time" and settings.crossing != "drop"
    if settings.cuts:
        cuts = np.array([parse_time(cut, "cuts") for cut in settings.cuts])
    else:  # a recording that follows its patient counts from the time of the patient's last one
        cuts = split_assigning.time_cuts(
            split_assigning.last_part(times, person) if moves else times, settings.used_fractions
        )
    split.notes["cuts"] = [str(cut) for cut in cuts]
    part = np.searchsorted(cuts, times, side="right")
    if split.notes["by"] == "time":
        return _leave_out_copies(split, part)
    if not moves:
        return _keep(split, part, split_assigning.first_part(part, person), "after the cut, of a patient before it")
    last = split_assigning.last_part(part, person)
    split.notes["moved"] = int((last != part).sum())
    return last


def _by_column(split: _Split) -> np.ndarray:
    name = split.settings.column
    part_of_row = split_assigning.column_parts(split.table[name], split.settings.values)
    split.selection.leave_out(part_of_row < 0, f"with {name} in none of the lists")
    split.selection.require_some(split.out)
    rows = split.rows
    part, patient = part_of_row[rows], split.groups.patient[rows]
    shared = np.flatnonzero(split_assigning.last_part(part, patient) != part)
    if len(shared) and not split.settings.allow_shared_patients:
        named = split.table["patient"].iloc[rows[shared[0]]]
        raise UserError(
            f"column {name!r}: patient {named!r} is in two subsets; change the lists, or --allow-shared-patients"
        )
    return _leave_out_copies(split, part)


def _leave_out_copies(split: _Split, part: np.ndarray) -> np.ndarray:
    """Leave out copies of recordings in later subsets, so that the test set stays complete."""
    last = split_assigning.last_part(part, split.groups.duplicate[split.rows])
    return _keep(split, part, last, "with the same content in a later subset")


def _keep(split: _Split, part: np.ndarray, wanted: np.ndarray, reason: str) -> np.ndarray:
    """Leave out the recordings that are not in their wanted part; return the part of the others."""
    unwanted = np.zeros(len(split.table), bool)
    unwanted[split.rows] = part != wanted
    split.selection.leave_out(unwanted, reason)
    return part[part == wanted]


def _folds(split: _Split, part: np.ndarray) -> Dict[str, _Subsets]:
    folders = {}
    for fold in range(split.settings.kfold):
        train, valid = split.rows[part != fold], split.rows[part == fold]
        folders[f"fold-{fold}/"] = _subsets(split, [train, valid], f"fold-{fold}/")
    return folders


def _subsets(split: _Split, members: Sequence[np.ndarray], folder: str = "") -> _Subsets:
    """Return the rows of the table for each subset of a folder; raise a `UserError` for an empty one."""
    settings = split.settings
    wanted: Sequence[Any] = (True,) * len(members)
    if settings.column:
        wanted = settings.values
    elif not (settings.cuts or settings.kfold):
        wanted = settings.used_fractions
    subsets = {name: rows for name, rows, asked in zip(SUBSETS, members, wanted) if asked}
    if settings.subsets and len(subsets.get("train", ())):
        subsets.update(_training_subsets(split, subsets["train"]))
    for name, rows in subsets.items():
        if not len(rows):
            where = f"{split.out / TABLE_NAME}: {folder}{name} would be empty"
            units = len(np.unique(split.unit[split.rows]))
            used = counted(len(split.rows), "recording")
            hint = "change the fractions, cuts, folds or values, or add recordings"
            raise UserError(f"{where} ({used} in {counted(units, 'group')} that cannot be divided); {hint}")
    return subsets


def _training_subsets(split: _Split, train: np.ndarray) -> _Subsets:
    """Return nested training subsets: each has all parts of the training set up to its own."""
    percents = sorted(split.settings.subsets)
    part = _by_chance(split, train, np.diff([0, *percents, 100]).tolist(), stream=1)
    return {f"train_{percent:g}": train[part <= number] for number, percent in enumerate(percents)}


def _prove(split: _Split, folders: Dict[str, _Subsets]) -> None:
    """Raise a `RuntimeError` unless the folders are as described in `split_recordings`."""
    by, groups = split.notes["by"], split.groups
    apart = [groups.duplicate]
    if by in ("patient", "patient-time"):
        apart += [groups.patient, groups.person]
    elif by == "column" and not split.settings.allow_shared_patients:
        apart += [groups.patient]
    for subsets in folders.values():
        disjoint = [rows for name, rows in subsets.items() if name in SUBSETS]
        prove_whole(disjoint, split.selection)
        for group in apart:
            prove_apart(disjoint, group)
        nested = [f"train_{percent:g}" for percent in sorted(split.settings.subsets)]
        prove_nested([*(subsets[name] for name in nested), *disjoint[:1]])
    if split.settings.kfold:
        prove_whole([subsets["valid"] for subsets in folders.values()], split.selection)


def _summary(split: _Split, folder: Path, part: np.ndarray, folders: Dict[str, _Subsets]) -> SplitSummary:
    known, patient = split.table["patient"].notna().to_numpy(), split.groups.patient
    counts = {}
    for below, subsets in folders.items():
        for name, rows in subsets.items():
            patients = len(np.unique(patient[rows[known[rows]]]))
            counts[below + name] = SubsetCounts(len(rows), patients, int((~known[rows]).sum()))
    crossing = patient[split.rows][split_assigning.last_part(part, patient[split.rows]) != part]
    notes = {**split.notes, "shared_patients": len(np.unique(crossing))}
    return SplitSummary(folder, len(split.table), counts, split.selection.left_out, notes)


def _write(summary: SplitSummary, split: _Split, folders: Dict[str, _Subsets]) -> None:
    with atomic_folder(summary.folder) as temporary:
        _write_settings(temporary / _SETTINGS_NAME, summary, split.settings)
        for below, subsets in folders.items():
            (temporary / below).mkdir(exist_ok=True)
            for name, rows in subsets.items():
                lines = manifest_lines(split.table.iloc[rows])
                _write_manifest(temporary / below / name, lines, split.settings.manifest_lines, bool(below))
        for below in {"", *folders}:
            record_folder(temporary / below, "split")


def _write_manifest(path: Path, lines: List[str], most: int, deeper: bool) -> None:
    """Write `path`.tsv, or pieces of equal size (except the last) if there are more lines than `most`."""
    pieces = math.ceil(len(lines) / most)
    size = math.ceil(len(lines) / pieces)
    root = "../../.." if deeper else "../.."
    for piece in range(pieces):
        name = f"{path.name}.tsv" if pieces == 1 else f"{path.name}-{piece:05d}-of-{pieces:05d}.tsv"
        text = "\n".join([root, *lines[piece * size : (piece + 1) * size], ""])
        path.with_name(name).write_bytes(text.encode())


def _write_settings(path: Path, summary: SplitSummary, settings: SplitSettings) -> None:
    found = {
        "settings": settings.as_json(),
        "recordings": summary.recordings,
        "subsets": {name: asdict(counts) for name, counts in summary.subsets.items()},
        "left_out": summary.left_out,
        **summary.notes,
    }
    path.write_bytes((json.dumps(found, indent=2, ensure_ascii=False) + "\n").encode())
