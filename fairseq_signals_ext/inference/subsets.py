"""Predictions and labels of a manifest's segments, which `evaluate` compares.

Segments are the same as in validation during training: cut, and standardised with the statistics stored with the
recordings, also where there is no signal; recordings that training drops are left out.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.checkpoints.description import Preprocessing
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.data.label_table import (
    LabelTable,
    check_classes,
    check_same_folder,
    one_class_labels,
    read_labels,
)
from fairseq_signals_ext.data.manifest import find_manifests, read_manifests
from fairseq_signals_ext.data.model_labels import KnownLabels, check_labels, labels_by_name
from fairseq_signals_ext.data.segments import whole_pieces
from fairseq_signals_ext.data.stores import ShardStore, Signal, Store, check_leads, check_sample_rate, open_store
from fairseq_signals_ext.evaluation.predictions import AGGREGATIONS, Predictions, ways_of
from fairseq_signals_ext.inference.inputs import Recordings
from fairseq_signals_ext.inference.model import LoadedModel, Prediction
from fairseq_signals_ext.inference.preprocessing import SegmentedRecording
from fairseq_signals_ext.inference.reading_ahead import ReadingPlan, Rejected
from fairseq_signals_ext.inference.running import RunOptions, run_recordings

logger = logging.getLogger(__name__)


class Known(NamedTuple):
    """Labels and ids of a recording.

    Attributes:
        idx: its row in a label file.
        patient: a number for each patient.
        target: float64, L; NaN: unknown.
    """

    idx: int
    patient: int
    target: np.ndarray


@dataclass(frozen=True)
class StoredRecording:
    """A recording read from a store; see `inputs.InputRecording`.

    Attributes:
        signal: its counts, and how they are standardised.
        beside: its labels and ids.
        ecgs: number of ECGs in its file; always one here.
    """

    signal: Signal
    beside: Known
    ecgs: int = 1

    def segmented(self, preprocessing: Preprocessing, name: str) -> SegmentedRecording:
        """Its segments, the same as in training."""
        return SegmentedRecording.of_stored(self.signal, preprocessing, f"idx {self.signal.idx}")


@dataclass(frozen=True)
class SegmentScores:
    """A model's scores for the segments of a recording.

    Attributes:
        number: the recording's number in the subset.
        known: its labels and ids.
        prediction: for the recording and its segments.
        embedding: float32, E, of the recording.
        ends_batch: see `running.RecordingOutputs`.
    """

    number: int
    known: Known
    prediction: Prediction
    embedding: np.ndarray
    ends_batch: bool = True

    @property
    def scores(self) -> np.ndarray:
        """float64, segments x L: probabilities, or values of a regression in the label's unit."""
        return self.prediction.segment_scores


