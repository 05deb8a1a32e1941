"""Extract features of a checkpoint, an export or a control for all recordings of a manifest: all layers in one pass."""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Optional, Sequence

import numpy as np

from fairseq_signals_ext.benchmarking.collecting import Maker, Row, collect, open_recordings, settings_of
from fairseq_signals_ext.benchmarking.controls import HAND_MADE, HandMade, Measured, hand_made_settings
from fairseq_signals_ext.benchmarking.features import Features
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import require_room
from fairseq_signals_ext.data.checksums import checksum
from fairseq_signals_ext.data.segments import whole_pieces
from fairseq_signals_ext.data.stores import Store, check_sample_rate
from fairseq_signals_ext.evaluation.report import versions_in_use
from fairseq_signals_ext.inference.inputs import Recordings
from fairseq_signals_ext.inference.layers import OUTPUT, all_layers, names_of_layers
from fairseq_signals_ext.inference.loading import files_of, load_model, load_untrained
from fairseq_signals_ext.inference.model import LoadedModel
from fairseq_signals_ext.inference.parts import Part
from fairseq_signals_ext.inference.reading_ahead import ReadingPlan, Rejected
from fairseq_signals_ext.inference.running import RecordingOutputs, RunOptions, run_recordings
from fairseq_signals_ext.inference.subsets import Known, StoredRecording

logger = logging.getLogger(__name__)

RANDOM = "random:"
_MOST_BYTES = 2**34


@dataclass(frozen=True)
class ExtractionOptions:
    """Settings for computing features.

    Attributes:
        seed: seed of random weights.
        frames: names of the layers whose frames are kept, such as "2" or "output".
        most_bytes: largest size of kept frames.
        device, threads, bf16: see `fairseq_signals_ext.load`.
        how: batches, and processes for reading.
        part: do only this part; the part that ends last merges all.
        overwrite: replace features of another model or other data.
    """

    seed: int = 1
    frames: Sequence[str] = ()
    most_bytes: int = _MOST_BYTES
    device: str = "cpu"
    threads: Optional[int] = None
    bf16: bool = False
    how: RunOptions = dataclasses.field(default_factory=RunOptions)
    part: Optional[Part] = None
    overwrite: bool = False


def extract(
    source: str, data: Path, out: Path, options: Optional[ExtractionOptions] = None, name: Optional[str] = None
) -> Optional[Features]:
    """Compute features of all recordings of a manifest, in its order; a finished folder with them is only opened.

    Recordings are cut and standardised as in training and `evaluate`; short ones are padded, missing leads are zeros.

    Args:
        source: a checkpoint or export for `fairseq_signals_ext.load`; `random:CKPT`: its architecture with
            random weights; `hand-made`: see `controls`.
        data: a prepared folder, a split's folder, or a manifest.
        out: folder of the features.
        name: name of the features; default: the file's name.

    Returns:
        The features; None if other parts are not done yet.

    Raises:
        UserError: model, data or options cannot be used, a recording cannot be read, or `out` has other features.
    """
    options = options or ExtractionOptions()
    store = open_recordings(Path(data))
    recordings: Recordings
    if source == HAND_MADE:
        recordings, settings = Measured(store), hand_made_settings(store)
    else:
        recordings, settings = _ModelInputs(store), _settings(source, store, options)

    def make() -> Maker:
        return HandMade() if source == HAND_MADE else _maker(source, store, Path(out), options, recordings)

    found = collect(make, settings, recordings, Path(out), options.how, options.part, options.overwrite)
    return found if found is None or name is None else dataclasses.replace(found, name=name)


def _settings(source: str, store: Store, options: ExtractionOptions) -> Dict[str, Any]:
    is_random = source.startswith(RANDOM)
    files = files_of(source[len(RANDOM) :] if is_random else source)
    return settings_of(
        store,
        model={file.name: checksum(file) for file in files},
        seed=options.seed if is_random else None,
        bf16=options.bf16,
        frames=list(options.frames),
    )


class _ModelInputs:
    """Recordings of a store as inputs of a model; can be sent to other processes.

    Attributes:
        sample_rate: required rate in Hz; None until the model is known.
    """

    def __init__(self, store: Store):
        self._store = store
        self.sample_rate: Optional[float] = None

    def __len__(self) -> int:
        return len(self._store)

    def name(self, number: int, ecg: Optional[int] = None) -> str:
        return self._store.name(number)

    def read(self, number: int, ecg: Optional[int] = None) -> StoredRecording:
        signal = self._store.read(number)
        if self.sample_rate is not None:
            check_sample_rate(signal, self.sample_rate)
        return StoredRecording(signal, Known(signal.idx, signal.patient, np.empty(0)))

    def known(self, number: int) -> Dict[str, Any]:
        return {}


def _maker(source: str, store: Store, out: Path, options: ExtractionOptions, recordings: Any) -> "ModelFeatures":
    how = {"device": options.device, "threads": options.threads, "bf16": options.bf16}
    if source.startswith(RANDOM):
        model = load_untrained(source[len(RANDOM) :], options.seed, **how)  # type: ignore[arg-type]
        made = ModelFeatures(model, options.frames, f"{RANDOM}{model.name}")
    else:
        made = ModelFeatures(load_model(source, **how), options.frames)  # type: ignore[arg-type]
    recordings.sample_rate = made.sample_rate
    _check_room(out, made, store, options)
    return made


