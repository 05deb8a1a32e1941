"""The small config learns on real recordings: the longer proof, run by `make proofs`."""

import json

import pytest
from running import BIN, CONFIGS, logged, run, train

NEGATIVES, PAIRS = 50, 16  # of tiny.yaml


@pytest.mark.slow
def test_two_hundred_updates_on_real_recordings(ecg_data, tmp_path):
    prepared = tmp_path / "prepared"
    command = [str(BIN / "fairseq-signals-ext"), "prepare", "wfdb", str(ecg_data / "cinc2021"), "--out", str(prepared)]
    assert run(command).returncode == 0
    assert run([command[0], "split", str(prepared), "--name", "random"]).returncode == 0
    log = train(prepared / "splits" / "random", tmp_path / "run")
    loss, accuracy, cmsc = (logged(log, f"train_{key}") for key in ("loss", "accuracy", "cmsc_accuracy"))
    figures = {
        "train loss (bits)": (loss[0], loss[-1]),
        "masked accuracy": (accuracy[0], accuracy[-1], "chance", 1 / (1 + NEGATIVES)),
        "CMSC accuracy": (cmsc[0], cmsc[-1], "chance", 1 / PAIRS),
        "validation": {key: logged(log, f"valid_{key}")[-1] for key in ("loss", "accuracy", "cmsc_accuracy")},
    }
    print(f"\n{CONFIGS / 'tiny.yaml'}, 200 updates: first and last epoch\n{json.dumps(figures, indent=1)}")
    assert loss[-1] < 0.75 * loss[0]
    assert accuracy[-1] > 4 / (1 + NEGATIVES)
    assert cmsc[-1] > 5 / PAIRS
