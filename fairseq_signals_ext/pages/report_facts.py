"""Whose ECG it is, which recordings are near it, and which model was asked."""

import contextlib
import platform
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import fairseq_signals_ext
from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.inference.model import LoadedModel
from fairseq_signals_ext.pages.report_findings import Neighbour, ReportFindings

_MOST_STATEMENTS = 300
_SIZES = (("encoder_layers", "layers"), ("encoder_embed_dim", "dimensions"), ("encoder_attention_heads", "heads"))
_VERSIONS = (("package_version", "fairseq-signals-ext"), ("fairseq_version", "fairseq"), ("torch_version", "torch"))


def patient_terms(findings: ReportFindings) -> List[Tuple[str, object]]:
    """What the file says of the patient and the recording."""
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
    """What the device or a physician said, or its beginning."""
    said = "; ".join(statements)
    return said if len(said) <= _MOST_STATEMENTS else f"{said[:_MOST_STATEMENTS].rstrip()}… (cut)"


class NeighbourTable(NamedTuple):
    """The nearest known recordings, or of an anonymous report how near they are.

    Attributes:
        header: of the columns.
        rows: rank, or record id, name of the file, which an anonymous report does not show, and distance.
    """

    header: Sequence[str]
    rows: Sequence[Tuple[str, Optional[str], float]]


def neighbour_table(neighbours: Sequence[Neighbour], anonymous: bool) -> NeighbourTable:
    """As a table, the nearest first."""
    if anonymous:
        ranks = enumerate(neighbours, 1)
        return NeighbourTable(["Rank", "Distance"], [(str(rank), None, one.distance) for rank, one in ranks])
    rows = [(one.record_id, Path(one.file).name, one.distance) for one in neighbours]
    return NeighbourTable(["Record", "File", "Distance"], rows)


def model_terms(findings: ReportFindings) -> List[Tuple[str, object]]:
    """Facts of the model, of several those of the first with the names of the others."""
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
    # an export that only runs does not say how many it has
    with contextlib.suppress(UserError):
        sizes.append(f"{sum(weights.numel() for weights in model.network.parameters()):,} parameters")
    return ", ".join([str(config.get("_name", "model")), *sizes])
