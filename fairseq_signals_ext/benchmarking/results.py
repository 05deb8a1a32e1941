"""Results of a benchmark, and their files; everything is computed from the files of scores."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Type, TypeVar

import numpy as np

from fairseq_signals_ext.benchmarking.comparing import FALLING, Measured, difference, measure, metrics_of
from fairseq_signals_ext.benchmarking.entrants import Entrant
from fairseq_signals_ext.benchmarking.protocols import JUDGES, BenchmarkSettings
from fairseq_signals_ext.benchmarking.running import Prepared
from fairseq_signals_ext.benchmarking.score_files import Unit, read_scores
from fairseq_signals_ext.common.errors import UserError, first_line
from fairseq_signals_ext.common.values import as_json
from fairseq_signals_ext.evaluation.comparison import holm
from fairseq_signals_ext.evaluation.report import versions_in_use

RESULTS_FILE = "results.json"
_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class ModelFacts:
    """A row of the table: see `entrants.Entrant`; `features` is a checksum of the features."""

    name: str
    kind: str
    control: Optional[str]
    checkpoint: Optional[str]
    features: str
    layers: Tuple[str, ...]
    dimensions: int


@dataclass(frozen=True)
class TaskFacts:
    """A task on its recordings: tested recordings, their patients, and the number of positives of each label."""

    name: str
    description: str
    kind: str
    labels: Tuple[str, ...]
    positives: Tuple[int, ...]
    recordings: int
    patients: int
    sources: Tuple[str, ...]
    notes: Tuple[str, ...]
    data: str


@dataclass(frozen=True)
class Value:
    """A metric of a model for a label, or the macro average if `label` is empty; None: undefined.

    `of_seeds` contains the macro average for each seed.
    """

    task: str
    probe: str
    percent: float
    metric: str
    model: str
    label: str
    point: Optional[float]
    low: Optional[float]
    high: Optional[float]
    of_seeds: Tuple[Optional[float], ...] = ()


@dataclass(frozen=True)
class Difference:
    """Difference of model a to model b in the macro average; `p_holm` is p adjusted for the pairs of checkpoints."""

    task: str
    probe: str
    percent: float
    metric: str
    a: str
    b: str
    point: Optional[float]
    low: Optional[float]
    high: Optional[float]
    p: Optional[float]
    p_holm: Optional[float] = None


@dataclass(frozen=True)
class Verdict:
    """Which of two checkpoints is better on a task, by its primary metric with all labels: `better`, or None."""

    task: str
    a: str
    b: str
    better: Optional[str]
    why: str


@dataclass(frozen=True)
class Results:
    """All results of a benchmark.

    Attributes:
        protocol: name of the protocol.
        settings: `BenchmarkSettings` as plain values.
        versions: versions of the packages.
        models, tasks: the compared models, and the tasks.
        values, differences, verdicts: the results.
        choices: for each run of a probe its unit, and for each fold the chosen layer and penalty and the metric of each
            layer inside the training folds (`inside`), as plain values.
    """

    protocol: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    models: Tuple[ModelFacts, ...]
    tasks: Tuple[TaskFacts, ...]
    values: Tuple[Value, ...]
    differences: Tuple[Difference, ...]
    verdicts: Tuple[Verdict, ...]
    choices: Tuple[Mapping[str, Any], ...]

    def macro(self, task: str, probe: str, percent: float = 100.0) -> Dict[str, Value]:
        """Return the macro average of the primary metric by model name."""
        found = [
            one for one in self.values if (one.task, one.probe, one.percent, one.label) == (task, probe, percent, "")
        ]
        return {one.model: one for one in found if one.metric == found[0].metric}


def make_results(
    out: Path,
    units: Sequence[Unit],
    entrants: Sequence[Entrant],
    prepared: Mapping[str, Prepared],
    settings: BenchmarkSettings,
) -> Results:
    """Compute results from the files of scores.

    Raises:
        UserError: a file is missing or damaged.
    """
    values: List[Value] = []
    differences: List[Difference] = []
    choices: List[Dict[str, Any]] = []
    for task, probe, percent in dict.fromkeys((unit.task, unit.probe, unit.percent) for unit in units):
        here = [unit for unit in units if unit[1:4] == (task, probe, percent)]
        measured: Dict[str, Measured] = {}
        for entrant in entrants:
            runs = [read_scores(unit.path(out)) for unit in here if unit.model == entrant.name]
            if runs:
                tested = runs[0].tested >= 0
                known = prepared[task].known.take(tested)
                measured[entrant.name] = measure([run.scores[tested] for run in runs], known, settings)
                choices += [{**run.about["unit"], "choices": run.about["choices"]} for run in runs]
        place = (task, probe, percent)
        values += _values(place, measured, prepared[task])
        differences += _differences(place, measured, prepared[task], entrants, settings)
    return Results(
        settings.protocol,
        settings.as_json(),
        versions_in_use(),
        tuple(_model_facts(entrant) for entrant in entrants),
        tuple(_task_facts(one, settings) for one in prepared.values()),
        tuple(values),
        tuple(differences),
        tuple(_verdicts(differences, entrants, prepared, settings)),
        tuple(choices),
    )


def _values(place: Tuple[str, str, float], measured: Mapping[str, Measured], task: Prepared) -> List[Value]:
    found = []
    for metric in metrics_of(task.known):
        for model, one in measured.items():
            for row, label in enumerate([*task.known.label_names, ""]):
                point, low, high = (_number(x) for x in (one.point[metric][row], *one.ends[metric][row]))
                of_seeds = tuple(_number(x) for x in one.of_seeds[metric]) if not label else ()
                found.append(Value(*place, metric, model, label, point, low, high, of_seeds))
    return found


def _differences(
    place: Tuple[str, str, float],
    measured: Mapping[str, Measured],
    task: Prepared,
    entrants: Sequence[Entrant],
    settings: BenchmarkSettings,
) -> List[Difference]:
    """Compare all pairs, the earlier one first."""
    names = [entrant.name for entrant in entrants if entrant.name in measured]
    kinds = {entrant.name: entrant.kind for entrant in entrants}
    found = []
    for metric in metrics_of(task.known):
        pairs = [(a, b) for number, a in enumerate(names) for b in names[number + 1 :]]
        numbers = [difference(measured[a], measured[b], metric, settings.confidence) for a, b in pairs]
        among = np.array([kinds[a] == kinds[b] == "checkpoint" for a, b in pairs], bool)
        p = np.array([values[-1] for values in numbers])
        adjusted = np.full(len(pairs), np.nan)
        adjusted[among] = holm(p[among])
        for (a, b), row, p_holm in zip(pairs, numbers, adjusted):
            point, low, high, p_plain = (_number(x) for x in row)
            found.append(Difference(*place, metric, a, b, point, low, high, p_plain, _number(p_holm)))
    return found


def _verdicts(
    differences: Sequence[Difference],
    entrants: Sequence[Entrant],
    prepared: Mapping[str, Prepared],
    settings: BenchmarkSettings,
) -> List[Verdict]:
    """Decide for each pair of checkpoints which is better, if both deciding probes were run."""
    table = {(one.task, one.probe, one.metric, one.a, one.b): one for one in differences if one.percent == 100}
    checkpoints = [entrant for entrant in entrants if entrant.kind == "checkpoint"]
    if not set(JUDGES) <= set(settings.probes):
        return []
    found = []
    for task, one in prepared.items():
        metric = metrics_of(one.known)[0]
        for number, a in enumerate(checkpoints):
            for b in checkpoints[number + 1 :]:
                better, why = None, "no difference in both probes"
                for winner, loser in ((a, b), (b, a)):
                    if all(_exceeds(table, task, probe, metric, winner.name, loser.name) for probe in JUDGES):
                        control = winner.control
                        beats = control is not None and all(
                            _exceeds(table, task, probe, metric, winner.name, control) for probe in JUDGES
                        )
                        better = winner.name if beats else None
                        why = "in both probes, and above random weights" if beats else "not above random weights"
                found.append(Verdict(task, a.name, b.name, better, why))
    return found


def _exceeds(
    table: Mapping[Tuple[str, str, str, str, str], Difference], task: str, probe: str, metric: str, a: str, b: str
) -> bool:
    """Whether the interval of the difference of a to b is above 0, and p (adjusted, if available) is small enough."""
    one, sign = table.get((task, probe, metric, a, b)), 1
    if one is None:
        one, sign = table.get((task, probe, metric, b, a)), -1
    if one is None or one.low is None or one.high is None or one.p is None:
        return False
    if metric in FALLING:
        sign = -sign
    p = one.p if one.p_holm is None else one.p_holm
    return (one.low > 0 if sign > 0 else one.high < 0) and p <= _SIGNIFICANT


def _number(value: float) -> Optional[float]:
    return float(value) if np.isfinite(value) else None


def _model_facts(entrant: Entrant) -> ModelFacts:
    features = entrant.features
    facts = (entrant.fingerprint(), tuple(map(str, features.layers)), int(features.dimensions))
    return ModelFacts(entrant.name, entrant.kind, entrant.control, entrant.checkpoint, *facts)


def _task_facts(one: Prepared, settings: BenchmarkSettings) -> TaskFacts:
    from fairseq_signals_ext.benchmarking.folds import TEST

    fold = next(iter(one.fold.values()))
    known = one.known if settings.is_strict else one.known.take(fold == TEST)
    positives = () if known.task.is_regression else tuple(int(count) for count in (known.targets == 1).sum(axis=0))
    return TaskFacts(
        known.task.name,
        known.task.description,
        known.kind,
        known.label_names,
        positives,
        len(known.idx),
        len(np.unique(known.person)),
        tuple(sorted(set(known.source.tolist()))),
        known.notes,
        one.fingerprint(),
    )


def results_text(results: Results) -> str:
    """Return the text of `results.json`; equal results give equal text."""
    return json.dumps(as_json(asdict(results)), indent=1, ensure_ascii=False) + "\n"


def read_results(folder: Path) -> Results:
    """Read the results of a benchmark from its folder.

    Raises:
        UserError: there are no results, or they are damaged.
    """
    path = folder / RESULTS_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        kinds = {"models": ModelFacts, "tasks": TaskFacts, "values": Value, "differences": Difference}
        for name, kind in {**kinds, "verdicts": Verdict}.items():
            found[name] = tuple(_made(kind, row) for row in found[name])
        return Results(**{**found, "choices": tuple(found["choices"])})
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; run fairseq-signals-ext benchmark first") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is no result of a benchmark ({first_line(error)}); run it again") from error


Kind = TypeVar("Kind")


def _made(kind: Type[Kind], row: Mapping[str, Any]) -> Kind:
    names = {one.name for one in fields(kind)}  # type: ignore[arg-type]
    return kind(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in row.items() if name in names}
    )
