"""ECG-FM's own format: what its framework reads is what ECG-FM publishes."""

import dataclasses

import numpy as np
import pytest
import torch
import yaml

from fairseq_signals_ext.checkpoints.describing import describe
from fairseq_signals_ext.checkpoints.ecg_fm import to_ecg_fm, write_ecg_fm
from fairseq_signals_ext.checkpoints.reading import Checkpoint, read_checkpoint
from fairseq_signals_ext.common.errors import UserError

GOLDEN = ("tiny_pretrained.pt", "tiny_finetuned.pt")


def changed(checkpoint, section, **options):
    """The same with other options in a section of its config."""
    config = {**checkpoint.config, section: {**checkpoint.config[section], **options}}
    return Checkpoint(checkpoint.path, {**checkpoint.state, "cfg": config})


def converted(checkpoint):
    return to_ecg_fm(checkpoint, describe(checkpoint))


@pytest.fixture(params=GOLDEN)
def golden(request, golden_folder):
    return read_checkpoint(golden_folder / request.param)


def test_published_files_stay_what_they_are(golden, tmp_path):
    file, config = write_ecg_fm(golden, describe(golden), tmp_path / "again.pt")
    again = read_checkpoint(file)
    assert list(again.parameters) == list(golden.parameters)
    assert all(torch.equal(value, golden.parameters[name]) for name, value in again.parameters.items())
    assert again.state.keys() == golden.state.keys()
    assert yaml.safe_load(config.read_text()) == again.config
    assert dataclasses.replace(describe(again), architecture={}, provenance={}) == dataclasses.replace(
        describe(golden), architecture={}, provenance={}
    )


def test_config_has_only_what_the_framework_knows(golden):
    options_of_ours = {"cmsc_gather": True, "reconstruction_weight": 0.0, "segment_seconds": 5.0, "pairs": "fixed"}
    ours = changed(changed(golden, "criterion", **options_of_ours), "task", **options_of_ours)
    ours = changed(ours, "model", linear_probe=False, pos_conv_depth=1, layer_type="transformer", activation_fn="gelu")
    found = converted(ours)["cfg"]
    for section, options in found.items():
        assert set(options) <= set(golden.config[section]), section
    architecture = ("encoder_layers", "encoder_embed_dim", "conv_feature_layers", "conv_pos", "in_d")
    assert all(found["model"][option] == golden.model_config[option] for option in architecture)
    assert found["criterion"].get("all_gather", True) is True


def test_classifier_does_not_ask_for_its_pretrained_file(golden_folder):
    model = converted(read_checkpoint(golden_folder / "tiny_finetuned.pt"))["cfg"]["model"]
    assert model["model_path"] is None and model["no_pretrained_weights"] is True


def test_our_names_become_theirs(golden):
    prefix = "encoder." if "proj.weight" in golden.parameters else ""
    for ends in (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")):
        ours = golden.parameters
        ours[f"{prefix}encoder.pos_conv.0.bias"] = ours.pop(f"{prefix}conv_pos.pos_conv.0.bias")
        for number, end in enumerate(ends):
            theirs = f"{prefix}conv_pos.pos_conv.0.parametrizations.weight.original{number}"
            ours[f"{prefix}encoder.pos_conv.0.{end}"] = ours.pop(theirs)
        found = converted(Checkpoint(golden.path, {**golden.state, "model": ours}))["model"]
        assert found.keys() == golden.parameters.keys()
        assert all(torch.equal(found[name], value) for name, value in golden.parameters.items())


def test_masking_classifier_can_be_read_without(golden_folder):
    golden = read_checkpoint(golden_folder / "tiny_finetuned.pt")
    parameters = {**golden.parameters, "encoder.mask_emb": torch.zeros(64)}
    ours = changed(Checkpoint(golden.path, {**golden.state, "model": parameters}), "model", apply_mask=True)
    found = converted(ours)
    assert found["cfg"]["model"]["apply_mask"] is False
    assert found["model"].keys() == golden.parameters.keys()


def test_same_bytes(golden, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = (write_ecg_fm(golden, describe(golden), tmp_path / name / "model.pt") for name in ("a", "b"))
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


@pytest.mark.parametrize(
    "section, option, value",
    [
        ("model", "pooling", "attention"),
        ("model", "pooling", "mean_std"),
        ("model", "layers", "mix"),
        ("model", "layer_type", "conformer"),
        ("model", "activation_fn", "relu"),
        ("model", "pos_conv_depth", 2),
        ("model", "_name", "ecg_wav2vec2"),
        ("criterion", "_name", "regression"),
    ],
)
def test_what_the_framework_has_not_is_refused(golden, section, option, value):
    with pytest.raises(UserError, match=f"{golden.path.name}: ECG-FM's framework has no .*{value}"):
        converted(changed(golden, section, **{option: value}))


def test_leads_become_numbers(golden):
    found = converted(changed(golden, "task", leads_to_load="I,II,V1"))["cfg"]["task"]["leads_to_load"]
    assert found == "[0, 1, 6]"
    assert np.array(yaml.safe_load(found)).tolist() == [0, 1, 6]
