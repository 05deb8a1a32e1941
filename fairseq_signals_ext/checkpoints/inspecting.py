"""Content of a checkpoint or an export as plain values, without building a model or loading tensors."""

from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

from fairseq_signals_ext.checkpoints.architecture import ENCODER, architecture_of, encoder_config, geometry_of
from fairseq_signals_ext.checkpoints.describing import describe
from fairseq_signals_ext.checkpoints.description import ModelDescription, read_description, read_training
from fairseq_signals_ext.checkpoints.ecg_fm import checkpoint_of
from fairseq_signals_ext.checkpoints.ecg_fm_labels import label_notes
from fairseq_signals_ext.checkpoints.reading import Checkpoint, read_checkpoint
from fairseq_signals_ext.common.conv_layers import Geometry
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.values import as_json
from fairseq_signals_ext.evaluation.decisions import Calibration

Facts = Dict[str, Any]

# parts outside of the encoder, by prefixes of their parameters
_PARTS = {"pretraining heads": ("heads.",), "head": ("proj.", "pooling.", "layer_mix.")}
# sizes of a classifier, with their names in its config
_SIZES = {"labels": "num_labels", "pooling": "pooling"}
_QUANTIZER_SIZES = {"codebooks": "latent_groups", "codes_per_codebook": "latent_vars", "target_dimensions": "final_dim"}
_NOISE = ("min_amplitude", "max_amplitude")
_AUGMENTATION_OPTIONS = {
    "random_leads_masking": ("mask_leads_selection", "mask_leads_prob", "mask_leads_condition"),
    "powerline_noise": _NOISE,
    "emg_noise": _NOISE,
    "baseline_shift": (*_NOISE, "shift_ratio", "num_segment"),
    "baseline_wander": (*_NOISE, "min_freq", "max_freq", "k"),
}
# groups of metrics that repeat those of "train"
_REPEATED_METRICS = ("default", "train_inner")


def inspect_model(path: Path) -> Dict[str, Facts]:
    """Return facts by sections, as JSON values: a number that is not finite is None.

    Args:
        path: a checkpoint, or the folder of an export.

    Raises:
        UserError: it is neither.
    """
    path = checkpoint_of(path)
    facts = _of_export(path) if path.is_dir() else _of_checkpoint(read_checkpoint(path, to_build=False))
    return {section: values for section, values in as_json(facts).items() if values}


def _of_checkpoint(checkpoint: Checkpoint) -> Dict[str, Facts]:
    description, note = None, None
    try:
        description = describe(checkpoint)
    except UserError as error:  # for example a task that only ECG-FM's framework has
        note = str(error)
    optimizer = list(_tensors(checkpoint.state.get("last_optimizer_state")))
    return {
        "file": {"name": checkpoint.path.name, "format": "checkpoint", "bytes": checkpoint.path.stat().st_size},
        "model": {**_kind(description, checkpoint.model_config), "note": note},
        "parameters": _parameters(checkpoint.parameters, checkpoint.model_config),
        **(_usage(description) if description else {}),
        "training": _training(checkpoint.config),
        "progress": _progress(checkpoint),
        "optimizer_state": {
            "saved": bool(optimizer),
            "bytes": sum(tensor.numel() * tensor.element_size() for tensor in optimizer),
        },
    }


def _of_export(folder: Path) -> Dict[str, Facts]:
    description, weights = read_description(folder)
    try:
        training = _training(read_training(folder)["cfg"])
    except UserError:  # only exports that can be trained further contain it
        training = {}
    return {
        "file": {"name": weights.name, "format": f"export, {weights.suffix[1:]}", "bytes": weights.stat().st_size},
        "model": _kind(description, description.architecture),
        **_usage(description),
        "training": training,
    }


def _has_codebook(config: Mapping[str, Any]) -> bool:
    """Whether a model's targets come from a codebook: ECG-FM's in pretraining, unless regression replaces them."""
    return bool(config.get("quantize_targets")) and not config.get("num_labels") and config.get("loss") != "regression"


