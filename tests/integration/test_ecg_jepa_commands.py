"""A JEPA through the real commands: pretrained, fine-tuned, and its teacher used by all that uses an encoder."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from fine_tuning import CONFIGS as FINE_TUNING
from fine_tuning import SMALL_RUN, write_labelled
from in_process import train_here
from running import mistake_of, weights

import fairseq_signals_ext
from fairseq_signals_ext import cli

# the made-up data are standardised lead by lead
SMALL_JEPA = [
    "~task.standardize",
    "++model.patch_size=50",
    "++model.encoder_layers=2",
    "++model.encoder_embed_dim=32",
    "++model.encoder_ffn_embed_dim=64",
    "++model.predictor_layers=1",
    "++model.predictor_embed_dim=16",
    *SMALL_RUN,
]
TWO = ["++optimization.max_update=2", "++dataset.validate_interval=1", "++common.log_interval=1"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Data, and a checkpoint after two updates."""
    folder = tmp_path_factory.mktemp("jepa")
    data = write_labelled(folder / "data")
    out = train_here(data, folder / "pretraining", *SMALL_JEPA, *TWO, config="ecg_jepa_tiny")
    return data, out / "checkpoint_last.pt"


def fine_tuned(pretrained, out, *options):
    """The checkpoint after two updates, on segments of another length than the pretraining's."""
    data, checkpoint = pretrained
    given = [f"task.label_file={data / 'labels'}", f"model.model_path={checkpoint}", *SMALL_RUN, *TWO, *options]
    return train_here(data, out, *given, configs=FINE_TUNING) / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def tuned(pretrained, tmp_path_factory):
    return fine_tuned(pretrained, tmp_path_factory.mktemp("tuned"))


def succeeds(*arguments):
    assert not cli.main([str(argument) for argument in arguments])


def test_the_classifier_has_the_teacher(pretrained, tuned):
    before, after = weights(pretrained[1]), weights(tuned)
    names = {name for name in before if name.startswith("teacher.")}
    assert {name for name in after if name.startswith("encoder.")} == {f"encoder.{name}" for name in names}
    for name in names:
        torch.testing.assert_close(after[f"encoder.{name}"], before[name], rtol=0, atol=0.005)
        assert not torch.equal(after[f"encoder.{name}"], before[name])


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["++model.linear_probe=true"], id="linear probe"),
        pytest.param(["++model.freeze_finetune_updates=1", "++model.apply_mask=true"], id="frozen, then masked"),
    ],
)
def test_ways_to_fine_tune(pretrained, tmp_path, options):
    before, after = weights(pretrained[1]), weights(fine_tuned(pretrained, tmp_path, *options))
    name = "teacher.stack.0.fc1.weight"
    assert torch.equal(after[f"encoder.{name}"], before[name]) == ("++model.linear_probe=true" in options)
    assert after["proj.bias"].abs().max() > 0


def test_layer_decay(pretrained, tmp_path):
    """Each layer has half the rate of the one above it; patches are below the first."""
    options = ["mode=layer_decay", "++model.layer_decay=0.5", "++criterion.pos_weight=null", "++dataset.num_workers=0"]
    data, checkpoint = pretrained
    given = [f"task.label_file={data / 'labels'}", f"model.model_path={checkpoint}", *SMALL_RUN, *TWO, *options]
    train_here(data, tmp_path, *given, "++optimization.lr=[0.01]", config="ecg_interpretation", configs=FINE_TUNING)
    before, after = weights(checkpoint), weights(tmp_path / "checkpoint_last.pt")
    names = ["teacher.embed.weight", "teacher.stack.0.fc1.weight", "teacher.stack.1.fc1.weight"]
    steps = [float((after[f"encoder.{name}"] - before[name]).abs().max()) for name in names]
    assert 0 < steps[0] < 0.7 * steps[1] < 0.5 * steps[2]


