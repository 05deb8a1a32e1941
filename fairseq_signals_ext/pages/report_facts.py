"""Parts of a report: patient, ECG true to scale, nearest recordings, signal quality and model."""

import contextlib
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np

import fairseq_signals_ext
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.inference.model import LoadedModel
from fairseq_signals_ext.pages.ecg_paper import draw_ecg
from fairseq_signals_ext.pages.excerpt import PAPER_SECONDS
from fairseq_signals_ext.pages.report_findings import Neighbour, ReportFindings
from fairseq_signals_ext.prepared.quality import FLAGS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_STATEMENTS = 300
_SIZES = (("encoder_layers", "layers"), ("encoder_embed_dim", "dimensions"), ("encoder_attention_heads", "heads"))
_VERSIONS = (("package_version", "fairseq-signals-ext"), ("fairseq_version", "fairseq"), ("torch_version", "torch"))


def patient_terms(findings: ReportFindings) -> List[Tuple[str, object]]:
    """Facts about the patient and the recording from the file."""
    recording, facts = findings.recording, findings.facts
    length = ("Length", f"{facts.seconds:.4g} s at {facts.sample_rate:g} Hz")
    if findings.options.anonymous:
        return [("Patient", "anonymous"), length]
    return [
        ("Patient", recording.patient or "unknown"),
        ("Age", "unknown" if recording.age is None else f"{recording.age:g} years"),
        ("Sex", recording.sex or "unknown"),
        ("Recorded", "unknown" if recording.start_time is None else f"{recording.start_time:%Y-%m-%d %H:%M:%S}"),
        ("Record", recording.record_id),
        ("File", Path(findings.name).name or "none"),
        length,
    ]


def statements_line(statements: Sequence[str]) -> str:
    """Statements of the device or a physician as one line, cut if too long."""
    joined = "; ".join(statements)
    return joined if len(joined) <= _MOST_STATEMENTS else f"{joined[:_MOST_STATEMENTS].rstrip()}… (cut)"


class NeighbourTable(NamedTuple):
    """The nearest known recordings; an anonymous report has only distances and labels.

    Attributes:
        header: of the columns.
        rows: rank (anonymous) or record id; texts such as the name of the file (not anonymous) and labels (if any are
            known); and distance.
    """

    header: Sequence[str]
    rows: Sequence[Tuple[str, Sequence[str], float]]


def neighbour_table(neighbours: Sequence[Neighbour], anonymous: bool) -> NeighbourTable:
    """Make the table of the nearest recordings, nearest first."""
    labelled = any(one.labels for one in neighbours)
    rows = [
        (
            str(rank) if anonymous else one.record_id,
            [*([] if anonymous else [Path(one.file).name]), *([one.labels or "unknown"] if labelled else [])],
            one.distance,
        )
        for rank, one in enumerate(neighbours, 1)
    ]
    header = ["Rank"] if anonymous else ["Record", "File"]
    return NeighbourTable([*header, *(["Labels"] if labelled else []), "Distance"], rows)


def model_terms(findings: ReportFindings) -> List[Tuple[str, object]]:
    """Facts about the model; for an ensemble about the first model, with the names of the others."""
    model, others = findings.models[0], findings.models[1:]
    also = [("Ensemble with", ", ".join(model.name for model in others))] if others else []
    return [("Checkpoint", model.name), *also, *_facts_of(model)]


def _facts_of(model: LoadedModel) -> List[Tuple[str, object]]:
    description, provenance = model.description, model.description.provenance
    seconds = model.preprocessing.segment_samples / model.sample_rate
    ours = f"fairseq-signals-ext {fairseq_signals_ext.__version__}"
    facts: Dict[str, Any] = {
        "Architecture": _architecture(model),
        "Trained for": None if provenance.get("updates") is None else f"{provenance['updates']:,} updates",
        "Training data": provenance.get("data"),
        "Pretrained from": provenance.get("pretrained"),
        "Trained with": ", ".join(f"{name} {provenance[key]}" for key, name in _VERSIONS if provenance.get(key)),
        "Input": f"{len(model.leads)} leads, {model.sample_rate:g} Hz, {seconds:g} s",
        "Labels": len(description.label_names) or "none",
        "Report made with": f"{ours}, Python {platform.python_version()}",
    }
    return [(name, value) for name, value in facts.items() if value]


