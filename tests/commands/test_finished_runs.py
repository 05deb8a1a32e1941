"""`--resume` where a run is finished."""

import json

import numpy as np
import pytest
from made_up import made_up_counts
from made_up_checkpoints import saved_checkpoint
from running import mistake_of

from fairseq_signals_ext.cli import main

RATE = ("--input-rate", "100", "--input-unit", "mV")
OTHER = {
    "predict": ["--segments"],
    "embed": ["--format", "parquet"],
    "explain": ["--picture", "none"],
    "report": ["--anonymous"],
}


def write_npy(path):
    np.save(path, made_up_counts(np.random.default_rng(0), 5000, 12) / 1000)
    return path


@pytest.mark.parametrize("command", OTHER)
def test_nothing_is_left_to_do(command, tmp_path, capsys):
    checkpoint, out = saved_checkpoint(tmp_path / "model.pt"), tmp_path / "out"
    how = [*RATE, "--out", str(out), "--device", "cpu"]
    run = [command, str(checkpoint), str(write_npy(tmp_path / "x.npy")), *how]
    assert main(run) == 0
    files = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    capsys.readouterr()
    assert main([*run, "--resume"]) == 0
    assert capsys.readouterr().out == f"{out}: finished already; nothing is left to do\n"
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == files

    option = OTHER[command][0].lstrip("-")
    assert f"{out}: its finished run had another {option}; give the same, or" in mistake_of(
        main, [*run, "--resume", *OTHER[command]]
    )
    other = [command, str(checkpoint), str(write_npy(tmp_path / "y.npy")), *how, "--resume"]
    assert "had another list of recordings" in mistake_of(main, other)


def test_a_missing_file_and_a_damaged_record(tmp_path, capsys):
    checkpoint, out = saved_checkpoint(tmp_path / "model.pt"), tmp_path / "out"
    run = ["report", str(checkpoint), str(write_npy(tmp_path / "x.npy")), *RATE, "--out", str(out)]
    assert main(run) == 0
    page = (out / "x.html").read_bytes()
    for break_it in ((out / "x.html").unlink, lambda: (out / ".finished.json").write_text(json.dumps([]))):
        break_it()
        assert main([*run, "--resume"]) == 0
        assert (out / "x.html").read_bytes() == page
        assert "nothing is left" not in capsys.readouterr().out
