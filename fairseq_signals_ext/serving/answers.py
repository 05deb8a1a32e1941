"""JSON answers of the service: predictions for a recording, facts about the model, or an error in one line."""

import errno
import re
from typing import Any, Dict, List, Optional

from fairseq_signals_ext.common.errors import MissingMetadataError, MissingPackageError, UserError, how_to_install
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.inference.model import LoadedModel, Prediction
from fairseq_signals_ext.prepared.quality import FLAGS
from fairseq_signals_ext.readers import Recording
from fairseq_signals_ext.readers.facts import shown
from fairseq_signals_ext.serving.limits import UploadError

NOTE = "Research use only: not a medical device, and no diagnosis."
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_TOO_LITTLE = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE)
# torch and onnxruntime raise different errors for it
_OUT_OF_MEMORY = re.compile(r"out of memory|allocate memory|bad_alloc")
_COMMAND_OPTION = re.compile(r", --input-[a-z]+(?=\))")


def refusal_of(error: Exception) -> Optional[UploadError]:
    """Convert an error to a refusal of the upload; None if it is an error in the service."""
    if isinstance(error, UserError):
        status = 501 if isinstance(error, MissingPackageError) else getattr(error, "status", 422)
        missing = getattr(error, "argument" if isinstance(error, MissingMetadataError) else "missing", "")
        # requests have fields instead of the options of commands
        return UploadError(_COMMAND_OPTION.sub("", str(error)), status, missing)
    if isinstance(error, ModuleNotFoundError):
        hint = how_to_install(error.name or "")
        return None if hint is None else UploadError(hint, 501)
    number = getattr(error, "errno", None)
    if number in _NO_ROOM:
        hint = "make some in its folder of temporary files"
        return UploadError(f"upload: the service has no room on its disk; {hint}", 507)
    is_runtime = isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
    if isinstance(error, MemoryError) or is_runtime or number in _TOO_LITTLE:
        return UploadError("upload: the service has too little memory for it now; send it later, or a part of it", 503)
    return None


def answer(recording: Recording, prediction: Prediction, model: LoadedModel) -> Dict[str, Any]:
    """Make the answer to an upload.

    Returns:
        `record_id`, `seconds`, `sample_rate` (Hz), `leads`, `missing_leads` (replaced by zeros), `cut` (s of
        calibration pulse or padding that were cut off its `start` and its `end`), `flags`: quality problems and their
        meaning; `labels`: for each `name`, `probability` (or `value` for a regression), `threshold` and `positive`
        (None without thresholds; for classes that exclude one another the most probable is positive), `calibrated` (a
        probability) and `decision` (positive, negative or uncertain), None if the model was not calibrated;
        `refused`: why the prediction is not reliable, or None; `segments`: for each `start` and `end` (s) and
        `scores`, one per label; `model`, see `model_facts`; `note`.
    """
    return {
        "record_id": shown(recording.record_id),
        "seconds": recording.samples / recording.sample_rate,
        "sample_rate": recording.sample_rate,
        "leads": [LEADS[lead] for lead in recording.leads],
        "missing_leads": list(prediction.recording.missing_leads),
        "cut": {"start": prediction.recording.cut_start, "end": prediction.recording.cut_end},
        "flags": {name: FLAGS[name] for name in prediction.recording.flags},
        "labels": _labels(prediction, model),
        "refused": prediction.refused,
        "segments": _segments(prediction, model),
        "model": model_facts(model),
        "note": NOTE,
    }


def _labels(prediction: Prediction, model: LoadedModel) -> List[Dict[str, Any]]:
    score_name = model.description.of_kind.display_name
    thresholds = model.thresholds or [None] * len(prediction.label_names)
    positive = [None] * len(thresholds) if prediction.positive is None else prediction.positive.tolist()
    calibrated = [None] * len(thresholds) if prediction.calibrated is None else prediction.calibrated.tolist()
    decision = prediction.decision or [None] * len(thresholds)
    columns = ("name", score_name, "threshold", "positive", "calibrated", "decision")
    rows = zip(prediction.label_names, prediction.scores.tolist(), thresholds, positive, calibrated, decision)
    return [dict(zip(columns, row)) for row in rows]


def _segments(prediction: Prediction, model: LoadedModel) -> List[Dict[str, Any]]:
    inputs = model.preprocessing
    stride, length = (samples / inputs.sample_rate for samples in (inputs.stride_samples, inputs.segment_samples))
    return [
        {"start": number * stride, "end": number * stride + length, "scores": scores}
        for number, scores in enumerate(prediction.segment_scores.tolist())
    ]


def model_facts(model: LoadedModel) -> Dict[str, Any]:
    """Facts about the model for users, without local paths."""
    description, inputs = model.description, model.preprocessing
    return {
        "name": model.name,
        "kind": description.kind,
        "labels": list(model.label_names),
        "names_are_known": description.names_are_known,
        "thresholds": None if model.thresholds is None else list(model.thresholds),
        "threshold_rule": description.threshold_rule,
        "activation": description.activation,
        "aggregation": list(description.aggregation),
        "sample_rate": inputs.sample_rate,
        "leads": list(inputs.loaded_leads),
        "segment_seconds": inputs.segment_samples / inputs.sample_rate,
        "updates": description.provenance.get("updates"),
    }
