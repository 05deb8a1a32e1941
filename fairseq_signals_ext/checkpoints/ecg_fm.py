"""Checkpoints in the format of ECG-FM and its framework, fairseq-signals.

A file `NAME.pt` with the config, as plain values, and the parameters, and `NAME.yaml` with the same config. The
framework refuses a config with an unknown option, so its options are listed here.
"""

from pathlib import Path
from typing import Any, Dict, List, Mapping

from fairseq_signals_ext.checkpoints.architecture import to_ecg_fm_names
from fairseq_signals_ext.checkpoints.describing import task_state_of
from fairseq_signals_ext.checkpoints.description import CONFIG_FILE, ModelDescription, Preprocessing
from fairseq_signals_ext.checkpoints.reading import Checkpoint
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import atomic
from fairseq_signals_ext.common.leads import parse_leads

# checkpoints of a training, relative to its folder or to the folder inside it
_OF_A_RUN = tuple(f"{folder}checkpoint_{name}.pt" for folder in ("checkpoints/", "") for name in ("best", "last"))
_SECTIONS = {
    "common": "all_gather_list_size empty_cache_freq fp16 fp16_init_scale fp16_no_flatten_grads fp16_scale_tolerance "
    "fp16_scale_window log_file log_format log_interval memory_efficient_fp16 min_loss_scale model_parallel_size "
    "no_progress_bar on_cpu_convert_precision profile reset_logging seed suppress_crashes threshold_loss_scale "
    "wandb_entity wandb_project",
    "checkpoint": "best_checkpoint_metric checkpoint_shard_count checkpoint_suffix finetune_from_model "
    "keep_best_checkpoints keep_interval_updates keep_interval_updates_pattern keep_last_epochs "
    "load_checkpoint_on_all_dp_ranks maximize_best_checkpoint_metric no_epoch_checkpoints no_last_checkpoints no_save "
    "no_save_optimizer_state optimizer_overrides patience reset_dataloader reset_lr_scheduler reset_meters "
    "reset_optimizer restore_file save_dir save_interval save_interval_updates",
    "dataset": "batch_size batch_size_valid combine_valid_subsets curriculum data_buffer_size disable_validation "
    "fixed_validation_seed ignore_unused_valid_subsets max_tokens max_tokens_valid max_valid_steps num_shards "
    "num_workers required_batch_size_multiple shard_id skip_invalid_size_inputs_valid_test train_subset valid_subset "
    "validate_after_updates validate_interval validate_interval_updates",
    "distributed_training": "broadcast_buffers bucket_cap_mb ddp_comm_hook device_id distributed_backend "
    "distributed_init_method distributed_port distributed_rank distributed_world_size find_unused_parameters "
    "fix_batches_to_gpus fp16 heartbeat_timeout memory_efficient_fp16",
    "optimization": "clip_norm lr max_epoch max_update stop_min_lr stop_time_hours update_freq",
    "optimizer": "adam_betas adam_eps lr use_old_adam weight_decay",
    "lr_scheduler": "force_anneal lr lr_shrink warmup_updates",
    "task": "criterion_name data dependency enable_padding enable_padding_leads k leads_to_load mask_leads_condition "
    "mask_leads_prob mask_leads_selection max_amplitude max_freq max_sample_size min_amplitude min_freq "
    "min_sample_size normalize num_segment p perturbation_mode sample_rate shift_ratio",
}
_MODEL = (
    "activation_dropout apply_mask attention_dropout conv_bias conv_feature_layers conv_pos conv_pos_groups dropout "
    "dropout_features dropout_input encoder_attention_heads encoder_embed_dim encoder_ffn_embed_dim encoder_layerdrop "
    "encoder_layers extractor_mode feature_grad_mult in_d layer_norm_first mask_channel_length mask_channel_min_space "
    "mask_channel_other mask_channel_prob mask_channel_selection mask_length mask_min_space mask_other mask_prob "
    "mask_selection no_mask_channel_overlap no_mask_overlap"
)
_MODELS = {
    "wav2vec2_cmsc": "codebook_negatives cross_sample_negatives final_dim latent_dim latent_groups latent_temp "
    "latent_vars logit_temp negatives_from_everywhere num_negatives quantize_input quantize_targets same_quantizer "
    "target_glu",
    "ecg_transformer_classifier": "final_dropout freeze_finetune_updates num_labels",
}
_CRITERIONS = {
    "wav2vec2_with_cmsc": "cmsc_weights eps infonce log_keys loss_weights temp",
    "binary_cross_entropy_with_logits": "pos_weight report_auc threshold weight",
}
# options of its criterions with other names here
_FLAGS = {"wav2vec2_with_cmsc": {"all_gather": "cmsc_gather"}}
_CRITERION_CLASSES = {
    "wav2vec2_with_cmsc": "Wav2Vec2WithCMSCCriterion",
    "binary_cross_entropy_with_logits": "BinaryCrossEntropyWithLogitsCriterion",
}

# options of our models only; the framework would read the parameters and compute something else
_ONLY = {
    "activation_fn": "gelu",
    "layer_type": "transformer",
    "layers": "last",
    "pooling": "mean",
    "pos_conv_depth": 1,
    "quantizer_depth": 1,
    "required_seq_len_multiple": 1,
}
# parts that its models do not have; they do not change outputs
_WITHOUT = {"wav2vec2_cmsc": ("reconstruction_head.",), "ecg_transformer_classifier": ("encoder.mask_emb",)}


