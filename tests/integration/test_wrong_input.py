"""What a user gets wrong ends a training with one line and a non-zero status.

The command itself is run for a mistake of each kind; the others are made in this process, which takes a tenth of it.
"""

import numpy as np
import pytest
import torch
from in_process import train_here
from made_up import write_mat, write_shards
from running import SMALL, error_line, mistake_of, run, train, train_command

OVERRIDES = [*SMALL, "++optimization.max_update=3", "++dataset.disable_validation=true"]


@pytest.fixture()
def data(tmp_path):
    folder = tmp_path / "data"
    write_shards(folder, [5000] * 8)
    return folder


def line_of(data, *overrides):
    return mistake_of(train_here, data, data.parent / "run", *OVERRIDES, *overrides)


def line_of_command(data, *overrides):
    return error_line(run(train_command(data, data.parent / "run", *OVERRIDES, *overrides)))


def test_missing_manifest(data):
    assert "nosuch.tsv: no such manifest (manifests in this folder: train.tsv)" in line_of_command(
        data, "++dataset.train_subset=nosuch"
    )


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (
            "++task.segment_second=4",
            "task.segment_second: ecg_pretraining has no such option; did you mean task.segment_seconds?",
        ),
        (
            "++model.encoder_layer=4",
            "model.encoder_layer: wav2vec2_cmsc has no such option; did you mean model.encoder_layers?",
        ),
        (
            "++criterion.zzz=4",
            "criterion.zzz: wav2vec2_with_cmsc has no such option; it has infonce, loss_weights, log_keys",
        ),
        (
            "++task.segment_seconds=long",
            "task.segment_seconds: Value 'long' of type 'str' could not be converted to Float; give",
        ),
    ],
)
def test_an_option_that_is_not_there(data, typed, told):
    """The ++ is needed for what a config does not name, and then hydra checks nothing."""
    assert told in line_of_command(data, typed)


def test_empty_manifest(data):
    (data / "train.tsv").write_text("")
    assert "train.tsv: the manifest is empty" in line_of(data)


def test_malformed_line(data):
    (data / "train.tsv").write_text((data / "train.tsv").read_text() + "what is this\n")
    assert "train.tsv: line 10 is malformed: 'what is this'" in line_of(data)


def test_missing_shard(data):
    (data / "shards/00001.npy").unlink()
    assert "shards/00001.npy: no such file" in line_of(data)


def test_truncated_shard(data):
    path = data / "shards/00001.npy"
    path.write_bytes(path.read_bytes()[:-1])
    assert "shards/00001.npy: truncated" in line_of(data)


@pytest.mark.parametrize("workers", [0, 2])
def test_flipped_byte(data, workers):
    path = data / "shards/00001.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 16
    path.write_bytes(content)
    line = line_of_command(data, f"++dataset.num_workers={workers}", "++optimization.max_epoch=1")
    assert "shards/00001.npy: recording idx 7 (row 3): checksum differs (stored " in line


def test_wrong_sample_rate(data):
    assert "500 Hz where 400 Hz is wanted" in line_of(data, "++task.sample_rate=400")


def test_fewer_than_two_segments_everywhere(data):
    assert "none of 8 recordings has 12 s" in line_of(data, "++task.segment_seconds=6")


def test_nan_in_a_recording(data):
    feats = np.zeros((12, 5000))
    feats[1, 1] = np.nan
    write_mat(data / "a.mat", feats, idx=1)
    (data / "train.tsv").write_text(".\na.mat\t5000\n")
    assert "a.mat: NaN" in line_of(data)


@pytest.mark.parametrize(
    "override, message",
    [
        ("++task.leads_to_load='I,II,V9'", "unknown lead 'V9'"),
        ("++task.perturbation_mode=[shaking]", "shaking"),
        ("++task.pairs=all", "set task.pairs to fixed or random"),
        ("++task.pairs=none", "needs pairs of segments"),
        ("++task.leads_to_load='I,II'", "model.in_d=12, but the task gives 2 leads"),
        ("++model.conv_feature_layers='__import__(\"os\").getcwd()'", "is not a list of (features, kernel, stride)"),
    ],
)
def test_wrong_option(data, override, message):
    assert message in line_of(data, override)


def test_checkpoint_of_another_model(data, tmp_path):
    train(data, tmp_path / "other", *OVERRIDES, "++optimization.max_update=1", "++model.final_dim=8")
    line = line_of_command(data, f"++checkpoint.restore_file={tmp_path / 'other/checkpoints/checkpoint_last.pt'}")
    assert "checkpoint_last.pt: belongs to another model than Wav2Vec2CmscModel here: quantizer.vars" in line
    assert "quantizer.vars is (1, 32, 4) there and (1, 32, 8) here (and 4 more)" in line


def test_validate_reports_damage(data, tmp_path):
    """fairseq-validate, which has no hydra around it."""
    from running import BIN, user_dir

    train(data, tmp_path / "run", *OVERRIDES, "++optimization.max_update=1")
    checkpoint = tmp_path / "run/checkpoints/checkpoint_last.pt"
    assert torch.load(checkpoint, weights_only=True)["cfg"]["task"]["_name"] == "ecg_pretraining"
    command = [str(BIN / "fairseq-validate"), str(data), "--user-dir", user_dir(), "--task", "ecg_pretraining"]
    command += ["--path", str(checkpoint), "--valid-subset", "train", "--batch-size", "4", "--cpu"]
    done = run(command)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "cmsc_accuracy" in done.stdout + done.stderr
    (data / "shards/00001.npy").unlink()
    assert "shards/00001.npy: no such file" in error_line(run(command))
