"""The report on a recording: one HTML page that needs nothing else, and is one A4 page when it is printed.

The ECG has its true scale on paper; rows of tall complexes reach into each other, as on an ECG machine's. Of many
labels the positive and the most probable ones are printed; a screen shows all.

A model without labels has a report with the ECG, where the model looked, and the nearest known recordings. The same
recording, model, options and date give the same bytes.
"""

import datetime
from pathlib import Path
from string import Template

from fairseq_signals_ext.errors import PlaceError
from fairseq_signals_ext.files import atomic
from fairseq_signals_ext.readers import Recording
from fairseq_signals_ext.reporting.about import model_section, neighbours_section, patient_section
from fairseq_signals_ext.reporting.ecg import draw, ecg_section
from fairseq_signals_ext.reporting.findings import AnyModel, Findings, check_options, find
from fairseq_signals_ext.reporting.html import text
from fairseq_signals_ext.reporting.layout import choose_layout
from fairseq_signals_ext.reporting.options import ReportOptions
from fairseq_signals_ext.reporting.page import NEIGHBOURS, PAGE
from fairseq_signals_ext.reporting.scores import scores_section

__all__ = ["ReportOptions", "report_html", "report_page", "write_report"]

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
    content = report_html(model, recording, name=name, options=options)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlaceError(error.errno, error.strerror, str(path)) from error
    with atomic(path) as temporary:
        temporary.write_bytes(content.encode())


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


def report_page(findings: Findings) -> str:
    """The same of what was found; asks no model, and draws, which one thread may do at a time."""
    options = findings.options
    layout = choose_layout(findings)
    return Template(PAGE).substitute(
        title=_title(findings),
        kind=layout.kind,
        tables=layout.tables,
        shown=_shown(layout.tables, options.calibration is not None),
        patient=patient_section(findings),
        ecg=ecg_section(findings, draw(findings, layout.ecg_height)),
        scores=scores_section(findings, layout.tables, layout.rows),
        neighbours=_neighbours(findings),
        model=model_section(findings),
        date=(options.date or datetime.date.today()).isoformat(),
    )


def _shown(tables: int, measured: bool) -> int:
    """How many of the tables stand beside each other on a screen, where letters are larger."""
    return max(1, tables // 2) if measured or tables > 3 else tables


def _title(findings: Findings) -> str:
    return text("ECG report" if findings.options.anonymous else f"ECG report: {findings.recording.record_id}")


def _neighbours(findings: Findings) -> str:
    if findings.neighbours is None:
        return ""
    table = neighbours_section(findings.neighbours, findings.options.anonymous)
    return Template(NEIGHBOURS).substitute(table=table)
