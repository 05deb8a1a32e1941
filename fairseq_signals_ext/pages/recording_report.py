"""The report on a recording: one HTML page that needs nothing else, and is one A4 page when it is printed.

The ECG has its true scale on paper; rows of tall complexes reach into each other, as on an ECG machine's. Of many
labels the positive and the most probable ones are printed; a screen shows all.

A model without labels has a report with the ECG, where the model looked, and the nearest known recordings. The same
recording, model, options and date give the same bytes.
"""

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict

from fairseq_signals_ext.pages.rendering import render_page, write_page
from fairseq_signals_ext.pages.report_ecg import caption, draw, quality_lines
from fairseq_signals_ext.pages.report_facts import model_terms, neighbour_table, patient_terms, statements_line
from fairseq_signals_ext.pages.report_findings import AnyModel, ReportFindings, ReportOptions, check_options, find
from fairseq_signals_ext.pages.report_layout import Layout, choose_layout
from fairseq_signals_ext.pages.report_scores import (
    POSITIVE,
    header_of,
    printed_note,
    score_notes,
    score_tables,
    scores_of,
)
from fairseq_signals_ext.pages.saving import svg_text
from fairseq_signals_ext.readers import Recording

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# what a page needs is in it, and no script is
CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_DEFAULT = ReportOptions()


def write_report(
    model: AnyModel, recording: Recording, path: Path, *, name: str = "", options: ReportOptions = _DEFAULT
) -> None:
    """Write the report on a recording; see `report_html`.

    Args:
        path: the HTML file.

    Raises:
        UserError: as `report_html`.
        PlaceError: there is no such place, or no room.
    """
    write_page(path, report_html(model, recording, name=name, options=options))


def report_html(model: AnyModel, recording: Recording, *, name: str = "", options: ReportOptions = _DEFAULT) -> str:
    """The report on a recording, as HTML.

    Args:
        model: an ensemble, or one model, which may be pretrained only.
        recording: signals in mV, else it could not be drawn to scale.
        name: its file.
        options: what is shown.

    Raises:
        UserError: the recording cannot be used, or an option cannot be used with the model: a saliency of an export
            that only runs, an unknown label, an index or an evaluation of another model.
    """
    check_options(model, options)
    return report_page(find(model, recording, name, options))


def report_page(findings: ReportFindings) -> str:
    """The same of what was found; asks no model, and draws, which one thread may do at a time."""
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
    """Of a regression there are values without bars."""
    note = printed_note(len(scores_of(findings)), layout.tables * layout.rows)
    return {
        "groups": score_tables(findings, layout.tables, layout.rows),
        "header": header_of(findings),
        "is_regression": findings.is_regression,
        "positive_mark": POSITIVE,
        "notes": [*score_notes(findings), *([note] if note else [])],
    }


def _shown_tables(tables: int, measured: bool) -> int:
    """How many of the tables stand beside each other on a screen, where letters are larger."""
    return max(1, tables // 2) if measured or tables > 3 else tables
