"""The parts of a run become the files of `folder`; memory does not grow with their number."""

import itertools
import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Tuple

import numpy as np

from fairseq_signals_ext.embedding.folder import (
    ARRAY_FILE,
    COLUMNS,
    FACTS_FILE,
    FORMAT,
    PARQUET_FILE,
    TABLE_FILE,
    VERSION,
)
from fairseq_signals_ext.files import atomic
from fairseq_signals_ext.inference.results import Kept, write_csv

# of recordings, in a run's parts
TABLE = "embeddings"
_GROUP_BYTES = 2**25


def write_embeddings(out: Path, results: Kept, facts: Mapping[str, Any], array: str) -> Tuple[Path, int]:
    """Write what a run made, when all recordings are done and before `results.finish`.

    Args:
        out: folder of the results.
        results: with a row per recording in `TABLE`: `COLUMNS` but for `first_row`, and `frames`.
        facts: `folder.model_facts`.
        array: "npy" or "parquet".

    Returns:
        The file with the vectors, and the number of recordings.
    """
    if array == "npy":
        path = out / ARRAY_FILE
        rows = _write_npy(path, results, facts["dimension"])
        frames = {"frames": "int64"} if facts["per"] == "frame" else {}
        recordings = write_csv(out / TABLE_FILE, {**COLUMNS, **frames}, _with_first_rows(results.rows(TABLE)))
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
    """A row a vector; returns the number of vectors and of recordings."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(facts["per"], facts["dimension"])
    of_vectors = _facts_of_vectors(results, facts)
    rows = recordings = 0
    with atomic(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for group in _groups(results.arrays(), max(1, _GROUP_BYTES // (4 * facts["dimension"]))):
            known = list(itertools.islice(of_vectors, len(group)))
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(group.reshape(-1)), facts["dimension"])
            columns = {name: [row[name] for row in known] for name in schema.names if name != "embedding"}
            writer.write_table(pa.table({**columns, "embedding": vectors}, schema))
            rows, recordings = rows + len(group), known[-1]["recording"] + 1
    return rows, recordings


def _groups(parts: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """All rows, so many at a time: parts are others in a run that was interrupted."""
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

    fields = [("recording", pa.int64()), ("record_id", pa.string()), ("file", pa.string()), ("seconds", pa.float64())]
    fields += [("segments", pa.int64()), ("flags", pa.list_(pa.string()))]
    if per != "recording":
        fields += [("segment", pa.int64()), ("start", pa.float64())]
    return pa.schema([*fields, ("embedding", pa.list_(pa.float32(), dimension))])


def _facts_of_vectors(results: Kept, facts: Mapping[str, Any]) -> Iterator[Dict[str, Any]]:
    """For each vector what is known of its recording, and where in that it begins (s)."""
    for number, row in enumerate(results.rows(TABLE)):
        for vector in range(row["rows"]):
            segment, frame = divmod(vector, row["frames"])
            start = segment * facts["segment_seconds"] + frame * facts.get("frame_seconds", 0)
            yield {**row, "recording": number, "segment": segment, "start": start}
