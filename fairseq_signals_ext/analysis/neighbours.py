"""Find the known recordings with the nearest embeddings."""

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.analysis.embeddings_folder import (
    Embeddings,
    check_finite,
    check_same_model,
    model_facts,
    open_embeddings,
)
from fairseq_signals_ext.common.errors import UserError

if TYPE_CHECKING:
    from fairseq_signals_ext.inference.model import LoadedModel

METRICS = ("cosine", "euclidean")
# rows of a piece of an index, 50 MB for 768 dimensions; the working memory limits the number of vectors at a time
_PIECE_ROWS = 2**14
_WORKING_MEMORY_MB = 128
_QUERIES_AT_ONCE = 4096


class KnownRecording(NamedTuple):
    """A recording of an index or of a query.

    Attributes:
        record_id: its name in the source.
        file: its name when it was embedded.
        source_file: original file of a recording in a prepared folder; empty: unknown.
        labels: known labels, see `known_labels`; empty: unknown.
    """

    record_id: str
    file: str
    source_file: str = ""
    labels: str = ""


class NeighbourIndex:
    """Exact search among embeddings, which can stay on disk.

    Args:
        embeddings: the known ones.
        metric: "cosine" (1 - cosine of the angle) or "euclidean".

    Attributes:
        embeddings: as given.

    Raises:
        UserError: the metric is unknown.
    """

    def __init__(self, embeddings: Embeddings, metric: str = "cosine"):
        if metric not in METRICS:
            raise UserError(f"metric {metric!r}: use one of {', '.join(METRICS)}")
        self.embeddings = embeddings
        self._metric = metric

    def __len__(self) -> int:
        return len(self.embeddings.vectors)

    @property
    def per(self) -> str:
        """The kind of vectors, see `LoadedModel.embed`."""
        return str(self.embeddings.facts["per"])

    @property
    def layer(self) -> Optional[int]:
        """The layer of the vectors, see `LoadedModel.embed`."""
        return self.embeddings.facts["layer"]

    def check_model(self, model: "LoadedModel") -> None:
        """Raise a `UserError` unless the vectors were made with this model, loaded from any file."""
        self.check_facts(model_facts(model, self.per, self.layer))

    def check_facts(self, facts: Mapping[str, Any]) -> None:
        """The same for `folder.model_facts`, or the facts of other embeddings."""
        check_same_model(self.embeddings.facts, facts, self.embeddings.folder)

    def query(
        self, vectors: np.ndarray, k: int, own: Optional[Sequence[KnownRecording]] = None
    ) -> Tuple[np.ndarray, np.ndarray]:
        """Find the nearest rows of the index for each vector, nearest first.

        Args:
            vectors: float, N x E, or E for one.
            k: number of neighbours.
            own: the recording of each vector, so that it is not its own neighbour: rows of the same file are left out,
                and rows of a single recording with the same record id or the same name of the original file.

        Returns:
            distances: float64, N x min(k, rows of the index); infinite if there are too few rows.
            rows: int64, the same shape; -1 there.

        Raises:
            UserError: the vectors are of another dimension, or not finite, or `k` is below 1.
        """
        vectors = self._checked(vectors, k)
        own_rows = [np.empty(0, np.int64)] * len(vectors) if own is None else [self._rows_of(one) for one in own]
        most = max(map(len, own_rows), default=0)
        distances, rows = self._nearest(vectors, min(k + most, len(self)))
        for number, excluded in enumerate(own_rows):
            distances[number, np.isin(rows[number], excluded)] = np.inf
        order = np.argsort(distances, axis=1, kind="stable")[:, :k]
        distances, rows = np.take_along_axis(distances, order, 1), np.take_along_axis(rows, order, 1)
        return distances, np.where(np.isinf(distances), -1, rows)

    def facts(self, rows: Sequence[int]) -> List[KnownRecording]:
        """The recordings of rows; -1 from `query` means no recording."""
        table = self.embeddings.recordings
        places = self.embeddings.recordings_of(np.asarray(rows))
        there = [name for name in KnownRecording._fields if name in table.columns]
        rows_of = zip(*(table[name].to_numpy()[places] for name in there))
        return [KnownRecording(**dict(zip(there, row))) for row in rows_of]

    def _checked(self, vectors: np.ndarray, k: int) -> np.ndarray:
        vectors = np.atleast_2d(np.asarray(vectors, np.float32))
        dimension = self.embeddings.vectors.shape[1]
        if vectors.ndim != 2 or vectors.shape[1] != dimension:
            shape = " x ".join(map(str, vectors.shape))
            raise UserError(f"vectors: their shape is {shape}; the index has {dimension} dimensions, give as many")
        check_finite(vectors, "vectors")
        if k < 1:
            raise UserError(f"{k} neighbours: ask for at least 1")
        return vectors

    def _nearest(self, vectors: np.ndarray, k: int) -> Tuple[np.ndarray, np.ndarray]:
        """Distances and rows, N x k, sorted; the index is read once, a piece at a time."""
        from sklearn import config_context
        from sklearn.neighbors import NearestNeighbors

        known = self.embeddings.vectors
        distances, rows = np.empty((len(vectors), 0)), np.empty((len(vectors), 0), np.int64)
        with config_context(working_memory=_WORKING_MEMORY_MB):
            for first in range(0, len(known), _PIECE_ROWS):
                piece = known[first : first + _PIECE_ROWS]
                check_finite(piece, self.embeddings.folder)
                search = NearestNeighbors(n_neighbors=min(k, len(piece)), algorithm="brute", metric=self._metric)
                near, places = search.fit(piece).kneighbors(vectors)
                distances, rows = np.hstack([distances, near]), np.hstack([rows, first + places])
                order = np.argsort(distances, axis=1, kind="stable")[:, :k]
                distances, rows = np.take_along_axis(distances, order, 1), np.take_along_axis(rows, order, 1)
        return distances, rows

    @functools.cached_property
    def _places(self) -> Tuple[Dict[Any, Any], Dict[Any, Any], Dict[Any, Any]]:
        """Positions in the table by record id, by file, and by name of the original file."""
        table = self.embeddings.recordings
        originals: Dict[str, List[int]] = {}
        for place, name in enumerate(table.get("source_file", ())):
            if name:
                originals.setdefault(os.path.basename(name), []).append(place)
        return table.groupby("record_id").indices, table.groupby("file").indices, originals

    def _rows_of(self, recording: KnownRecording) -> np.ndarray:
        by_record_id, by_file, originals = self._places
        none: List[int] = []
        same_names = (
            by_record_id.get(recording.record_id, none),
            originals.get(os.path.basename(recording.file), none),
        )
        # ignore names that several recordings share, such as `ecg` in the folder of each patient
        places = {*by_file.get(recording.file, none), *(one for same in same_names if len(same) == 1 for one in same)}
        table = self.embeddings.recordings
        first, number = table["first_row"].to_numpy(), table["rows"].to_numpy()
        return np.concatenate(
            [np.empty(0, np.int64), *(first[place] + np.arange(number[place]) for place in sorted(places))]
        )