def _check_room(out: Path, made: "ModelFeatures", store: Store, options: ExtractionOptions) -> None:
    """Print the size of kept frames, and check that there is enough space."""
    if not made.kept:
        return
    size = made.bytes_of_frames(store.samples)
    what = f"{out}: frames of layers {', '.join(made.kept)} need {size / 1e6:.0f} MB, twice that until all are done"
    if size > options.most_bytes:
        raise UserError(
            f"{what}; at most {options.most_bytes / 1e6:.0f} MB are allowed: keep fewer layers, or no long recordings"
        )
    logger.info(what)
    out.mkdir(parents=True, exist_ok=True)
    require_room(out, 2 * size)


class ModelFeatures:
    """Features of a model: of every layer of its encoder; only the embedding for exports that only run.

    Args:
        kept: names of the layers whose frames are kept.
        name: its name; default: the model's.

    Attributes:
        facts, kept: see `collecting.Maker`.

    Raises:
        UserError: there is no such layer, or the model's outputs are not finite.
    """

    def __init__(self, model: LoadedModel, kept: Sequence[str] = (), name: Optional[str] = None):
        self._model = model
        self._has_layers = hasattr(getattr(model.backend, "network", None), "all_frames")
        inputs = model.preprocessing
        shape = (1, len(inputs.leads), inputs.segment_samples)
        noise = np.random.default_rng(0).standard_normal(shape, np.float32)
        run = all_layers(model.backend, model.network) if self._has_layers else model.backend
        found = run(noise, np.zeros(shape[::2], bool))[0 if self._has_layers else -1]
        layers = names_of_layers(model.network, found.shape[1]) if self._has_layers else [OUTPUT]
        unknown = next((layer for layer in kept if layer not in layers), None)
        if unknown is not None:
            model.network  # noqa: B018 - for an export that only runs, this message is clearer
            raise UserError(f"{model.source}: no layer {unknown}; it has {', '.join(layers)}")
        self._positions = sorted({layers.index(layer) for layer in kept})
        self.kept = [layers[position] for position in self._positions]
        self.facts: Mapping[str, Any] = {
            "name": name or model.name,
            "layers": layers,
            "statistics": 2 if self._has_layers else 1,
            "dimensions": found.shape[-1],
            "preprocessing": vars(inputs),
            "versions": versions_in_use(),
        }

    @property
    def sample_rate(self) -> float:
        """Hz of the recordings."""
        return self._model.sample_rate

    def bytes_of_frames(self, samples: np.ndarray) -> int:
        """Return the size in bytes of the frames of recordings with these numbers of samples."""
        inputs = self._model.preprocessing
        longest = int(samples.max())
        frames = int(self._model.network.geometry.frames(inputs.segment_samples))
        frames *= int(whole_pieces(np.array([longest]), inputs.stride_samples, pad=True)[0])
        return 2 * len(samples) * frames * int(self.facts["dimensions"]) * len(self.kept)

    def rows(self, recordings: Recordings, how: RunOptions, start: int) -> Iterator[Row]:
        """Yield features of recordings, in order.

        Raises:
            UserError: one of them cannot be used.
        """
        with self._model.divided(how.batches_at_once) as shared:
            run = shared.backend
            if self._has_layers:
                run = all_layers(shared.backend, shared.network, self._positions)
            plan = ReadingPlan(recordings, [self._model.preprocessing])
            for result in run_recordings([(self._model.preprocessing, run)], plan, how, start):
                if isinstance(result, Rejected):
                    raise result.error
                self._model.check_outputs(result.outputs[0], result.read.name, result.read.facts)
                yield self._row(result)

    def _row(self, result: RecordingOutputs) -> Row:
        idx, outputs = result.read.beside.idx, result.outputs[0]
        if not self._has_layers:
            mean = outputs[-1].mean(axis=0, dtype=np.float64).astype(np.float32)
            return Row(idx, mean[None, None], 0, {}, result.ends_batch)
        means, variances, frames, *kept = outputs
        of_layers = {
            layer: _half(np.concatenate([x[:number] for x, number in zip(values, frames)]), layer, result.read.name)
            for layer, values in zip(self.kept, kept)
        }
        return Row(idx, pooled(means, variances, frames), int(frames.sum()), of_layers, result.ends_batch)


def pooled(means: np.ndarray, variances: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Return mean and deviation over the frames of all segments of a recording: float32, layers x 2 x E.

    Args:
        means, variances: segments x layers x E, for the frames of each segment.
        frames: number of frames of each segment.
    """
    weights = (frames / frames.sum())[:, None, None]
    mean = (weights * means).sum(axis=0)
    variance = (weights * (variances + (means - mean) ** 2)).sum(axis=0)
    return np.stack([mean, np.sqrt(variance)], axis=1).astype(np.float32)


def _half(frames: np.ndarray, layer: str, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = frames.astype(np.float16)
    if not np.isfinite(half).all():
        raise UserError(f"{name}: frames of layer {layer} are beyond what float16 holds; keep those of another layer")
    return half
