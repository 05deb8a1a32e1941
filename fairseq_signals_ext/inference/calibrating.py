"""Calibrate a fine-tuned checkpoint on recordings that it was not trained on."""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

import fairseq_signals_ext
from fairseq_signals_ext.checkpoints.describing import task_state_of
from fairseq_signals_ext.checkpoints.reading import read_checkpoint, read_safely
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import atomic
from fairseq_signals_ext.common.progress import Progress
from fairseq_signals_ext.data.manifest import find_manifests, read_manifests
from fairseq_signals_ext.data.stores import open_store
from fairseq_signals_ext.evaluation.calibrating import Seen, Wanted, calibrate_labels, fit_refusal
from fairseq_signals_ext.evaluation.decisions import Calibration
from fairseq_signals_ext.evaluation.predictions import Predictions
from fairseq_signals_ext.inference.model import LoadedModel
from fairseq_signals_ext.inference.parts import SomeInputs
from fairseq_signals_ext.inference.running import RunOptions
from fairseq_signals_ext.inference.subsets import SegmentScores, Subset, segment_scores

TRAINING = "train"
# recordings of a training set: enough to describe its ECGs
_MOST_OF_TRAINING = 20_000


@dataclass(frozen=True)
class CalibrationOptions:
    """Settings of a calibration.

    Attributes:
        data: folder with manifests.
        subset: of the recordings to calibrate on.
        label_file: their labels; None: the label file of the training.
        wanted: error rates that decisions may have.
        refuse: share of similar recordings that may be refused; 0: never refuse.
        how: how the model is run.
    """

    data: Path
    subset: str
    label_file: Optional[str] = None
    wanted: Wanted = Wanted()
    refuse: float = 0.02
    how: RunOptions = RunOptions()


class Scored(NamedTuple):
    """Predictions and other inputs of a calibration for the recordings of a subset."""

    predictions: Predictions
    seen: Seen


def calibrate(model: LoadedModel, options: CalibrationOptions) -> Tuple[Calibration, Predictions]:
    """Calibrate a classifier; see `calibrate_labels` and `fit_refusal`.

    A refusal measures how unusual a recording is compared with embeddings of up to 20,000 recordings of `train` in
    the same folder; without this manifest, compared with embeddings of the subset.

    Returns:
        The calibration, and the predictions that it was computed from.

    Raises:
        UserError: the model has no probability for each label, recordings of the subset are in the training set,
            labels do not fit, or there are too few of them.
    """
    _check_model(model)
    subset = Subset(model, options.data, options.subset, options.label_file)
    training = _training_of(options)
    if training is not None:
        _check_apart(subset, training, options)
    scored = score_subset(model, subset, options.how)
    labels = calibrate_labels(scored.predictions, options.wanted)
    refusal = None
    if options.refuse:
        embeddings = None if training is None else _embeddings_of_training(model, options)
        refusal = fit_refusal(scored.seen, options.refuse, embeddings)
    facts = _provenance(options, subset, scored.predictions, training is not None)
    return Calibration(labels, refusal, facts), scored.predictions


def _check_model(model: LoadedModel) -> None:
    model.check_predicts()
    description = model.description
    if not description.of_kind.has_classes or description.is_exclusive:
        raise UserError(
            f"{model.source}: has no probability for each label of its own, so it cannot be calibrated; give a model "
            "that was fine-tuned with binary_cross_entropy_with_logits"
        )


def _training_of(options: CalibrationOptions) -> Optional[Any]:
    """The store of the training recordings; None if it is not in the folder."""
    try:
        return open_store(read_manifests(find_manifests(options.data, TRAINING)), "never")
    except UserError:
        return None


def _check_apart(subset: Subset, training: Any, options: CalibrationOptions) -> None:
    """Raise a `UserError` if the model was trained on a recording: its errors there are smaller than on new ones."""
    own, of_training = subset.idx, training.idx
    if own is None or of_training is None:
        return
    shared = np.intersect1d(own, of_training)
    if len(shared):
        raise UserError(
            f"{options.data}: {len(shared)} of {len(own)} recordings of {options.subset!r} are in {TRAINING!r} as well "
            f"(idx {shared[0]}), on which the model was trained; calibrate on others, such as valid"
        )


def score_subset(model: LoadedModel, subset: Subset, how: RunOptions) -> Scored:
    """Compute scores of a subset's recordings, and the inputs of a refusal."""
    found: List[SegmentScores] = []
    with Progress("calibrate", len(subset), "recording") as bar:
        for one in segment_scores(model, subset, how):
            found.append(one)
            bar.update()
    known = [one.known for one in found]
    predictions = Predictions(
        scores=np.stack([one.prediction.scores for one in found]),
        targets=np.stack([one.target for one in known]),
        idx=np.array([one.idx for one in known], np.int64),
        patient=np.array([one.patient for one in known], np.int64),
        label_names=subset.label_names,
        label_file=subset.label_file,
    )
    return Scored(predictions, _seen(found, predictions))


def _seen(found: Sequence[SegmentScores], predictions: Predictions) -> Seen:
    facts = [one.prediction.recording for one in found]
    return Seen(
        embeddings=np.stack([one.embedding for one in found]),
        patients=predictions.patient,
        seconds=np.array([one.seconds for one in facts]),
        missing=np.array([len(one.missing_leads) for one in facts], np.int64),
        flags=[one.flags for one in facts],
        shapes=np.array([one.shape for one in facts]),
    )


def _embeddings_of_training(model: LoadedModel, options: CalibrationOptions) -> np.ndarray:
    """Embeddings of training recordings, float32, N x E; of evenly spaced ones if there are very many."""
    training = Subset(model, options.data, TRAINING, options.label_file)
    chosen = SomeInputs(training, range(0, len(training), -(-len(training) // _MOST_OF_TRAINING)))
    with Progress("training", len(chosen), "recording") as bar:
        found = []
        for one in segment_scores(model, chosen, options.how):
            found.append(one.embedding)
            bar.update()
    return np.stack(found)


def _provenance(
    options: CalibrationOptions, subset: Subset, predictions: Predictions, has_training: bool
) -> Dict[str, Any]:
    """Facts about the calibration, without local folders and without patients' data."""
    return {
        "subset": options.subset,
        "data": options.data.resolve().name,
        "labels": None if subset.label_file is None else Path(subset.label_file).parent.name,
        "recordings": len(predictions),
        "patients": len(np.unique(predictions.patient)),
        "idx_sha256": hashlib.sha256(np.sort(predictions.idx).astype("<i8").tobytes()).hexdigest(),
        "miss": options.wanted.miss,
        "false_alarm": options.wanted.false_alarm,
        "seed": options.wanted.seed,
        "refuse": options.refuse,
        "compared_with": TRAINING if has_training else options.subset,
        "package_version": fairseq_signals_ext.__version__,
    }


def write_calibrated(
    checkpoint: Path, model: LoadedModel, labels: Sequence[str], found: Calibration, out: Path
) -> None:
    """Write a calibrated copy of a checkpoint; the file appears complete or not at all.

    Args:
        labels: names of the labels, which a checkpoint may lack.

    Raises:
        UserError: it cannot be read or written.
    """
    import torch

    read_checkpoint(checkpoint)  # checks all of it
    state = dict(read_safely(checkpoint))
    description = dataclasses.replace(
        model.description, calibration=found, label_names=tuple(labels), names_are_known=True
    )
    description.check()
    state["task_state"] = {**(state.get("task_state") or {}), **task_state_of(description)}
    with atomic(out) as temporary:
        torch.save(state, temporary)
