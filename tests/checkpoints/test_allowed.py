"""The lists of what a checkpoint may name, against fairseq and our own models."""

import argparse
import dataclasses
import inspect
import re
from pathlib import Path

import pytest
import torch
from made_up_checkpoints import made_up_checkpoint
from omegaconf import OmegaConf

from fairseq_signals_ext.checkpoints import sizes
from fairseq_signals_ext.checkpoints.allowed import EVALUATED, NAMES, check_calls, check_names
from fairseq_signals_ext.common.errors import UserError


def test_names_are_those_that_are_registered(registered):
    from fairseq.models import MODEL_DATACLASS_REGISTRY
    from fairseq.registry import REGISTRIES
    from fairseq.tasks import TASK_DATACLASS_REGISTRY

    def ours(registry):
        return {name for name, kind in registry.items() if kind.__module__.startswith("fairseq_signals_ext.")}

    assert ours(TASK_DATACLASS_REGISTRY) == NAMES["task"]
    assert ours(MODEL_DATACLASS_REGISTRY) == NAMES["model"]
    assert ours(REGISTRIES["criterion"]["dataclass_registry"]) | {"wav2vec"} == NAMES["criterion"]
    for section in ("optimizer", "lr_scheduler"):
        assert set(REGISTRIES[section]["registry"]) == NAMES[section]


def test_all_that_fairseq_evaluates_is_listed(registered):
    import fairseq

    top = Path(inspect.getfile(fairseq)).parent
    code = "".join(path.read_text(errors="replace") for path in sorted(top.rglob("*.py")))
    found = set(re.findall(r"(?<!literal_)\beval\w*\(\s*(?:self\.)?(?:cfg|args|modality_cfg)\.(\w+)", code))
    # files of fairseq's example scripts, whose lines they evaluate
    assert len(found) > 15 and found - EVALUATED <= {"w", "lid_preds"}


def test_sizes_that_a_config_need_not_say(registered):
    """Their defaults are those of our models."""
    from fairseq_signals_ext.models.ecg_wav2vec2 import EcgWav2Vec2Config

    config = OmegaConf.to_container(OmegaConf.structured(EcgWav2Vec2Config), enum_to_str=True)
    assert {option: config.get(option, 1) for option in sizes._DEFAULTS} == sizes._DEFAULTS
    known = {option.name for option in dataclasses.fields(EcgWav2Vec2Config)} | {
        "pooling",
        "pooling_heads",
        "num_labels",
        "final_dropout",
    }
    assert {*sizes._LIMITS, *sizes._SHARES, *sizes._CHOICES} <= known


@pytest.mark.parametrize(
    "config",
    [
        {"model": {"conv_feature_layers": "[(512, 10, 5)] + [(512, 3, 2)] * 4"}},
        {"model": {"encoder_layers": "[(512, 3)] * 20", "decoder_attention": "True", "pretrained": "a/b.pt"}},
        {"model": argparse.Namespace(encoder_layers=6, adam_betas="(0.9, 0.98)")},
        {"optimizer": {"lr": ["${optimization.lr}"]}},
        None,
    ],
)
def test_values_call_nothing(config):
    check_calls(config)


@pytest.mark.parametrize("text", ["print(1)", "[print(1)]", "(lambda: 1)()", "f'{x}'", "${a.b}", "1" * 5000])
@pytest.mark.parametrize("option", ["conv_feature_layers", "adam_betas"])
def test_calls_are_found_wherever_they_are(option, text):
    for config in (
        {"model": {option: text}},
        {"a": [{"b": ({option: text},)}]},
        argparse.Namespace(**{option: [text]}),
    ):
        with pytest.raises(ValueError, match=f"{option} .* is code"):
            check_calls(config)


def test_a_circle_ends():
    config = {"model": {}}
    config["model"]["model"] = config
    check_calls(config)
    check_names(config)


def test_a_checkpoint_of_another_task_loads_as_before(registered, tmp_path):
    """One of fairseq's own models, by fairseq's own task."""
    from fairseq.checkpoint_utils import load_model_ensemble_and_task
    from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Config, Wav2Vec2Model

    options = {"conv_feature_layers": "[(8, 4, 2)]", "encoder_layers": 1, "encoder_embed_dim": 16}
    options.update(encoder_ffn_embed_dim=16, encoder_attention_heads=2, conv_pos=4, conv_pos_groups=2)
    config = OmegaConf.structured(Wav2Vec2Config(**options))
    state = {
        "model": Wav2Vec2Model(config).state_dict(),
        "cfg": {
            "model": {**OmegaConf.to_container(config, enum_to_str=True), "_name": "wav2vec2"},
            "task": {"_name": "audio_pretraining", "data": str(tmp_path)},
        },
        "optimizer_history": [{"num_updates": 3, "optimizer_name": "x", "lr_scheduler_state": {}}],
        "extra_state": {"train_iterator": {"epoch": 1}},
    }
    torch.save(state, tmp_path / "audio.pt")
    (model,), _, task = load_model_ensemble_and_task([str(tmp_path / "audio.pt")])
    assert type(model) is Wav2Vec2Model and type(task).__name__ == "AudioPretrainingTask"
    with pytest.raises(SystemExit, match="audio.pt: is fairseq's audio"):
        load_model_ensemble_and_task([str(tmp_path / "audio.pt")], {"task": "ecg_pretraining"})
    state["cfg"]["model"]["conv_feature_layers"] = "[print(1), (8, 4, 2)][1:]"
    torch.save(state, tmp_path / "audio.pt")
    with pytest.raises(UserError, match="audio.pt: its option conv_feature_layers .* is code"):
        load_model_ensemble_and_task([str(tmp_path / "audio.pt")])


def test_a_plugin_may_add_a_name(monkeypatch):
    checkpoint = made_up_checkpoint()
    checkpoint.config["criterion"]["_name"] = "mine"
    with pytest.raises(ValueError, match="its criterion is 'mine', which is not for ECGs here; use one of"):
        check_names(checkpoint.config)
    monkeypatch.setitem(NAMES, "criterion", {*NAMES["criterion"], "mine"})
    check_names(checkpoint.config)
