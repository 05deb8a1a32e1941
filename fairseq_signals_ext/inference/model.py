"""A model that is ready to use: it turns a recording into predictions or an embedding.

Needs numpy, the packages of the model's backend, and for some formats of ECG files the extra `formats`.
"""

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Tuple

import numpy as np

from fairseq_signals_ext.checkpoints.description import ModelDescription, Preprocessing
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation.decisions import DECISIONS
from fairseq_signals_ext.evaluation.predictions import ECG_FM_AGGREGATION, ways_of
from fairseq_signals_ext.evaluation.thresholds import called
from fairseq_signals_ext.inference.backends import Outputs
from fairseq_signals_ext.inference.hub import PREFIX
from fairseq_signals_ext.inference.layers import one_layer
from fairseq_signals_ext.inference.preprocessing import SegmentedRecording
from fairseq_signals_ext.inference.recordings import AnyRecording, Leads, RecordingError, RecordingFacts, recording_of
from fairseq_signals_ext.inference.running import Run, run_segments

# what one embedding can stand for
EMBEDDED = ("recording", "segment", "frame")


@dataclass(frozen=True, eq=False)
class Prediction:
    """A model's predictions for one recording.

    Attributes:
        label_names: L names.
        scores: float64, L: the recording's probabilities, or predicted values in the label's unit for a regression.
        positive: bool, L: whether the score reaches the label's threshold; for classes that exclude one another,
            whether it is the highest; None if the model has no thresholds.
        segment_scores: float64, N x L: the scores of its segments.
        recording: facts about the recording, with quality flags.
        calibrated: float64, L: calibrated probabilities; None if the model was not calibrated.
        decision: for each label "positive", "negative" or "uncertain", with the error rates that the calibration
            promises; None if the model was not calibrated.
        refused: why the prediction is not reliable for this recording, as text; None if it is not refused.
        refusal_score: above `Refusal.threshold` the recording is refused; None if the model never refuses.
    """

    label_names: Tuple[str, ...]
    scores: np.ndarray
    positive: Optional[np.ndarray]
    segment_scores: np.ndarray
    recording: RecordingFacts
    calibrated: Optional[np.ndarray] = None
    decision: Optional[Tuple[str, ...]] = None
    refused: Optional[str] = None
    refusal_score: Optional[float] = None

    def as_dict(self) -> Dict[str, float]:
        """The recording's score per label name."""
        return dict(zip(self.label_names, self.scores.tolist()))


