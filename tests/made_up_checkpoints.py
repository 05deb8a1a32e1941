"""Made-up checkpoints of small models with random weights, as our trainings leave them."""

from pathlib import Path

import torch
from omegaconf import OmegaConf

from fairseq_signals_ext.checkpoints.reading import Checkpoint

SAMPLES = 500
LABELS = ("A", "B", "C")
# options of a model that is built in a moment
SMALL = {
    "conv_feature_layers": "[(16, 2, 2)] * 4",
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 32,
    "encoder_attention_heads": 2,
    "conv_pos": 16,
    "conv_pos_groups": 4,
    "final_dim": 8,
    "latent_vars": 8,
}
_CRITERIONS = {
    "ecg_classification": "binary_cross_entropy_with_logits",
    "ecg_regression": "regression",
    "ecg_pretraining": "wav2vec2_with_cmsc",
}


def made_up_checkpoint(kind="classification", path=Path("made_up.pt"), **options):
    """A checkpoint of a small model, in memory.

    Args:
        kind: as in `ModelDescription`.
        options: of the model.
    """
    from fairseq_signals_ext.models.ecg_classifier import EcgTransformerClassifier, EcgTransformerClassifierConfig
    from fairseq_signals_ext.models.ecg_wav2vec2 import Wav2Vec2CmscConfig, Wav2Vec2CmscModel

    torch.manual_seed(3)
    if kind == "pretraining":
        name, model, config = "wav2vec2_cmsc", Wav2Vec2CmscModel, Wav2Vec2CmscConfig(**{**SMALL, **options})
    else:
        name, model = "ecg_transformer_classifier", EcgTransformerClassifier
        config = EcgTransformerClassifierConfig(**{**SMALL, "num_labels": len(LABELS), **options})
    parameters = model(config).state_dict()
    for value in parameters.values():  # biases and scores start at zero, where much would go unseen
        if value.is_floating_point() and not value.any():
            torch.nn.init.normal_(value, std=0.1)
    task = f"ecg_{kind}"
    config = {**OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True), "_name": name}
    leads = config["in_d"]
    sections = {
        "model": config,
        "criterion": {"_name": _CRITERIONS[task]},
        "task": {
            "_name": task,
            "max_sample_size": SAMPLES,
            "sample_rate": 500.0,
            "leads_to_load": ",".join(map(str, range(leads))),
            "enable_padding_leads": False,
        },
    }
    return Checkpoint(path, {"model": parameters, "cfg": sections, "task_state": _task_state(kind)})


def saved_checkpoint(path, kind="classification", **options):
    """The same as a file."""
    torch.save(made_up_checkpoint(kind, path, **options).state, path)
    return path


def _task_state(kind):
    if kind == "pretraining":
        return {}
    state = {"label_names": list(LABELS), "sample_rate": 500.0}
    if kind == "regression":
        return {**state, "target_mean": [60.0, -2.0, 1000.0], "target_std": [17.0, 0.1, 300.0]}
    return {**state, "thresholds": [0.25, 0.5, 0.75], "threshold_rule": "f1 on valid"}
