"""Plan and do a benchmark's runs of probes, in parts; each run writes one file."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.benchmarking.cross_fitting import cross_fit
from fairseq_signals_ext.benchmarking.entrants import Entrant
from fairseq_signals_ext.benchmarking.folds import (
    TEST,
    TRAIN,
    given_folds,
    patient_folds,
    published_parts,
    shares,
)
from fairseq_signals_ext.benchmarking.protocols import BenchmarkSettings
from fairseq_signals_ext.benchmarking.score_files import Scores, Unit, read_scores, write_scores
from fairseq_signals_ext.benchmarking.targets import Known, Measures, known_of, without_rare
from fairseq_signals_ext.benchmarking.task_files import Task
from fairseq_signals_ext.benchmarking.trained_probes import Crops, train_probe
from fairseq_signals_ext.benchmarking.trainings import MODES, TrainingOptions, divided, train_all
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.processes import BACKENDS, run_jobs
from fairseq_signals_ext.common.progress import Progress
from fairseq_signals_ext.inference.parts import Part
from fairseq_signals_ext.prepared.table import read_table

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Prepared:
    """A task on its recordings.

    Attributes:
        known: targets of the tested labels; with iclr2026 only for recordings that have a part.
        fold: for each seed: the fold of a recording (strict) or its part (iclr2026).
        share: for each seed the smallest share of the training patients that contains a recording, %.
    """

    known: Known
    fold: Mapping[int, np.ndarray]
    share: Mapping[int, np.ndarray]

    def fingerprint(self) -> str:
        """Return a checksum of recordings, labels and folds."""
        import zlib

        arrays = (self.known.idx, self.known.targets, self.known.person, *self.fold.values(), *self.share.values())
        crc = 0
        for array in arrays:
            crc = zlib.crc32(np.ascontiguousarray(array).tobytes(), crc)
        return f"{crc:08x} of {len(self.known.idx)} recordings"


def prepare_task(out: Path, task: Task, settings: BenchmarkSettings, measures: Optional[Measures] = None) -> Prepared:
    """Return the targets of a task, and its folds.

    Args:
        out: prepared folder.

    Raises:
        UserError: the data lack what it needs, a patient is in two given folds, or no label can be tested.
    """
    known = known_of(out, task, measures=measures, drop_unlabelled=settings.drop_unlabelled)
    if not settings.is_strict:
        return _as_published(out, known, settings)
    known = without_rare(known, None, settings.min_test_positives)
    if settings.folds_column is not None:
        fold = given_folds(known, _column(out, known, settings.folds_column))
        folds = {seed: fold for seed in settings.seeds}
    else:
        folds = {seed: patient_folds(known, settings.folds, seed) for seed in settings.seeds}
    return Prepared(known, folds, {seed: shares(known, settings.percents, seed) for seed in settings.seeds})


def _as_published(out: Path, known: Known, settings: BenchmarkSettings) -> Prepared:
    import pandas as pd

    column = known.task.split.column if known.task.split else None
    table = pd.DataFrame() if column is None else pd.DataFrame({column: _column(out, known, column)})
    part = published_parts(known, table, settings.seed)
    known = without_rare(known, part == TEST, settings.min_test_positives)
    kept = part >= 0
    known, part = known.take(kept), part[kept]
    share = {seed: shares(known, settings.percents, seed) for seed in settings.seeds}
    return Prepared(known, {seed: part for seed in settings.seeds}, share)


def _column(out: Path, known: Known, name: str) -> "pd.Series":
    table = read_table(out, ["idx", name]).set_index("idx")
    return table[name].loc[known.idx].reset_index(drop=True)


def plan(entrants: Sequence[Entrant], tasks: Mapping[str, Prepared], settings: BenchmarkSettings) -> List[Unit]:
    """Return all runs in order; whole models are trained only for tasks with labels."""
    numbers = [name for name, one in tasks.items() if one.known.task.is_regression]
    return [
        Unit(entrant.name, task, probe, percent, seed)
        for entrant in entrants
        for task in tasks
        for probe in settings.probes
        if entrant.can(probe) and not (probe in MODES and task in numbers)
        for percent in settings.percents
        for seed in settings.seeds
    ]


def run_units(
    out: Path,
    units: Sequence[Unit],
    entrants: Sequence[Entrant],
    prepared: Mapping[str, Prepared],
    settings: BenchmarkSettings,
    part: Optional[Part] = None,
    jobs: int = 1,
    training: Optional[TrainingOptions] = None,
) -> int:
    """Do the missing runs of a part; returns their number.

    Args:
        part: one of several parts; None: all runs.
        jobs: number of processes; -1: one per core.
        training: how whole models are trained, if there are any.

    Raises:
        UserError: features belong to other recordings, or a file to other features, labels or settings.
    """
    by_name = {entrant.name: entrant for entrant in entrants}
    for entrant in entrants:
        for one in prepared.values():
            entrant.rows(one.known)
    made_of = {entrant.name: entrant.fingerprint() for entrant in entrants}
    known_as = {name: one.fingerprint() for name, one in prepared.items()}
    waiting: List[Tuple[Any, ...]] = []
    mine = list(units) if part is None else list(units)[part.number - 1 :: part.total]
    for unit in mine:
        of = {"features": made_of[unit.model], "data": known_as[unit.task], "protocol": settings.protocol}
        if not is_done(out, unit, of):
            given = (by_name[unit.model].packed(), prepared[unit.task], of, settings.is_strict, training)
            waiting.append((out, unit, *given))
    with Progress("benchmark", len(mine), "probe", len(mine) - len(waiting)) as bar:
        run_jobs(_run, waiting, BACKENDS[0], jobs, bar.update, threads=1)
    return len(waiting)


def is_done(out: Path, unit: Unit, of: Mapping[str, str]) -> bool:
    """Whether the file of a run exists.

    Raises:
        UserError: it belongs to another run.
    """
    path = unit.path(out)
    if not path.is_file():
        return False
    was = read_scores(path).about["of"]
    for what, value in of.items():
        if was.get(what) != value:
            raise UserError(f"{path}: is of other {what} ({was.get(what)}, now {value}); replace all with --overwrite")
    return True


def _run(
    out: Path,
    unit: Unit,
    entrant: Entrant,
    task: Prepared,
    of: Dict[str, str],
    is_strict: bool,
    training: Optional[TrainingOptions],
    advance: Optional[Callable[[int], Any]] = None,
) -> int:
    """Do one run of a probe, as a job of `run_jobs`."""
    if unit.probe in MODES:
        scores, tested, choices = _trained(out, entrant, unit, task, is_strict, training)
    else:
        run = _cross_fitted if is_strict else _published
        scores, tested, choices = run(entrant.opened(), unit, task)
    about = {
        "unit": unit._asdict(),
        "of": of,
        "labels": list(task.known.label_names),
        "kind": task.known.kind,
        "choices": choices,
    }
    write_scores(unit.path(out), Scores(task.known.idx, tested, scores, about))
    if advance is not None:
        advance(1)
    return 1


_Ran = Tuple[np.ndarray, np.ndarray, List[Dict[str, Any]]]


def _cross_fitted(entrant: Entrant, unit: Unit, task: Prepared) -> _Ran:
    """Return scores of all recordings, the folds, and the choices."""
    rows, fold, trains = entrant.rows(task.known), task.fold[unit.seed], task.share[unit.seed] <= unit.percent
    layers, names = entrant.layers_of(unit.probe), entrant.features.layers
    if unit.probe != "attention":
        deviation = unit.probe.endswith("-std")

        def matrix(layer: int) -> np.ndarray:
            return entrant.features.matrix(layer, deviation=deviation)[rows]

        fitted = cross_fit(matrix, layers, task.known, fold, trains, list(names))
        return fitted.scores, fold, fitted.choices
    crops, scores, choices = entrant.crops(unit.probe, layers[0], rows), np.full(task.known.targets.shape, np.nan), []
    folds = int(fold.max()) + 1
    for tested in range(folds):
        part = divided(fold, tested, trains)
        found, chosen = train_probe(crops, task.known, part, unit.seed)
        scores[fold == tested] = found[fold == tested]
        choices.append({"fold": tested, "layer": names[layers[0]], **chosen})
    return scores, fold, choices


def _trained(
    out: Path, entrant: Entrant, unit: Unit, task: Prepared, is_strict: bool, training: Optional[TrainingOptions]
) -> _Ran:
    """Return scores by whole models, the folds, and facts about the trainings."""
    if training is None or entrant.source is None:
        raise UserError(f"{unit.probe}: {entrant.name} is no checkpoint that can be trained; leave this mode out")
    fold, trains = task.fold[unit.seed], task.share[unit.seed] <= unit.percent
    if is_strict:
        parts, tested = {one: divided(fold, one, trains) for one in range(int(fold.max()) + 1)}, fold
    else:
        part = np.where((fold == TRAIN) & ~trains, -1, fold)
        parts, tested = {0: part}, np.where(part == TEST, 0, -1)
    scores, choices = train_all(out, unit, entrant.source, task.known, parts, training)
    return scores, tested, choices


def _published(entrant: Entrant, unit: Unit, task: Prepared) -> _Ran:
    """Return scores of the test set, its recordings, and the choices (the layer by the validation set)."""
    rows, part = entrant.rows(task.known), task.fold[unit.seed].copy()
    tested = np.where(part == TEST, 0, -1)
    part[(part == TRAIN) & (task.share[unit.seed] > unit.percent)] = -1
    curve, best = {}, None
    for layer in entrant.layers_of(unit.probe):
        crops: Crops = entrant.crops(unit.probe, layer, rows)
        scores, chosen = train_probe(crops, task.known, part, unit.seed)
        name = entrant.features.layers[layer]
        curve[name] = chosen["valid"]
        if best is None or (chosen["valid"] or -np.inf) > (best[1]["valid"] or -np.inf):
            best = (scores, {"fold": 0, "layer": name, **chosen})
    if best is None:
        raise UserError(f"features of {entrant.name}: have no layer; make them again")
    return best[0], tested, [{**best[1], "inside": curve}]