def _architecture(model: LoadedModel) -> str:
    config = model.description.architecture
    sizes = [f"{config[key]} {name}" for key, name in _SIZES if config.get(key)]
    # ONNX and TorchScript exports do not give their number of parameters
    with contextlib.suppress(UserError):
        sizes.append(f"{sum(weights.numel() for weights in model.network.parameters()):,} parameters")
    return ", ".join([str(config.get("_name", "model")), *sizes])


def draw(findings: ReportFindings, most_height: float) -> "Figure":
    """Draw the ECG, 3 x 4 with the rhythm strip of lead II, no higher than `most_height` (mm)."""
    start, end = shown_seconds(findings)
    title = _title(findings)
    figure = draw_ecg(findings.recording, findings.saliency, start=start, title=title, most_height=most_height)
    # transparent, because text above is close
    figure.set_facecolor("none")
    leads = ", ".join(LEADS[lead] for lead in findings.recording.leads)
    figure.set_label(f"{title}. {start:.4g} to {end:.4g} s; leads {leads}; 25 mm/s, 10 mm/mV")
    return figure


def caption(findings: ReportFindings) -> str:
    """The caption below the picture."""
    start, end = shown_seconds(findings)
    lines = [_where_it_looked(findings)] if findings.saliency is not None else []
    if (start, end) != (0.0, findings.facts.seconds):
        lines.append(f"Shown: {start:.4g} to {end:.4g} s of {findings.facts.seconds:.4g} s.")
    lines += [findings.facts.cut_in_words] if findings.facts.cut_in_words else []
    return " ".join(lines)


def shown_seconds(findings: ReportFindings) -> Tuple[float, float]:
    """Start and end of the drawn part, s: ten seconds around the peak of the saliency, or the first ten."""
    duration = findings.facts.seconds
    middle = 0.0 if findings.saliency is None else findings.saliency.peak[1]
    start = min(max(0.0, middle - PAPER_SECONDS / 2), max(0.0, duration - PAPER_SECONDS))
    # a multiple of 0.1 s, as the lines of the paper
    start = float(np.floor(10 * start + 1e-6) / 10)
    return start, min(duration, start + PAPER_SECONDS)


def _title(findings: ReportFindings) -> str:
    return "ECG" if findings.saliency is None else f"ECG with {_method(findings)} (blue)"


def _method(findings: ReportFindings) -> str:
    saliency, options = findings.saliency, findings.options
    if saliency is None or saliency.label is not None:
        return "" if saliency is None else f"{saliency.method} of {saliency.label}"
    network = findings.models[0].network
    return f"{saliency.method} of layer {options.layer or network.last_layer} of {network.layers}"


def _where_it_looked(findings: ReportFindings) -> str:
    lead, second = ("", 0.0) if findings.saliency is None else findings.saliency.peak
    who = findings.models[0].name if len(findings.models) > 1 else "the model"
    place = f"{second:.2f} s{f', {lead}' if lead else ''}"
    return f"Blue: where {who} looked, not a diagnosis ({_method(findings)}; most at {place})."


def quality_lines(findings: ReportFindings) -> List[Tuple[str, str]]:
    """Quality flags with their meaning, and missing leads."""
    facts = findings.facts
    lines = [(flag, FLAGS[flag]) for flag in facts.flags if flag != "filled"]
    if facts.missing_leads:
        lines.append(("missing leads", f"{', '.join(facts.missing_leads)}; the model was given zeros for them"))
    return lines
