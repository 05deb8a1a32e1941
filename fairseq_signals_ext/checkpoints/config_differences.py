"""Differences between options of ECG-FM's framework (github.com/Jwoo5/fairseq-signals) and ours, with reasons.

Keys are a section and an option, such as "criterion.all_gather".
"""

from fairseq_signals_ext.checkpoints.allowed import NAMES_OF_ECG_FM

# values with other names here
RENAMED_VALUES = {
    **{f"{section}._name": names for section, names in NAMES_OF_ECG_FM.items()},
    "checkpoint.best_checkpoint_metric": {"em_accuracy": "exact_match"},
}

# the new key of a value, unless that is already set
RENAMED_KEYS = {
    "criterion.all_gather": "criterion.cmsc_gather",
    "model.all_gather": "criterion.cmsc_gather",
    "optimizer.lr": "optimization.lr",
    "lr_scheduler.lr": "optimization.lr",
    "distributed_training.disributed_backend": "distributed_training.distributed_backend",
    "task.max_segment_size": "task.max_sample_size",
    "task.min_segment_size": "task.min_sample_size",
}
# paths on the machine of the training, if they are texts
PATHS = (
    *("task.data", "task.label_file", "model.model_path", "criterion.weights_file", "criterion.pos_weight"),
    *("criterion.weight", "common.user_dir", "checkpoint.finetune_from_model", "checkpoint.restore_file"),
    *("checkpoint.continue_once", "common.quantization_config_path", "ema.ema_seed_model"),
)
# paths that a run writes to, programs that it starts, and texts in its file names
WRITTEN = (
    *("common.log_file", "common.tensorboard_logdir", "common.aim_repo", "common.plasma_path", "checkpoint.save_dir"),
    *("checkpoint.checkpoint_suffix", "common_eval.path", "common_eval.results_path", "generation.lm_path"),
    "interactive.input",
)
_OWN_MACHINE = "of the machine it was trained on; fairseq finds its own"
# keys without effect here, with any value
WITHOUT_EFFECT = {
    "common.wandb_entity": "where the run was logged",
    "common_eval.extract": "of predicting, not of training",
    # fairseq's default, -1, starts all GPUs of a machine; a port alone would silently train on one
    "distributed_training.distributed_port": _OWN_MACHINE,
    "distributed_training.distributed_rank": _OWN_MACHINE,
    "distributed_training.distributed_init_method": _OWN_MACHINE,
    "distributed_training.device_id": _OWN_MACHINE,
    "model.all_gather": "criterion.all_gather decides",
    "model.args": "the pretrained model's config; only its architecture counts",
    "model.data": "a copy of task.data",
    "model.filter": "a copy of task.filter",
    "model.normalize": "a copy of task.normalize",
    "model.saliency": "an output for pictures, not for training",
    "model.w2v_args": "the pretrained model's config; it is read from its file",
    "task.bucket_selection": "of task.leads_bucket",
    "task.criterion_name": "criterion._name decides",
    "task.model_name": "model._name decides",
    "task.num_batch_buckets": "all segments have one length",
    "task.precompute_mask_indices": "masks are always made beside the data",
}
# descriptions of lost features
LOST_REASONS = {
    "criterion.per_log_keys": "no metrics by a field of the data; see fairseq-signals-ext evaluate",
    "model.apply_mask": "pretraining always masks; see model.mask_prob",
    "task.clocs_mode": "CLOCS is not here; CMSC is task.pairs",
    "task.filter": "recordings are not cleaned when they are loaded; clean them before prepare",
    "task.inferred_3kg_config": "3KG is not here",
    "task.inferred_w2v_config": "masks follow model.mask_* alone",
    "task.leads_bucket": "no lead is drawn from a set; choose them in task.leads_to_load",
    "task.load_specific_lead": "leads are chosen for all recordings; see task.leads_to_load",
    "task.mean_path": "no mean of a whole data set; each lead of a recording has its own",
    "task.path_dataset": "no paths in place of files; see prepare",
    "task.std_path": "no deviation of a whole data set; each lead of a recording has its own",
}
# options that a training here needs if none of these is given; only if the section has them
REQUIRED = {
    "dataset.batch_size": ("dataset.batch_size", "dataset.max_tokens"),
    "task.label_file": ("task.label_file",),
}
# values without effect, for keys that have an effect when null, false, 0 or empty
NEUTRAL = {"model.apply_mask": True}
OTHER_SECTIONS = {
    "bpe": "of texts",
    "hydra": "where the run was kept; give hydra.run.dir",
    "job_logging_cfg": "how the run was logged",
    "scoring": "of texts",
    "tokenizer": "of texts",
}
