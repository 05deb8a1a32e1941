"""Wrong inputs instead of a model or data: one line with the problem and a hint."""

import re

import numpy as np
import pytest
from made_up import made_up_counts, write_shards
from made_up_checkpoints import saved_checkpoint
from made_up_wfdb import write_wfdb
from PIL import Image

from fairseq_signals_ext.cli import main

RATE = ("--input-rate", "500", "--input-unit", "mV")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with two checkpoints, an ECG and a picture."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "run" / "checkpoints").mkdir(parents=True)
    for name in ("best", "last"):
        saved_checkpoint(folder / "run" / "checkpoints" / f"checkpoint_{name}.pt")
    write_wfdb(folder / "r", made_up_counts(np.random.default_rng(0), 1000))
    Image.new("L", (9, 9)).save(folder / "picture.png")
    (folder / "like.dcm").write_bytes(bytes(128) + b"DICM" + bytes(range(200)))
    return folder


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("run", "run: is the folder of a training, not a checkpoint; give {}/run/checkpoints/checkpoint_best.pt"),
        ("run/checkpoints", "checkpoints: is the folder of a training, .* give {}/run/checkpoints/checkpoint_best.pt"),
        ("picture.png", "picture.png: is a PNG picture, not a checkpoint; give the .pt"),
        ("like.dcm", "like.dcm: is a DICOM file, not a checkpoint; give the .pt"),
    ],
)
def test_inputs_that_are_no_model(folder, model, told):
    out = str(folder / "out")
    commands = [["inspect", str(folder / model)], ["export", str(folder / model), "--to", "onnx", "--out", out]]
    for command in ("predict", "embed", "explain", "report"):
        commands.append([command, str(folder / model), str(folder / "r.hea"), "--out", out])
    for command in commands:
        with pytest.raises(SystemExit, match=told.format(re.escape(str(folder)))) as found:
            main(command)
        assert "\n" not in str(found.value)


@pytest.mark.parametrize("command", ["predict", "embed", "explain", "report"])
def test_the_ecg_before_the_checkpoint(folder, command):
    model, ecg = str(folder / "run/checkpoints/checkpoint_best.pt"), str(folder / "r.hea")
    told = f"r.hea: is in the place of the model; give the checkpoint first: {command} {model} {ecg} ..."
    with pytest.raises(SystemExit, match=re.escape(told)):
        main([command, ecg, model, "--out", str(folder / "out")])


def test_data_without_the_split(folder, tmp_path):
    """As `evaluate --data` and `task.data` look for a subset; the second is tested with the real training."""
    model = str(folder / "run/checkpoints/checkpoint_best.pt")
    options = ["--subset", "test", "--out", str(tmp_path / "out")]
    write_shards(tmp_path / "data", [1000], split="all")
    with pytest.raises(SystemExit, match="without splits.; make one: fairseq-signals-ext split .*/data --name main"):
        main(["evaluate", model, "--data", str(tmp_path / "data"), *options])
    for name in ("a", "b"):
        (tmp_path / "data" / "splits" / name).mkdir(parents=True)
        (tmp_path / "data" / "splits" / name / "test.tsv").write_text("../..\nshards/00000.npy\t0\t1000\n")
    with pytest.raises(SystemExit, match="with the splits a, b.; give the folder .*/data/splits/a"):
        main(["evaluate", model, "--data", str(tmp_path / "data"), *options])


def test_suggested_commands_are_quoted_for_a_shell(folder, tmp_path):
    model, data = str(folder / "run/checkpoints/checkpoint_best.pt"), tmp_path / "my data"
    write_shards(data, [1000], split="all")
    with pytest.raises(SystemExit, match="fairseq-signals-ext split '.*/my data' --name main"):
        main(["evaluate", model, "--data", str(data), "--subset", "test", "--out", str(tmp_path / "out")])


def test_results_of_ours_are_no_ecgs(tmp_path, capsys):
    """A folder of results may be within that of the ECGs."""
    checkpoint = saved_checkpoint(tmp_path / "model.pt")
    ecgs = tmp_path / "ecgs"
    ecgs.mkdir()
    np.save(ecgs / "a.npy", made_up_counts(np.random.default_rng(0), 5000, 12) / 1000)
    for name in ("one", "two"):
        run = ["predict", str(checkpoint), str(ecgs), *RATE, "--out", str(ecgs / name)]
        assert main(run) == 0
        assert f"{ecgs / name / 'predictions.csv'}: 1 recording\n" in capsys.readouterr().out


def test_a_reason_does_not_repeat_the_file(tmp_path, monkeypatch, capsys):
    checkpoint = saved_checkpoint(tmp_path / "model.pt")
    np.save(tmp_path / "nan.npy", np.full((12, 5000), np.nan))
    monkeypatch.chdir(tmp_path)
    assert main(["predict", str(checkpoint), "nan.npy", *RATE, "--out", "out"]) == 1
    assert "\n  nan.npy: all its samples are marked as missing" in capsys.readouterr().out
