"""What only the real command shows of a training: hydra's folders, its sweeps, a full disk, a kill while copying."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from made_up import write_shards
from running import SMALL, error_line, run, train_command, weights

OPTIONS = [*SMALL, "++dataset.disable_validation=true", "++optimization.max_update=6"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("typed_in") / "data"
    for split in ("train", "valid"):
        write_shards(folder, [5000] * 8, split=split)
    return folder


def test_relative_path_that_is_nowhere(data, tmp_path):
    """hydra changes folders: what is meant is the folder where the command was typed."""
    command = train_command(Path("data"), tmp_path / "run", *OPTIONS, "checkpoint.restore_file=data/nowhere.pt")
    line = error_line(run(command, cwd=data.parent))
    assert "checkpoint.restore_file=data/nowhere.pt: no such file or folder" in line
    assert str(data.parent) in line and str(tmp_path / "run") in line


@pytest.mark.slow
def test_relative_paths(data, tmp_path):
    first = train_command(Path("data"), tmp_path / "first", *OPTIONS)
    done = run(first, cwd=data.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    shutil.copy(tmp_path / "first/checkpoints/checkpoint_last.pt", data.parent / "start.pt")
    options = ["++checkpoint.continue_once=start.pt", "++optimization.max_update=8"]
    done = run(train_command(Path("data"), tmp_path / "second", *OPTIONS, *options), cwd=data.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    saved = torch.load(tmp_path / "second/checkpoints/checkpoint_last.pt", weights_only=True)
    assert saved["optimizer_history"][-1]["num_updates"] == 8
    assert saved["cfg"]["task"]["data"] == str(data)


@pytest.mark.slow
def test_a_sweep(data, tmp_path):
    """Two jobs of one process, with the same options, end with the same checkpoints."""
    parts = train_command(data, tmp_path, *SMALL)
    command = [part for part in parts if not part.startswith(("checkpoint.save_dir", "hydra.run.dir"))]
    options = ["++dataset.validate_interval=1", "++checkpoint.patience=2", "optimization.lr=[0]"]
    sweep = [f"hydra.sweep.dir={tmp_path / 'sweep'}", "++dataset.num_workers=0,0", "++optimization.max_epoch=4"]
    done = run([command[0], "-m", *command[1:], *options, *sweep])
    assert done.returncode == 0, done.stderr[-2000:]
    one, other = (tmp_path / "sweep" / job / "checkpoints" for job in "01")
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())
    states = [torch.load(folder / "checkpoint_last.pt", weights_only=True) for folder in (one, other)]
    assert states[0]["optimizer_history"] == states[1]["optimizer_history"]
    assert states[0]["extra_state"]["run"] == states[1]["extra_state"]["run"]
    assert (one / "checkpoint_best.pt").exists()


@pytest.mark.slow
def test_two_trainings_in_one_folder(data, tmp_path):
    """The second ends with one line; the first is as it would be alone, and frees the folder."""
    folder = tmp_path / "run/checkpoints"
    command = train_command(data, tmp_path / "run", *OPTIONS, "++optimization.max_update=100000")
    log = (tmp_path / "first.log").open("w")
    with log, subprocess.Popen(command, stdout=log, stderr=log) as first:
        try:
            deadline = time.monotonic() + 120
            while not (folder / ".lock").exists() and time.monotonic() < deadline:
                assert first.poll() is None, Path(log.name).read_text()[-2000:]
                time.sleep(0.2)
            line = error_line(run(train_command(data, tmp_path / "run", *OPTIONS)))
        finally:
            first.terminate()
    assert f"{folder}: another run is writing to this folder (process {first.pid})" in line
    done = run(train_command(data, tmp_path / "run", *OPTIONS))
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (folder / ".lock").exists()


@pytest.mark.slow
@pytest.mark.parametrize("small_disk", ["1000k"], indirect=True)
@pytest.mark.parametrize("logs", ["elsewhere", "on the disk"])
def test_full_disk(data, small_disk, tmp_path, logs):
    """One line, and the same command goes on when there is room."""
    out = small_disk / "run" if logs == "on the disk" else tmp_path / "run"
    often = ["++checkpoint.save_interval_updates=1", "++checkpoint.keep_interval_updates=-1", "++dataset.batch_size=2"]
    command = train_command(data, out, *OPTIONS, *often, f"checkpoint.save_dir={small_disk / 'checkpoints'}")
    line = error_line(run(command))
    assert "cannot be written (No space left on device)" in line and str(small_disk) in line
    for path in (small_disk / "checkpoints").glob("checkpoint_*_*.pt"):
        path.unlink()
    command = [part.replace("save_interval_updates=1", "save_interval_updates=0") for part in command]
    done = run(command)
    assert done.returncode == 0 and "Loaded checkpoint" in done.stdout + done.stderr, done.stderr[-2000:]
    assert weights(small_disk / "checkpoints" / "checkpoint_last.pt")


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [1, 2])
def test_kill_while_copying(data, tmp_path, kill_at):
    """The first copy, or a later one, is half written when the training is killed; it ends as one unbroken."""
    options = [*OPTIONS, "++checkpoint.save_interval_updates=1"]
    done = run(train_command(data, tmp_path / "unbroken", *options))
    assert done.returncode == 0
    command = train_command(data, tmp_path / "killed", *options)
    slow = tmp_path / "sitecustomize.py"
    slow.write_text(_SLOW_COPY.format(half=str(tmp_path / "half"), kill_at=kill_at))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "2"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "half").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (tmp_path / "half").exists()
    done = run(command)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Loaded checkpoint" in done.stdout + done.stderr
    folder = tmp_path / "killed" / "checkpoints"
    assert not list(folder.glob(".*"))
    expected = weights(tmp_path / "unbroken" / "checkpoints" / "checkpoint_last.pt")
    found = weights(folder / "checkpoint_last.pt")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


_SLOW_COPY = """
import shutil, time
copies = []
whole = shutil.copyfile

def copyfile(source, target, **kwargs):
    if not str(source).endswith(".pt"):
        return whole(source, target, **kwargs)
    copies.append(target)
    if len(copies) < {kill_at}:
        return whole(source, target, **kwargs)
    with open(source, "rb") as file:
        content = file.read()
    with open(target, "wb") as file:
        file.write(content[: len(content) // 2])
        file.flush()
        open({half!r}, "w").close()
        time.sleep(300)

shutil.copyfile = copyfile
"""
