"""Write the tables of a benchmark: for reading, for further computing, and for print."""

import csv
import io
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.benchmarking.comparing import FALLING
from fairseq_signals_ext.benchmarking.protocols import PROBES
from fairseq_signals_ext.benchmarking.results import RESULTS_FILE, Difference, Results, Value, results_text
from fairseq_signals_ext.common.files import atomic_files
from fairseq_signals_ext.evaluation.text import aligned, with_interval

# results.json is written last
FILES = (RESULTS_FILE, "results.csv", "differences.csv", "table.md", "table.tex")
METRIC_NAMES = {"auroc": "macro AUROC", "auprc": "macro AUPRC", "r2": "R2", "mae": "MAE"}
_NO_VALUE = "-"


def write_results(results: Results, folder: Path) -> None:
    """Write all files of `FILES`, and replace existing ones."""
    texts = {
        RESULTS_FILE: results_text(results),
        "results.csv": _csv(results, results.values, "of_seeds"),
        "differences.csv": _csv(results, results.differences),
        "table.md": markdown(results),
        "table.tex": latex(results),
    }
    with atomic_files(folder, FILES) as new:
        for name, text in texts.items():
            (new / name).write_bytes(text.encode())


def _csv(results: Results, rows: Sequence[Any], without: str = "") -> str:
    text = io.StringIO()
    columns = [name for name in asdict(rows[0]) if name != without] if rows else []
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["protocol", *columns])
    for row in rows:
        writer.writerow([results.protocol, *(getattr(row, name) for name in columns)])
    return text.getvalue()


# a heading, and rows of cells with whether each is the best of its column
_Table = Tuple[str, List[str], List[List[Tuple[str, bool]]]]


def tables_of(results: Results) -> Iterator[_Table]:
    """Return for each probe and share of the labels a table of models x tasks: the primary metric with its interval."""
    probes = dict.fromkeys((one.probe, one.percent) for one in results.values)
    for probe, percent in probes:
        columns = {task.name: results.macro(task.name, probe, percent) for task in results.tasks}
        metric = {
            task: METRIC_NAMES[next(iter(found.values())).metric] if found else "" for task, found in columns.items()
        }
        best = {task: _best(found) for task, found in columns.items()}
        rows = []
        for model in results.models:
            cells = [(model.name, False)]
            for task, found in columns.items():
                cells.append((_cell(found.get(model.name)), model.name == best[task]))
            rows.append(cells)
        share = "" if percent == 100 else f", {percent:g} % of the training patients"
        head = ["model", *(f"{task} ({name})" for task, name in metric.items())]
        yield f"probe {probe}: {PROBES[probe]}{share}", head, rows


def _best(found: Dict[str, Value]) -> Optional[str]:
    values = [one for one in found.values() if one.point is not None]
    if not values:
        return None
    sign = -1 if values[0].metric in FALLING else 1
    return max(values, key=lambda one: sign * float(one.point or 0)).model


def _cell(value: Union[Value, Difference, None]) -> str:
    if value is None:
        return _NO_VALUE
    ends = {"x": value.point, "x_low": value.low, "x_high": value.high}
    return with_interval({name: np.nan if end is None else end for name, end in ends.items()}, "x")


def title_of(results: Results) -> str:
    """With the protocol's name."""
    return f"Frozen features, protocol {results.protocol}"


def explanation_of(results: Results) -> str:
    """Describe how values and intervals were computed, in sentences."""
    settings = results.settings
    confidence = f"{100 * settings['confidence']:g} %"
    if results.protocol == "strict":
        folds = (
            settings["folds_column"]
            or f"{settings['folds']} folds by patient, with {len(settings['fold_seeds'])} seeds"
        )
        how = (
            f"Cross-fitted ({folds}); {confidence} intervals from {settings['resamples']} "
            "resamples of patients and fold seeds"
        )
    else:
        how = (
            f"One training, tested on the task's test set; {confidence} intervals from {settings['resamples']} "
            "resamples of records, undefined labels counting 0.5"
        )
    protocol = f"Protocol {results.protocol}; values of other protocols are not comparable"
    return f"{how}. {protocol}. In bold: the best of a column."


def _differences(results: Results) -> List[List[str]]:
    """Return rows for pairs of checkpoints: primary metrics, and all labels."""
    checkpoints = {model.name for model in results.models if model.kind == "checkpoint"}
    better = {(one.task, one.a, one.b): one for one in results.verdicts}
    primary: Dict[str, str] = {}
    rows = []
    for one in results.differences:
        primary.setdefault(one.task, one.metric)
        if {one.a, one.b} <= checkpoints and one.percent == 100 and one.metric == primary[one.task]:
            p = _NO_VALUE if one.p_holm is None else f"{one.p_holm:.3g}"
            verdict = better.get((one.task, one.a, one.b))
            name = _NO_VALUE if verdict is None else verdict.better or f"none ({verdict.why})"
            rows.append([one.task, one.probe, f"{one.a} - {one.b}", _cell(one), p, name])
    return rows


_DIFFERENCE_HEAD = ["task", "probe", "models", "difference", "p (Holm)", "better"]


def markdown(results: Results) -> str:
    """Return the tables as Markdown."""
    lines = [f"# {title_of(results)}", "", explanation_of(results)]
    for heading, head, rows in tables_of(results):
        cells = [[f"**{text}**" if is_best else text for text, is_best in row] for row in rows]
        lines += ["", f"## Protocol {results.protocol}, {heading}", "", *_markdown_rows(head, cells)]
    pairs = _differences(results)
    if pairs:
        lines += ["", f"## Protocol {results.protocol}, differences of checkpoints", ""]
        lines += _markdown_rows(_DIFFERENCE_HEAD, pairs)
    notes = [f"- {task.name}: {note}" for task in results.tasks for note in task.notes]
    return "\n".join([*lines, *(["", "## Notes", "", *notes] if notes else []), ""])


def _markdown_rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> List[str]:
    everything = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in everything]


_LATEX = {
    "&": r"\&",
    "%": r"\%",
    "_": r"\_",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "^": r"\^{}",
    "~": r"\~{}",
}


def latex(results: Results) -> str:
    """Return the tables as LaTeX, with booktabs."""
    lines = [f"% {title_of(results)}"]
    for heading, head, rows in tables_of(results):
        lines += [r"\begin{table}", rf"\caption{{{_escaped(f'Protocol {results.protocol}, {heading}')}}}"]
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule", _latex_row(head), r"\midrule"]
        for row in rows:
            cells = [(rf"\textbf{{{_escaped(text)}}}" if is_best else _escaped(text)) for text, is_best in row]
            lines.append(" & ".join(cells) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    lines.append(f"% {explanation_of(results)}")
    return "\n".join([*lines, ""])


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_escaped, cells)) + r" \\"


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, r"\textbackslash{}" if letter == "\\" else letter) for letter in text)


def as_text(results: Results) -> str:
    """Return the tables for a terminal, one task per column, up to 100 characters wide."""
    lines = [f"{title_of(results)}. {explanation_of(results)}"]
    for heading, head, rows in tables_of(results):
        lines += ["", heading]
        for column in range(1, len(head)):
            lines += aligned([["model", head[column]], *([row[0][0], row[column][0]] for row in rows)])
    return "\n".join(lines)
