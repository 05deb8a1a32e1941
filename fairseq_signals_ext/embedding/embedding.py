"""Many recordings become vectors, in order, as `LoadedModel.embed` makes them of one."""

from dataclasses import dataclass
from typing import Iterator, Optional, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.inference.inputs import Recordings
from fairseq_signals_ext.inference.model import LoadedModel
from fairseq_signals_ext.inference.preprocessing import SegmentedRecording
from fairseq_signals_ext.inference.reading_ahead import Rejected, Work
from fairseq_signals_ext.inference.recordings import RecordingError, RecordingFacts
from fairseq_signals_ext.inference.running import Ran, RunOptions, run_recordings


@dataclass(frozen=True, eq=False)
class Embedded:
    """The embeddings of one of many recordings.

    Attributes:
        number: in the inputs.
        name: its file.
        vectors: float32, rows x E: one row; one a segment; or one a frame, those of a segment after each other, without
            frames of padding.
        frames: rows of each segment, where rows are frames; else 1.
        recording: what is known of it.
        ecgs: how many ECGs its file contains, where it is the first of these.
        ends_batch: see `inference.running.Ran`.
    """

    number: int
    name: str
    vectors: np.ndarray
    frames: int
    recording: RecordingFacts
    ecgs: int = 1
    ends_batch: bool = True


def embed_all(
    model: LoadedModel,
    inputs: Recordings,
    per: str = "recording",
    layer: Optional[int] = None,
    options: Optional[RunOptions] = None,
    start: int = 0,
    several: Sequence[Tuple[int, int]] = (),
) -> Iterator[Union[Embedded, Rejected]]:
    """Embeddings of many recordings, in order; memory does not grow with their number.

    Args:
        inputs: see `inference.inputs.find_inputs`.
        per, layer: as `LoadedModel.embed`.
        options: how they are run.
        start: number of the first one.
        several: see `reading_ahead.Work`, of inputs before that.

    Raises:
        UserError: there is no such layer, a frame or layer is asked of an export that only runs, or the model's outputs
            are not finite for any recording.
        MissingPackageError: a format needs a package that is not installed.
    """
    options = options or RunOptions()
    with model.divided(options.batches_at_once) as shared:
        runs = [(model.preprocessing, shared.embedder(per, layer))]
        for ran in run_recordings(runs, Work(inputs, [model.preprocessing], several), options, start):
            yield ran if isinstance(ran, Rejected) else _embedded(model, ran, per)


def _embedded(model: LoadedModel, ran: Ran, per: str) -> Union[Embedded, Rejected]:
    read = ran.read
    try:
        vectors = model.embedding_of(ran.outputs[0], read.name, read.facts, per)
        frames = _frames(model, read.segments[model.preprocessing], read.name) if per == "frame" else 1
    except RecordingError as error:
        return ran.rejected(error)
    if per == "frame":
        vectors = vectors[:, :frames]
        frames = vectors.shape[1]
    rows = vectors.reshape(-1, vectors.shape[-1])
    return Embedded(read.number, read.name, rows, frames, read.facts, read.ecgs, ran.ends_batch)


def _frames(model: LoadedModel, segments: SegmentedRecording, name: str) -> int:
    """Frames of a segment that are not padding: the same for all, as only a single one can have padding."""
    samples = min(model.preprocessing.segment_samples, segments.counts.shape[1])
    frames = int(model.network.geometry.frames(samples))
    if frames < 1:
        raise RecordingError(f"{name}: is shorter than a frame; give more of it than {segments.facts.seconds:.3g} s")
    return frames