def _kind(description: Optional[ModelDescription], config: Mapping[str, Any]) -> Facts:
    rate = description.preprocessing.sample_rate if description else None
    samples = description.preprocessing.segment_samples if description else None
    encoder = encoder_config(config)
    own = architecture_of(config).sizes or {option: option for option in architecture_of(config).options}
    sizes = {**_SIZES, **(_QUANTIZER_SIZES if _has_codebook(config) else {})}
    return {
        "kind": description.kind if description else "unknown",
        "name": config.get("_name"),
        "encoder": encoder.get("_name") if encoder is not config else None,
        **{name: encoder.get(option) for name, option in own.items()},
        **{name: config.get(option) for name, option in sizes.items()},
        **(_head(config) if config.get("num_labels") else {}),
        **_frames(geometry_of(config), rate, samples),
    }


def _head(config: Mapping[str, Any]) -> Facts:
    """Return the classifier's choice of layers and pooling, with the number of attention heads."""
    heads = config.get("pooling_heads") if config.get("pooling") == "query" else None
    return {"pooling_heads": heads, "layers_used": config.get("layers")}


def _frames(geometry: Optional[Geometry], rate: Optional[float], samples: Optional[int]) -> Facts:
    """Return the geometry of the encoder: lengths in samples, and in the unit of their name."""
    if geometry is None:
        return {}
    hop, field = geometry.hop, geometry.field
    return {
        "samples_per_frame": hop,
        "receptive_field_samples": field,
        "receptive_field_ms": field / rate * 1000 if rate else None,
        "frames_per_second": rate / hop if rate else None,
        "frames_per_segment": geometry.frames(samples) if samples else None,
    }


def _parameters(parameters: Mapping[str, Any], config: Mapping[str, Any]) -> Facts:
    """Return numbers of parameters in total, by part and by dtype; the first matching part counts."""
    starts_of = [*architecture_of(config).parts.items(), *_PARTS.items()]
    parts, dtypes = dict.fromkeys((*(part for part, _ in starts_of), "other"), 0), {}  # type: ignore[var-annotated]
    in_classifier = config.get(ENCODER) or any(name.startswith("encoder.encoder.") for name in parameters)
    for name, tensor in parameters.items():
        own = name[len("encoder.") :] if in_classifier and name.startswith("encoder.") else name
        part = next((part for part, starts in starts_of if own.startswith(starts)), "other")
        dtype = str(tensor.dtype).replace("torch.", "")
        parts[part] += tensor.numel()
        dtypes[dtype] = dtypes.get(dtype, 0) + tensor.numel()
    return {
        "total": sum(parts.values()),
        "parts": {part: number for part, number in parts.items() if number},
        "dtypes": dtypes,
    }


def _training(config: Mapping[str, Any]) -> Facts:
    """Return settings of the training, from the whole config."""
    sections = {name: values for name, values in config.items() if isinstance(values, dict)}
    common, dataset, optimization, task, model = (
        sections.get(name, {}) for name in ("common", "dataset", "optimization", "task", "model")
    )
    optimizer, schedule = sections.get("optimizer", {}), sections.get("lr_scheduler", {})
    gpus = sections.get("distributed_training", {}).get("distributed_world_size")
    return {
        "task": task.get("_name"),
        "data": task.get("data"),
        "optimizer": _without(optimizer, "lr"),
        "learning_rate": optimization.get("lr") or optimizer.get("lr") or schedule.get("lr"),
        "schedule": _without(schedule, "lr"),
        "clip_norm": optimization.get("clip_norm"),
        "batch_size": dataset.get("batch_size"),
        "gpus": gpus,
        "update_freq": optimization.get("update_freq"),
        "items_per_update": _items_per_update(dataset.get("batch_size"), gpus, optimization.get("update_freq")),
        "precision": next((kind for kind in ("fp16", "bf16", "amp") if common.get(kind)), "fp32") if common else None,
        "seed": common.get("seed"),
        "max_update": optimization.get("max_update") or None,
        "max_epoch": optimization.get("max_epoch") or None,
        "objective": _without(sections.get("criterion", {})),
        "time_masks": _masks(model),
        "augmentations": _augmentations(task),
        "pretrained": model.get("model_path"),
    }


def _without(section: Mapping[str, Any], *options: str) -> Facts:
    return {key: value for key, value in section.items() if value is not None and key not in options}