def open_index(folder: Union[str, Path], metric: str = "cosine") -> NeighbourIndex:
    """Open an index of the embeddings that `fairseq-signals-ext embed` wrote to a folder.

    Raises:
        UserError: see `folder.open_embeddings` and `NeighbourIndex`.
    """
    return NeighbourIndex(open_embeddings(folder), metric)


def neighbour_rows(embeddings: Embeddings, index: NeighbourIndex, k: int) -> Iterator[Dict[str, Any]]:
    """The nearest known recordings of each recording, except itself, as rows of a table.

    Args:
        embeddings: with one vector per recording.

    Yields:
        record_id, file, rank (from 1), distance; record_id, file, source_file and labels of the neighbour, with
        `neighbour_` before these names.

    Raises:
        UserError: the index belongs to another model, or one of the two has not one vector per recording.
    """
    index.check_facts(embeddings.facts)
    if index.per != "recording":
        raise UserError(f"{index.embeddings.folder}: its embeddings are per {index.per}; embed per recording")
    table = embeddings.recordings
    recordings = list(map(KnownRecording, table["record_id"], table["file"]))
    check_finite(embeddings.vectors, embeddings.folder)
    for first in range(0, len(recordings), _QUERIES_AT_ONCE):
        those = recordings[first : first + _QUERIES_AT_ONCE]
        found = index.query(embeddings.vectors[first : first + _QUERIES_AT_ONCE], k, those)
        for one, distances, rows in zip(those, *found):
            is_there = rows >= 0
            for rank, (near, distance) in enumerate(zip(index.facts(rows[is_there]), distances[is_there]), start=1):
                near_facts = {f"neighbour_{name}": value for name, value in near._asdict().items()}
                yield {
                    "record_id": one.record_id,
                    "file": one.file,
                    "rank": rank,
                    **near_facts,
                    "distance": float(distance),
                }
