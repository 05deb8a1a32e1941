"""`benchmark`, as a user runs it: features, controls, probes and tables of real recordings."""

import pytest
from made_up_checkpoints import saved_checkpoint

from fairseq_signals_ext import cli
from fairseq_signals_ext.benchmarking.results import read_results


def test_a_checkpoint_is_compared_with_its_controls(ecg_data, tmp_path, capsys):
    data, model = tmp_path / "data", saved_checkpoint(tmp_path / "model.pt", "pretraining")
    cli.main(["prepare", "physionet2021", str(ecg_data / "cinc2021" / "cpsc_2018"), "--out", str(data)])
    line = ["benchmark", str(model), "--data", str(data), "--tasks", "sex,heart-rate", "--out", str(tmp_path / "out")]
    line += ["--fold-seeds", "1", "--resamples", "50"]
    assert cli.main(line) == 0
    found = read_results(tmp_path / "out")
    assert [one.kind for one in found.models] == ["checkpoint", "random", "measures"]
    assert found.models[0].control == found.models[1].name
    # the measure is the target here, and the notes say so
    assert found.macro("heart-rate", "last")["hand-made measures"].point > 0.9
    assert "by the measure heart_rate" in found.tasks[1].notes[0]
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    capsys.readouterr()
    assert cli.main([*line, "--resume"]) == 0
    assert "protocol strict" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()} == before
    with pytest.raises(SystemExit, match="continue with --resume"):
        cli.main(line)
    with pytest.raises(SystemExit, match="no source georgia; its sources are cpsc_2018"):
        cli.main([*line[:4], "--tasks", "georgia", "--out", str(tmp_path / "other")])