def _items_per_update(batch_size: Any, gpus: Any, update_freq: Any) -> Optional[List[int]]:
    """Return segments, or pairs of segments, per update; one number per epoch, as in `update_freq`."""
    numbers = (batch_size, gpus, *(update_freq or (None,)))
    if not all(isinstance(number, int) for number in numbers):
        return None
    return [batch_size * gpus * times for times in update_freq]


def _masks(model: Mapping[str, Any]) -> Optional[Facts]:
    if model.get("num_labels") and not model.get("apply_mask"):
        return None
    return {name: model.get(f"mask_{name}") for name in ("prob", "length", "selection") if f"mask_{name}" in model}


def _augmentations(task: Mapping[str, Any]) -> Facts:
    names = task.get("perturbation_mode") or []
    given = task.get("p") or []
    chances = list(given) * len(names) if len(given) == 1 else given
    return {
        name: {"p": chance, **{key: task[key] for key in _AUGMENTATION_OPTIONS.get(name, ()) if key in task}}
        for name, chance in zip(names, chances)
    }


def _progress(checkpoint: Checkpoint) -> Facts:
    """Return the progress and the results of the training."""
    extra = checkpoint.state.get("extra_state") or {}
    metrics = extra.get("metrics")
    return {
        "updates": checkpoint.updates,
        "epoch": checkpoint.epoch,
        "training_seconds": extra.get("previous_training_time"),
        "best_checkpoint_metric": (checkpoint.config.get("checkpoint") or {}).get("best_checkpoint_metric"),
        "best": extra.get("best"),
        "last_validation": extra.get("val_loss"),  # fairseq's name for any metric
        "metrics": {
            group: _averages(meters)
            for group, meters in (metrics.items() if isinstance(metrics, dict) else ())
            if group not in _REPEATED_METRICS
        },
    }


def _averages(meters: Any) -> Facts:
    """Return the values of fairseq's averaging meters, by name."""
    values = {}
    for _, name, kind, state in meters:
        if kind == "AverageMeter" and not name.startswith("_"):
            values[name] = state["sum"] / state["count"] if state["count"] else state["val"]
    return values


def _usage(description: ModelDescription) -> Dict[str, Any]:
    """Return the facts that a user of the model needs."""
    inputs = description.preprocessing
    columns: Dict[str, Optional[Tuple[Any, ...]]] = {
        "threshold": description.thresholds,
        "aggregation": description.aggregation,
        "mean": description.target_mean,
        "std": description.target_std,
    }
    calibration = description.calibration
    if calibration is not None:
        columns["probability_by"] = tuple(one.method for one in calibration.labels)
        columns["negative_below"] = tuple(one.low for one in calibration.labels)
        columns["positive_from"] = tuple(one.high for one in calibration.labels)
    return {
        "preprocessing": {
            "sample_rate_hz": inputs.sample_rate,
            "leads": inputs.leads,
            "loaded_leads": inputs.loaded_leads,
            "segment_samples": inputs.segment_samples,
            "stride_samples": inputs.stride_samples,
            "standardization": inputs.standardization,
        },
        "labels": description.label_names
        and {
            "names_are_known": description.names_are_known,
            "threshold_rule": description.threshold_rule,
            "activation": description.activation,
            "labels": [
                {"name": name, **{column: values[number] for column, values in columns.items() if values}}
                for number, name in enumerate(description.label_names)
            ],
            "notes": label_notes(description.label_names) or None,
        },
        "calibration": calibration and {**calibration.provenance, "refusal": _refusal(calibration)},
        "provenance": description.provenance,
    }


def _refusal(calibration: Calibration) -> Optional[Facts]:
    """Return the rule to refuse recordings, without its arrays."""
    refusal = calibration.refusal
    if refusal is None:
        return None
    names = ("threshold", "share", "flags", "most_missing", "shortest", "steepness", "polarity")
    return {name: getattr(refusal, name) for name in names}


def _tensors(value: Any) -> Iterator[Any]:
    """Yield all tensors in nested lists and dicts."""
    if hasattr(value, "element_size"):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _tensors(inner)
