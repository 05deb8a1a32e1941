"""`ecg_data2vec` through the commands: pretrained, resumed, begun with ECG-FM's weights, fine-tuned, used, exported."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
from fine_tuning import CONFIGS as FINE_TUNING
from fine_tuning import SMALL_RUN, write_labelled
from in_process import saved, train_here
from running import SMALL, error_line, logged, mistake_of, run, train, train_command, weights
from test_published_checkpoints import GOLDEN

import fairseq_signals_ext
from fairseq_signals_ext import cli

TINY = {"config": "ecg_data2vec_tiny"}
SMALL_DATA2VEC = [*SMALL, "++model.encoder_layers=2"]
QUIET = ["++dataset.disable_validation=true", "++common.log_interval=1"]
TWO = ["++optimization.max_update=2", *QUIET]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_labelled(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def pretrained(data, tmp_path_factory):
    """A checkpoint after two updates."""
    return train_here(data, tmp_path_factory.mktemp("run"), *SMALL_DATA2VEC, *TWO, **TINY) / "checkpoint_last.pt"


def succeeds(*arguments):
    assert not cli.main([str(argument) for argument in arguments])


def test_a_resumed_run_is_an_unbroken_one(data, tmp_path):
    options = [*SMALL_DATA2VEC, *QUIET, "++model.dropout=0.1", "++model.encoder_layerdrop=0.3"]
    four = train_here(data, tmp_path / "unbroken", *options, "++optimization.max_update=4", **TINY)
    for updates in (2, 4):
        found = train_here(data, tmp_path / "broken", *options, f"++optimization.max_update={updates}", **TINY)
    expected, found = saved(four)["model"], saved(found)["model"]
    assert expected.keys() == found.keys() and any(name.startswith("teacher.") for name in found)
    assert max(float((expected[name] - found[name]).abs().max()) for name in expected) == 0


@pytest.mark.parametrize("loss", ["regression", "both"])
def test_it_begins_with_the_weights_of_ecg_fm(data, golden_folder, tmp_path, caplog, loss):
    published = golden_folder / "tiny_pretrained.pt"
    start = [f"++checkpoint.finetune_from_model={published}", f"++model.loss={loss}", "++optimization.lr=[0.0]"]
    with caplog.at_level(logging.INFO):
        out = train_here(data, tmp_path, *GOLDEN, *start, *TWO, "++optimizer.weight_decay=0.0", **TINY)
    (told,) = [record.getMessage() for record in caplog.records if "begins with another" in record.getMessage()]
    left_out = "quantizer, project_q, final_proj" if loss == "regression" else "nothing"
    assert told.endswith(f"new, from random weights: regression_head; left out: {left_out}")
    found = saved(out)["model"]
    for name, value in weights(published).items():
        ours = name.replace("conv_pos.pos_conv.", "encoder.pos_conv.")
        if ours in found:
            assert (found[ours] == value).all()
    for name in found:
        if name.startswith("teacher."):  # of a student that stands still
            assert float((found[name] - found[f"encoder.{name[8:]}"]).abs().max()) <= 1e-6
    assert saved(out)["task_state"]["standardization"] == "lead"


def test_a_collapse_ends_the_training_in_one_line(data, tmp_path):
    """A student that is its own teacher, at a rate that destroys it."""
    forced = ["++model.ema_decay=0", "++model.ema_end_decay=0", "++optimization.lr=[0.1]", "++criterion.cmsc_weights=0"]
    options = [*SMALL_DATA2VEC, *QUIET, *forced, "++optimization.max_update=200", "++optimization.max_epoch=200"]
    done = run(train_command(data, tmp_path, *options, "task.pairs=none", **TINY))
    line = error_line(done)
    assert (
        "the training has collapsed: the teacher gives nearly the same output for all recordings (deviation 0.0" in line
    )


@pytest.mark.slow
def test_five_healthy_runs_do_not_trip(data, tmp_path):
    for seed in range(1, 6):
        options = [*SMALL_DATA2VEC, *QUIET, f"common.seed={seed}", "++optimization.max_update=100"]
        log = train(data, tmp_path / str(seed), *options, "++optimization.max_epoch=100", **TINY)
        assert min(logged(log, "target_std")) > 0.3 and min(logged(log, "target_rank")) > 1.5


def test_the_loss_falls(data, tmp_path):
    log = train(data, tmp_path, *SMALL_DATA2VEC, "optimization.max_update=40", "++common.log_interval=10", **TINY)
    losses = logged(log, "loss_regression")
    assert losses[-1] < 0.85 * losses[0]
    assert logged(log, "ema_decay")[-1] > 0.99 and logged(log, "target_std")[-1] > 0.3


def test_both_objectives_without_cmsc_on_single_segments(data, tmp_path, caplog):
    options = [*SMALL_DATA2VEC, *TWO, "++model.loss=both", "++criterion.cmsc_weights=0", "task.pairs=none"]
    with caplog.at_level(logging.INFO):
        train_here(data, tmp_path, *options, "++dataset.disable_validation=false", **TINY)
    (line,) = [record.getMessage() for record in caplog.records if '"valid_loss"' in record.getMessage()]
    there = {name for name in ("loss_0", "accuracy", "loss_regression", "loss_3") if f'"valid_{name}"' in line}
    assert there == {"loss_0", "accuracy", "loss_regression"}


def test_fine_tuning_takes_the_student(data, pretrained, tmp_path, capsys):
    given = [f"task.label_file={data / 'labels'}", f"model.model_path={pretrained}", *SMALL_RUN, *TWO]
    tuned = train_here(data, tmp_path / "tuned", *given, "++optimization.lr=[0.0]", configs=FINE_TUNING)
    before, after = weights(pretrained), saved(tuned)["model"]
    assert not any("teacher" in name or "regression_head" in name for name in after)
    for name in ("encoder.layers.1.fc1.weight", "feature_extractor.conv_layers.0.0.weight"):
        assert (after[f"encoder.{name}"] == before[name]).all()
    succeeds("export", tuned / "checkpoint_last.pt", "--to", "onnx", "--out", tmp_path / "onnx")
    found = []
    for number, source in enumerate((tuned / "checkpoint_last.pt", tmp_path / "onnx")):
        succeeds("predict", source, data / "test.tsv", "--out", tmp_path / f"p{number}", "--device", "cpu")
        found.append(pd.read_csv(tmp_path / f"p{number}" / "predictions.csv").filter(like="probability_").to_numpy())
    np.testing.assert_allclose(*found, rtol=0, atol=1e-4)


def test_what_is_used_of_a_pretraining(data, pretrained, tmp_path, capsys):
    succeeds("export", pretrained, "--to", "safetensors", "--out", tmp_path / "safetensors")
    found = []
    for number, source in enumerate((pretrained, tmp_path / "safetensors")):
        succeeds("embed", source, data / "test.tsv", "--out", tmp_path / f"e{number}", "--device", "cpu")
        found.append(np.load(tmp_path / f"e{number}" / "embeddings.npy"))
    assert found[0].shape == (16, 32) and np.ptp(found[0]) > 0
    np.testing.assert_array_equal(*found)
    succeeds(
        "explain", pretrained, data / "test.tsv", "--device", "cpu", "--out", tmp_path / "x", "--method", "attention"
    )
    assert len(list((tmp_path / "x").glob("*.npz"))) == 16
    capsys.readouterr()
    succeeds("inspect", pretrained, "--json")
    told = json.loads(capsys.readouterr().out)["model"]
    assert told["name"] == "ecg_data2vec" and told["layers"] == 2 and "codebooks" not in told
    assert fairseq_signals_ext.load(pretrained).network.layers == 2


MISTAKES = {
    "++model.average_top_k_layers=0": "model.average_top_k_layers=0: use 1 or more",
    "++model.ema_decay=1.5": "model.ema_decay=1.5: must be from 0 to 1",
    "++model.loss_beta=-1": "model.loss_beta=-1: use 0, or a number above",
    "task.pairs=none": "data2vec_with_cmsc needs pairs of segments",
}


@pytest.mark.parametrize("option", MISTAKES)
def test_mistakes(data, tmp_path, option):
    told = mistake_of(train_here, data, tmp_path, *SMALL_DATA2VEC, *TWO, option, **TINY)
    assert MISTAKES[option] in told


def test_a_model_without_teacher_is_refused(data, tmp_path):
    told = mistake_of(train_here, data, tmp_path, *SMALL, *TWO, "criterion._name=data2vec_with_cmsc")
    assert "regresses on a teacher; use it with model._name=ecg_data2vec" in told
