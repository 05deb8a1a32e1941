"""What is compared: the features of a checkpoint, or of a control."""

import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional, Protocol, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.benchmarking.targets import Known
from fairseq_signals_ext.benchmarking.trained_probes import Crops
from fairseq_signals_ext.benchmarking.trainings import MODES
from fairseq_signals_ext.common.errors import UserError

# a checkpoint, or a control: random weights of its architecture, measures made by hand, the name of the data set alone
KINDS = ("checkpoint", "random", "measures", "source")


class FeatureSet(Protocol):
    """Features of N recordings from L layers, as `features.Features` has them."""

    name: str
    layers: Sequence[str]
    dimensions: int
    idx: np.ndarray

    def matrix(self, layer: int, deviation: bool = False) -> np.ndarray:
        """Means over frames, float32 N x E, or means and deviations, N x 2E."""

    def frames(self, layer: int) -> Tuple[np.ndarray, np.ndarray]:
        """Frames, float16 N x T x E, and how many of a recording are no padding, int64 N."""


@dataclass(frozen=True)
class Entrant:
    """A row of the table.

    Attributes:
        name: of it, as the table has it.
        kind: one of `KINDS`.
        features: of all recordings, a `FeatureSet`.
        control: name of the entrant with random weights of this architecture; None for controls.
        checkpoint: checksum of the file that the features are from; None of measures and the source.
        source: that file, for whole models to be trained from; None of controls.
    """

    name: str
    kind: str
    features: Any
    control: Optional[str] = None
    checkpoint: Optional[str] = None
    source: Optional[str] = None

    def can(self, probe: str) -> bool:
        """Whether there are features for a probe: measures and sources have no frames, nor deviations of these."""
        if probe in MODES:
            return self.source is not None
        return self.kind in ("checkpoint", "random") or probe in ("last", "layer")

    def packed(self) -> "Entrant":
        """The same for another process, which opens the features' folder itself; see `opened`."""
        folder = getattr(self.features, "folder", None)
        return self if folder is None else replace(self, features=_Packed(folder))

    def opened(self) -> "Entrant":
        """The same with its features."""
        if not isinstance(self.features, _Packed):
            return self
        from fairseq_signals_ext.benchmarking.features import Features

        return replace(self, features=Features.open(self.features.folder))

    def fingerprint(self) -> str:
        """Checksum of the recordings and of what the last layer gives for them."""
        last = np.ascontiguousarray(self.features.matrix(len(self.features.layers) - 1))
        crc = zlib.crc32(last.tobytes(), zlib.crc32(np.ascontiguousarray(self.features.idx).tobytes()))
        return f"{crc:08x} of {len(self.features.idx)} x {last.shape[1]}, {len(self.features.layers)} layers"

    def rows(self, known: Known) -> np.ndarray:
        """Rows of the features (int64) for these recordings.

        Raises:
            UserError: there are none for one of them.
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
        """Numbers of the layers that a probe may use."""
        count = len(self.features.layers)
        return range(count) if probe.startswith("layer") else range(count - 1, count)

    def crops(self, probe: str, layer: int, rows: np.ndarray) -> Crops:
        """What a trained probe sees of these rows: each recording as one crop."""
        recording = np.arange(len(rows))
        if probe != "attention":
            return Crops(self.features.matrix(layer, deviation=probe.endswith("-std"))[rows], recording)
        frames, lengths = self.features.frames(layer)
        return Crops(_Rows(frames, rows), recording, np.asarray(lengths)[rows])  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Packed:
    """Where features are."""

    folder: Path


class _Rows:
    """Some rows of a large array, which are read when they are asked for."""

    def __init__(self, array: np.ndarray, rows: np.ndarray):
        self._array, self._rows = array, rows
        self.shape, self.ndim = (len(rows), *array.shape[1:]), array.ndim

    def __getitem__(self, chosen: Any) -> np.ndarray:
        return self._array[self._rows[chosen]]
