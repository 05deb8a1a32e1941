"""What a score loses when a lead, or all P waves, QRS complexes or T waves are taken away."""

from dataclasses import dataclass
from typing import Iterator, NamedTuple, Optional, Tuple

import numpy as np

from fairseq_signals_ext.explaining.scores import chosen_label, score_of
from fairseq_signals_ext.explaining.waves import Waves, find_waves
from fairseq_signals_ext.inference.model import LoadedModel
from fairseq_signals_ext.inference.preprocessing import SegmentedRecording
from fairseq_signals_ext.inference.recordings import AnyRecording, Leads, recording_of
from fairseq_signals_ext.inference.running import Change

ALL = "all"


class Occluded(NamedTuple):
    """A score without a part of the recording.

    Attributes:
        region: "P", "QRS", "T", or "all" of the lead.
        lead: a lead's name, or "all".
        score: of the recording, without it.
        drop: how much lower that is than with it.
    """

    region: str
    lead: str
    score: float
    drop: float


@dataclass(frozen=True)
class Occlusions:
    """What a label's score loses without parts of a recording.

    Attributes:
        label: its name.
        score: the recording's probability, or value of a regression, with all of it.
        rows: one a part.
        note: how many waves were found, and in which lead.
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
    """What a score loses when parts of a recording are taken away; works with exports, too.

    Each lead is replaced by zeros, its mean. Then all P waves, all QRS complexes and all T waves are, in every lead,
    replaced by a straight line from the sample before to the sample after. What is left is no ECG that the model was
    trained with, so small drops mean little.

    Args:
        recording, sample_rate, leads: as `recording_of`.
        label: None: the most probable, see `chosen_label`.

    Raises:
        UserError: the model has no labels or not this one, or the recording cannot be used.
    """
    name, found = recording_of(recording, sample_rate, leads)
    return occlude_segments(model, SegmentedRecording.of(found, model.preprocessing, name), label)


def occlude_segments(model: LoadedModel, segments: SegmentedRecording, label: Optional[str] = None) -> Occlusions:
    """The same for a recording that is preprocessed already."""
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
    """Replace, in place, samples of each lead by a line between those around them; at an end by the nearest.

    Args:
        segment: leads x samples.
        mask: bool, True where a sample is replaced; may be shorter, then the other samples stay and are not used.
    """
    replaced, kept = np.flatnonzero(mask), np.flatnonzero(~mask)
    for lead in segment:
        lead[replaced] = np.interp(replaced, kept, lead[kept]) if len(kept) else 0


def _note(waves: Optional[Waves]) -> str:
    if waves is None:
        return "no beats were found, so no waves are left out"
    numbers = ", ".join(f"{len(found)} {wave}" for wave, found in waves.regions.items())
    return f"{numbers} found in lead {waves.lead}"
