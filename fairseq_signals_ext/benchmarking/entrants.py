"""Entrants of a comparison: features of a checkpoint or of a control."""

import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional, Protocol, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.benchmarking.targets import Known
from fairseq_signals_ext.benchmarking.trained_probes import Crops
from fairseq_signals_ext.benchmarking.trainings import MODES
from fairseq_signals_ext.common.errors import UserError

# a checkpoint, or a control: random weights of its architecture, hand-made measures, the name of the data set alone
KINDS = ("checkpoint", "random", "measures", "source")


class FeatureSet(Protocol):
    """Features of N recordings from L layers, like `features.Features`."""

    name: str
    layers: Sequence[str]
    dimensions: int
    idx: np.ndarray

    def matrix(self, layer: int, deviation: bool = False) -> np.ndarray:
        """Return means over frames, float32 N x E, or means and deviations, N x 2E."""

    def frames(self, layer: int) -> Tuple[np.ndarray, np.ndarray]:
        """Return frames, float16 N x T x E, and their number without padding for each recording, int64 N."""


@dataclass(frozen=True)
class Entrant:
    """A row of the table.

    Attributes:
        name: its name in the table.
        kind: one of `KINDS`.
        features: a `FeatureSet` of all recordings.
        control: name of the entrant with random weights of the same architecture; None for controls.
        checkpoint: checksum of the file that computed the features; None for measures and the source.
        source: this file, for training whole models; None for controls.
    """

    name: str
    kind: str
    features: Any
    control: Optional[str] = None
    checkpoint: Optional[str] = None
    source: Optional[str] = None

    def can(self, probe: str) -> bool:
        """Whether there are features for a probe: measures and sources have neither frames nor deviations."""
        if probe in MODES:
            return self.source is not None
        return self.kind in ("checkpoint", "random") or probe in ("last", "layer")

    def packed(self) -> "Entrant":
        """Return a copy for another process, which opens the folder itself; see `opened`."""
        folder = getattr(self.features, "folder", None)
        return self if folder is None else replace(self, features=_Packed(folder))

    def opened(self) -> "Entrant":
        """Return a copy with its features."""
        if not isinstance(self.features, _Packed):
            return self
        from fairseq_signals_ext.benchmarking.features import Features

        return replace(self, features=Features.open(self.features.folder))

    def fingerprint(self) -> str:
        """Return a checksum of the recordings and their features of the last layer."""
        last = np.ascontiguousarray(self.features.matrix(len(self.features.layers) - 1))
        crc = zlib.crc32(last.tobytes(), zlib.crc32(np.ascontiguousarray(self.features.idx).tobytes()))
        return f"{crc:08x} of {len(self.features.idx)} x {last.shape[1]}, {len(self.features.layers)} layers"

    def rows(self, known: Known) -> np.ndarray:
        """Return the rows of the features (int64) for these recordings.

        Raises:
            UserError: a recording has no features.
        """
        idx = np.asarray(self.features.idx)
        order = np.argsort(idx, kind="stable")
        places = np.searchsorted(idx[order], known.idx)
        found = order[np.minimum(places, len(idx) - 1)] if len(idx) else np.zeros(len(known.idx), np.int64)
        missing = idx[found] != known.idx if len(idx) else np.ones(len(known.idx), bool)
        if missing.any():
            raise UserError(
                f"features of {self.name}: recording {known.idx[missing][0]} of task {known.task.name} is not in them "
                f"({int(missing.sum())} such): they belong to other recordings; make them again from this folder"
            )
        return found

    def layers_of(self, probe: str) -> Sequence[int]:
        """Return the numbers of the layers that a probe may use."""
        count = len(self.features.layers)
        return range(count) if probe.startswith("layer") else range(count - 1, count)

    def crops(self, probe: str, layer: int, rows: np.ndarray) -> Crops:
        """Return the input of a trained probe for these rows: each recording as one crop."""
        recording = np.arange(len(rows))
        if probe != "attention":
            return Crops(self.features.matrix(layer, deviation=probe.endswith("-std"))[rows], recording)
        frames, lengths = self.features.frames(layer)
        return Crops(_Rows(frames, rows), recording, np.asarray(lengths)[rows])  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Packed:
    """Location of features."""

    folder: Path


class _Rows:
    """Some rows of a large array, read on request."""

    def __init__(self, array: np.ndarray, rows: np.ndarray):
        self._array, self._rows = array, rows
        self.shape, self.ndim = (len(rows), *array.shape[1:]), array.ndim

    def __getitem__(self, chosen: Any) -> np.ndarray:
        return self._array[self._rows[chosen]]
