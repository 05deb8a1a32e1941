"""A model's predictions for a recording, as tables of labels side by side."""

import math
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple

from fairseq_signals_ext.checkpoints.ecg_fm_labels import short_label_note
from fairseq_signals_ext.pages.report_findings import ReportFindings

THRESHOLD, DECISION = "Threshold", "Decision"
_NO_LABELS = "This model was only pretrained: it has no labels, so it predicts nothing about this ECG."
_NOT_CALIBRATED = (
    "Probabilities are the model's own, not calibrated: a training that weighs positives (pos_weight) makes them too "
    "high. They rank recordings; they are not risks."
)
POSITIVE = "▲ positive"


class Score(NamedTuple):
    """A row of a table.

    Attributes:
        label: its name.
        value: probability, or predicted value of a regression.
        threshold: None if there is none.
        positive: whether the value reaches the threshold.
        measures: metrics from an evaluation, as text.
        decision: of a calibrated model, one word; empty for others.
    """

    label: str
    value: float
    threshold: Optional[float]
    positive: bool
    measures: Tuple[str, ...]
    decision: str = ""

    @property
    def name(self) -> str:
        """The label, with a mark if it is positive."""
        return f"{self.label} {POSITIVE}" if self.positive else self.label


def scores_of(findings: ReportFindings) -> List[Score]:
    """Rows, the most probable label first, for a regression in the model's order; none without labels."""
    prediction, calibration = findings.prediction, findings.options.calibration
    if prediction is None:
        return []
    labels = prediction.label_names
    thresholds: Sequence[Optional[float]] = findings.thresholds or [None] * len(labels)
    positive = [False] * len(labels) if prediction.positive is None else prediction.positive.tolist()
    scores, decisions = prediction.scores, prediction.decision or ("",) * len(labels)
    if prediction.calibrated is not None:
        scores, positive = prediction.calibrated, [decision == "positive" for decision in decisions]
    unknown = ("-",) * (0 if calibration is None else len(calibration.measures))
    measures = [unknown if calibration is None else calibration.labels.get(label, unknown) for label in labels]
    rows = list(map(Score, labels, scores.tolist(), thresholds, positive, measures, decisions))
    return rows if findings.is_regression else sorted(rows, key=lambda row: -row.value)


def header_of(findings: ReportFindings) -> List[str]:
    """Column names of each table."""
    calibration = findings.options.calibration
    measures = () if calibration is None else calibration.measures
    score = "Value" if findings.is_regression else "Probability"
    decided = [DECISION] if findings.is_calibrated else [THRESHOLD] if findings.thresholds else []
    return ["Label", score, *decided, *measures]


class ScoreTables(NamedTuple):
    """Tables side by side.

    Attributes:
        place: "screen" or "paper": shown only there; empty: on both.
        parts: captions and rows.
    """

    place: str
    parts: Sequence[Tuple[str, Sequence[Score]]]


def score_tables(findings: ReportFindings, tables: int, printed_rows: int) -> List[ScoreTables]:
    """Tables of all labels; on paper as many as fit.

    Args:
        tables: number of tables, from left to right.
        printed_rows: rows of each table on paper.
    """
    rows, printed = scores_of(findings), tables * printed_rows
    if printed >= len(rows):
        return [ScoreTables("", _parts(rows, tables))] if rows else []
    chosen = sorted(rows, key=lambda row: not row.positive)[:printed]
    on_paper = [row for row in rows if row in chosen]
    return [ScoreTables("screen", _parts(rows, tables)), ScoreTables("paper", _parts(on_paper, tables))]


def _parts(rows: Sequence[Score], tables: int) -> List[Tuple[str, Sequence[Score]]]:
    size = math.ceil(len(rows) / tables)
    parts = [(first, rows[first : first + size]) for first in range(0, len(rows), size)]
    return [(f"Labels {first + 1} to {first + len(part)} of {len(rows)}", part) for first, part in parts]


def printed_note(labels: int, printed: int) -> str:
    """A note about labels that are not on paper; empty if all are."""
    if printed >= labels:
        return ""
    return (
        f"On paper {printed} of {labels} labels, those that are positive and the most probable; the screen shows all."
    )


def refusal_line(findings: ReportFindings) -> str:
    """Why the prediction is not reliable for this ECG; empty if it is not refused."""
    prediction = findings.prediction
    if prediction is None or prediction.refused is None:
        return ""
    return f"{prediction.refused}. The model was not made for such an ECG; do not use its predictions below."


def score_notes(findings: ReportFindings) -> Iterator[str]:
    """Sentences that explain the scores."""
    calibration = findings.options.calibration
    if findings.prediction is None:
        yield _NO_LABELS
        return
    if findings.is_calibrated:
        yield _on_decisions(findings)
    elif not findings.is_regression:
        yield _on_thresholds(findings)
    yield _on_segments(findings)
    if len(findings.models) > 1:
        yield f"Scores are means over {len(findings.models)} models."
    if not findings.models[0].description.names_are_known:
        yield "The checkpoint does not contain the names of its labels."
    if not findings.is_regression and not findings.is_calibrated:
        yield _NOT_CALIBRATED
    meaning = short_label_note(findings.models[0].description.label_names)
    if meaning is not None:
        yield meaning
    if calibration is not None:
        yield f"{', '.join(calibration.measures)}: {calibration.about}. {calibration.meaning}"


def _on_decisions(findings: ReportFindings) -> str:
    """Explanation of the three decisions and their error rates."""
    calibration = findings.models[0].description.calibration
    facts = {} if calibration is None else calibration.provenance
    missed, alarmed = (f"{100 * float(facts.get(name, 0)):g} %" for name in ("miss", "false_alarm"))
    return (
        f"Probabilities are calibrated. Of ECGs with a finding at most {missed} are called negative, and of those "
        f"without it at most {alarmed} positive, if they are like those of the calibration; where neither can be "
        "promised, it is uncertain."
    )


def _on_thresholds(findings: ReportFindings) -> str:
    if findings.models[0].description.is_exclusive:
        return f"{POSITIVE}: the most probable label; a recording has exactly one of them."
    if findings.thresholds is None:
        return "The model has no thresholds, so no label is called positive."
    rules = dict.fromkeys(model.description.threshold_rule or "chosen in an unknown way" for model in findings.models)
    means = ", means over the models" if len(findings.models) > 1 else ""
    return f"{POSITIVE}: the probability reaches the threshold, the line on its bar ({', '.join(rules)}{means})."


def _on_segments(findings: ReportFindings) -> str:
    """Explanation of how scores of segments are aggregated."""
    model, number = findings.models[0], findings.facts.segments
    inputs = model.preprocessing
    seconds, stride = (samples / model.sample_rate for samples in (inputs.segment_samples, inputs.stride_samples))
    pieces = f"of {seconds:g} s" if seconds == stride else f"({seconds:g} s of every {stride:g} s)"
    if number == 1:
        return f"One segment {pieces} was used."
    ways = dict(zip(model.label_names, model.description.aggregation))
    largest = [label for label, way in ways.items() if way == "max"]
    if len(largest) == len(ways):
        how = "the largest of theirs"
    else:
        how = "the mean of theirs" + (f", for {', '.join(largest)} the largest" if largest else "")
    return f"{number} segments {pieces} were used; a label's score is {how}."