class LoadedModel:
    """A model that is ready to use; `fairseq_signals_ext.load` makes it.

    Args:
        description: of the model.
        backend: runs it, see `backends`.
        source: the path or hub name that it was loaded from, for messages.
        task_options: options of the training task by name, if they are known.

    Attributes:
        description, source, task_options: as given.
    """

    def __init__(
        self,
        description: ModelDescription,
        backend: Callable[..., Outputs],
        source: str,
        task_options: Optional[Mapping[str, Any]] = None,
    ):
        self.description = description
        self.source = source
        self.task_options = task_options or {}
        self._backend = backend

    @property
    def name(self) -> str:
        """Its file name without local folders; for a model of the hub the full hub name."""
        source = str(self.source)
        return source if source.startswith(PREFIX) else Path(source).resolve().name

    @property
    def label_names(self) -> Tuple[str, ...]:
        """Names of the labels, in order; none for a pretrained model."""
        return self.description.label_names

    @property
    def thresholds(self) -> Optional[Tuple[float, ...]]:
        """For each label the lowest score that is positive; None if none were chosen."""
        return self.description.thresholds

    @property
    def preprocessing(self) -> Preprocessing:
        """Settings that turn a recording into the model's input."""
        return self.description.preprocessing

    @property
    def sample_rate(self) -> float:
        """Sample rate of the model's input in Hz; recordings with another rate are resampled."""
        return self.preprocessing.sample_rate

    @property
    def leads(self) -> Tuple[str, ...]:
        """Names of the leads that the model uses; missing leads are filled with zeros."""
        return self.preprocessing.loaded_leads

    @property
    def backend(self) -> Callable[..., Outputs]:
        """The backend that runs it, see `backends`."""
        return self._backend

    @property
    def network(self) -> Any:
        """The torch module, an `EcgNetwork`, for uses that need more than its outputs.

        Raises:
            UserError: the model is an export to ONNX or TorchScript.
        """
        if not hasattr(getattr(self._backend, "network", None), "attention"):
            hint = "give the checkpoint, or its export to safetensors"
            raise UserError(f"{self.source}: an ONNX or TorchScript export has only its outputs; {hint}")
        return self._backend.network  # type: ignore[attr-defined]

    def predict(
        self,
        recording: AnyRecording,
        sample_rate: Optional[float] = None,
        leads: Leads = None,
        unit: Optional[str] = None,
    ) -> Prediction:
        """Predict scores of a recording and of each of its segments.

        Args:
            recording, sample_rate, leads, unit: a file, a `Recording` or an array, see `recordings.recording_of`.

        Raises:
            UserError: the model was only pretrained, or the recording cannot be used.
        """
        self.check_predicts()
        name, segments = self._segments(recording, sample_rate, leads, unit)
        return self.prediction_of(run_segments(self._backend, segments), name, segments.facts)

    @contextlib.contextmanager
    def divided(self, calls: int) -> Iterator["LoadedModel"]:
        """The same model for this many concurrent calls from several threads, which share its CPU threads."""
        divide = getattr(self._backend, "divided", None)
        if divide is None:
            yield self
            return
        with divide(calls) as backend:
            yield LoadedModel(self.description, backend, self.source, self.task_options)

    def check_predicts(self) -> None:
        """Raise a `UserError` if the model was only pretrained."""
        if self.description.output_name is None:
            what = "is a pretrained model, which has no labels"
            raise UserError(f"{self.source}: {what}; fine-tune it, or use fairseq-signals-ext embed")

    def aggregating(self, how: str) -> "LoadedModel":
        """The same model with another aggregation of segment scores to a recording's scores.

        Args:
            how: "mean", "max" or "ecg-fm", see `evaluation.predictions.ways_of`.

        Raises:
            UserError: `how` is unknown, or it is "ecg-fm" and the model has none of ECG-FM's labels.
        """
        if how == "ecg-fm" and not {*self.label_names} & {*ECG_FM_AGGREGATION}:
            hint = "name its labels with labels='ecg-fm', --labels ecg-fm, if they are these"
            raise UserError(f"{self.source}: has none of ECG-FM's labels; {hint}, or aggregate by mean or max")
        description = dataclasses.replace(self.description, aggregation=ways_of(self.label_names, how))
        return LoadedModel(description, self._backend, self.source, self.task_options)

    def prediction_of(self, outputs: Outputs, name: str, facts: RecordingFacts) -> Prediction:
        """Turn the backend's outputs for the segments of a recording into a prediction.

        Args:
            name: the recording's name in messages.
            facts: about the recording.

        Raises:
            UserError: outputs are not finite, or their number is not the number of labels.
        """
        self.check_outputs(outputs, name, facts)
        if outputs[0].shape[1] != len(self.label_names):
            number = f"{outputs[0].shape[1]} outputs for {len(self.label_names)} labels"
            raise UserError(f"{self.source}: {number}, so weights and config are of two models; export again")
        segment_scores = self.description.of_kind.scores(outputs[0].astype(np.float64), self.description.activation)
        takes_maximum = np.array(self.description.aggregation) == "max"
        scores = np.where(takes_maximum, segment_scores.max(axis=0), segment_scores.mean(axis=0))
        prediction = Prediction(self.label_names, scores, self.positive(scores), segment_scores, facts)
        return self._calibrated(prediction, outputs[-1].mean(axis=0))

    def _calibrated(self, prediction: Prediction, embedding: np.ndarray) -> Prediction:
        """Add calibrated probabilities, decisions and a possible refusal, if the model has a calibration."""
        calibration = self.description.calibration
        if calibration is None:
            return prediction
        scores = prediction.scores[None]
        decisions = calibration.decisions(scores)[0]
        found = dataclasses.replace(
            prediction,
            calibrated=calibration.probabilities(scores)[0],
            decision=tuple(DECISIONS[one] for one in decisions),
        )
        if calibration.refusal is None:
            return found
        facts = prediction.recording
        missing = len(facts.missing_leads)
        verdict = calibration.refusal.verdict(embedding, facts.seconds, missing, facts.flags, facts.shape)
        return dataclasses.replace(found, refused=verdict.reason, refusal_score=verdict.score)

    @property
    def decides(self) -> bool:
        """Whether it decides which labels are positive."""
        return self.thresholds is not None or self.description.is_exclusive

    def positive(self, scores: np.ndarray) -> Optional[np.ndarray]:
        """Which labels are positive for a recording's scores (L): bool, L; None if the model has no thresholds."""
        return positive_of(scores, self.thresholds) if self.decides else None

    def embed(
        self,
        recording: AnyRecording,
        sample_rate: Optional[float] = None,
        leads: Leads = None,
        unit: Optional[str] = None,
        per: str = "recording",
        layer: Optional[int] = None,
    ) -> np.ndarray:
        """Compute the encoder's embedding of a recording.

        Args:
            recording, sample_rate, leads, unit: as `predict`.
            per: "recording": float32, E, the mean over the frames of each segment, and over segments; "segment": one
                per segment, N x E; "frame": N x T x E, zeros for frames of padding.
            layer: 1 to the number of transformer layers: the output of that layer; 0: the input of the first; None:
                the encoder's output.

        Raises:
            UserError: the recording cannot be used, there is no such layer, or the model is an ONNX or TorchScript
                export, which gives no frames or layers.
        """
        run = self.embedder(per, layer)
        name, segments = self._segments(recording, sample_rate, leads, unit)
        return self.embedding_of(run_segments(run, segments), name, segments.facts, per)

    def embedder(self, per: str, layer: Optional[int]) -> Run:
        """Return the function that computes embeddings of segments; `embedding_of` uses its last output.

        Arguments are the same as for `embed`.

        Raises:
            UserError: as `embed`.
        """
        if per not in EMBEDDED:
            raise UserError(f"per {per!r}: use one of {', '.join(EMBEDDED)}")
        if per != "frame" and layer is None:
            return self._backend
        return one_layer(self.backend, self.network, layer, is_mean=per != "frame")

    def embedding_of(self, outputs: Outputs, name: str, facts: RecordingFacts, per: str) -> np.ndarray:
        """Turn outputs for the segments of a recording into its embedding, see `embed`.

        Args:
            name: the recording's name in messages.
            facts: about the recording.

        Raises:
            UserError: outputs are not finite.
        """
        self.check_outputs(outputs, name, facts)
        return outputs[-1].mean(axis=0) if per == "recording" else outputs[-1]

    def _segments(
        self, recording: AnyRecording, sample_rate: Optional[float], leads: Leads, unit: Optional[str]
    ) -> Tuple[str, SegmentedRecording]:
        name, found = recording_of(recording, sample_rate, leads, unit)
        return name, SegmentedRecording.of(found, self.preprocessing, name)

    def check_outputs(self, outputs: Outputs, name: str, facts: RecordingFacts) -> None:
        """Raise a `UserError` if outputs for the segments of a recording are not finite.

        Args:
            name: the recording's name in messages.
            facts: about the recording.
        """
        if not _are_finite(outputs):
            self._check_is_finite()
            problem = f"no numbers come out of the model; give a recording longer than {facts.seconds:.3g} s"
            raise RecordingError(f"{name}: {problem}")

    def _check_is_finite(self) -> None:
        """Check that outputs for a whole segment of noise are finite."""
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


def positive_of(scores: np.ndarray, thresholds: Optional[Tuple[float, ...]]) -> np.ndarray:
    """Which labels are positive for a recording's scores (L): bool, L; without thresholds the most probable one."""
    return called(scores[np.newaxis], np.full(len(scores), np.nan) if thresholds is None else np.array(thresholds))[0]