class Subset:
    """The recordings of a manifest with their labels, as input for a model; can be sent to other processes.

    Args:
        model: a model with labels.
        data: folder with the manifest.
        name: the manifest is `NAME.tsv`, or a set of pieces.
        label_file: labels; None: the label file of the model's training, or the labels in `.mat` files.

    Attributes:
        label_names: names from the model, or from the file if the model has none.
        label_file: the file that was read; None: labels are in the `.mat` files.

    Raises:
        UserError: manifest or labels cannot be used, or do not fit the model; or no recording is long enough.
    """

    def __init__(self, model: LoadedModel, data: Path, name: str, label_file: Optional[str] = None):
        model.check_predicts()
        self._description, options = model.description, model.task_options
        paths = find_manifests(data, name)
        self._path = paths[0]
        # each recording is read once, so checksums need not be remembered
        self._store: Store = open_store(read_manifests(paths), "always")
        table = self._labels(label_file or options.get("label_file"))
        self.label_names = table.names if table else self._description.label_names
        self.label_file = str(table.path) if table else None
        number, has_classes = len(self._description.label_names), self._description.of_kind.has_classes
        self._known = KnownLabels(table, number, has_classes, self._description.is_exclusive)
        self._look_at_labels()
        pads_leads, self._pads = options.get("enable_padding_leads", True), options.get("enable_padding", True)
        inputs = self._description.preprocessing
        self._needed = () if pads_leads else tuple(LEADS.index(lead) for lead in inputs.loaded_leads)
        self._kept = self._cut(options.get("min_sample_size"))

    def _labels(self, label_file: Optional[str]) -> Optional[LabelTable]:
        if not label_file:
            if self._store.idx is not None:
                raise UserError(f"{self._path}: no labels for these recordings; give --labels")
            return None
        table, description = read_labels(label_file), self._description
        known = description.label_names if description.names_are_known else None
        table = table if known is None else labels_by_name(table, known)
        check_labels(table, len(description.label_names), known, is_loaded=True)
        if isinstance(self._store, ShardStore):
            check_same_folder(table, self._store.manifest.shards[0])
        return table

    def _look_at_labels(self) -> None:
        """Check labels before the model runs and log what is missing; labels in .mat files are checked when read."""
        table, idx = self._known.table, self._store.idx
        if table is None or idx is None:
            return
        values = self._known.of_store(self._store)
        labelled = int((~np.isnan(values)).any(axis=1).sum())
        logger.info(f"{self._path}: {labelled} of {len(values)} recordings have a known label")
        if not self._known.classes:
            return
        check_classes(table, values, idx, self._known.exclusive)
        undefined = one_class_labels(table, values)
        if undefined:
            logger.warning(
                f"{self._path}: {len(undefined)} of {len(table.names)} labels have one class only here, their AUROC "
                f"and AUPRC are undefined and left out of means: {', '.join(undefined)}"
            )

    def _cut(self, shortest: Optional[int]) -> np.ndarray:
        """Positions, in the manifest, of the recordings that are long enough."""
        inputs, samples = self._description.preprocessing, self._store.samples
        segments = whole_pieces(samples, inputs.stride_samples, self._pads, shortest)
        kept = np.flatnonzero(segments)
        seconds = inputs.stride_samples / inputs.sample_rate
        logger.info(
            f"{self._path}: {int(segments.sum())} segments of {seconds:g} s from {len(kept)} recordings; "
            f"{len(samples) - len(kept)} of {len(samples)} recordings dropped as shorter than {seconds:g} s"
        )
        if not len(kept):
            raise UserError(
                f"{self._path}: none of {len(samples)} recordings has {seconds:g} s at {inputs.sample_rate:g} Hz; "
                "give longer recordings"
            )
        return kept

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def idx(self) -> Optional[np.ndarray]:
        """idx of each recording, int64; None for `.mat` files, which contain it."""
        idx = self._store.idx
        return None if idx is None else idx[self._kept]

    def name(self, number: int, ecg: Optional[int] = None) -> str:
        """A recording's name in messages."""
        return self._store.name(self._kept[number])

    def read(self, number: int, ecg: Optional[int] = None) -> StoredRecording:
        """Read a recording.

        Raises:
            UserError: it cannot be read, has another sample rate, or a lead or label is missing.
        """
        signal = self._store.read(self._kept[number])
        check_sample_rate(signal, self._description.preprocessing.sample_rate)
        check_leads(signal, self._needed)
        return StoredRecording(signal, Known(signal.idx, signal.patient, self._known.of([signal])[0]))

    def known(self, number: int) -> Dict[str, Any]:
        """Nothing: `read` returns all facts."""
        return {}

    def fingerprint(self) -> str:
        """A text that is equal for the same recordings in the same order."""
        return self._store.fingerprint().hex()

    def predictions(
        self, known: Sequence[Known], scores: List[np.ndarray], refusal: Sequence[Optional[float]] = ()
    ) -> Predictions:
        """Combine the scores and labels of all segments.

        Args:
            known: labels and ids of each recording.
            scores: of each recording: segments x L.
            refusal: of each recording, see `Prediction.refusal_score`.
        """
        segments = [len(one) for one in scores]
        return Predictions(
            scores=np.concatenate(scores),
            targets=np.repeat([one.target for one in known], segments, axis=0),
            idx=np.repeat(np.array([one.idx for one in known], np.int64), segments),
            patient=np.repeat(np.array([one.patient for one in known], np.int64), segments),
            label_names=self.label_names,
            kind=self._description.kind,
            aggregation=_aggregation(self._description.label_names, self._description.aggregation),
            exclusive=self._description.is_exclusive,
            label_file=self.label_file,
            calibration=self._description.calibration,
            refusal=None if not refusal or None in refusal else np.repeat(np.array(refusal, np.float64), segments),
        )


def _aggregation(label_names: Tuple[str, ...], ways: Tuple[str, ...]) -> str:
    """The name of the aggregation of segments to recordings."""
    for how in AGGREGATIONS:
        if ways_of(label_names, how) == ways:
            return how
    raise UserError("the model aggregates segments in a way that has no name here; choose one with --aggregate")


def segment_scores(model: LoadedModel, subset: Recordings, how: RunOptions, start: int = 0) -> Iterator[SegmentScores]:
    """Scores of each recording's segments, in order, from number `start` on.

    Args:
        subset: a `Subset`, or a part of one.

    Raises:
        UserError: a recording cannot be used, or the model's outputs are not finite.
    """
    with model.divided(how.batches_at_once) as shared:
        plan = ReadingPlan(subset, [model.preprocessing])
        for result in run_recordings([(model.preprocessing, shared.backend)], plan, how, start):
            if isinstance(result, Rejected):
                raise result.error
            read = result.read
            prediction = model.prediction_of(result.outputs[0], read.name, read.facts)
            embedding = result.outputs[0][-1].mean(axis=0)
            yield SegmentScores(read.number, read.beside, prediction, embedding, result.ends_batch)


def predict_subset(model: LoadedModel, subset: Subset, how: Optional[RunOptions] = None) -> Predictions:
    """Scores and targets of all segments of a subset; see `segment_scores`."""
    scored = list(segment_scores(model, subset, how or RunOptions()))
    refusal = [one.prediction.refusal_score for one in scored]
    return subset.predictions([one.known for one in scored], [one.scores for one in scored], refusal)
