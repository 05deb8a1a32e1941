"""Map an embeddings folder to two dimensions, with similar embeddings close together: `map.csv` and `map.png`."""

import contextlib
import warnings
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Tuple

import numpy as np

from fairseq_signals_ext.analysis.embeddings_folder import Embeddings, check_finite
from fairseq_signals_ext.analysis.map_drawing import Colouring, draw_map, values_for
from fairseq_signals_ext.inference.results import write_csv

# UMAP's default; its graph is useless unless there are many more vectors than neighbours
NEIGHBOURS = 15
FEWEST = 3 * NEIGHBOURS
_SEED = 1
MAP_TABLE, MAP_PICTURE = "map.csv", "map.png"
_COLUMNS = {"record_id": "string", "file": "string", "row": "int64", "x": "float64", "y": "float64"}


def method_for(rows: int) -> str:
    """The method of `project` for this number of vectors: "UMAP" or, below `FEWEST`, "PCA"."""
    return "UMAP" if rows >= FEWEST else "PCA"


def check_method(rows: int) -> None:
    """Raise a ModuleNotFoundError if UMAP is needed and not installed, without its slow import."""
    import importlib.util

    if method_for(rows) == "UMAP" and importlib.util.find_spec("umap") is None:
        raise ModuleNotFoundError("No module named 'umap'", name="umap")


def project(vectors: np.ndarray) -> Tuple[np.ndarray, str]:
    """Project vectors to two dimensions, with the same result each time.

    UMAP (arXiv 1802.03426) with 15 neighbours by cosine; its fixed seed allows only one thread. For fewer than `FEWEST`
    vectors the first two principal components.

    Args:
        vectors: float32, N x E, at least one.

    Returns:
        x and y: float64, N x 2.
        The method, see `method_for`.
    """
    method = method_for(len(vectors))
    return (_umap(vectors) if method == "UMAP" else _principal_components(vectors)), method


def _umap(vectors: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        # warnings about the single thread, and about equal vectors without a position, which they get below
        warnings.simplefilter("ignore")
        from umap import UMAP

        reducer = UMAP(n_neighbors=NEIGHBOURS, metric="cosine", random_state=_SEED, n_jobs=1)
        found = np.asarray(reducer.fit_transform(np.asarray(vectors)), np.float64)
    return np.where(np.isfinite(found), found, np.nanmean(found, axis=0))


def _principal_components(vectors: np.ndarray) -> np.ndarray:
    from sklearn.decomposition import PCA

    number = min(2, *vectors.shape)
    found = np.zeros((len(vectors), 2))
    # a single vector has no variance and stays at the origin
    if len(vectors) > 1:
        found[:, :number] = PCA(number, svd_solver="full").fit_transform(vectors.astype(np.float64))
    return found


def make_map(embeddings: Embeddings, out: Path, color: Optional[str] = None, table: Optional[Path] = None) -> Path:
    """Write `map.csv` and `map.png`; returns the picture.

    Existing positions in the embeddings' folder are reused, because they would be the same: a map in another colour
    takes no time.

    Args:
        embeddings: from `embeddings_folder.open_embeddings`.
        out: an existing folder.
        color: column for the colours of points; None: all points have one colour.
        table: a table with the column, see `map_drawing.values_for`.

    Raises:
        UserError: an embedding is not finite; see also `map_drawing.values_for`.
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
    # a damaged file is written again
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
