"""The report on a recording: one self-contained HTML page that prints on one A4 sheet.

The printed ECG is true to scale; rows of tall complexes can overlap, as on the paper of an ECG machine. If there are
many labels, only the positive and the most probable ones are printed; a screen shows all.

For a model without labels the report has the ECG, where the model looked, and the nearest known recordings. The same
recording, model, options and date give the same bytes.

The layout fits everything on the sheet without scaling the ECG: it estimates heights from text widths in DejaVu Sans,
which is wider than most browsers' fonts. Lengths are in mm.
"""

import datetime
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, NamedTuple, Optional, Sequence, Union

from fairseq_signals_ext.inference.recordings import FileOrRecording, recording_of
from fairseq_signals_ext.pages import figures
from fairseq_signals_ext.pages.figures import svg_text
from fairseq_signals_ext.pages.rendering import render_page, write_page
from fairseq_signals_ext.pages.report_facts import (
    caption,
    draw,
    model_terms,
    neighbour_table,
    patient_terms,
    quality_lines,
    statements_line,
)
from fairseq_signals_ext.pages.report_findings import AnyModel, ReportFindings, ReportOptions, check_options, find
from fairseq_signals_ext.pages.report_scores import (
    POSITIVE,
    THRESHOLD,
    Score,
    header_of,
    printed_note,
    refusal_line,
    score_notes,
    score_tables,
    scores_of,
)
from fairseq_signals_ext.readers import Recording

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# a page contains all that it needs, and no script
CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
# of A4 landscape without margins
_HEIGHT, _WIDTH = 200.0, 273.0
# header, ends of sections and footer, minus the empty edges of the ECG
_FRAME = 13.0
# rows are about as far apart as on an ECG machine's paper; the lower height only if nothing else makes room
_GOOD_ECG, _LEAST_ECG = 101.0, 91.0
# font size in points, and heights in mm: of a line, of a table's row with its bar, and of its headings
_SIZE, _LINE, _ROW, _HEADINGS = 7.0, 2.85, 4.55, 7.2
# above this many labels, thresholds are ticks on the bars only
_MANY, _LEAST_ROWS, _MOST_TABLES = 24, 6, 6
_MEASURE_WIDTH, _GAP = 21.0, 7.0
# share of the table of known recordings, minus the space between columns; see report.css
_LABELS_SHARE = 0.38
_OTHER_LETTERS = re.compile(r"[^\u0020-\u024f\u25b2\u2026]")
_DEFAULT = ReportOptions()


class Layout(NamedTuple):
    """Layout of the printed page.

    Attributes:
        kind: CSS class of the page; "ticks": thresholds are only ticks on the bars.
        tables: number of tables of labels.
        rows: rows of each table on paper; the screen has all.
        ecg_height: largest height of the picture.
    """

    kind: str
    tables: int
    rows: int
    ecg_height: float


def choose_layout(findings: ReportFindings) -> Layout:
    """Choose as many labels for paper as leave a good height for the ECG, which gets the remaining height.

    All positive labels are printed, even if the ECG then has less height, or the page needs a second sheet.
    """
    labels = scores_of(findings)
    tables = _tables(findings, labels)
    most = max(1, math.ceil(len(labels) / tables))
    least = max(1, math.ceil(sum(row.positive for row in labels) / tables))
    room = _HEIGHT - _above(findings) - _side(findings)
    for rows in range(most, least - 1, -1):
        ecg_height = room - _scores(findings, labels, tables, rows)
        if ecg_height >= _GOOD_ECG:
            break
    return Layout("ticks" if _has_ticks_only(findings) else "", tables, rows, max(_LEAST_ECG, ecg_height))


def _has_ticks_only(findings: ReportFindings) -> bool:
    return findings.thresholds is not None and len(findings.thresholds) > _MANY


def _tables(findings: ReportFindings, labels: Sequence[Score]) -> int:
    """The number of tables with the smallest height; long names need wide tables."""
    most = min(_MOST_TABLES, max(1, math.ceil(len(labels) / _LEAST_ROWS)))
    return min(range(1, most + 1), key=lambda tables: _scores(findings, labels, tables, len(labels)))


def _lines(line: str, size: float, room: float, weight: str = "normal") -> int:
    # the font does not have the letters of many languages; none is wider than a W
    measured = _OTHER_LETTERS.sub("W", figures.cleaned(line))
    # lines break between words, so they are not full
    return math.ceil(1.04 * figures.width(measured, size, weight) / room)


def _above(findings: ReportFindings) -> float:
    """Height of all but the ECG and the predictions: frame, facts about the patient, and notes on the ECG."""
    facts = "     ".join(f"{name} {value}" for name, value in patient_terms(findings))
    text = statements_line(findings.recording.statements)
    quality = " ".join(map(": ".join, quality_lines(findings)))
    lines = (text, f"Signal quality: {quality}", caption(findings))
    return _FRAME + 3.4 * _lines(facts, 7.5, _WIDTH) + 3.2 * sum(_lines(line, _SIZE, _WIDTH) for line in lines)


