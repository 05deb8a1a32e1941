"""A command that is killed in the midst of its work: the processes that it started end with it, and leave no files."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from disturbing import COMMANDS, make_world, write_files
from made_up import write_shards
from running import SMALL, train_command

_CLI = [sys.executable, "-m", "fairseq_signals_ext"]
_RATE = ["--input-rate", "500"]
_FILES = 240
_LONGER = ("verify", "predict", "embed", "evaluate", "train")
# torch's own workers look for their parent every 5 s, ours twice a second
_SECONDS_TO_END = 15


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Work for some seconds."""
    folder = make_world(tmp_path_factory.mktemp("world"), recordings=_FILES)
    write_shards(folder / "train", [5000] * 64)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The same, of recordings alone."""
    return write_files(tmp_path_factory.mktemp("source"), [f"ecg{number}" for number in range(_FILES)])


def command_line(name, world, out):
    model, files, prepared = (str(world / one) for one in ("model.pt", "files", "prepared"))
    if name == "train":
        small = [one for one in SMALL if "num_workers" not in one]
        options = ["dataset.num_workers=2", "++optimization.max_update=100000", "++dataset.disable_validation=true"]
        return train_command(world / "train", out, *small, *options)
    lines = {
        "prepare": ["files", files, "--out", str(out), *_RATE, "--rate", "400", "--resample", "polyphase"],
        "verify": [prepared, "--out", str(out / "verify.html")],
        "predict": [model, *[files] * 5, "--out", str(out), *_RATE],
        "embed": [model, *[files] * 5, "--out", str(out), *_RATE],
        "evaluate": [model, *COMMANDS["evaluate"].line("evaluate", world, out)[2:-1], "2", "--batch-size", "1"],
    }
    more = {"prepare": ["--shard-size", "4"], "evaluate": []}.get(name, [])
    return [*_CLI, name, *lines[name], *more, *([] if name == "evaluate" else ["--jobs", "3"])]


def of_session(session):
    """Living processes of a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    return found


def killed_in_its_work(command, temporary, number):
    """Kill a command when its processes work; returns how many it had, and the seconds until all were gone."""
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        deadline = time.monotonic() + 180
        while sum(one.cpu_times().user > 0 for one in psutil.Process(process.pid).children(recursive=True)) < 2:
            assert process.poll() is None and time.monotonic() < deadline, "it never started its processes"
            time.sleep(0.02)
        time.sleep(0.2)
        assert process.poll() is None, "it ended before it was killed"
        started = len(of_session(process.pid)) - 1
        process.send_signal(number)
        began = time.monotonic()
        process.wait(60)
        while of_session(process.pid) and time.monotonic() < began + 2 * _SECONDS_TO_END:
            time.sleep(0.1)
        return started, time.monotonic() - began
    finally:
        for one in of_session(process.pid):
            one.kill()


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, *(pytest.param(one, marks=pytest.mark.slow) for one in (signal.SIGTERM, signal.SIGHUP))],
)
@pytest.mark.parametrize(
    "name",
    [
        "prepare",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("verify", "predict", "embed", "evaluate", "train")),
    ],
)
def test_processes_end_with_their_parent(name, number, request, tmp_path):
    world = request.getfixturevalue("source" if name == "prepare" else "world")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    (tmp_path / "out").mkdir()
    started, seconds = killed_in_its_work(command_line(name, world, tmp_path / "out"), temporary, number)
    print(f"\n{name:10} {number.name}: {started} processes gone after {seconds:.1f} s")
    assert started >= 2 and seconds < _SECONDS_TO_END
    # torch's cache; and of workers that are terminated by torch itself
    own = ("torchinductor_", "pymp-") if name in ("evaluate", "train") else ()
    assert [path for path in temporary.iterdir() if not path.name.startswith(own)] == []
