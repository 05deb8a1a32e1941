"""Write an evaluation: files that appear complete, with the same bytes for the same predictions, and a text table."""

import dataclasses
import importlib.metadata
import json
import platform
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Sequence

import numpy as np

import fairseq_signals_ext
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import atomic_files
from fairseq_signals_ext.common.values import as_json
from fairseq_signals_ext.evaluation.evaluating import WITH_INTERVAL, Evaluation
from fairseq_signals_ext.evaluation.plots import draw_plots
from fairseq_signals_ext.evaluation.predictions import Predictions
from fairseq_signals_ext.evaluation.text import SIGNIFICANT, WIDTH, aligned, with_interval
from fairseq_signals_ext.prepared.table import TABLE_NAME, read_table

if TYPE_CHECKING:
    import pandas as pd

# all possible files of an evaluation; metrics.json is written last
FILES = (
    *("metrics.json", "per_label.csv", "predictions.parquet", "segments.parquet"),
    *("roc.png", "precision_recall.png", "calibration.png", "confusion.png", "scatter.png", "bland_altman.png"),
)
_PACKAGES = ("numpy", "scikit-learn", "torch")


def with_record_ids(predictions: Predictions, data: Path) -> Predictions:
    """Add the source's record ids to predictions if they are known, otherwise idx.

    Args:
        data: the manifests' folder; ids are known for a prepared folder `DIR` or its `DIR/splits/NAME`.

    Raises:
        UserError: the prepared folder's table cannot be read, or has no row for a recording.
    """
    if predictions.record_id is not None:
        return predictions
    found = facts_of_recordings(predictions, data, ("record_id",)).get("record_id")
    names = predictions.idx.astype(str).astype(object) if found is None else found
    return dataclasses.replace(predictions, record_id=names)


