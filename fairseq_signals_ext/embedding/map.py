"""A map of an embeddings folder: `map.csv` with a place for each vector, and `map.png`."""

import contextlib
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Tuple

import numpy as np

from fairseq_signals_ext.embedding.colouring import values_for
from fairseq_signals_ext.embedding.drawing import Colouring, draw_map
from fairseq_signals_ext.embedding.folder import Embeddings, check_finite
from fairseq_signals_ext.embedding.projection import check_method, method_for, project
from fairseq_signals_ext.inference.results import write_csv

MAP_TABLE, MAP_PICTURE = "map.csv", "map.png"
_COLUMNS = {"record_id": "string", "file": "string", "row": "int64", "x": "float64", "y": "float64"}


def make_map(embeddings: Embeddings, out: Path, color: Optional[str] = None, table: Optional[Path] = None) -> Path:
    """Write `map.csv` and `map.png`; returns the picture.

    Places that the embeddings' own folder has already are used again, as they would be the same: another colour takes
    no time.

    Args:
        embeddings: from `folder.open_embeddings`.
        out: folder, which exists.
        color: column by which points are coloured; None: all are of one colour.
        table: that has the column, see `colouring.values_for`.

    Raises:
        UserError: an embedding is not finite; see also `colouring.values_for`.
        ModuleNotFoundError: umap-learn is not installed.
    """
    of_rows = embeddings.recordings_of(np.arange(len(embeddings.vectors)))
    values = None if color is None else values_for(embeddings.recordings, color, table)[of_rows]
    check_method(len(embeddings.vectors))
    points, method = _known_places(embeddings)
    if points is None:
        check_finite(embeddings.vectors, embeddings.folder)
        points, method = project(embeddings.vectors)
    columns = {**_COLUMNS, **({} if values is None else {"value": "string"})}
    write_csv(out / MAP_TABLE, columns, _rows(embeddings, of_rows, points, values))
    colouring = None if color is None or values is None else Colouring(color, values)
    draw_map(points, method, out / MAP_PICTURE, colouring)
    return out / MAP_PICTURE


def _known_places(embeddings: Embeddings) -> Tuple[Optional[np.ndarray], str]:
    import pandas as pd

    path, method = embeddings.folder / MAP_TABLE, method_for(len(embeddings.vectors))
    # one that cannot be used is written again
    with contextlib.suppress(OSError, ValueError, KeyError):
        points = pd.read_csv(path, usecols=["x", "y"])[["x", "y"]].to_numpy(np.float64)
        if len(points) == len(embeddings.vectors) and np.isfinite(points).all():
            return points, method
    return None, method


def _rows(
    embeddings: Embeddings, of_rows: np.ndarray, points: np.ndarray, values: Optional[np.ndarray]
) -> Iterator[Dict[str, Any]]:
    record_ids, files = (embeddings.recordings[name].to_numpy() for name in ("record_id", "file"))
    for row, (place, (x, y)) in enumerate(zip(of_rows, points)):
        facts = {"record_id": record_ids[place], "file": files[place], "row": row, "x": float(x), "y": float(y)}
        yield facts if values is None else {**facts, "value": values[row]}
