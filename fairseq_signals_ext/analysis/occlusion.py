"""Occlusion: the drop of a label's score without a lead, or without all P waves, QRS complexes or T waves."""

from dataclasses import dataclass
from typing import Iterator, NamedTuple, Optional, Tuple

import numpy as np

from fairseq_signals_ext.analysis.waves import Waves, find_waves
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.inference.model import LoadedModel, Prediction
from fairseq_signals_ext.inference.preprocessing import SegmentedRecording
from fairseq_signals_ext.inference.recordings import AnyRecording, Leads, recording_of
from fairseq_signals_ext.inference.running import Change, run_segments

ALL = "all"


def label_position(model: LoadedModel, label: Optional[str]) -> int:
    """Position of a label among the model's outputs.

    Raises:
        UserError: the model does not have this label.
    """
    _check_has_labels(model)
    if label not in model.label_names:
        raise UserError(f"label {label!r}: {model.source} has {', '.join(model.label_names)}; name one of them")
    return model.label_names.index(label)


def score_of(model: LoadedModel, segments: SegmentedRecording, label: str, change: Optional[Change] = None) -> float:
    """A recording's probability of a label, or value of a regression, as `predict` gives it.

    Args:
        change: of the model's input.

    Raises:
        UserError: as `label_position`, or the output is not finite.
    """
    position = label_position(model, label)
    return float(_predict(model, segments, change).scores[position])


def chosen_label(model: LoadedModel, segments: SegmentedRecording) -> str:
    """The most probable label among those that reach their threshold, or among all; for a regression the first.

    Raises:
        UserError: the model has no labels, or the output is not finite.
    """
    _check_has_labels(model)
    if not model.description.of_kind.has_classes:
        return model.label_names[0]
    return most_certain(_predict(model, segments))


def most_certain(prediction: Prediction) -> str:
    """The most probable label among those that reach their threshold, or among all if none does."""
    reached = 0 if prediction.positive is None else prediction.positive
    # no probability is above 1, so labels that reach their threshold come first
    return prediction.label_names[int((prediction.scores + 2 * reached).argmax())]


def _check_has_labels(model: LoadedModel) -> None:
    if not model.label_names:
        raise UserError(f"{model.source}: is a pretrained model without labels; use the method attention or rollout")


def _predict(model: LoadedModel, segments: SegmentedRecording, change: Optional[Change] = None) -> Prediction:
    outputs = run_segments(model.backend, segments, change=change)
    return model.prediction_of(outputs, f"recording {segments.facts.record_id!r}", segments.facts)


class Occluded(NamedTuple):
    """The score without a part of the recording.

    Attributes:
        region: "P", "QRS", "T", or "all" of the lead.
        lead: a lead's name, or "all".
        score: of the recording without this part.
        drop: original score minus this score.
    """

    region: str
    lead: str
    score: float
    drop: float


@dataclass(frozen=True)
class Occlusions:
    """Drops of a label's score without parts of a recording.

    Attributes:
        label: its name.
        score: probability, or value of a regression, of the whole recording.
        rows: one per part.
        note: number of waves found, and their lead.
    """

    label: str
    score: float
    rows: Tuple[Occluded, ...]
    note: str


def occlude(
    model: LoadedModel,
    recording: AnyRecording,
    label: Optional[str] = None,
    *,
    sample_rate: Optional[float] = None,
    leads: Leads = None,
) -> Occlusions:
    """Compute the drops of a score without parts of a recording; also works with exports.

    First each lead is replaced by zeros, its mean. Then all P waves, all QRS complexes and all T waves are replaced, in
    every lead, by a straight line from the sample before to the sample after. The result is unlike the ECGs of the
    training, so small drops mean little.

    Args:
        recording, sample_rate, leads: as `recording_of`.
        label: None: the most probable, see `chosen_label`.

    Raises:
        UserError: the model has no labels or not this one, or the recording cannot be used.
    """
    name, found = recording_of(recording, sample_rate, leads)
    return occlude_segments(model, SegmentedRecording.of(found, model.preprocessing, name), label)


def occlude_segments(model: LoadedModel, segments: SegmentedRecording, label: Optional[str] = None) -> Occlusions:
    """As `occlude`, for a recording that is already preprocessed."""
    label = chosen_label(model, segments) if label is None else label
    score, waves = score_of(model, segments, label), find_waves(segments)
    rows = []
    for region, lead, change in (*_without_leads(segments), *_without_waves(segments, waves)):
        without = score_of(model, segments, label, change)
        rows.append(Occluded(region, lead, without, score - without))
    return Occlusions(label, score, tuple(rows), _note(waves))


def _without_leads(segments: SegmentedRecording) -> Iterator[Tuple[str, str, Change]]:
    for column in segments.columns:

        def change(source: np.ndarray, start: int, column: int = column) -> None:
            source[:, column] = 0

        yield ALL, segments.preprocessing.leads[column], change


def _without_waves(segments: SegmentedRecording, waves: Optional[Waves]) -> Iterator[Tuple[str, str, Change]]:
    if waves is None:
        return
    stride, samples = segments.preprocessing.stride_samples, segments.counts.shape[1]
    for wave in waves.regions:
        mask = waves.mask(wave, samples)
        if not mask.any():
            continue

        def change(source: np.ndarray, start: int, mask: np.ndarray = mask) -> None:
            for number, segment in enumerate(source, start):
                bridge(segment, mask[number * stride :][: source.shape[-1]])

        yield wave, ALL, change


def bridge(segment: np.ndarray, mask: np.ndarray) -> None:
    """Replace samples of each lead, in place, by a line between their neighbours; at an end by the nearest sample.

    Args:
        segment: leads x samples.
        mask: bool, True where a sample is replaced; if it is shorter, later samples stay and are not used.
    """
    replaced, kept = np.flatnonzero(mask), np.flatnonzero(~mask)
    for lead in segment:
        lead[replaced] = np.interp(replaced, kept, lead[kept]) if len(kept) else 0


def _note(waves: Optional[Waves]) -> str:
    if waves is None:
        return "no beats were found, so no waves are left out"
    numbers = ", ".join(f"{len(found)} {wave}" for wave, found in waves.regions.items())
    return f"{numbers} found in lead {waves.lead}"
