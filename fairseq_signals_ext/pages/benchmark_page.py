"""A benchmark's page: comparisons of features with intervals, in one self-contained HTML file.

It is made from `results.json` alone, and the same results give the same bytes.
"""

from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.benchmarking.comparing import FALLING
from fairseq_signals_ext.benchmarking.protocols import PROBES
from fairseq_signals_ext.benchmarking.results import Results
from fairseq_signals_ext.benchmarking.tables import METRIC_NAMES, explanation_of, tables_of, title_of
from fairseq_signals_ext.pages import benchmark_figures
from fairseq_signals_ext.pages.benchmark_figures import Estimate
from fairseq_signals_ext.pages.rendering import render_page, write_page

PAGE_FILE = "benchmark.html"
_WHOLE = 100.0
# most labels in a figure; all of PTB-XL's fit
_MOST_LABELS = 75


class _Section(NamedTuple):
    """The section of one task.

    Attributes:
        task: name.
        about: description of the task, with numbers of recordings and patients.
        pictures: heading, `<svg>` and explanation.
        notes: sentences.
    """

    task: str
    about: str
    pictures: Sequence[Tuple[str, Any, str]]
    notes: Sequence[str]


def write_benchmark_page(results: Results, folder: Path) -> Path:
    """Write the page into the folder of the results; returns its path.

    Raises:
        PlaceError: the disk is full.
    """
    path = folder / PAGE_FILE
    write_page(path, benchmark_html(results))
    return path


def benchmark_html(results: Results) -> str:
    """Return the page as HTML."""
    return render_page(
        "benchmark.html.j2",
        title=title_of(results),
        explanation=explanation_of(results),
        verdicts=list(_verdicts(results)),
        tables=[(heading, head, rows) for heading, head, rows in tables_of(results)],
        sections=[_section(results, task.name) for task in results.tasks],
        models=_models(results),
        settings=[(name.replace("_", " "), _plain(value)) for name, value in results.settings.items()],
        versions=list(results.versions.items()),
    )


def _verdicts(results: Results) -> Iterator[Tuple[str, str]]:
    """Conclusions: pairs of task and sentence."""
    for one in results.verdicts:
        other = one.b if one.better == one.a else one.a
        if one.better is None:
            yield one.task, f"neither {one.a} nor {one.b} is called better: {one.why}."
        else:
            yield one.task, f"{one.better} is better than {other}: {one.why}."


def _section(results: Results, name: str) -> _Section:
    task = next(one for one in results.tasks if one.name == name)
    about = f"{task.description}. Tested: {task.recordings:,} recordings of {task.patients:,} patients."
    made = (_forest(results, name), _labels(results, name), _layers(results, name))
    return _Section(name, about, [picture for picture in made if picture is not None], task.notes)


def _forest(results: Results, task: str) -> Optional[Tuple[str, Any, str]]:
    """Figure of the differences of all other models to the first."""
    from markupsafe import Markup

    metric, first = _metric(results, task), results.models[0].name
    panels: Dict[str, List[Estimate]] = {}
    for one in results.differences:
        if (one.task, one.metric, one.percent) != (task, metric, _WHOLE) or first not in (one.a, one.b):
            continue
        other, sign = (one.b, -1) if one.a == first else (one.a, 1)
        ends = [None if value is None else sign * value for value in (one.point, one.low, one.high)]
        low, high = ends[1:] if sign > 0 else ends[:0:-1]
        panels.setdefault(f"probe {one.probe}", []).append(Estimate(f"{other} − {first}", ends[0], low, high))
    if not panels:
        return None
    text = f"Paired differences of {METRIC_NAMES[metric]} with intervals. Right of zero the named model has more."
    if metric in FALLING:
        text += " Less is better."
    return "Differences", Markup(benchmark_figures.forest(panels, f"difference of {METRIC_NAMES[metric]}")), text


def _labels(results: Results, task: str) -> Optional[Tuple[str, Any, str]]:
    """Figure of each label's primary metric, if there are several labels."""
    from markupsafe import Markup

    metric, probe = _metric(results, task), _best_probe(results)
    found = [
        one
        for one in results.values
        if (one.task, one.metric, one.percent, one.probe) == (task, metric, _WHOLE, probe) and one.label
    ]
    names = list(dict.fromkeys(one.label for one in found))[:_MOST_LABELS]
    if len(names) < 2:
        return None
    by_place = {(one.model, one.label): one.point for one in found}
    models = {
        model.name: [by_place.get((model.name, name)) for name in names]
        for model in results.models
        if any((model.name, name) in by_place for name in names)
    }
    axis = METRIC_NAMES[metric].replace("macro ", "")
    text = f"{axis} of each label, probe {probe}: {PROBES[probe]}."
    return "Labels", Markup(benchmark_figures.labels(models, names, axis)), text


def _layers(results: Results, task: str) -> Optional[Tuple[str, Any, str]]:
    """Figure of each layer's metric inside the training folds: means over folds and seeds."""
    from markupsafe import Markup

    curves: Dict[str, Dict[str, float]] = {}
    for model in results.models:
        folds = [
            choice["inside"]
            for run in results.choices
            if (run["model"], run["task"], run["probe"], run["percent"]) == (model.name, task, "layer", _WHOLE)
            for choice in run["choices"]
        ]
        if len(model.layers) > 1 and folds:
            values = np.array([[fold.get(layer) for layer in model.layers] for fold in folds], np.float64)
            curves[model.name] = dict(zip(model.layers, np.nanmean(values, axis=0).tolist()))
    if not curves:
        return None
    axis = METRIC_NAMES[_metric(results, task)]
    text = "The metric of each layer's features inside the training folds; the probe 'layer' chooses the best layer."
    return "Layers", Markup(benchmark_figures.layers(curves, axis)), text


def _metric(results: Results, task: str) -> str:
    """The primary metric: the first of the task's values."""
    return next(one.metric for one in results.values if one.task == task)


def _best_probe(results: Results) -> str:
    probes = list(dict.fromkeys(one.probe for one in results.values))
    return "layer" if "layer" in probes else probes[0]


def _models(results: Results) -> List[Tuple[str, str, str, str]]:
    """Name, kind, layers, and checksum of the features of each model."""
    kinds = {
        "checkpoint": "checkpoint",
        "random": "control: random weights",
        "measures": "control: handcrafted measures",
        "source": "control: the name of the data set",
    }
    return [
        (one.name, kinds[one.kind], f"{len(one.layers)} of {one.dimensions}", str(one.features)[:16])
        for one in results.models
    ]


def _plain(value: Any) -> str:
    """A setting as text."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return value if isinstance(value, str) else f"{value:g}"
