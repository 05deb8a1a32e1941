"""A folder of features: statistics of each layer of a model for each recording of a manifest, for probes.

`features.npy` (float32, recordings x layers x statistics x dimensions; the statistics are mean and deviation over all
frames that are not padding), `idx.npy` (int64), and for chosen layers `frames-LAYER.npy` (float16, recordings x frames
x dimensions, zeros after a recording's last) with `frames-LAYER.lengths.npy` (int64). `features.json` is written last:
it names model and data. See `extraction` for how features are computed.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.common.errors import UserError, first_line
from fairseq_signals_ext.common.files import atomic_files

VALUES_FILE, IDX_FILE, FACTS_FILE = "features.npy", "idx.npy", "features.json"
FORMAT, VERSION = "fairseq-signals-ext features", 1
_AGAIN = "compute the features again"
_HALF = np.dtype("<f2")


@dataclass(frozen=True, eq=False)
class Features:
    """Features of N recordings in some layers, each of E dimensions.

    Attributes:
        name: name of the model or other origin.
        layers: names of the layers.
        idx: int64, N: rows of the recordings in a label file; in the order of the manifest.
        values: float32, N x layers x statistics x E, mapped from the file or in memory; the statistics are the mean
            and, see `has_deviation`, the standard deviation.
        facts: content of `features.json`; empty for features without a folder.
        folder: their folder; None: in memory.
    """

    name: str
    layers: Sequence[str]
    idx: np.ndarray
    values: np.ndarray
    facts: Mapping[str, Any]
    folder: Optional[Path] = None

    @classmethod
    def open(cls, folder: Union[str, Path]) -> "Features":
        """Open a finished folder with memory-mapped arrays.

        Raises:
            UserError: there are no features, they are damaged, or the files belong to different runs.
        """
        folder = Path(folder)
        facts = read_facts(folder)
        if facts is None:
            raise UserError(f"{folder / FACTS_FILE}: no such file; give a folder of features, or compute them first")
        shape = (facts["recordings"], len(facts["layers"]), facts["statistics"], facts["dimensions"])
        values = _mapped(folder / VALUES_FILE, shape, np.float32)
        idx = _mapped(folder / IDX_FILE, shape[:1], np.int64)
        return cls(facts["name"], tuple(facts["layers"]), np.array(idx), values, facts, folder)

    @classmethod
    def of_arrays(cls, name: str, idx: np.ndarray, matrix: np.ndarray) -> "Features":
        """Make features in memory with one layer of the same name.

        Args:
            idx: int64, N.
            matrix: float32, N x E.
        """
        return cls(name, (name,), idx, matrix[:, None, None], {})

    def __len__(self) -> int:
        return len(self.idx)

    @property
    def dimensions(self) -> int:
        """E."""
        return int(self.values.shape[-1])

    @property
    def has_deviation(self) -> bool:
        """Whether there are deviations; not for one vector per segment, such as from ONNX exports."""
        return self.values.shape[2] > 1

    def matrix(self, layer: int, deviation: bool = False) -> np.ndarray:
        """Return a layer's means, optionally followed by deviations: float32, N x E or N x 2 E, in memory.

        Args:
            layer: position in `layers`; -1 is the last.

        Raises:
            UserError: there is no such layer, or no deviation.
        """
        if not -len(self.layers) <= layer < len(self.layers):
            raise UserError(f"{self.name}: no layer {layer}; it has {len(self.layers)}: {', '.join(self.layers)}")
        if deviation and not self.has_deviation:
            raise UserError(f"{self.name}: its features are means alone; leave the deviation out")
        return np.array(self.values[:, layer, : 1 + deviation]).reshape(len(self), -1)

    def frames(self, layer: int) -> Tuple[np.ndarray, np.ndarray]:
        """Return the frames of a layer, float16, N x T x E, memory-mapped, and their number per recording, int64, N.

        Raises:
            UserError: they were not kept, or are damaged.
        """
        name = self.layers[layer]
        most = self.facts.get("frames", {}).get(name)
        if self.folder is None or most is None:
            raise UserError(f"{self.name}: frames of layer {name} were not kept; {_AGAIN} with them")
        values, lengths = (self.folder / file for file in frame_files(name))
        frames = _mapped(values, (len(self), most, self.dimensions), _HALF)
        return frames, np.array(_mapped(lengths, (len(self),), np.int64))


def frame_files(layer: str) -> Tuple[str, str]:
    """Return the names of the files with the frames of a layer, and with their numbers."""
    return f"frames-{layer}.npy", f"frames-{layer}.lengths.npy"


def files_of(folder: Path) -> List[str]:
    """Return the names of all possible files of a folder, the one that is written last first."""
    return [FACTS_FILE, VALUES_FILE, IDX_FILE, *sorted(path.name for path in folder.glob("frames-*.npy"))]


def read_facts(folder: Path) -> Optional[Dict[str, Any]]:
    """Read `features.json`; None if it does not exist.

    Raises:
        UserError: it is damaged, or has another version.
    """
    path = folder / FACTS_FILE
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        numbers = [facts[name] for name in ("recordings", "statistics", "dimensions")]
        numbers += facts["frames"].values()
        is_ours = (facts["format"], facts["version"]) == (FORMAT, VERSION) and isinstance(facts["settings"], dict)
        is_ours = is_ours and all(isinstance(one, str) for one in (facts["name"], *facts["layers"]))
        is_ours = is_ours and all(isinstance(number, int) and number >= 0 for number in numbers)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_ours = False
    if not is_ours:
        raise UserError(f"{path}: not of features of this version; {_AGAIN}")
    return dict(facts)


def _mapped(path: Path, shape: Tuple[int, ...], kind: Any) -> np.ndarray:
    """Open an array with this shape and type."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}); {_AGAIN}") from None
    if array.shape != shape or array.dtype != kind:
        raise UserError(f"{path}: is not the file that {FACTS_FILE} was written for; {_AGAIN}")
    return array


