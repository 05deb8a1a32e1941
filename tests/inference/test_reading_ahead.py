"""Reading in the background: everything once, in order, without losses, and only a little ahead."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import made_up_counts, plain_recording

from fairseq_signals_ext.checkpoints.description import Preprocessing
from fairseq_signals_ext.common.errors import MissingPackageError, UserError
from fairseq_signals_ext.inference import reading_ahead
from fairseq_signals_ext.inference.inputs import InputRecording
from fairseq_signals_ext.inference.reading_ahead import ReadingPlan, ReadRecording, Rejected, read_all

SMALL = Preprocessing(segment_samples=500, stride_samples=500)


@dataclass
class MadeUpInputs:
    """Recordings with different behaviour: "ok", "bad" (a user's mistake), "bug", "large", "missing", "kill"."""

    kinds: tuple

    def __len__(self):
        return len(self.kinds)

    def name(self, number):
        return f"file{number}"

    def known(self, number):
        return {"record_id": f"known{number}"} if number % 2 else {}

    def read(self, number):
        kind = self.kinds[number]
        if kind == "bad":
            raise UserError(f"file{number}: it is bad; get it again")
        if kind == "kill":
            os._exit(9)
        errors = {"bug": IndexError("out\nof range"), "large": MemoryError(), "missing": MissingPackageError("get it")}
        errors["quoting"] = ValueError("could not convert string to float: 'Jane Doe'")
        if kind in errors:
            raise errors[kind]
        return InputRecording(plain_recording(made_up_counts(np.random.default_rng(number), 1000) / 1000))


def outcome(read):
    return read.reason if isinstance(read, Rejected) else read.facts.record_id


REASONS = {
    "bad": "it is bad; get it again",
    "bug": "cannot be used (IndexError: out of range); get it again",
    "quoting": "cannot be used (ValueError: could not convert string to float: ...); get it again",
    "large": "too large for the memory of this machine; cut it into pieces",
}


@given(st.lists(st.sampled_from(["ok", *REASONS]), max_size=12), st.integers(0, 12))
@settings(max_examples=25, deadline=None)
def test_all_in_order_and_each_once(kinds, start):
    found = list(read_all(ReadingPlan(MadeUpInputs(tuple(kinds)), [SMALL]), start))
    assert [read.number for read in found] == list(range(start, len(kinds)))
    for read in found:
        known = f"known{read.number}" if read.number % 2 else "r"
        assert outcome(read) == REASONS.get(kinds[read.number], known)


def test_large_recordings_come_one_by_one(monkeypatch):
    """A process returns only some of the requested recordings at once, and the rest is requested again."""
    monkeypatch.setattr(reading_ahead, "_worker", ReadingPlan(MadeUpInputs(("ok", "bad", "ok", "ok")), [SMALL]))
    for size, expected in ((1, 1), (30_000, 3), (2**25, 4)):
        monkeypatch.setattr(reading_ahead, "_CHUNK_BYTES", size)
        assert [read.number for read in reading_ahead._read_in_worker([0, 1, 2, 3])] == [*range(expected)]


@pytest.mark.parametrize("chunk", [2, 16])
def test_processes_give_the_same(monkeypatch, chunk):
    """Also if a recording crashes the process that reads it: only this recording is lost."""
    monkeypatch.setattr(reading_ahead, "_CHUNK", chunk)
    kinds = ("ok", "bad", "ok", "kill", "bug", *("ok",) * 8, "kill")
    work = ReadingPlan(MadeUpInputs(kinds), [SMALL])
    found = list(read_all(work, 1, jobs=2))
    assert [read.number for read in found] == list(range(1, len(kinds)))
    for read in found:
        if kinds[read.number] == "kill":
            assert "reading it ended the process" in read.reason
            continue
        (here,) = read_all(ReadingPlan(MadeUpInputs(kinds[: read.number + 1]), [SMALL]), read.number)
        assert outcome(read) == outcome(here)
        if isinstance(read, ReadRecording):
            np.testing.assert_array_equal(read.segments[SMALL].counts, here.segments[SMALL].counts)


def test_processes_need_no_guarded_main_module(tmp_path):
    """A plain script, as people write them."""
    np.save(tmp_path / "x.npy", made_up_counts(np.random.default_rng(0), 1000) / 1000)
    (tmp_path / "script.py").write_text(
        "from fairseq_signals_ext.checkpoints.description import Preprocessing\n"
        "from fairseq_signals_ext.inference.inputs import find_inputs\n"
        "from fairseq_signals_ext.inference.reading_ahead import ReadingPlan, read_all\n"
        f"inputs = find_inputs(['{tmp_path}/x.npy'] * 3, sample_rate=500)\n"
        "print([read.facts.seconds for read in read_all(ReadingPlan(inputs, [Preprocessing()]), jobs=2)])\n"
    )
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=False)
    assert done.stdout == "[2.0, 2.0, 2.0]\n", done.stderr


@pytest.mark.parametrize("jobs", [0, 1])
def test_a_missing_package_stops_the_run(jobs):
    with pytest.raises(MissingPackageError):
        list(read_all(ReadingPlan(MadeUpInputs(("ok", "missing")), [SMALL]), jobs=jobs))


def test_processes_end_with_the_one_that_started_them(tmp_path):
    """Also if the parent is killed and cannot end its processes."""
    np.save(tmp_path / "x.npy", made_up_counts(np.random.default_rng(0), 1000) / 1000)
    (tmp_path / "script.py").write_text(
        "import time\n"
        "from fairseq_signals_ext.checkpoints.description import Preprocessing\n"
        "from fairseq_signals_ext.inference.inputs import find_inputs\n"
        "from fairseq_signals_ext.inference.reading_ahead import ReadingPlan, read_all\n"
        f"inputs = find_inputs(['{tmp_path}/x.npy'] * 3, sample_rate=500)\n"
        "next(read_all(ReadingPlan(inputs, [Preprocessing()]), jobs=1))\n"
        "print('reading', flush=True)\n"
        "time.sleep(60)\n"
    )
    script = [sys.executable, tmp_path / "script.py"]
    with subprocess.Popen(script, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout.readline() == b"reading\n"
        os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    # its process group is empty when all have ended
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail("processes that read are still there")
