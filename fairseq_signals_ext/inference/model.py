"""A model that is ready to use: from a recording to what the model says of it.

Needs numpy, what the model's backend needs, and for some formats of ECG files the extra `formats`.
"""

import os
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, Optional, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.checkpoints.description import ModelDescription, Preprocessing
from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.inference.backends import Outputs
from fairseq_signals_ext.inference.preprocessing import SegmentedRecording
from fairseq_signals_ext.leads import LEADS, parse_leads
from fairseq_signals_ext.readers import Recording, read_ecg

# a path, a recording, or an array: leads x samples, mV
AnyRecording = Union[str, "os.PathLike[str]", Recording, np.ndarray]
_BATCH = 32


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of one recording.

    Attributes:
        label_names: L names.
        scores: float64, L: probabilities, or values of a regression in the label's unit; of the recording.
        positive: bool, L: whether the score reaches the label's threshold; None where the model has no thresholds.
        segment_scores: float64, N x L: the scores of its segments.
    """

    label_names: Tuple[str, ...]
    scores: np.ndarray
    positive: Optional[np.ndarray]
    segment_scores: np.ndarray

    def as_dict(self) -> Dict[str, float]:
        """The recording's score by label."""
        return dict(zip(self.label_names, self.scores.tolist()))


class LoadedModel:
    """A model with all that is needed to use it; made by `fairseq_signals_ext.load`.

    Args:
        description: of the model.
        backend: runs it, see `backends`.
        source: where it is from, for messages.

    Attributes:
        description, source: as given.
    """

    def __init__(self, description: ModelDescription, backend: Callable[..., Outputs], source: str):
        self.description = description
        self.source = source
        self._backend = backend

    @property
    def label_names(self) -> Tuple[str, ...]:
        """Names of the labels, in order; none for a pretrained model."""
        return self.description.label_names

    @property
    def thresholds(self) -> Optional[Tuple[float, ...]]:
        """For each label the score from which it is positive; None if none were chosen."""
        return self.description.thresholds

    @property
    def preprocessing(self) -> Preprocessing:
        """How a recording becomes the model's input."""
        return self.description.preprocessing

    @property
    def sample_rate(self) -> float:
        """Hz of the model's input; recordings of another rate are resampled."""
        return self.preprocessing.sample_rate

    @property
    def leads(self) -> Tuple[str, ...]:
        """Names of the leads that the model uses; it is given zeros for those that a recording lacks."""
        return self.preprocessing.loaded_leads

    @property
    def backend(self) -> Callable[..., Outputs]:
        """What runs it, see `backends`."""
        return self._backend

    @property
    def network(self) -> Any:
        """The torch module, an `EcgNetwork`, for what needs more than its outputs.

        Raises:
            UserError: the model is an export that only runs.
        """
        if not hasattr(getattr(self._backend, "network", None), "attention"):
            cure = "give the checkpoint, or its export to safetensors"
            raise UserError(f"{self.source}: an export that only runs cannot be looked into; {cure}")
        return self._backend.network  # type: ignore[attr-defined]

    def predict(
        self,
        recording: AnyRecording,
        sample_rate: Optional[float] = None,
        leads: Union[None, str, Sequence[str]] = None,
    ) -> Prediction:
        """Scores of a recording, and of each of its segments.

        Args:
            recording: a file of any format that `readers.read_ecg` reads, a `Recording`, or an array: leads x samples,
                mV, NaN where a sample is invalid.
            sample_rate: Hz; of an array, or of a file that does not say it.
            leads: names, in order; of an array, unless it has the 12 standard leads in order, or of a file that does
                not name them.

        Raises:
            UserError: the model was only pretrained, or the recording cannot be used.
        """
        description = self.description
        if description.output_name is None:
            raise UserError(f"{self.source}: is a pretrained model without labels; fine-tune it first, or use embed()")
        outputs = [outputs[0] for outputs in self._run(recording, sample_rate, leads)]
        segment_scores = np.concatenate(outputs).astype(np.float64)
        if description.kind == "classification":
            segment_scores = _sigmoid(segment_scores)
        takes_maximum = np.array(description.aggregation) == "max"
        scores = np.where(takes_maximum, segment_scores.max(axis=0), segment_scores.mean(axis=0))
        positive = None if self.thresholds is None else scores >= np.array(self.thresholds)
        return Prediction(self.label_names, scores, positive, segment_scores)

    def embed(
        self,
        recording: AnyRecording,
        sample_rate: Optional[float] = None,
        leads: Union[None, str, Sequence[str]] = None,
        per_segment: bool = False,
    ) -> np.ndarray:
        """The encoder's last output, its mean over time: float32, E, the mean over segments.

        Args:
            recording, sample_rate, leads: as `predict`.
            per_segment: of each segment instead: N x E.

        Raises:
            UserError: the recording cannot be used.
        """
        embeddings = np.concatenate([outputs[-1] for outputs in self._run(recording, sample_rate, leads)])
        return embeddings if per_segment else embeddings.mean(axis=0)

    def _run(
        self, recording: AnyRecording, sample_rate: Optional[float], leads: Union[None, str, Sequence[str]]
    ) -> Iterator[Outputs]:
        """The model's outputs for some segments at a time."""
        name, found = _recording_of(recording, sample_rate, leads)
        segments = SegmentedRecording.of(found, self.preprocessing, name)
        for start in range(0, len(segments), _BATCH):
            outputs = self._backend(*segments.batch(start, min(start + _BATCH, len(segments))))
            if not _are_finite(outputs):
                self._check_is_finite()
                seconds = found.samples / found.sample_rate
                raise UserError(f"{name}: no numbers come out of the model; give more of it than {seconds:.3g} s")
            if self.label_names and outputs[0].shape[1] != len(self.label_names):
                number = f"{outputs[0].shape[1]} outputs for {len(self.label_names)} labels"
                raise UserError(f"{self.source}: {number}, so weights and config are of two models; export again")
            yield outputs

    def _check_is_finite(self) -> None:
        """See that numbers come out of the model for a whole segment, here of noise."""
        inputs = self.preprocessing
        shape = (1, len(inputs.leads), inputs.segment_samples)
        noise = np.random.default_rng(0).standard_normal(shape, np.float32)
        if not _are_finite(self._backend(noise, np.zeros(shape[::2], bool))):
            raise UserError(
                f"{self.source}: its outputs are not finite for any recording, as its weights are not; take a "
                "checkpoint from before the training diverged"
            )

    def __repr__(self) -> str:
        inputs, labels = self.preprocessing, len(self.label_names)
        seconds, stride = (n / inputs.sample_rate for n in (inputs.segment_samples, inputs.stride_samples))
        pieces = f"segments of {seconds:g} s" if seconds == stride else f"{seconds:g} s of every {stride:g} s"
        what = f"{self.description.kind}, {labels} label{'s' * (labels != 1)}" if labels else self.description.kind
        given = f"{len(self.leads)} leads, {inputs.sample_rate:g} Hz, {pieces}"
        return f"<LoadedModel {self.source}: {what}; {given}; runs on {getattr(self._backend, 'name', 'a function')}>"