def write_features(
    folder: Path,
    facts: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    values: Iterable[np.ndarray],
    frames: Mapping[str, Iterable[np.ndarray]],
) -> None:
    """Write a folder of features, completely or not at all.

    Args:
        facts: `name`, `layers`, `statistics`, `dimensions`, `settings` (all that the values depend on), and more.
        rows: `idx` of each recording, and its number of `frames`.
        values: arrays for some recordings each, in order: float32, n x layers x statistics x dimensions.
        frames: by layer, float16, n x dimensions, the frames of each recording in order.
    """
    lengths = np.array([row["frames"] for row in rows], np.int64)
    most = int(lengths.max(initial=0))
    names = [*files_of(folder), *(name for layer in frames for name in frame_files(layer))]
    with atomic_files(folder, list(dict.fromkeys(names))) as temporary:
        shape: Tuple[int, ...] = (len(rows), len(facts["layers"]), facts["statistics"], facts["dimensions"])
        _write_array(temporary / VALUES_FILE, shape, "<f4", values)
        np.save(temporary / IDX_FILE, np.array([row["idx"] for row in rows], np.int64))
        for layer, given in frames.items():
            file, file_of_lengths = frame_files(layer)
            shape = (len(rows), most, facts["dimensions"])
            _write_array(temporary / file, shape, _HALF.str, _padded(given, lengths, most))
            np.save(temporary / file_of_lengths, lengths)
        run = {"format": FORMAT, "version": VERSION, "recordings": len(rows), "frames": dict.fromkeys(frames, most)}
        (temporary / FACTS_FILE).write_text(json.dumps({**run, **facts}, indent=2) + "\n", encoding="utf-8")


def _write_array(path: Path, shape: Tuple[int, ...], kind: str, parts: Iterable[np.ndarray]) -> None:
    """An array with only a part in memory."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
        for part in parts:
            part.astype(kind, copy=False).tofile(file)


def _padded(parts: Iterable[np.ndarray], lengths: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """Yield the frames of each recording, most x E, from parts with frames of several recordings."""
    of_recordings = iter(lengths.tolist())
    for part in parts:
        start = 0
        while start < len(part):
            stop = start + next(of_recordings)
            yield np.pad(part[start:stop], ((0, most - (stop - start)), (0, 0)))
            start = stop
