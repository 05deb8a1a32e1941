"""Compare several models on the same recordings: one table, with paired tests against the first model."""

import logging
import re
import textwrap
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Mapping, NamedTuple, Sequence

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import atomic_files
from fairseq_signals_ext.evaluation.bootstrap import Bootstrap, paired_difference
from fairseq_signals_ext.evaluation.delong import paired_test
from fairseq_signals_ext.evaluation.evaluating import Evaluation, EvaluationSettings
from fairseq_signals_ext.evaluation.plots import Estimate, draw_comparison
from fairseq_signals_ext.evaluation.predictions import Predictions
from fairseq_signals_ext.evaluation.text import SIGNIFICANT, aligned, with_interval

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

FILES = ("comparison.csv", "comparison.md", "comparison.png")
_METRICS = {"auroc": "AUROC", "auprc": "AUPRC"}
_KEYS = ["scope", "label", "model"]
_REGRESSION = {"mae": "MAE", "rmse": "RMSE", "r2": "R2", "pearson_r": "Pearson r"}
# metrics of a regression that are printed and drawn
_SHOWN = ("mae", "pearson_r")


class _Section(NamedTuple):
    """A section of the comparison: its first row names the columns; `brief` sections are printed."""

    heading: str
    rows: List[List[str]]
    brief: bool = True


def names_of(checkpoints: Sequence[Path]) -> List[str]:
    """A name for each checkpoint: its file name, or, if these are equal, the parts of its path that differ.

    Raises:
        UserError: a path is given twice, or paths have no different parts.
    """
    paths = [list((path.with_suffix("") if path.suffix == ".pt" else path).parts) for path in checkpoints]
    if len({parts[-1] for parts in paths}) == len(paths):
        paths = [parts[-1:] for parts in paths]
    for end in (0, -1) if len(paths) > 1 else ():
        while all(paths) and len({parts[end] for parts in paths}) == 1:
            for parts in paths:
                del parts[end]
    names = [re.sub(r"[^\w.-]+", "_", "-".join(parts)).strip("_.-") for parts in paths]
    if not all(names) or len(set(names)) < len(names):
        raise UserError(f"{', '.join(map(str, checkpoints))}: cannot be distinguished; name each with --names")
    return names


def compare(evaluations: Mapping[str, Evaluation]) -> "pd.DataFrame":
    """Compare models on one subset, with differences to the first model.

    Args:
        evaluations: of the models by name, in their order, with the same settings.

    Returns:
        A row per `scope` (`macro`, or `label`), `label` and `model`. Columns `auroc`, `auroc_low`, `auroc_high`;
        `auroc_difference` (to the first model) with the same ends, and its `auroc_p`, by bootstrap of patients; the
        same for `auprc`; for labels `auroc_delong_p`, DeLong's paired test, if no patient has several recordings
        (the test assumes independent items); and `auroc_p_holm`: that p, otherwise `auroc_p`, adjusted for the number
        of labels. NaN if undefined, and for the first model.
        Of a regression, one row per label and model with the same for `mae`, `rmse`, `r2` and `pearson_r`.

    Raises:
        UserError: the models are not of the same recordings, labels and known values.
    """
    import pandas as pd

    first_name, first = next(iter(evaluations.items()))
    tables = []
    for name, evaluation in evaluations.items():
        if evaluation.recordings.kind != first.recordings.kind:
            kinds = " and ".join(f"a {kind}" for kind in sorted((evaluation.recordings.kind, first.recordings.kind)))
            raise UserError(f"{first_name} and {name}: {kinds} cannot be compared")
        ways = first.settings.aggregation, evaluation.settings.aggregation
        if ways[0] != ways[1]:
            logger.warning(
                f"{first_name} and {name} aggregate segments by {ways[0]} and by {ways[1]}, as in their configs; "
                f"--aggregate compares them alike"
            )
        table = _values(evaluation)
        if evaluation is not first:
            table = pd.concat([table, _differences(evaluation, first)], axis=1)
        tables.append(table.assign(model=name))
    everything = pd.concat(tables, ignore_index=True)
    return everything[[*_KEYS, *everything.columns.drop(_KEYS)]]


