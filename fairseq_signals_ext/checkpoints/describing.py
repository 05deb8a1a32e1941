"""What a checkpoint says of itself: from its config and its task's state to a `ModelDescription`."""

import logging
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple

from fairseq_signals_ext.checkpoints.description import ModelDescription, Preprocessing
from fairseq_signals_ext.checkpoints.reading import Checkpoint
from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.evaluation.aggregation import ECG_FM_AGGREGATION
from fairseq_signals_ext.leads import LEADS, parse_leads

logger = logging.getLogger(__name__)

# the rate that ECG-FM was trained at; its checkpoints do not say it
ECG_FM_SAMPLE_RATE = 500.0
# the file that ECG-FM publishes, which does not hold the names of its 17 labels
_PUBLISHED_CLASSIFIER = "mimic_iv_ecg_finetuned"
_KINDS = {
    "ecg_pretraining": "pretraining",
    "ecg_classification": "classification",
    "ecg_regression": "regression",
}


def describe(checkpoint: Checkpoint, labels: Optional[str] = None) -> ModelDescription:
    """What one must know to use the model of a checkpoint.

    Args:
        labels: names of the labels where the checkpoint does not hold them: a `label_def.csv` (or its folder), or
            "ecg-fm" for those of ECG-FM's published classifier; None: a `label_def.csv` beside the checkpoint if
            there is one, ECG-FM's if the file is named as it was published, else "label_0", ...

    Raises:
        UserError: it is of another task than ours, or the names do not fit its labels.
    """
    task, state = checkpoint.task_config, checkpoint.task_state
    kind = _KINDS.get(str(task.get("_name")))
    if kind is None:
        raise UserError(f"{checkpoint.path}: is of task {task.get('_name')!r}; use one of {', '.join(sorted(_KINDS))}")
    names, known = ((), True) if kind == "pretraining" else _label_names(checkpoint, labels)
    description = ModelDescription(
        kind=kind,
        architecture=dict(checkpoint.model_config),
        preprocessing=_preprocessing(task, state),
        label_names=names,
        thresholds=_floats(state.get("thresholds")),
        threshold_rule=state.get("threshold_rule"),
        aggregation=_aggregation(names, str(task.get("aggregate") or "ecg-fm")),
        target_mean=_floats(state.get("target_mean")) or (),
        target_std=_floats(state.get("target_std")) or (),
        names_are_known=known,
        provenance=_provenance(checkpoint),
    )
    description.check()
    return description


def _preprocessing(task: Dict[str, Any], state: Dict[str, Any]) -> Preprocessing:
    rate = float(state.get("sample_rate") or task.get("sample_rate") or ECG_FM_SAMPLE_RATE)
    stride = int(round(float(task.get("segment_seconds") or 5.0) * rate))
    loaded = tuple(LEADS[lead] for lead in parse_leads(task.get("leads_to_load")))
    return Preprocessing(
        sample_rate=rate,
        leads=tuple(state.get("leads") or (LEADS if task.get("enable_padding_leads") else loaded)),
        loaded_leads=loaded,
        segment_samples=int(state.get("segment_samples") or min(stride, int(task.get("max_sample_size") or stride))),
        stride_samples=stride,
        standardization="segment" if task.get("normalize") else "lead",
    )


def _label_names(checkpoint: Checkpoint, labels: Optional[str]) -> Tuple[Tuple[str, ...], bool]:
    """Names of the labels, and whether somebody said them."""
    number = int(checkpoint.model_config["num_labels"])
    saved = checkpoint.task_state.get("label_names")
    beside = checkpoint.path.parent / "label_def.csv"
    if labels is None and saved is not None:
        return tuple(saved), True
    if labels is None and checkpoint.path.name.startswith(_PUBLISHED_CLASSIFIER):
        labels = "ecg-fm"
    if labels is None and beside.is_file():
        labels = str(beside)
    if labels is None:
        logger.warning(
            f"{checkpoint.path}: does not say its {number} label names; name them with a label_def.csv, "
            "or 'ecg-fm' if they are those of ECG-FM's published classifier"
        )
        return tuple(f"label_{label}" for label in range(number)), False
    names = tuple(ECG_FM_AGGREGATION) if labels == "ecg-fm" else _names_of(Path(labels))
    if len(names) != number:
        raise UserError(f"{labels}: {len(names)} label names, but {checkpoint.path} has {number} labels")
    return names, True


def _names_of(path: Path) -> Tuple[str, ...]:
    from fairseq_signals_ext.data.label_table import read_label_definition

    return tuple(read_label_definition(path)[0])


def _aggregation(names: Sequence[str], how: str) -> Tuple[str, ...]:
    if how == "ecg-fm":
        return tuple(ECG_FM_AGGREGATION.get(name, "mean") for name in names)
    return tuple(how for _ in names)


def _floats(values: Any) -> Optional[Tuple[float, ...]]:
    return None if values is None else tuple(float(value) for value in values)


def _provenance(checkpoint: Checkpoint) -> Dict[str, Any]:
    state, config = checkpoint.state, checkpoint.config
    history = (state.get("optimizer_history") or [{}])[-1]
    extra = state.get("extra_state") or {}
    facts = {
        "checkpoint": checkpoint.path.name,
        "task": checkpoint.task_config.get("_name"),
        "model": checkpoint.model_config.get("_name"),
        "criterion": (config.get("criterion") or {}).get("_name"),
        "data": checkpoint.task_config.get("data"),
        "pretrained": checkpoint.model_config.get("model_path"),
        "updates": history.get("num_updates"),
        "epoch": (extra.get("train_iterator") or {}).get("epoch"),
        "best": extra.get("best"),
        **{name: checkpoint.task_state.get(name) for name in ("package_version", "fairseq_version", "torch_version")},
    }
    return {name: value for name, value in facts.items() if value is not None}
