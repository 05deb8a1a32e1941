"""Metrics of a model from an evaluation, for a report to show beside the scores of a recording."""

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation.kinds import KINDS, Measure, kind_of

METRICS_FILE, _TABLE = "metrics.json", "per_label.csv"
_NOT_OURS = "was not written by fairseq-signals-ext evaluate; give its metrics.json"


@dataclass(frozen=True)
class Calibration:
    """Metrics of each label from an evaluation.

    Attributes:
        kind: of the model.
        about: model and data of the evaluation, as text.
        measures: names of the metrics.
        labels: the metrics by label, as text; "-" if undefined.
    """

    kind: str
    about: str
    measures: Tuple[str, ...]
    labels: Mapping[str, Tuple[str, ...]]

    @property
    def meaning(self) -> str:
        """A short explanation of the metrics."""
        return kind_of(self.kind).measures_meaning

    def check_fits(self, kind: str, label_names: Sequence[str], source: str) -> None:
        """Raise a `UserError` unless it is for a model of this kind with at least one of these labels."""
        if kind != self.kind or not set(label_names) & set(self.labels):
            raise UserError(f"{source}: the evaluation has other labels; give that of this model, or leave it out")


def read_calibration(path: Path) -> Calibration:
    """Read results of `evaluate`: `metrics.json`, or its folder, with the table of its labels.

    Raises:
        UserError: a file is missing, or `evaluate` did not write it.
    """
    path = path / METRICS_FILE if path.is_dir() else path
    table = path.with_name(_TABLE)
    for file in (path, table):
        if not file.is_file():
            raise UserError(f"{file}: no such file; give the folder that fairseq-signals-ext evaluate wrote")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        measures = KINDS[facts["kind"]].measures
        about = _about(facts)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: {_NOT_OURS}") from error
    try:
        labels = {row["label"]: _texts(row, measures) for row in _rows(table)}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{table}: {_NOT_OURS}") from error
    return Calibration(facts["kind"], about, tuple(called for _, called, _ in measures), labels)


def _about(facts: Mapping[str, Any]) -> str:
    checkpoint, subset = Path(str(facts["checkpoint"])).name, facts["subset"]
    interval = f"{100 * float(facts['bootstrap']['confidence']):g} % intervals"
    return f"{checkpoint} on {subset}, {int(facts['counts']['recordings']):,} recordings, {interval}"


def _rows(table: Path) -> List[Dict[str, str]]:
    with open(table, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _texts(row: Mapping[str, str], measures: Sequence[Measure]) -> Tuple[str, ...]:
    return tuple(_text(row, column, has_interval) for column, _, has_interval in measures)


def _text(row: Mapping[str, str], column: str, has_interval: bool) -> str:
    value = _number(row[column])
    if value is None:
        return "-"
    ends = [_number(row[f"{column}_{end}"]) for end in ("low", "high")] if has_interval else []
    shown = [f"{end:.2f}" for end in ends if end is not None]
    return f"{value:.2f} ({' to '.join(shown)})" if len(shown) == 2 else f"{value:.2f}"


def _number(text: Optional[str]) -> Optional[float]:
    """The number in a cell; None for an empty cell (undefined)."""
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None