def _are_finite(outputs: Outputs) -> bool:
    return all(bool(np.isfinite(output).all()) for output in outputs)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    # this form overflows nowhere
    return 0.5 * (1 + np.tanh(0.5 * logits))


def _recording_of(
    given: Any, sample_rate: Optional[float], leads: Union[None, str, Sequence[str]]
) -> Tuple[str, Recording]:
    """A recording, and what messages call it."""
    if isinstance(given, (str, os.PathLike)):
        names = None if leads is None else [LEADS[position] for position in parse_leads(leads)]
        path = os.fspath(given)
        return path, read_ecg(path, sample_rate=sample_rate, leads=names)
    if isinstance(given, Recording):
        name = f"recording {given.record_id!r}"
        if sample_rate is not None or leads is not None:
            raise UserError(f"{name}: has a sample rate and leads of its own; leave these out")
        return name, given
    return "array", _recording_of_array(np.asarray(given), sample_rate, leads)


def _recording_of_array(
    array: np.ndarray, sample_rate: Optional[float], leads: Union[None, str, Sequence[str]]
) -> Recording:
    shape = " x ".join(str(size) for size in array.shape) or "that of a single number"
    if array.ndim != 2 or array.dtype.kind not in "iuf":
        raise UserError(f"array: is of {array.dtype} and its shape is {shape}; give numbers, leads x samples, in mV")
    if sample_rate is None:
        raise UserError("array: does not say its sample rate; give sample_rate in Hz")
    if leads is None and len(array) != len(LEADS):
        cure = "give its transpose" if array.shape[1] == len(LEADS) else "name its leads with leads=['I', ...]"
        raise UserError(f"array: its shape is {shape}, not 12 leads x samples; {cure}")
    positions = parse_leads(leads)
    if len(positions) != len(array):
        raise UserError(f"array: its shape is {shape}, but {len(positions)} leads are named; name each row")
    order = np.argsort(positions)
    signal = array[order].astype(np.float64, copy=False)
    return Recording("array", signal, tuple(sorted(positions)), float(sample_rate))