def facts_of_recordings(predictions: Predictions, data: Path, columns: Sequence[str]) -> Dict[str, np.ndarray]:
    """Columns of a prepared folder's table for each item's recording; empty if the folder is unknown.

    Args:
        data: the manifests' folder; the table is known for a prepared folder `DIR` or its `DIR/splits/NAME`.

    Raises:
        UserError: the prepared folder's table cannot be read, or has no row for a recording, or not the columns.
    """
    import pandas as pd

    data = data.resolve()
    homes = [data, *(folder.parent for folder in data.parents if folder.name == "splits")]
    prepared = next((home for home in homes if (home / TABLE_NAME).is_file()), None)
    if prepared is None:
        return {}
    table = read_table(prepared, ["idx", *columns])
    places = pd.Index(table["idx"]).get_indexer(predictions.idx)
    if (places < 0).any():
        missing = predictions.idx[places < 0][0]
        raise UserError(f"{prepared / TABLE_NAME}: no recording with idx {missing}; split the folder again")
    return {name: table[name].to_numpy(object)[places] for name in columns}


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write an evaluation's files to a folder, and replace files of an earlier one.

    * `metrics.json`: inputs and settings, macro and micro averages with intervals, notes, versions; undefined
      values are null.
    * `per_label.csv`: `Evaluation.per_label`; undefined values are empty.
    * `predictions.parquet`: one row per recording, see `prediction_table`.
    * `segments.parquet`: one row per segment, if a recording has several.
    * pictures, see `draw_plots`.
    """
    text = json.dumps(as_json(_facts(evaluation)), indent=2, ensure_ascii=False, allow_nan=False)
    files = dict.fromkeys((*FILES, *evaluation.recordings.of_kind.plots()))
    with atomic_files(folder, tuple(files)) as new:
        evaluation.per_label.to_csv(new / "per_label.csv", index=False, lineterminator="\n")
        prediction_table(evaluation.recordings).to_parquet(new / "predictions.parquet", index=False)
        if len(evaluation.segments) > len(evaluation.recordings):
            prediction_table(evaluation.segments, segments=True).to_parquet(new / "segments.parquet", index=False)
        draw_plots(evaluation.recordings, evaluation.per_label, new)
        (new / "metrics.json").write_bytes(f"{text}\n".encode("utf-8", "backslashreplace"))


def prediction_table(predictions: Predictions, segments: bool = False) -> "pd.DataFrame":
    """Predictions as a table.

    Returns:
        Columns `record_id`, `idx`, `patient`, for segments `segment` (from 0 in a recording), then for each label
        `probability_LABEL` (of a regression `prediction_LABEL`, see `Kind.score_name`) and `target_LABEL`, float64, NaN
        where unknown.
    """
    import pandas as pd

    table = pd.DataFrame({"record_id": predictions.record_id, "idx": predictions.idx, "patient": predictions.patient})
    if segments:
        table["segment"] = table.groupby("idx").cumcount()
    what = predictions.of_kind.score_name
    columns = {}
    for label, name in enumerate(predictions.label_names):
        columns[f"{what}_{name}"] = predictions.scores[:, label]
        columns[f"target_{name}"] = predictions.targets[:, label]
    return pd.concat([table, pd.DataFrame(columns)], axis=1)


def _facts(evaluation: Evaluation) -> Dict[str, Any]:
    """The content of `metrics.json`."""
    settings, thresholds = evaluation.settings, evaluation.thresholds
    recordings = evaluation.recordings
    facts = {
        **evaluation.about,
        "kind": recordings.kind,
        "aggregation": {"default": settings.aggregation, "labels": dict(settings.label_aggregation)},
        "counts": {
            "recordings": len(recordings),
            "segments": len(evaluation.segments),
            "patients": evaluation.patients,
        },
        "bootstrap": {name: getattr(settings, name) for name in ("resamples", "confidence", "seed")},
        **evaluation.summaries,
        "notes": list(evaluation.notes),
        "versions": versions_in_use(),
    }
    if thresholds is not None:
        facts.update(
            thresholds=dict(zip(recordings.label_names, thresholds.values.tolist())),
            threshold_rule=thresholds.rule,
            thresholds_from=thresholds.subset,
            cinc2021=None if evaluation.challenge is None else evaluation.challenge._asdict(),
        )
    return facts


def versions_in_use() -> Dict[str, str]:
    """Versions of this package, of Python, and of the libraries that compute."""
    versions = {"fairseq_signals_ext": fairseq_signals_ext.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def as_text(evaluation: Evaluation) -> str:
    """An evaluation as a table for a terminal of 100 columns: averages, then one line per label, then notes."""
    settings, recordings = evaluation.settings, evaluation.recordings
    of_labels = [f"{name}: {way}" for name, way in settings.label_aggregation.items()]
    how = ", ".join([str(settings.aggregation), *of_labels])
    lines = [
        f"{evaluation.about['subset']}: {len(recordings)} recordings ({len(evaluation.segments)} segments, {how}), "
        f"{evaluation.patients} patients"
    ]
    intervals = f"intervals: {100 * settings.confidence:g} %, {settings.resamples} resamples of patients"
    lines += recordings.of_kind.text_of(evaluation, intervals)
    notes = [textwrap.fill(f"note: {note}", WIDTH, subsequent_indent="  ") for note in evaluation.notes]
    return "\n".join([*lines, "", *notes] if notes else lines)


def text_of_classes(evaluation: Evaluation, intervals: str) -> List[str]:
    """Lines for classes or binary labels: averages, then a line per label."""
    how = f"thresholds: {evaluation.thresholds}; {intervals}"
    return [how, "", *aligned(_average_rows(evaluation)), "", *aligned(_label_rows(evaluation))]


def text_of_numbers(evaluation: Evaluation, intervals: str) -> List[str]:
    """Lines for labels that are numbers: errors, then correlations."""
    return [intervals, "", *aligned(_error_rows(evaluation)), "", *aligned(_correlation_rows(evaluation))]


def _average_rows(evaluation: Evaluation) -> List[List[str]]:
    ours, segments = evaluation.summaries["recordings"], evaluation.summaries["segments"]
    labels, defined = len(evaluation.per_label), int(evaluation.per_label["auroc"].notna().sum())
    rows = [["", "AUROC", "AUPRC", "F1"]]
    averages = [(f"macro ({defined} of {labels} labels)", ours["macro"]), ("micro", ours["micro"])]
    if len(evaluation.segments) > len(evaluation.recordings):
        averages.append(("macro, of segments", segments["macro"]))
    rows += [[name, *(with_interval(values, metric) for metric in WITH_INTERVAL)] for name, values in averages]
    if evaluation.challenge is not None:
        rows.append(["CinC 2021 score", with_interval(evaluation.challenge._asdict(), "score"), "", ""])
    return rows


def _label_rows(evaluation: Evaluation) -> List[List[str]]:
    rows = [["label", "positives", "AUROC", "AUPRC", "F1", "sens", "spec", "PPV"]]
    for row in evaluation.per_label.to_dict("records"):
        cells = [f"{row[name]:.2f}" for name in ("f1", "sensitivity", "specificity", "precision")]
        rows.append(
            [
                str(row["label"]),
                f"{row['positives']}/{row['known']}",
                with_interval(row, "auroc"),
                with_interval(row, "auprc"),
                *("-" if cell == "nan" else cell for cell in cells),
            ]
        )
    return rows


def _error_rows(evaluation: Evaluation) -> List[List[str]]:
    rows = [["label", "known", "MAE", "RMSE", "bias"]]
    for row in evaluation.per_label.to_dict("records"):
        errors = (with_interval(row, metric, SIGNIFICANT) for metric in ("mae", "rmse", "bias"))
        rows.append([str(row["label"]), str(row["known"]), *errors])
    return rows


def _correlation_rows(evaluation: Evaluation) -> List[List[str]]:
    rows = [["label", "R2", "Pearson r"]]
    for row in evaluation.per_label.to_dict("records"):
        rows.append([str(row["label"]), *(with_interval(row, metric) for metric in ("r2", "pearson_r"))])
    return rows
