"""Ctrl-C in a training: one line, which says how it goes on."""

import os
import signal
import subprocess
import time

import pytest
from made_up import write_shards
from running import SMALL, train_command

from fairseq_signals_ext.tasks._options import LAST


def interrupt(command, out, is_ready):
    """Type Ctrl-C when it is ready, to all of its processes as a terminal does; gives what it then printed."""
    log = out.with_suffix(".txt")
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        until = time.monotonic() + 180
        while not is_ready(log.read_text(encoding="utf-8")) and time.monotonic() < until and process.poll() is None:
            time.sleep(0.2)
        before = len(log.read_text(encoding="utf-8"))
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
    printed = log.read_text(encoding="utf-8")[before:].splitlines()
    return process.returncode, [line for line in printed if line and not line.startswith("[")]


@pytest.fixture
def command(tmp_path):
    """A training without an end."""
    for split in ("train", "valid"):
        write_shards(tmp_path / "data", [5000] * 8, split=split)
    endless = ["optimization.max_update=100000", "dataset.validate_interval=100000", "common.log_interval=1"]
    small = [option for option in SMALL if "num_workers" not in option]
    saving = "checkpoint.save_interval_updates=3"
    return train_command(tmp_path / "data", tmp_path / "out", *small, *endless, saving)


def test_it_continues_from_the_last_checkpoint(command, tmp_path):
    last = tmp_path / "out" / "checkpoints" / LAST
    assert interrupt(command, tmp_path / "out", lambda _: last.is_file()) == (
        130,
        [f"interrupted; the same command continues from {last}"],
    )


@pytest.mark.slow
def test_it_begins_again_without_one(command, tmp_path):
    changed = [*command, "checkpoint.save_interval_updates=0", "checkpoint.save_interval=100000"]
    told = ["interrupted; no checkpoint was saved yet: the same command begins again"]
    assert interrupt(changed, tmp_path / "out", lambda text: "begin training epoch" in text) == (130, told)


@pytest.mark.slow
def test_it_continues_in_the_folder_that_hydra_chose(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = [option for option in command if not option.startswith(("checkpoint.save_dir", "hydra.run.dir"))]
    status, (line,) = interrupt(own, tmp_path / "out", lambda _: any(tmp_path.rglob(LAST)))
    (last,) = tmp_path.rglob(LAST)
    how = f"the same command with hydra.run.dir={last.parents[1]} continues from {last}"
    assert (status, line) == (130, f"interrupted; {how}")
