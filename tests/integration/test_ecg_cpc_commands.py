"""`ecg_cpc` through the commands: pretrained, resumed, fine-tuned, used, explained, exported."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from fine_tuning import CONFIGS as FINE_TUNING
from fine_tuning import SMALL_RUN, write_labelled
from in_process import saved, train_here
from running import mistake_of, weights

import fairseq_signals_ext
from fairseq_signals_ext import cli

SMALL_CPC = [
    "++model.conv_feature_layers='[(16, 10, 10), (32, 5, 5)]'",
    "++model.encoder_layers=2",
    "++model.encoder_embed_dim=32",
    "++model.prediction_steps=2",
    "++model.num_negatives=10",
    *SMALL_RUN,
]
TWO = ["++optimization.max_update=2", "++dataset.validate_interval=1", "++common.log_interval=1"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Data, and a checkpoint after two updates."""
    folder = tmp_path_factory.mktemp("cpc")
    data = write_labelled(folder / "data")
    out = train_here(data, folder / "pretraining", *SMALL_CPC, *TWO, config="ecg_cpc_tiny")
    return data, out / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def tuned(pretrained, tmp_path_factory):
    """A classifier after two updates, on segments of another length than the pretraining's."""
    data, checkpoint = pretrained
    given = [f"task.label_file={data / 'labels'}", f"model.model_path={checkpoint}", *SMALL_RUN, *TWO]
    return train_here(data, tmp_path_factory.mktemp("tuned"), *given, configs=FINE_TUNING) / "checkpoint_last.pt"


def succeeds(*arguments):
    assert not cli.main([str(argument) for argument in arguments])


def test_a_resumed_run_is_an_unbroken_one(pretrained, tmp_path):
    options = [*SMALL_CPC, "++dataset.disable_validation=true", "++dataset.batch_size=4", "++dataset.num_workers=0"]
    # the learning rate depends on the last update, so it is the same in both
    options += ["lr_scheduler._name=fixed", "~lr_scheduler.min_lr", "~lr_scheduler.warmup_init_lr"]
    found = [
        train_here(
            pretrained[0], tmp_path / name, *options, f"++optimization.max_update={updates}", config="ecg_cpc_tiny"
        )
        for name, updates in (("unbroken", 4), ("broken", 2), ("broken", 4))
    ]
    expected, resumed = (saved(folder)["model"] for folder in (found[0], found[2]))
    assert expected.keys() == resumed.keys() and any(name.startswith("predictor.") for name in expected)
    assert max(float((expected[name] - resumed[name]).abs().max()) for name in expected) == 0


def test_the_log_has_loss_and_accuracy(pretrained, tmp_path, caplog):
    with caplog.at_level("INFO"):
        train_here(pretrained[0], tmp_path, *SMALL_CPC, *TWO, config="ecg_cpc_tiny")
    told = [json.loads(record.getMessage()) for record in caplog.records if record.name == "train_inner"]
    for line in told:
        # eleven choices, at random
        assert 0 < float(line["loss"]) < 20 and 0 <= float(line["accuracy"]) <= 1
    assert len(told) == 2


def test_the_classifier_has_the_encoder_alone(pretrained, tuned):
    before, after = weights(pretrained[1]), weights(tuned)
    names = {name for name in before if name.startswith("encoder.")}
    assert {name for name in after if name.startswith("encoder.")} == {f"encoder.{name}" for name in names}
    for name in names:
        torch.testing.assert_close(after[f"encoder.{name}"], before[name], rtol=0, atol=0.005)


def test_exports_agree_with_the_checkpoint(pretrained, tuned, tmp_path):
    found = {}
    for to in ("onnx", "torchscript", "safetensors"):
        succeeds("export", tuned, "--to", to, "--out", tmp_path / to)
    for name, source in [("pt", tuned), *((to, tmp_path / to) for to in ("onnx", "torchscript", "safetensors"))]:
        succeeds("predict", source, pretrained[0] / "test.tsv", "--out", tmp_path / f"p{name}", "--device", "cpu")
        found[name] = pd.read_csv(tmp_path / f"p{name}" / "predictions.csv")["probability_label_1"].to_numpy()
    assert np.ptp(found["pt"]) > 0
    for name, values in found.items():
        np.testing.assert_allclose(values, found["pt"], atol=1e-4, err_msg=name)


@pytest.mark.parametrize("options, shape", [((), (16, 32)), (("--per", "frame", "--layer", "1"), None)])
def test_embed(pretrained, tmp_path, options, shape):
    """A segment of 2.5 s has 25 frames of 50 samples."""
    data, checkpoint = pretrained
    succeeds("embed", checkpoint, data / "test.tsv", "--out", tmp_path / "e", "--device", "cpu", *options)
    found = np.load(tmp_path / "e" / "embeddings.npy")
    assert found.shape == shape if shape else found.shape[1] == 32 and found.shape[0] % 25 == 0


def test_explain(pretrained, tuned, tmp_path):
    """By gradients; attention, the default, is refused before anything is read."""
    given = ["explain", tuned, pretrained[0] / "test.tsv", "--device", "cpu", "--out", tmp_path / "e"]
    told = mistake_of(cli.main, [*map(str, given)])
    assert told.endswith("its encoder has no attention; use the method gradient or occlusion")
    succeeds(*given, "--method", "gradient", "--steps", 4)
    assert len(list((tmp_path / "e").glob("*.npz"))) == 16


def test_inspect_and_load(pretrained, tuned, capsys):
    for checkpoint, frames in ((tuned, 50), (pretrained[1], 25)):
        succeeds("inspect", checkpoint, "--json")
        told = json.loads(capsys.readouterr().out)["model"]
        assert (told["layers"], told["dimensions"], told["states_per_dimension"]) == (2, 32, 8)
        assert (told["samples_per_frame"], told["frames_per_segment"]) == (50, frames)
    model = fairseq_signals_ext.load(tuned)
    assert model.network.layers == 2 and model.network.geometry.hop == 50


@pytest.mark.parametrize(
    ("option", "value"),
    [("encoder_embed_dim", 10**9), ("state_size", 0), ("conv_feature_layers", "x"), ("encoder_layers", 10**6)],
)
def test_sizes_in_a_checkpoint_are_bounded(pretrained, tuned, tmp_path, option, value):
    state = torch.load(tuned, weights_only=True)
    state["cfg"]["model"]["encoder"][option] = value
    torch.save(state, tmp_path / "bad.pt")
    given = ["predict", str(tmp_path / "bad.pt"), str(pretrained[0] / "test.tsv"), "--out", str(tmp_path / "p")]
    assert option in mistake_of(cli.main, given)


def test_segments_that_are_too_short(pretrained, tmp_path):
    told = mistake_of(
        train_here, pretrained[0], tmp_path, *SMALL_CPC, *TWO, "++model.prediction_steps=60", config="ecg_cpc_tiny"
    )
    assert "model.prediction_steps=60: segments have 25 frames, 62 are needed" in told
