"""Make labels of a prepared folder from reports: the recordings' statements, or a text column of a table."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.labelling.from_table import joined_column
from fairseq_signals_ext.labelling.labels import Labels, in_sources
from fairseq_signals_ext.labelling.reports import ReportLabeler
from fairseq_signals_ext.labelling.yaml_places import read_yaml
from fairseq_signals_ext.prepared.table import read_table
from fairseq_signals_ext.sources.text_tables import as_cell

if TYPE_CHECKING:
    import pandas as pd

# value of a possible finding
UNCERTAIN_AS = {"positive": 1.0, "negative": 0.0, "unknown": np.nan}
STATUSES = ("present", "uncertain", "absent", "past")
STATEMENTS = "statements"
# keys of a config
_TEXTS, _TRUTHS = ("label_set", "semantics", "vocabulary", "uncertain", "column"), ("rates", "spelling")
_NAMED = 10  # statements that were not understood, in label.json


@dataclass(frozen=True)
class ReportSettings:
    """How reports become labels.

    Attributes:
        label_set, semantics, vocabulary, rates, spelling: see `ReportLabeler`.
        uncertain: value of a possible finding, one of `UNCERTAIN_AS`; None: unknown, with ECG-FM's semantics positive.
        column: column of the reports in the recordings' table, or in `table`.
        table: a csv or parquet file with a row per recording; None: the recordings' table.
        on: column of both tables; see `labels_from_table`.
    """

    label_set: str = "ecg-fm-17"
    semantics: str = "clinical"
    vocabulary: Optional[str] = None
    uncertain: Optional[str] = None
    column: str = STATEMENTS
    table: Optional[str] = None
    on: Optional[str] = None
    rates: bool = True
    spelling: bool = True

    @property
    def uncertain_as(self) -> str:
        """Value of a possible finding."""
        return self.uncertain or ("positive" if self.semantics == "ecg-fm" else "unknown")


def read_report_settings(config: Optional[Union[str, Path]], given: Dict[str, Any]) -> ReportSettings:
    """Read settings from a YAML file, or use the defaults; settings in `given` have priority.

    Raises:
        UserError: the file cannot be read, has an unknown key, or a value of the wrong kind.
    """
    known: Dict[str, Any] = {}
    if config is not None:
        file = read_yaml(config)
        file.only(*_TEXTS, *_TRUTHS)
        known = {key: file.truth(key) if key in _TRUTHS else node.text for key, node in file.entries()}
        if known.get("uncertain", "unknown") not in UNCERTAIN_AS:
            raise UserError(f"{file.get('uncertain').place}: uncertain: give one of {', '.join(UNCERTAIN_AS)}")
    return ReportSettings(**{**known, **given})


def labels_from_reports(
    out: Union[str, Path], settings: Optional[ReportSettings] = None, sources: Optional[Sequence[str]] = None
) -> Labels:
    """Return labels from reports, with the relevant words (`evidence.parquet`) and statements that were not understood.

    A recording with a report has every label: 1 if present, 0 if negated, in the past or not mentioned, and
    `settings.uncertain` if possible. A recording without a report, or with no understood statement, is unlabelled.

    Args:
        out: prepared folder.
        sources: only their recordings are labelled.

    Raises:
        UserError: no prepared data in `out`, an unknown source, label set or semantics, a faulty vocabulary, or a
            column that is missing or holds no text.
    """
    settings = settings or ReportSettings()
    labeler = ReportLabeler(
        settings.label_set, settings.semantics, settings.vocabulary, settings.rates, settings.spelling
    )
    table = read_table(out, ["idx", "source"])
    inside = in_sources(out, table, sources)
    reports = _reports(out, settings, sources)
    names = labeler.label_set.names
    found = _Found(names, UNCERTAIN_AS[settings.uncertain_as])
    values = np.full((len(table), len(names)), np.nan)
    idx = table["idx"].to_numpy(np.int64)
    for row in np.flatnonzero(inside):
        if reports[row]:
            found.add(int(idx[row]), reports[row], labeler, values[row])
    labels = Labels(names, idx, values)
    labels.codes = {label.name: list(label.concepts) for label in labeler.label_set.labels}
    labels.settings = {**vars(settings), "uncertain": settings.uncertain_as, "sources": sources}
    found.add_notes(labels, int(inside.sum()))
    return labels


def _reports(out: Union[str, Path], settings: ReportSettings, sources: Optional[Sequence[str]]) -> List[Sequence[str]]:
    """Return the parts of the report of each recording."""
    import pandas as pd

    if settings.table is not None:
        place, values = settings.table, joined_column(out, settings.table, settings.column, settings.on, sources)
    else:
        place, values = str(out), read_table(out, [settings.column])[settings.column]
    if pd.api.types.is_numeric_dtype(values) or pd.api.types.is_datetime64_any_dtype(values):
        raise UserError(f"{place}: column {settings.column!r} holds no text; give another --column")
    known = values.notna().to_numpy()
    return [_parts(value) if there else () for value, there in zip(values, known)]


def _parts(value: Any) -> Tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value)
    return tuple(str(text) for text in texts if text is not None and str(text).strip())


class _Found:
    """Collects the findings of reports, recording by recording."""

    def __init__(self, names: Sequence[str], uncertain: float) -> None:
        self._column = {name: number for number, name in enumerate(names)}
        self._value = {"present": 1.0, "uncertain": uncertain}
        self._rows: Dict[str, List[Any]] = {key: [] for key in ("idx", "label", "status", "probability", "words")}
        self._unmatched: Counter = Counter()
        self._statements = self._reports = self._not_understood = 0

    def add(self, idx: int, texts: Sequence[str], labeler: ReportLabeler, values: np.ndarray) -> None:
        """Label a recording: fill its row of the values."""
        self._reports += 1
        statements, unmatched = labeler.understood(texts)
        self._statements += statements
        self._unmatched.update(unmatched)
        if len(unmatched) == statements:
            self._not_understood += 1
            return
        values[:] = 0
        for name, evidence in labeler.evidence(texts).items():
            values[self._column[name]] = self._value.get(evidence.status, 0.0)
            for key, value in zip(self._rows, (idx, self._column[name], *evidence)):
                self._rows[key].append(value)

    def add_notes(self, labels: Labels, recordings: int) -> None:
        """Add tables, counts and notes to labels."""
        labels.tables["evidence.parquet"] = evidence = self._evidence(labels.names)
        labels.tables["unmatched.csv"] = self._unmatched_table()
        numbers = evidence.groupby(["label", "status"], observed=False).size()
        by_label = {name: {status: int(numbers.get((name, status), 0)) for status in STATUSES} for name in labels.names}
        missed = sum(self._unmatched.values())
        labels.counts.update(
            recordings=recordings,
            without_report=recordings - self._reports,
            not_understood=self._not_understood,
            statements=self._statements,
            statements_not_understood=missed,
            findings=by_label,
            most_frequent_not_understood=dict(_most_frequent(self._unmatched)[:_NAMED]),
        )
        if self._reports < recordings:
            labels.notes.append(f"{recordings - self._reports} of {recordings} recordings have no report: unlabelled")
        if self._not_understood:
            why = "no statement of them is understood"
            labels.notes.append(f"{self._not_understood} of {self._reports} reports: {why}: unlabelled")
        if missed:
            labels.notes.append(f"{missed} of {self._statements} statements were not understood; see unmatched.csv")

    def _evidence(self, names: Sequence[str]) -> "pd.DataFrame":
        import pandas as pd

        rows = self._rows
        status = pd.Categorical(rows["status"], categories=list(STATUSES))
        label = pd.Categorical.from_codes(np.array(rows["label"], np.int32), categories=list(names))
        return pd.DataFrame(
            {
                "idx": np.array(rows["idx"], np.int64),
                "label": label,
                "status": status,
                "probability": np.array(rows["probability"], np.float32),
                "words": pd.Categorical(rows["words"]),
            }
        )

    def _unmatched_table(self) -> "pd.DataFrame":
        import pandas as pd

        rows = [(as_cell(statement), count) for statement, count in _most_frequent(self._unmatched)]
        return pd.DataFrame(rows, columns=["statement", "count"])


def _most_frequent(counts: Counter) -> List[Tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
