"""Embeddings on a plane, so that those that are alike lie together."""

import warnings
from typing import Tuple

import numpy as np

# UMAP's own choice; with not many more vectors than neighbours its graph says nothing
NEIGHBOURS = 15
FEWEST = 3 * NEIGHBOURS
_SEED = 1


def method_for(rows: int) -> str:
    """Which method `project` takes for so many vectors: "UMAP" or, below `FEWEST`, "PCA"."""
    return "UMAP" if rows >= FEWEST else "PCA"


def check_method(rows: int) -> None:
    """Raise a ModuleNotFoundError if UMAP would be taken and is not installed, without the seconds of its import."""
    import importlib.util

    if method_for(rows) == "UMAP" and importlib.util.find_spec("umap") is None:
        raise ModuleNotFoundError("No module named 'umap'", name="umap")


def project(vectors: np.ndarray) -> Tuple[np.ndarray, str]:
    """Vectors on a plane, the same each time.

    UMAP (arXiv 1802.03426) with 15 neighbours by cosine; a fixed seed means one thread. With fewer than `FEWEST`
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
        # of its one thread, and of equal vectors that it leaves without a place, which we give them
        warnings.simplefilter("ignore")
        from umap import UMAP

        reducer = UMAP(n_neighbors=NEIGHBOURS, metric="cosine", random_state=_SEED, n_jobs=1)
        found = np.asarray(reducer.fit_transform(np.asarray(vectors)), np.float64)
    return np.where(np.isfinite(found), found, np.nanmean(found, axis=0))


def _principal_components(vectors: np.ndarray) -> np.ndarray:
    from sklearn.decomposition import PCA

    number = min(2, *vectors.shape)
    found = np.zeros((len(vectors), 2))
    # a single vector has no variance, and is where all begin
    if len(vectors) > 1:
        found[:, :number] = PCA(number, svd_solver="full").fit_transform(vectors.astype(np.float64))
    return found
