"""Describe a checkpoint as a `ModelDescription`, and compare two descriptions."""

import logging
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from fairseq_signals_ext.checkpoints.architecture import is_ecg_fm
from fairseq_signals_ext.checkpoints.description import ModelDescription, Preprocessing
from fairseq_signals_ext.checkpoints.reading import Checkpoint
from fairseq_signals_ext.common.errors import UserError, first_line
from fairseq_signals_ext.common.leads import LEADS, parse_leads
from fairseq_signals_ext.data.label_table import DEFINITION_FILE, read_label_definition
from fairseq_signals_ext.evaluation.decisions import calibration_of
from fairseq_signals_ext.evaluation.kinds import CLASSIFICATION, PRETRAINING, REGRESSION, kind_of
from fairseq_signals_ext.evaluation.predictions import ECG_FM_AGGREGATION, ways_of

logger = logging.getLogger(__name__)

# sample rate of ECG-FM's training, Hz; its checkpoints do not contain it
ECG_FM_SAMPLE_RATE = 500.0
# file that ECG-FM publishes, without the names of its 17 labels
_PUBLISHED_CLASSIFIER = "mimic_iv_ecg_finetuned.pt"
# preprocessing in ECG-FM's framework that this package does not support
_UNKNOWN_INPUTS = ("filter", "mean_path", "std_path")
# kind of the models of each task; extensions are added when they are registered
KINDS_BY_TASK: Dict[str, str] = {
    "ecg_pretraining": PRETRAINING.name,
    "ecg_classification": CLASSIFICATION.name,
    "ecg_regression": REGRESSION.name,
}


def describe(checkpoint: Checkpoint, labels: Optional[str] = None) -> ModelDescription:
    """Describe the model of a checkpoint.

    Args:
        labels: names of the labels if the checkpoint lacks them: a `label_def.csv` (or its folder), or "ecg-fm" for
            ECG-FM's published classifier; None: `label_def.csv` in the folder of the checkpoint if it exists, ECG-FM's
            names if the file has its published name, else "label_0", ...

    Raises:
        UserError: the task is not ours, or the names do not fit the labels or differ from the checkpoint's.
    """
    kind = KINDS_BY_TASK.get(str(checkpoint.task_config.get("_name")))
    if kind is None:
        ours = ", ".join(sorted(KINDS_BY_TASK))
        raise UserError(f"{checkpoint.path}: is of task {checkpoint.task_config.get('_name')!r:.60}; use one of {ours}")
    try:
        description = _described(checkpoint, kind, labels)
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        # values of wrong types
        raise UserError(
            f"{checkpoint.path}: its description of inputs or labels cannot be used ({first_line(error)}); give "
            "another file"
        ) from None
    try:
        description.check()
    except UserError as error:
        raise UserError(f"{checkpoint.path}: {error}") from None
    return description


def _described(checkpoint: Checkpoint, kind: str, labels: Optional[str]) -> ModelDescription:
    """Return the description of a checkpoint of one kind, not yet checked."""
    task, state = checkpoint.task_config, checkpoint.task_state
    try:
        inputs = preprocessing_of(checkpoint)
    except UserError as error:
        raise UserError(f"{checkpoint.path}: {error}") from None
    names, known = ((), True) if not kind_of(kind).has_labels else _label_names(checkpoint, labels)
    chosen = kind_of(kind).has_classes
    return ModelDescription(
        kind=kind,
        architecture=_without_places(checkpoint.model_config),
        preprocessing=inputs,
        label_names=names,
        thresholds=_floats(state.get("thresholds")) if chosen else None,
        threshold_rule=state.get("threshold_rule") if chosen else None,
        aggregation=tuple(state.get("aggregation") or ways_of(names, task.get("aggregate") or "ecg-fm")),
        target_mean=_floats(state.get("target_mean")) or (),
        target_std=_floats(state.get("target_std")) or (),
        activation=str(state.get("activation") or "sigmoid"),
        names_are_known=known,
        calibration=calibration_of(state.get("calibration")) if chosen else None,
        provenance=_provenance(checkpoint),
    )


def task_state_of(description: ModelDescription) -> Dict[str, Any]:
    """Return the task's state in checkpoints, from which `describe` makes the same description."""
    inputs = description.preprocessing
    state: Dict[str, Any] = {
        "sample_rate": inputs.sample_rate,
        "leads": list(inputs.leads),
        "loaded_leads": list(inputs.loaded_leads),
        "segment_samples": inputs.segment_samples,
        "stride_samples": inputs.stride_samples,
        "standardization": inputs.standardization,
    }
    if description.names_are_known and description.label_names:
        state.update(label_names=list(description.label_names), aggregation=list(description.aggregation))
    if description.thresholds is not None:
        state.update(thresholds=list(description.thresholds), threshold_rule=description.threshold_rule)
    if description.calibration is not None:
        state.update(calibration=description.calibration.as_plain())
    if description.is_exclusive:
        state.update(activation=description.activation)
    if description.target_mean:
        state.update(target_mean=list(description.target_mean), target_std=list(description.target_std))
    return state


def preprocessing_of(checkpoint: Checkpoint) -> Preprocessing:
    """Return the preprocessing of a checkpoint's model."""
    task, state = checkpoint.task_config, checkpoint.task_state
    rate = float(state.get("sample_rate") or task.get("sample_rate") or ECG_FM_SAMPLE_RATE)
    if not (state.get("sample_rate") or task.get("sample_rate") or is_ecg_fm(checkpoint.parameters)):
        logger.warning(f"{checkpoint.path}: contains no sample rate; {rate:g} Hz, ECG-FM's, is assumed")
    for option in _UNKNOWN_INPUTS:
        if task.get(option):
            logger.warning(f"{checkpoint.path}: was trained with task.{option}={task[option]}, which is not done here")
    stride = int(state.get("stride_samples") or round(float(task.get("segment_seconds") or 5.0) * rate))
    loaded = tuple(state.get("loaded_leads") or (LEADS[lead] for lead in parse_leads(task.get("leads_to_load"))))
    return Preprocessing(
        sample_rate=rate,
        leads=tuple(state.get("leads") or (LEADS if task.get("enable_padding_leads") else loaded)),
        loaded_leads=loaded,
        segment_samples=int(state.get("segment_samples") or min(stride, int(task.get("max_sample_size") or stride))),
        stride_samples=stride,
        standardization=state.get("standardization") or standardization_given(task) or "lead",
    )


