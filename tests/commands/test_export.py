"""The command `export`."""

import re
import subprocess
import sys

import numpy as np
import pytest
from made_up_checkpoints import saved_checkpoint

from fairseq_signals_ext.cli import main


def test_real_command(golden_folder, tmp_path):
    import onnxruntime

    command = [sys.executable, "-m", "fairseq_signals_ext", "export", str(golden_folder / "tiny_pretrained.pt")]
    options = ["--to", "onnx", "--out", str(tmp_path / "out")]
    found = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    lines = found.stdout.splitlines()
    files = [str(tmp_path / "out" / name) for name in ("config.json", "model.onnx")]
    assert [re.sub(r"  \d+(\.\d+)? [kM]B$", "", line) for line in lines[:2]] == files
    told = re.fullmatch(r"largest difference of embedding: (\d\.\de[-+]\d\d)", lines[2])
    assert told and float(told.group(1)) <= 5e-6
    assert len(lines) == 3 and found.stderr == ""

    golden = np.load(golden_folder / "tiny_golden.npz")
    given = {"source": golden["source"], "padding_mask": np.zeros((8, 2500), bool)}
    (embedding,) = onnxruntime.InferenceSession(files[1]).run(None, given)
    assert np.abs(embedding - golden["encoder_out"].mean(axis=1)).max() <= 5e-6


def test_default_folder_and_overwrite(tmp_path, capsys):
    path = saved_checkpoint(tmp_path / "checkpoint_best.pt", "regression")
    assert main(["export", str(path), "--to", "torchscript"]) == 0
    assert "largest difference of values: " in capsys.readouterr().out
    assert (tmp_path / "checkpoint_best-torchscript" / "model.pt").is_file()
    with pytest.raises(SystemExit, match="error: .*checkpoint_best-torchscript: is not empty; give another folder"):
        main(["export", str(path), "--to", "torchscript"])
    assert main(["export", str(path), "--to", "torchscript", "--overwrite"]) == 0


def test_mistakes_are_one_line(tmp_path):
    path = saved_checkpoint(tmp_path / "model.pt")
    (tmp_path / "two.csv").write_text("name\nA\nB\n")
    (tmp_path / "empty").mkdir()
    mistakes = {
        "no such checkpoint": [str(tmp_path / "none.pt"), "--to", "onnx"],
        "its labels are not those of": [str(path), "--to", "onnx", "--labels", str(tmp_path / "two.csv")],
        "no such file; give a folder that fairseq-signals-ext export made": [str(tmp_path / "empty"), "--to", "onnx"],
    }
    for message, arguments in mistakes.items():
        with pytest.raises(SystemExit, match=f"error: .*{message}") as error:
            main(["export", *arguments])
        assert "\n" not in str(error.value)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["empty", "model.pt", "two.csv"]


def test_format_is_required(tmp_path, capsys):
    for arguments in ([], ["--to", "keras"]):
        with pytest.raises(SystemExit):
            main(["export", str(tmp_path / "model.pt"), *arguments])
        assert "--to" in capsys.readouterr().err