def holm(p: np.ndarray) -> np.ndarray:
    """P-values adjusted for their number by Holm's step-down method (Holm 1979); NaN is not counted and stays NaN."""
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p)[: (~np.isnan(p)).sum()]  # NaN is sorted last
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * p[order]))
    return adjusted


def _values(evaluation: Evaluation) -> "pd.DataFrame":
    """Macro average (not of a regression), then labels, each metric with its interval."""
    import pandas as pd

    of_numbers = not evaluation.recordings.of_kind.has_classes
    names = _REGRESSION if of_numbers else _METRICS
    columns = [f"{metric}{end}" for metric in names for end in ("", "_low", "_high")]
    if of_numbers:
        return evaluation.per_label[["label", *columns]].assign(scope="label")
    macro = evaluation.summaries["recordings"]["macro"]
    rows = [{"scope": "macro", "label": "", **{column: macro[column] for column in columns}}]
    rows += [{"scope": "label", **row} for row in evaluation.per_label[["label", *columns]].to_dict("records")]
    return pd.DataFrame(rows)


def _differences(model: Evaluation, first: Evaluation) -> "pd.DataFrame":
    """Differences of a model to the first, in the rows of `_values`."""

    options = {name: getattr(first.settings, name) for name in ("resamples", "seed", "confidence", "progress")}
    has_classes = first.recordings.of_kind.has_classes
    options["metrics"] = tuple(_METRICS if has_classes else _REGRESSION)
    found = paired_difference(model.recordings, first.recordings, **options)
    if not has_classes:
        table = found.per_label
        return _difference_columns({metric: table[table["metric"] == metric] for metric in _REGRESSION})
    table = _difference_columns({metric: _macro_and_labels(found, metric) for metric in _METRICS})
    p = table["auroc_p"].to_numpy()[1:]
    if first.independent:
        p = _delong_p(model.recordings, first.recordings)
        table["auroc_delong_p"] = np.append(np.nan, p)
    table["auroc_p_holm"] = np.append(np.nan, holm(p))
    return table


def _difference_columns(found: Mapping[str, "pd.DataFrame"]) -> "pd.DataFrame":
    """Columns with differences, made from rows with `point`, `low`, `high` and `p` for each metric."""
    import pandas as pd

    columns: Dict[str, Any] = {}
    for metric, rows in found.items():
        columns[f"{metric}_difference"] = rows["point"].to_numpy()
        columns[f"{metric}_difference_low"] = rows["low"].to_numpy()
        columns[f"{metric}_difference_high"] = rows["high"].to_numpy()
        columns[f"{metric}_p"] = rows["p"].to_numpy()
    return pd.DataFrame(columns)


def _delong_p(a: Predictions, b: Predictions) -> np.ndarray:
    return np.array([paired_test(*label).p for label in zip(a.scores.T, b.scores.T, b.targets.T)])


def _macro_and_labels(found: Bootstrap, metric: str) -> "pd.DataFrame":
    import pandas as pd

    average, labels = found.average, found.per_label
    macro = average[(average["metric"] == metric) & (average["average"] == "macro")]
    return pd.concat([macro, labels[labels["metric"] == metric]], ignore_index=True)


def write_comparison(tables: Mapping[str, "pd.DataFrame"], settings: EvaluationSettings, folder: Path) -> None:
    """Write `comparison.csv` (the tables, with their subset), `comparison.md` and `comparison.png`.

    Args:
        tables: of `compare`, by subset.
        settings: of the evaluations.
    """
    import pandas as pd

    everything = pd.concat(tables, names=["subset"]).reset_index("subset")
    lines = ["# Comparison"]
    for subset, table in tables.items():
        for section in _sections(table):
            lines += ["", f"## {subset}: {section.heading}", "", *_markdown(section.rows)]
    lines += ["", _explanation(tables, settings), ""]
    with atomic_files(folder, FILES) as new:
        everything.to_csv(new / "comparison.csv", index=False, lineterminator="\n")
        (new / "comparison.md").write_bytes("\n".join(lines).encode())
        draw_comparison(_panels(tables), new / "comparison.png")