def standardization_given(task: Mapping[str, Any]) -> Optional[str]:
    """Return the standardisation in a task's options; None if not set."""
    way = task.get("standardize")
    return str(way) if way else ("segment" if task.get("normalize") else None)


def _label_names(checkpoint: Checkpoint, labels: Optional[str]) -> Tuple[Tuple[str, ...], bool]:
    """Return names of the labels, and whether they are known."""
    number, saved = int(checkpoint.model_config["num_labels"]), checkpoint.task_state.get("label_names")
    if saved is not None and (not isinstance(saved, (list, tuple)) or len(saved) != number):
        raise UserError(f"{checkpoint.path}: its label_names are not {number} names; give another file")
    if labels is None and saved is not None:
        return tuple(saved), True
    labels = labels or _usual_place_of_names(checkpoint.path)
    if labels is None:
        logger.warning(
            f"{checkpoint.path}: does not contain its {number} label names; name them with a label_def.csv, "
            "or 'ecg-fm' if they are those of ECG-FM's published classifier"
        )
        return tuple(f"label_{label}" for label in range(number)), False
    names = tuple(ECG_FM_AGGREGATION) if labels == "ecg-fm" else _names_of(Path(labels))
    if saved is not None and tuple(saved) != names:
        raise UserError(f"{labels}: its labels are not those of {checkpoint.path}, {', '.join(saved)}; leave it out")
    if len(names) != number:
        raise UserError(
            f"{labels}: {len(names)} label names, but {checkpoint.path} has {number} labels; give the right file, or "
            "'ecg-fm', as labels (--labels of export)"
        )
    return names, True


def _usual_place_of_names(path: Path) -> Optional[str]:
    """Return where to find the names of labels that a checkpoint lacks; None if nowhere."""
    beside = path.parent / DEFINITION_FILE
    if beside.is_file():
        return str(beside)
    return "ecg-fm" if path.name == _PUBLISHED_CLASSIFIER else None


def _names_of(path: Path) -> Tuple[str, ...]:
    return tuple(read_label_definition(path)[0])


def _floats(values: Any) -> Optional[Tuple[float, ...]]:
    return None if values is None else tuple(float(value) for value in values)


def _without_places(model: Dict[str, Any]) -> Dict[str, Any]:
    return {**model, **{option: _name(model[option]) for option in ("data", "model_path") if option in model}}


def _name(path: Any) -> Optional[str]:
    """Return the name of a file or folder, without its parent folders, which are private."""
    return Path(str(path)).name if path else None


def _provenance(checkpoint: Checkpoint) -> Dict[str, Any]:
    config, extra = checkpoint.config, checkpoint.state.get("extra_state") or {}
    facts = {
        "checkpoint": checkpoint.path.name,
        "task": checkpoint.task_config.get("_name"),
        "model": checkpoint.model_config.get("_name"),
        "criterion": (config.get("criterion") or {}).get("_name"),
        "data": _name(checkpoint.task_config.get("data")),
        "pretrained": _name(checkpoint.model_config.get("model_path")),
        "updates": checkpoint.updates,
        "epoch": checkpoint.epoch,
        "best": extra.get("best"),
        **{name: checkpoint.task_state.get(name) for name in ("package_version", "fairseq_version", "torch_version")},
    }
    return {name: value for name, value in facts.items() if value is not None}


def differences_of_inputs(there: Preprocessing, here: Preprocessing) -> List[str]:
    """List the differences between two preprocessings that matter for an encoder's features.

    The length of segments is not compared.
    """
    pairs = (
        ("sample rate", f"{there.sample_rate:g} Hz", f"{here.sample_rate:g} Hz"),
        ("leads", ",".join(there.leads), ",".join(here.leads)),
        ("standardisation by", there.standardization, here.standardization),
    )
    return [f"{what} {one} there and {other} here" for what, one, other in pairs if one != other]


def seconds_of(preprocessing: Preprocessing) -> float:
    """Return the time between the starts of consecutive segments, s."""
    return preprocessing.stride_samples / preprocessing.sample_rate


def check_ensemble(first: ModelDescription, other: ModelDescription, pair: str) -> None:
    """Check that the scores of two models can be averaged.

    Args:
        pair: names both models in messages.

    Raises:
        UserError: kinds, labels, activations or lengths of segments differ.
    """
    if other.kind != first.kind:
        raise UserError(f"{pair}: one is a {other.kind}, the other a {first.kind}")
    if other.activation != first.activation:
        ways = f"{other.activation}, not {first.activation}"
        raise UserError(f"{pair}: its probabilities are by {ways}; take models of one criterion")
    differing = sorted({*other.label_names} ^ {*first.label_names})
    if differing or len(other.label_names) != len(first.label_names):
        raise UserError(f"{pair}: only one has label {next(iter(differing), '')!r}; take models of the same labels")
    lengths = [seconds_of(description.preprocessing) for description in (other, first)]
    if lengths[0] != lengths[1]:
        raise UserError(
            f"{pair}: its segments are of {lengths[0]:g} s, not {lengths[1]:g} s; take models of one length"
        )