def _scores(findings: ReportFindings, labels: Sequence[Score], tables: int, rows: int) -> float:
    """Height of heading, highest table with at most this many rows each, and notes."""
    measures = _MEASURE_WIDTH if findings.options.calibration is not None else 0.0
    shown = [name for name in header_of(findings)[1:] if name != THRESHOLD or not _has_ticks_only(findings)]
    numbers = sum(1.5 + figures.width(name, _SIZE, "bold") for name in shown) + measures
    cell = (_WIDTH - _GAP * (tables - 1)) / tables - numbers
    heights = [_ROW + _LINE * (_lines(row.name, _SIZE, cell, "bold") - 1) for row in labels]
    size = max(1, min(rows, math.ceil(len(labels) / tables)))
    highest = max((sum(heights[first : first + size]) for first in range(0, len(labels), size)), default=0.0)
    text = " ".join([*score_notes(findings), printed_note(len(labels), rows * tables)])
    refused = refusal_line(findings)
    refused_height = 3.2 * _lines(f"No answer: {refused}", _SIZE, _WIDTH) if refused else 0.0
    return _HEADINGS + refused_height + highest + _LINE * _lines(text, _SIZE, _WIDTH)


def _side(findings: ReportFindings) -> float:
    """Height of the model's facts, with the nearest recordings beside them if there are any."""
    model = ";  ".join(f"{name}: {value}" for name, value in model_terms(findings))
    if findings.neighbours is None:
        return _LINE * _lines(model, _SIZE, _WIDTH)
    column = _WIDTH / 2 - _GAP
    lines = sum(max(1, _lines(one.labels, _SIZE, _LABELS_SHARE * column)) for one in findings.neighbours)
    nearest = 10 + _LINE * lines + 0.5 * len(findings.neighbours)
    return max(nearest, 4 + _LINE * _lines(model, _SIZE, column))


def write_report(
    model: AnyModel,
    recording: FileOrRecording,
    path: Union[str, "os.PathLike[str]"],
    *,
    name: Optional[str] = None,
    options: ReportOptions = _DEFAULT,
) -> None:
    """Write the report on a recording; see `report_html`.

    Args:
        recording: a file, or a `Recording` with signals in mV.
        path: the HTML file; its folders are made.
        name: file name to show; None: as given.

    Raises:
        UserError: as `report_html`.
        PlaceError: the file cannot be written there, or the disk is full.

    Examples:
        >>> import fairseq_signals_ext
        >>> from fairseq_signals_ext.pages.report_findings import ReportOptions
        >>> model = fairseq_signals_ext.load("checkpoint_best.pt")
        >>> fairseq_signals_ext.write_report(model, "ecgs/one.hea", "one.html", options=ReportOptions(anonymous=True))
    """
    file, found = recording_of(recording)
    shown = ("" if found is recording else file) if name is None else name
    write_page(Path(path), report_html(model, found, name=shown, options=options))


def report_html(model: AnyModel, recording: Recording, *, name: str = "", options: ReportOptions = _DEFAULT) -> str:
    """Return the report on a recording as HTML.

    Args:
        model: an ensemble, or one model, which can be only pretrained.
        recording: with signals in mV, so that it can be drawn to scale.
        name: its file.
        options: contents of the report.

    Raises:
        UserError: the recording cannot be used, or an option cannot be used with the model: a saliency for an ONNX or
            TorchScript export, an unknown label, an index or an evaluation of another model.
    """
    check_options(model, options)
    return report_page(find(model, recording, name, options))


def report_page(findings: ReportFindings) -> str:
    """Make the page from its contents, without the model; only one thread can draw at a time."""
    options, layout = findings.options, choose_layout(findings)
    nearest = findings.neighbours
    return render_page(
        "report.html.j2",
        policy=CONTENT_SECURITY_POLICY,
        title="ECG report" if options.anonymous else f"ECG report: {findings.recording.record_id}",
        kind=layout.kind,
        tables=layout.tables,
        shown_tables=_shown_tables(layout.tables, options.calibration is not None),
        patient=patient_terms(findings),
        statements=statements_line(findings.recording.statements),
        **_ecg_values(findings, draw(findings, layout.ecg_height)),
        **_score_values(findings, layout),
        neighbours=None if nearest is None else neighbour_table(nearest, options.anonymous),
        model=model_terms(findings),
        date=(options.date or datetime.date.today()).isoformat(),
    )


def _ecg_values(findings: ReportFindings, figure: "Figure") -> Dict[str, Any]:
    from markupsafe import Markup

    return {"picture": Markup(svg_text(figure)), "caption": caption(findings), "quality": quality_lines(findings)}


def _score_values(findings: ReportFindings, layout: Layout) -> Dict[str, Any]:
    """Values of the template for predictions; a regression has no bars."""
    note = printed_note(len(scores_of(findings)), layout.tables * layout.rows)
    return {
        "groups": score_tables(findings, layout.tables, layout.rows),
        "header": header_of(findings),
        "is_regression": findings.is_regression,
        "positive_mark": POSITIVE,
        "refused": refusal_line(findings),
        "notes": [*score_notes(findings), *([note] if note else [])],
    }


def _shown_tables(tables: int, measured: bool) -> int:
    """Number of tables side by side on a screen, where letters are larger."""
    return max(1, tables // 2) if measured or tables > 3 else tables