def test_exports_agree_with_the_checkpoint(pretrained, tuned, tmp_path):
    data, _ = pretrained
    found = {}
    for to in ("onnx", "torchscript", "safetensors"):
        succeeds("export", tuned, "--to", to, "--out", tmp_path / to)
    for name, source in [("pt", tuned), *((to, tmp_path / to) for to in ("onnx", "torchscript", "safetensors"))]:
        succeeds("predict", source, data / "test.tsv", "--out", tmp_path / f"p{name}", "--device", "cpu")
        found[name] = pd.read_csv(tmp_path / f"p{name}" / "predictions.csv")["probability_label_1"].to_numpy()
    assert np.ptp(found["pt"]) > 0
    for name, values in found.items():
        np.testing.assert_allclose(values, found["pt"], atol=1e-4, err_msg=name)


@pytest.mark.parametrize("options, shape", [((), (16, 32)), (("--per", "frame", "--layer", "1"), None)])
def test_embed(pretrained, tmp_path, options, shape):
    """A segment of 10 s has 100 frames of 50 samples; the register token is none of them."""
    data, checkpoint = pretrained
    succeeds("embed", checkpoint, data / "test.tsv", "--out", tmp_path / "e", "--device", "cpu", *options)
    found = np.load(tmp_path / "e" / "embeddings.npy")
    assert found.shape == shape if shape else found.shape[1] == 32 and found.shape[0] % 100 == 0


@pytest.mark.parametrize("method", ["attention", "rollout", "gradient"])
def test_explain(pretrained, tuned, tmp_path, method):
    succeeds(
        "explain",
        tuned,
        pretrained[0] / "test.tsv",
        "--device",
        "cpu",
        "--out",
        tmp_path,
        "--method",
        method,
        "--steps",
        4,
    )
    assert len(list(tmp_path.glob("*.npz"))) == 16


def test_inspect(pretrained, tuned, capsys):
    told = []
    for checkpoint in (tuned, pretrained[1]):
        succeeds("inspect", checkpoint, "--json")
        told.append(json.loads(capsys.readouterr().out)["model"])
    assert told[0]["encoder"] == "ecg_jepa" and told[0]["samples_per_frame"] == told[0]["samples_per_patch"] == 50
    assert [model["layers"] for model in told] == [2, 2] and told[0]["dimensions"] == 32
    assert [model["frames_per_segment"] for model in told] == [50, 100]


def test_load(pretrained, tuned):
    """The file alone is enough, in Python, too."""
    model = fairseq_signals_ext.load(tuned)
    assert model.network.layers == 2 and model.network.geometry.hop == 50


def test_sizes_in_a_checkpoint_are_bounded(pretrained, tuned, tmp_path):
    for option, value in (
        ("encoder_embed_dim", 10**9),
        ("patch_size", 0),
        ("patching", "all"),
        ("predictor_layers", 1e9),
    ):
        state = torch.load(tuned, weights_only=True)
        state["cfg"]["model"]["encoder"][option] = value
        torch.save(state, tmp_path / "bad.pt")
        told = mistake_of(
            cli.main, ["predict", str(tmp_path / "bad.pt"), str(pretrained[0] / "test.tsv"), "--out", "p"]
        )
        assert f"its model.{option} is" in told


MISTAKES = {
    "model.encoder_attention_heads=5": "model.encoder_embed_dim=32: must be a multiple of encoder_attention_heads=5",
    "model.mask_block=100": "which blocks of model.mask_block=100 would hide",
    "model.visible_min=0.5": "model.visible_min=0.5 and visible_max=0.25",
    "model.weight_decay_schedule=[0.1]": "give two numbers",
    "model.average_top_k_layers=3": "there are encoder_layers=2",
    "model.ema_decay=1.5": "must be from 0 to 1",
}


@pytest.mark.parametrize("option", MISTAKES)
def test_mistakes(pretrained, tmp_path, option):
    told = mistake_of(train_here, pretrained[0], tmp_path, *SMALL_JEPA, *TWO, f"++{option}", config="ecg_jepa_tiny")
    assert MISTAKES[option] in told
