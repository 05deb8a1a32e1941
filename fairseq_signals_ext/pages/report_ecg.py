"""The ECG of a report, true to scale, with what must be known to read it."""

from typing import TYPE_CHECKING, List, Tuple

import numpy as np

from fairseq_signals_ext.leads import LEADS
from fairseq_signals_ext.pages.ecg_paper import draw_ecg
from fairseq_signals_ext.pages.excerpt import PAPER_SECONDS
from fairseq_signals_ext.pages.report_findings import ReportFindings
from fairseq_signals_ext.pages.saliency_picture import drawn_values
from fairseq_signals_ext.preparation.quality import FLAGS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(findings: ReportFindings, most_height: float) -> "Figure":
    """The picture, 3 x 4 with the rhythm strip of lead II, no higher than `most_height` (mm)."""
    saliency = None if findings.saliency is None else drawn_values(findings.saliency, findings.recording)
    start, end = shown_seconds(findings)
    title = _title(findings)
    figure = draw_ecg(findings.recording, saliency, start=start, title=title, most_height=most_height)
    # it stands close to the text above it
    figure.set_facecolor("none")
    leads = ", ".join(LEADS[lead] for lead in findings.recording.leads)
    figure.set_label(f"{title}. {start:.4g} to {end:.4g} s; leads {leads}; 25 mm/s, 10 mm/mV")
    return figure


def caption(findings: ReportFindings) -> str:
    """What stands below the picture."""
    start, end = shown_seconds(findings)
    lines = [_where_it_looked(findings)] if findings.saliency is not None else []
    if (start, end) != (0.0, findings.facts.seconds):
        lines.append(f"Shown: {start:.4g} to {end:.4g} s of {findings.facts.seconds:.4g} s.")
    lines += [findings.facts.cut_in_words] if findings.facts.cut_in_words else []
    return " ".join(lines)


def shown_seconds(findings: ReportFindings) -> Tuple[float, float]:
    """Start and end of what is drawn, s: of more than ten those around the peak of the saliency, else the first."""
    duration = findings.facts.seconds
    middle = 0.0 if findings.saliency is None else findings.saliency.peak[1]
    start = min(max(0.0, middle - PAPER_SECONDS / 2), max(0.0, duration - PAPER_SECONDS))
    # in whole 0.1 s, the lines of the paper
    start = float(np.floor(10 * start + 1e-6) / 10)
    return start, min(duration, start + PAPER_SECONDS)


def _title(findings: ReportFindings) -> str:
    return "ECG" if findings.saliency is None else f"ECG with {_method(findings)} (blue)"


def _method(findings: ReportFindings) -> str:
    saliency, options = findings.saliency, findings.options
    if saliency is None or saliency.label is not None:
        return "" if saliency is None else f"{saliency.method} of {saliency.label}"
    layers = findings.models[0].network.layers
    return f"{saliency.method} of layer {options.layer or layers} of {layers}"


def _where_it_looked(findings: ReportFindings) -> str:
    lead, second = ("", 0.0) if findings.saliency is None else findings.saliency.peak
    who = findings.models[0].name if len(findings.models) > 1 else "the model"
    place = f"{second:.2f} s{f', {lead}' if lead else ''}"
    return f"Blue: where {who} looked, not a diagnosis ({_method(findings)}; most at {place})."


def quality_lines(findings: ReportFindings) -> List[Tuple[str, str]]:
    """Flags with their meaning, and missing leads."""
    facts = findings.facts
    lines = [(flag, FLAGS[flag]) for flag in facts.flags if flag != "filled"]
    if facts.missing_leads:
        lines.append(("missing leads", f"{', '.join(facts.missing_leads)}; the model was given zeros for them"))
    return lines
