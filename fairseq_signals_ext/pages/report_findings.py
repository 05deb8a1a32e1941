"""Options and contents of a report on a recording, before the page is made."""

import dataclasses
import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Tuple, Union

from fairseq_signals_ext.analysis.occlusion import most_certain
from fairseq_signals_ext.analysis.saliency import ATTENTION, MapOptions, Saliency, explain_segments, way_to_look
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.inference.ensemble import Ensemble
from fairseq_signals_ext.inference.model import LoadedModel, Prediction
from fairseq_signals_ext.inference.preprocessing import SegmentedRecording
from fairseq_signals_ext.inference.recordings import RecordingFacts
from fairseq_signals_ext.pages.calibration import Calibration
from fairseq_signals_ext.readers import Recording

if TYPE_CHECKING:
    from fairseq_signals_ext.analysis.neighbours import NeighbourIndex

AnyModel = Union[Ensemble, LoadedModel]


@dataclass(frozen=True, eq=False)
class ReportOptions:
    """Options of a report.

    Attributes:
        anonymous: leave out everything that identifies the patient: id, age, sex, time, record id, file, statements.
        saliency: method of the map under the traces, see `analysis.saliency.MapOptions`; None: no map.
        layer: for attention and rollout; None: the last.
        label: label that the map explains, for other methods than these two; None: the most probable label among
            those that reach their threshold, or among all if none does.
        index: known recordings, one vector each, embedded by the same model (for an ensemble by its first model).
        neighbours: number of nearest recordings to show.
        calibration: metrics from an evaluation.
        date: of the report; None: today.

    Raises:
        UserError: an option cannot be used.
    """

    anonymous: bool = False
    saliency: Optional[str] = ATTENTION
    layer: Optional[int] = None
    label: Optional[str] = None
    index: Optional["NeighbourIndex"] = None
    neighbours: int = 5
    calibration: Optional[Calibration] = None
    date: Optional[datetime.date] = None

    def __post_init__(self) -> None:
        if self.saliency is not None:
            how = self.map_options
            if self.label is not None and how.is_attention:
                hint = "leave the label out, or add --saliency gradient"
                raise UserError(f"label {self.label!r}: {self.saliency} is the same for all labels; {hint}")
        if self.neighbours < 1:
            raise UserError(f"{self.neighbours} neighbours: ask for at least 1")
        if self.index is not None and self.index.per != "recording":
            hint = "embed again with --per recording"
            raise UserError(f"{self.index.embeddings.folder}: has a vector per {self.index.per}; {hint}")

    @property
    def map_options(self) -> MapOptions:
        """Options for the map."""
        return MapOptions(self.saliency or ATTENTION, self.layer)


class Neighbour(NamedTuple):
    """One of the nearest known recordings.

    Attributes:
        distance: between the embeddings, by the index's metric.
        record_id, file: empty in an anonymous report; the file is the original one, if it is known.
        labels: its known labels; can be empty.
    """

    distance: float
    record_id: str
    file: str
    labels: str = ""


@dataclass(frozen=True, eq=False)
class ReportFindings:
    """Contents of a report on a recording.

    Attributes:
        recording: without facts about the patient if the report is anonymous.
        name: of its file; empty in an anonymous report.
        options: of the report.
        facts: its length, missing leads and quality flags.
        models: at least one.
        prediction: None for a model without labels.
        thresholds: of its labels; None if there are none.
        saliency: None if no map was requested.
        neighbours: nearest first; None if there is no index.
    """

    recording: Recording
    name: str
    options: ReportOptions
    facts: RecordingFacts
    models: Tuple[LoadedModel, ...]
    prediction: Optional[Prediction]
    thresholds: Optional[Tuple[float, ...]]
    saliency: Optional[Saliency]
    neighbours: Optional[List[Neighbour]]

    @property
    def is_calibrated(self) -> bool:
        """Whether the model makes calibrated decisions."""
        return self.prediction is not None and self.prediction.decision is not None

    @property
    def is_regression(self) -> bool:
        """Whether scores are predicted values, not probabilities."""
        return not self.models[0].description.of_kind.has_classes


def check_options(model: AnyModel, options: ReportOptions) -> None:
    """Check that a model supports the options, before recordings are read.

    Raises:
        UserError: a saliency is requested from an ONNX or TorchScript export, the label or layer does not exist, or the
            index or the evaluation belongs to another model.
    """
    first = model.models[0] if isinstance(model, Ensemble) else model
    if options.calibration is not None:
        options.calibration.check_fits(first.description.kind, first.label_names, first.source)
    if options.index is not None:
        options.index.check_model(first)
    if options.saliency is None:
        return
    if first.label_names or options.map_options.is_attention:
        label = options.label or next(iter(first.label_names), None)
        way_to_look(first, label, options.map_options)
    else:
        raise UserError(f"{first.source}: has no labels for {options.saliency}; use attention, rollout or none")


def find(model: AnyModel, recording: Recording, name: str, options: ReportOptions) -> ReportFindings:
    """Compute all contents of a report.

    Raises:
        UserError: the recording or an option cannot be used with the model.
    """
    # a recording without facts about the patient cannot put them into the page
    shown = _without_patient(recording) if options.anonymous else recording
    models = model.models if isinstance(model, Ensemble) else (model,)
    first = models[0]
    segments = SegmentedRecording.of(shown, first.preprocessing)
    prediction = model.predict(shown) if first.label_names else None
    return ReportFindings(
        recording=shown,
        name="" if options.anonymous else name,
        options=options,
        facts=segments.facts,
        models=models,
        prediction=prediction,
        # a calibrated model makes decisions without thresholds
        thresholds=None if prediction is not None and prediction.decision is not None else model.thresholds,
        saliency=_saliency(first, segments, prediction, options),
        neighbours=_neighbours(first, recording, name, options),
    )


def _without_patient(recording: Recording) -> Recording:
    nothing: Dict[str, Any] = {"patient": None, "start_time": None, "age": None, "sex": None, "statements": ()}
    return dataclasses.replace(recording, record_id="recording", codes=(), **nothing)


def _saliency(
    model: LoadedModel, segments: SegmentedRecording, prediction: Optional[Prediction], options: ReportOptions
) -> Optional[Saliency]:
    """The map of the first model, for the label with the highest score of the ensemble."""
    if options.saliency is None:
        return None
    label = options.label
    if label is None and prediction is not None and not options.map_options.is_attention:
        has_classes = model.description.of_kind.has_classes
        label = most_certain(prediction) if has_classes else prediction.label_names[0]
    return explain_segments(model, segments, label, options.map_options)


def _neighbours(
    model: LoadedModel, recording: Recording, name: str, options: ReportOptions
) -> Optional[List[Neighbour]]:
    """Find the nearest known recordings, without the recording itself."""
    from fairseq_signals_ext.analysis.neighbours import KnownRecording

    index = options.index
    if index is None:
        return None
    own = [KnownRecording(recording.record_id, name)]
    distances, rows = index.query(model.embed(recording, layer=index.layer), options.neighbours, own)
    is_there = rows[0] >= 0
    known = index.facts(rows[0][is_there])
    found = [
        Neighbour(float(distance), str(one.record_id), str(one.source_file or one.file), str(one.labels))
        for distance, one in zip(distances[0][is_there], known)
    ]
    return [one._replace(record_id="", file="") for one in found] if options.anonymous else found
