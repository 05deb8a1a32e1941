"""Compute and write embeddings of many recordings, in order; memory does not grow with their number."""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.analysis.embeddings_folder import (
    ARRAY_FILE,
    COLUMNS,
    FACTS_FILE,
    FORMAT,
    KNOWN_COLUMNS,
    PARQUET_FILE,
    TABLE_FILE,
    VERSION,
)
from fairseq_signals_ext.common.files import atomic
from fairseq_signals_ext.inference.inputs import Recordings
from fairseq_signals_ext.inference.model import LoadedModel
from fairseq_signals_ext.inference.preprocessing import SegmentedRecording
from fairseq_signals_ext.inference.reading_ahead import ReadingPlan, Rejected
from fairseq_signals_ext.inference.recordings import RecordingError, RecordingFacts
from fairseq_signals_ext.inference.results import Kept, typed_value, write_csv
from fairseq_signals_ext.inference.running import RecordingOutputs, RunOptions, run_recordings
from fairseq_signals_ext.prepared.table import arrow_type

# name of the table of recordings in a run's parts
TABLE = "embeddings"
_GROUP_BYTES = 2**25


@dataclass(frozen=True, eq=False)
class Embedded:
    """The embeddings of one of many recordings.

    Attributes:
        number: its number in the inputs.
        name: its file.
        vectors: float32, rows x E: one row; one per segment; or one per frame, ordered by segment, without frames of
            padding.
        frames: rows of each segment, if rows are frames; otherwise 1.
        recording: facts about it.
        ecgs: how many ECGs its file contains, if it is the first of them.
        ends_batch: see `inference.running.RecordingOutputs`.
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
    """Compute embeddings of many recordings, in order; memory does not grow with their number.

    Args:
        inputs: see `inference.inputs.find_inputs`.
        per, layer: as `LoadedModel.embed`.
        options: how they are run.
        start: number of the first recording.
        several: see `reading_ahead.ReadingPlan`, for inputs before `start`.

    Raises:
        UserError: there is no such layer, a frame or layer is requested from an ONNX or TorchScript export, or the
            model's outputs are not finite for any recording.
        MissingPackageError: a format needs a package that is not installed.
    """
    options = options or RunOptions()
    with model.divided(options.batches_at_once) as shared:
        runs = [(model.preprocessing, shared.embedder(per, layer))]
        for result in run_recordings(runs, ReadingPlan(inputs, [model.preprocessing], several), options, start):
            yield result if isinstance(result, Rejected) else _embedded(model, result, per)


def _embedded(model: LoadedModel, result: RecordingOutputs, per: str) -> Union[Embedded, Rejected]:
    read = result.read
    try:
        vectors = model.embedding_of(result.outputs[0], read.name, read.facts, per)
        frames = _frames(model, read.segments[model.preprocessing], read.name) if per == "frame" else 1
    except RecordingError as error:
        return result.rejected(error)
    if per == "frame":
        vectors = vectors[:, :frames]
        frames = vectors.shape[1]
    rows = vectors.reshape(-1, vectors.shape[-1])
    return Embedded(read.number, read.name, rows, frames, read.facts, read.ecgs, result.ends_batch)


def _frames(model: LoadedModel, segments: SegmentedRecording, name: str) -> int:
    """Frames per segment without padding: the same for all, because only a single segment can have padding."""
    samples = min(model.preprocessing.segment_samples, segments.counts.shape[1])
    frames = int(model.network.geometry.frames(samples))
    if frames < 1:
        raise RecordingError(
            f"{name}: is shorter than a frame; give a recording longer than {segments.facts.seconds:.3g} s"
        )
    return frames


def write_embeddings(out: Path, results: Kept, facts: Mapping[str, Any], array: str) -> Tuple[Path, int]:
    """Write the embeddings of a run, after all recordings are done and before `results.finish`.

    Args:
        out: folder of the results.
        results: with a row per recording in `TABLE`: `COLUMNS` without `first_row`, and `frames`.
        facts: `folder.model_facts`.
        array: "npy" or "parquet".

    Returns:
        The file with the vectors, and the number of recordings.
    """
    if array == "npy":
        path = out / ARRAY_FILE
        rows = _write_npy(path, results, facts["dimension"])
        frames = {"frames": "int64"} if facts["per"] == "frame" else {}
        columns = {name: kind for name, kind in COLUMNS.items() if name not in ("record_id", "file")}
        columns = {"record_id": "string", "file": "string", **KNOWN_COLUMNS, **columns, **frames}
        recordings = write_csv(out / TABLE_FILE, columns, _with_first_rows(results.rows(TABLE)))
    else:
        path = out / PARQUET_FILE
        rows, recordings = _write_parquet(path, results, facts)
    run = {"format": FORMAT, "version": VERSION, "array": array, "recordings": recordings, "rows": rows}
    with atomic(out / FACTS_FILE) as temporary:
        temporary.write_text(json.dumps({**run, **facts}, indent=2) + "\n", encoding="utf-8")
    return path, recordings


def _with_first_rows(rows: Iterator[Dict[str, Any]]) -> Iterator[Dict[str, Any]]:
    first_row = 0
    for row in rows:
        yield {**row, "first_row": first_row}
        first_row += row["rows"]


def _write_npy(path: Path, results: Kept, dimension: int) -> int:
    rows = sum(len(part) for part in results.arrays())
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dimension)}
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in results.arrays():
            part.astype("<f4", copy=False).tofile(file)
    return rows


def _write_parquet(path: Path, results: Kept, facts: Mapping[str, Any]) -> Tuple[int, int]:
    """One row per vector; returns the number of vectors and of recordings."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(facts["per"], facts["dimension"])
    of_vectors = _facts_of_vectors(results, facts)
    rows = recordings = 0
    with atomic(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for group in _groups(results.arrays(), max(1, _GROUP_BYTES // (4 * facts["dimension"]))):
            known = list(itertools.islice(of_vectors, len(group)))
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(group.reshape(-1)), facts["dimension"])
            columns = {
                name: [typed_value(row.get(name), KNOWN_COLUMNS.get(name, "")) for row in known]
                for name in schema.names
                if name != "embedding"
            }
            writer.write_table(pa.table({**columns, "embedding": vectors}, schema))
            rows, recordings = rows + len(group), known[-1]["recording"] + 1
    return rows, recordings


def _groups(parts: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """All rows in groups of this size, because an interrupted run has parts of other sizes."""
    waiting: List[np.ndarray] = []
    for part in parts:
        while len(part):
            taken = part[: size - sum(map(len, waiting))]
            waiting.append(taken)
            part = part[len(taken) :]
            if sum(map(len, waiting)) == size:
                yield np.concatenate(waiting)
                waiting = []
    if waiting:
        yield np.concatenate(waiting)


def _schema(per: str, dimension: int) -> Any:
    import pyarrow as pa

    fields = [("recording", pa.int64()), ("record_id", pa.string()), ("file", pa.string())]
    fields += [*((name, arrow_type(kind)) for name, kind in KNOWN_COLUMNS.items()), ("seconds", pa.float64())]
    fields += [("segments", pa.int64()), ("flags", pa.list_(pa.string()))]
    if per != "recording":
        fields += [("segment", pa.int64()), ("start", pa.float64())]
    return pa.schema([*fields, ("embedding", pa.list_(pa.float32(), dimension))])


def _facts_of_vectors(results: Kept, facts: Mapping[str, Any]) -> Iterator[Dict[str, Any]]:
    """For each vector the facts about its recording, and its start in the recording (s)."""
    for number, row in enumerate(results.rows(TABLE)):
        for vector in range(row["rows"]):
            segment, frame = divmod(vector, row["frames"])
            start = segment * facts["segment_seconds"] + frame * facts.get("frame_seconds", 0)
            yield {**row, "recording": number, "segment": segment, "start": start}