def as_text(tables: Mapping[str, "pd.DataFrame"], settings: EvaluationSettings) -> str:
    """The averages (for a regression each label) as text of 100 columns; arguments as `write_comparison`."""
    lines: List[str] = []
    for subset, table in tables.items():
        for section in _sections(table):
            if section.brief:
                lines += [f"{subset}: {section.heading}", *aligned(section.rows), ""]
    return "\n".join([*lines, textwrap.fill(_explanation(tables, settings), 100)])


def _explanation(tables: Mapping[str, "pd.DataFrame"], settings: EvaluationSettings) -> str:
    table, percent = next(iter(tables.values())), f"{100 * settings.confidence:g} %"
    if "auroc" in table:
        labels = "that of labels is adjusted by Holm's method, and DeLong's if each recording is of another patient"
    else:
        labels = "it is not adjusted for the number of labels"
    return (
        f"In brackets: {percent} intervals. These, and p, come from {settings.resamples} resamples of patients, so "
        f"that p is not below {2 / (settings.resamples + 1):.2g}; {labels}. "
        f"Differences and tests are against {table['model'][0]}."
    )


def _sections(table: "pd.DataFrame") -> Iterator[_Section]:
    labels = table[table["scope"] == "label"].groupby("label", sort=False)
    if "auroc" not in table:
        for label, found in labels:
            for metric, name in _REGRESSION.items():
                rows = [_difference_row(row, metric, SIGNIFICANT) for row in found.to_dict("records")]
                yield _Section(f"{name}, {label}", [["model", name, "difference", "p"], *rows], metric in _SHOWN)
        return
    macro = table[table["scope"] == "macro"].to_dict("records")
    for metric, name in _METRICS.items():
        head = ["model", f"macro {name}", "difference", "p"]
        yield _Section(f"macro {name}", [head, *(_difference_row(row, metric) for row in macro)])
    models = [row["model"] for row in macro]
    head = ["label", *models, *(f"p ({model})" for model in models[1:])]
    of_labels = [_label_row(str(label), found.to_dict("records")) for label, found in labels]
    test = "DeLong's paired test" if "auroc_delong_p" in table else "resamples of patients, who have several recordings"
    yield _Section(f"AUROC of labels; p by {test}", [head, *of_labels], brief=False)


def _difference_row(row: Mapping[str, Any], metric: str, style: str = ".3f") -> List[str]:
    p = _number(row[f"{metric}_p"])
    difference = with_interval(row, f"{metric}_difference", style) if p else ""
    return [row["model"], with_interval(row, metric, style), difference, p]


def _label_row(label: str, models: Sequence[Mapping[str, Any]]) -> List[str]:
    values = [with_interval(row, "auroc") for row in models]
    return [label, *values, *(_number(row["auroc_p_holm"]) for row in models[1:])]


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3g}"


def _markdown(rows: Sequence[Sequence[str]]) -> List[str]:
    head, *others = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *others)]


def _panels(tables: Mapping[str, "pd.DataFrame"]) -> Dict[str, List[Estimate]]:
    panels: Dict[str, List[Estimate]] = {}
    for subset, table in tables.items():
        rows = table.to_dict("records")
        if "auroc" not in table:
            for metric, row in product(_SHOWN, rows):
                heading = f"{subset}: {_REGRESSION[metric]}, {row['label']}"
                panels.setdefault(heading, []).append(_estimate(row, metric))
            continue
        for metric, name in _METRICS.items():
            macro = [_estimate(row, metric) for row in rows if row["scope"] == "macro"]
            panels[f"{subset}: macro {name}"] = macro
    return panels


def _estimate(row: Mapping[str, Any], metric: str) -> Estimate:
    return row["model"], row[metric], row[f"{metric}_low"], row[f"{metric}_high"]
