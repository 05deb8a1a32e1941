"""One or several models that predict together: the mean of their scores."""

import contextlib
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.checkpoints.describing import check_ensemble
from fairseq_signals_ext.checkpoints.description import Preprocessing
from fairseq_signals_ext.evaluation.decisions import Calibration
from fairseq_signals_ext.inference.backends import Outputs
from fairseq_signals_ext.inference.inputs import Recordings
from fairseq_signals_ext.inference.loading import is_export, load_model
from fairseq_signals_ext.inference.model import LoadedModel, Prediction, positive_of
from fairseq_signals_ext.inference.preprocessing import SegmentedRecording
from fairseq_signals_ext.inference.reading_ahead import ReadingPlan, Rejected
from fairseq_signals_ext.inference.recordings import AnyRecording, Leads, RecordingError, RecordingFacts, recording_of
from fairseq_signals_ext.inference.running import RecordingOutputs, RunOptions, run_recordings, run_segments


class Predicted(NamedTuple):
    """Predictions of models for one of many recordings.

    Attributes:
        number: the recording's number in the inputs.
        name: its file.
        prediction: for it.
        ecgs: how many ECGs its file contains, if it is the first of them.
        ends_batch: see `running.RecordingOutputs`.
    """

    number: int
    name: str
    prediction: Prediction
    ecgs: int = 1
    ends_batch: bool = True


class Ensemble:
    """Models with the same labels; for one model it predicts the same as this model.

    A recording's score is the mean of the models' scores, each aggregated from segments as its model does; a label's
    threshold is the mean of the models' thresholds.

    Args:
        models: at least one; labels are in the order of the first.

    Attributes:
        models: as given.
        label_names: names of the labels.
        thresholds: for each label the lowest score that is positive; None if a model has none.
        kind: name of the kind of scores.

    Raises:
        UserError: a model was only pretrained, or labels, kinds or lengths of segments differ.
    """

    def __init__(self, models: Sequence[LoadedModel]):
        self.models = tuple(models)
        first = self.models[0]
        self.label_names, self.kind = first.label_names, first.description.kind
        for model in self.models:
            model.check_predicts()
            pair = f"{model.source}: cannot be in an ensemble with {first.source}"
            check_ensemble(first.description, model.description, pair)
        self._columns = [[model.label_names.index(name) for name in self.label_names] for model in self.models]
        self.thresholds = self._mean_thresholds()

    def _mean_thresholds(self) -> Optional[Tuple[float, ...]]:
        found = [
            np.array(model.thresholds)[columns]
            for model, columns in zip(self.models, self._columns)
            if model.thresholds is not None
        ]
        return tuple(np.mean(found, axis=0).tolist()) if len(found) == len(self.models) else None

    @property
    def decides(self) -> bool:
        """Whether they decide which labels are positive."""
        return self.thresholds is not None or self.models[0].description.is_exclusive

    @property
    def calibration(self) -> Optional[Calibration]:
        """The calibration of a single model; an ensemble has none, because each model was calibrated alone."""
        return self.models[0].description.calibration if len(self.models) == 1 else None

    @property
    def source(self) -> str:
        """Sources of its models."""
        return ", ".join(model.source for model in self.models)

    @property
    def preprocessings(self) -> List[Preprocessing]:
        """The different preprocessings of the models."""
        return list(dict.fromkeys(model.preprocessing for model in self.models))

    def predict(
        self,
        recording: AnyRecording,
        sample_rate: Optional[float] = None,
        leads: Leads = None,
        unit: Optional[str] = None,
    ) -> Prediction:
        """As `LoadedModel.predict`."""
        name, found = recording_of(recording, sample_rate, leads, unit)
        segments = {one: SegmentedRecording.of(found, one, name) for one in self.preprocessings}
        outputs = [run_segments(model.backend, segments[model.preprocessing]) for model in self.models]
        return self._prediction(outputs, name, segments[self.preprocessings[0]].facts)

    def predict_all(
        self,
        inputs: Recordings,
        options: Optional[RunOptions] = None,
        start: int = 0,
        several: Sequence[Tuple[int, int]] = (),
    ) -> Iterator[Union[Predicted, Rejected]]:
        """Predict many recordings, in order; memory does not grow with their number.

        Args:
            inputs: see `inputs.find_inputs`.
            options: how they are run.
            start: number of the first recording.
            several: see `reading_ahead.ReadingPlan`, for inputs before `start`.

        Raises:
            UserError: a model's outputs are not finite for any recording.
            MissingPackageError: a format needs a package that is not installed.
        """
        options = options or RunOptions()
        with contextlib.ExitStack() as stack:
            models = [stack.enter_context(model.divided(options.batches_at_once)) for model in self.models]
            runs = [(model.preprocessing, model.backend) for model in models]
            for result in run_recordings(runs, ReadingPlan(inputs, self.preprocessings, several), options, start):
                yield result if isinstance(result, Rejected) else self._predicted(result)

    def _predicted(self, result: RecordingOutputs) -> Union[Predicted, Rejected]:
        read = result.read
        try:
            prediction = self._prediction(result.outputs, read.name, read.facts)
        except RecordingError as error:
            return result.rejected(error)
        return Predicted(read.number, read.name, prediction, read.ecgs, result.ends_batch)

    def _prediction(self, outputs: Sequence[Outputs], name: str, facts: RecordingFacts) -> Prediction:
        of_models = [model.prediction_of(one, name, facts) for model, one in zip(self.models, outputs)]
        if len(of_models) == 1:
            return of_models[0]
        scores = np.mean([one.scores[columns] for one, columns in zip(of_models, self._columns)], axis=0)
        # with different rates, rounding may cost one model its last segment
        number = min(len(one.segment_scores) for one in of_models)
        in_order: List[Any] = [one.segment_scores[:number, columns] for one, columns in zip(of_models, self._columns)]
        positive = positive_of(scores, self.thresholds) if self.decides else None
        return Prediction(self.label_names, scores, positive, np.mean(in_order, axis=0), facts)


def load_ensemble(sources: Sequence[Any], labels: Optional[str] = None, **options: Any) -> Ensemble:
    """Load an ensemble of models from any files; further arguments are passed to `fairseq_signals_ext.load`.

    Args:
        labels: label names for checkpoints without them; exports contain them.

    Raises:
        UserError: see `fairseq_signals_ext.load` and `Ensemble`.
    """
    several = len(sources) > 1
    names = [None if several and is_export(source) else labels for source in sources]
    return Ensemble([load_model(source, own, **options) for source, own in zip(sources, names)])