def write_ecg_fm(checkpoint: Checkpoint, description: ModelDescription, file: Path) -> List[Path]:
    """Write a checkpoint of ours (or of ECG-FM) in ECG-FM's format.

    Args:
        description: of the checkpoint; saved as the task's state, which the framework ignores.
        file: to write, `NAME.pt`.

    Returns:
        Paths of the checkpoint and its config.

    Raises:
        UserError: the framework has no such model; names the missing part.
    """
    import torch
    import yaml

    state = to_ecg_fm(checkpoint, description)
    # if torch opened the file itself, it would store the temporary name in it
    with atomic(file) as temporary, open(temporary, "wb") as opened:
        torch.save(state, opened)
    config = file.with_suffix(".yaml")
    with atomic(config) as temporary:
        temporary.write_text(yaml.safe_dump(state["cfg"], sort_keys=True), encoding="utf-8")
    return [file, config]


def to_ecg_fm(checkpoint: Checkpoint, description: ModelDescription) -> Dict[str, Any]:
    """Convert a checkpoint to the content of ECG-FM's format, for `torch.save`; tensors are not copied.

    The optimizer's state is not included.

    Raises:
        UserError: the framework has no such model; names the missing part.
    """
    config = _config(checkpoint, description.preprocessing)
    name, criterion = config["model"]["_name"], config["criterion"]["_name"]
    parameters = {key: value for key, value in checkpoint.parameters.items() if not key.startswith(_WITHOUT[str(name)])}
    return {
        "args": None,
        "cfg": config,
        "model": to_ecg_fm_names(parameters, "encoder." if name == "ecg_transformer_classifier" else ""),
        "criterion": None,
        "optimizer_history": [
            {
                "criterion_name": _CRITERION_CLASSES[criterion],
                "optimizer_name": "FairseqAdam",
                "lr_scheduler_state": {},
                "num_updates": int(checkpoint.updates or 0),
            }
        ],
        "task_state": task_state_of(description),
        "extra_state": {
            "metrics": [],
            "previous_training_time": 0.0,
            "train_iterator": {"epoch": int(checkpoint.epoch or 1), "iterations_in_epoch": 0},
        },
    }


def _config(checkpoint: Checkpoint, inputs: Preprocessing) -> Dict[str, Any]:
    ours, model = checkpoint.config, checkpoint.model_config
    _check_that_it_exists(checkpoint)
    names = {section: names.split() for section, names in _SECTIONS.items()}
    names["model"] = [*_MODEL.split(), *_MODELS[model["_name"]].split()]
    criterion = str((ours.get("criterion") or {}).get("_name"))
    names["criterion"] = _CRITERIONS[criterion].split()
    config = {section: _chosen(ours.get(section) or {}, keys) for section, keys in names.items()}
    config["model"] = {"_name": model["_name"], **_chosen(model, names["model"])}
    if model["_name"] == "ecg_transformer_classifier":
        # otherwise the framework looks for the pretrained file; its fine-tuned models have no vector for masks
        config["model"].update(model_path=None, no_pretrained_weights=True, apply_mask=False)
    for theirs, own in _FLAGS.get(criterion, {}).items():
        config["criterion"][theirs] = bool(ours["criterion"].get(own))
    leads = config["task"].get("leads_to_load")
    config["task"].update(
        leads_to_load=None if leads is None else str(parse_leads(leads)),
        sample_rate=inputs.sample_rate,
        max_sample_size=inputs.segment_samples,
        data=Path(str(config["task"].get("data") or "data")).name,  # folders of this machine have no meaning there
    )
    return config


def _chosen(section: Mapping[str, Any], names: List[str]) -> Dict[str, Any]:
    return {name: section[name] for name in ("_name", *names) if name in section}


def _check_that_it_exists(checkpoint: Checkpoint) -> None:
    model, criterion = checkpoint.model_config, str((checkpoint.config.get("criterion") or {}).get("_name"))
    missing = f"{checkpoint.path}: ECG-FM's framework has no"
    hint = "export it to another format"
    if model.get("_name") not in _MODELS:
        raise UserError(f"{missing} model {model.get('_name')!r}; {hint}")
    if criterion not in _CRITERIONS:
        raise UserError(f"{missing} criterion {criterion!r}; {hint}")
    for option, only in _ONLY.items():
        if model.get(option, only) != only:
            raise UserError(f"{missing} model with {option}={model[option]}; {hint}")


def checkpoint_of(path: Path) -> Path:
    """Return the only checkpoint in a folder without `config.json`, such as from `export --to ecg-fm`.

    Returns:
        Its path; any other path unchanged.

    Raises:
        UserError: the path is the folder of a training.
    """
    if not path.is_dir() or (path / CONFIG_FILE).exists():
        return path
    found = sorted(path.glob("*.pt"))
    if len(found) == 1:
        return found[0]
    of_run = next((path / name for name in _OF_A_RUN if (path / name).is_file()), None)
    if of_run is not None:
        raise UserError(f"{path}: is the folder of a training, not a checkpoint; give {of_run}")
    return path
