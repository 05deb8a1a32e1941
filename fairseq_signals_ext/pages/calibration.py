"""How good a model's scores were in an evaluation, to stand beside those of a recording."""

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation.kinds import KINDS, Measure, kind_of

METRICS_FILE, _TABLE = "metrics.json", "per_label.csv"
_NOT_OURS = "is not of fairseq-signals-ext evaluate; give the metrics.json that it wrote"


@dataclass(frozen=True)
class Calibration:
    """What an evaluation found of each label.

    Attributes:
        kind: of the model.
        about: what was evaluated, in words.
        measures: what they are called.
        labels: by label the measures as text; "-" where undefined.
    """

    kind: str
    about: str
    measures: Tuple[str, ...]
    labels: Mapping[str, Tuple[str, ...]]

    @property
    def meaning(self) -> str:
        """What the measures say, for those who do not know them."""
        return kind_of(self.kind).measures_meaning

    def check_fits(self, kind: str, label_names: Sequence[str], source: str) -> None:
        """Raise a `UserError` unless it is of a model of this kind with one of these labels at least."""
        if kind != self.kind or not set(label_names) & set(self.labels):
            raise UserError(f"{source}: the evaluation has other labels; give that of this model, or leave it out")


def read_calibration(path: Path) -> Calibration:
    """Read what `evaluate` left: `metrics.json`, or its folder, with the table of its labels beside it.

    Raises:
        UserError: a file is not there, or not one of `evaluate`.
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
    """None for an empty cell, which is an undefined value."""
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None
