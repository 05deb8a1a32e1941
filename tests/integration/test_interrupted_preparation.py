"""A preparation that is killed at any moment, and resumed, leaves byte for byte what one clean run leaves."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from made_up_wfdb import write_wfdb

from fairseq_signals_ext.data.checksums import CHECKSUMS_NAME, problems_of

ROOT = Path(__file__).resolve().parents[2]
RECORDS, SAMPLES = 600, 4000


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Records that take a while, as they are resampled; every 50th is truncated."""
    folder = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    for number in range(RECORDS):
        name = f"r{number:04d}"
        header = write_wfdb(folder / name, rng.integers(-2000, 2000, (12, SAMPLES), np.int16), rate=400)
        if number % 50 == 7:
            os.truncate(header.with_suffix(".dat"), 2 * 12 * (SAMPLES - 1))
    return folder


def start(source, out):
    command = [sys.executable, str(ROOT / "manifests" / "prepare.py"), "wfdb", str(source), "--out", str(out)]
    options = ["--jobs", "4", "--shard-size", "16", "--resample", "polyphase", "--resume"]
    # no pipe: workers that outlive the first process would hold it open
    return subprocess.Popen(
        command + options, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def clean(source, tmp_path_factory):
    """What one clean run leaves, and the seconds that it took."""
    out, began = tmp_path_factory.mktemp("clean") / "out", time.monotonic()
    assert start(source, out).wait() == 1
    assert (out / "rejected.csv").read_text().count("\n") == 1 + RECORDS // 50
    return contents(out), time.monotonic() - began


@pytest.mark.parametrize("kills", [pytest.param(3, id="quick"), pytest.param(20, id="proof", marks=pytest.mark.slow)])
def test_killed_and_resumed(source, clean, tmp_path, kills):
    expected, seconds = clean
    rng, out, complete, processes = random.Random(kills), tmp_path / "out", [], []
    try:
        while len(complete) < kills:
            processes.append(start(source, out))
            time.sleep(rng.uniform(0, 1) * seconds)
            if processes[-1].poll() is not None:  # it was finished: begin anew
                assert contents(out) == expected
                out = tmp_path / f"out{len(complete)}"
                continue
            # the whole group, as when a machine stops, or the first process alone, whose workers then live on a little
            (os.killpg if len(complete) % 2 else os.kill)(processes[-1].pid, signal.SIGKILL)
            processes[-1].wait()
            record = problems_of(out / CHECKSUMS_NAME)
            assert all("no such file" in line for line in record), "a checksum is there before its file, or with it"
            complete.append(len(list(out.glob("shards/*.index.npy"))))
        processes.append(start(source, out))
        assert processes[-1].wait() == 1
        assert contents(out) == expected
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    shards = sum(name.endswith(".index.npy") for name in expected)
    print(f"\nkilled {kills} times; complete shards after each: {complete}, of {shards}")
