"""Whatever a file does to the process that reads it, its sender gets one line and all others their answers."""

import errno
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import failing_readers
import pytest
from fastapi.testclient import TestClient
from hostile_uploads import HOSTILE
from made_up_uploads import csv_file, parts, wfdb_files

from fairseq_signals_ext.inference.model import LoadedModel
from fairseq_signals_ext.serving.app import make_app
from fairseq_signals_ext.serving.folders import PREFIX
from fairseq_signals_ext.serving.guard import hosts_of
from fairseq_signals_ext.serving.limits import Limits

_ADDRESS = "http://127.0.0.1:8000"
_QUICK = {"readers": 2, "quick_seconds": 0.3, "quick_bytes": 100_000_000}
_SLOW = {"slow_at_once": 2, "slow_waiting": 2, "read_seconds": 0.5, "read_bytes": 300_000_000}
_LIMITS = Limits(**_QUICK, **_SLOW)


def client_of(model, limits=_LIMITS):
    readers = (failing_readers.read_short, failing_readers.read)
    return TestClient(make_app(model, limits, hosts_of("127.0.0.1"), *readers), base_url=_ADDRESS)


@pytest.fixture(scope="module")
def client(model):
    with client_of(model) as client:
        yield client


def asked(client, name="good", path="/predict"):
    return client.post(path, files=parts(csv_file(name=f"{name}.csv")))


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("loops", 422, "loops.csv: reading it takes more than 0.5 s of the processor"),
        ("eats", 422, "eats.csv: reading it takes more than 0.3 GB of memory"),
        ("aborts", 422, "aborts.csv: reading it ended the process"),
        ("exits", 422, "exits.csv: reading it ended the process"),
        ("crashes", 422, "crashes.csv: reading it ended the process"),
        ("recurses", 422, "recurses.csv: cannot be used (RecursionError"),
        ("strange", 422, "strange.csv: cannot be used (RuntimeError: _Unpicklable: secret)"),
        ("index", 422, "index.csv: cannot be used (IndexError"),
        ("overflow", 422, "overflow.csv: cannot be used (OverflowError"),
        ("full", 507, "no room on its disk"),
    ],
)
def test_reading_errors_are_one_line(client, name, status, message):
    response = asked(client, name, "/report" if name == "exits" else "/predict")
    assert response.status_code == status, response.text
    line = response.json()["error"]
    assert message in line and "\n" not in line and PREFIX not in line
    assert asked(client).status_code == 200


def test_others_are_answered_meanwhile(client):
    """More hang than there are processes, places, and room in the line."""
    with ThreadPoolExecutor(6) as threads:
        hostile = [threads.submit(asked, client, name) for name in ("loops", "sleeps", "sleeps") * 2]
        time.sleep(0.1)
        assert client.get("/health").status_code == 200
        good = asked(client)
        assert not all(one.done() for one in hostile)
        assert good.status_code == 200, good.text
        found = [one.result() for one in hostile]
    assert {response.status_code for response in found} <= {422, 503}
    lines = {response.json()["error"] for response in found if response.status_code == 503}
    assert lines <= {"upload: the service is busy with other large ones; send it again later"}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_files_end(client, name):
    files, data = HOSTILE[name]()
    began = time.monotonic()
    response = client.post("/predict", files=parts(files), data=data)
    assert response.status_code in (200, 413, 415, 422), response.text
    assert "\n" not in response.json().get("error", "") and time.monotonic() - began < 30


def test_readers_that_died_while_idle_are_no_fault_of_an_upload(client):
    assert asked(client).status_code == 200
    for process in client.app.state.service._queue._readers._all:
        process.stop()
    assert asked(client).status_code == 200


class Waiting:
    """A backend that waits before each batch until the test releases it."""

    def __init__(self, backend):
        self.backend, self.goes, self.sizes = backend, threading.Semaphore(0), []

    def __call__(self, source, padding_mask):
        self.sizes.append(len(source))
        if len(source) > 2:
            assert self.goes.acquire(timeout=60)
        return self.backend(source, padding_mask)

    def __getattr__(self, name):
        return getattr(self.backend, name)


def long_file(seconds):
    rows = "".join(f"{number % 7 / 10},{number % 5 / 10}\n" for number in range(seconds))
    return {"long.csv": f"I_mV,II_mV\n{rows}".encode()}


@pytest.mark.parametrize("path", ["/predict", "/report"])
def test_long_recordings_give_way(model, path):
    """Between its batches; the first waits until a short upload is answered."""
    backend = Waiting(model.backend)
    waiting = LoadedModel(model.description, backend, model.source)
    # as long for reading as usually: the first table that a process reads takes long on a busy machine
    with client_of(waiting, Limits(readers=2)) as client, ThreadPoolExecutor(2) as threads:
        long = threads.submit(client.post, path, files=parts(long_file(400)), data={"sample_rate": "1"})
        while not backend.sizes:
            assert not long.done(), long.result().text
            time.sleep(0.01)
        short = threads.submit(asked, client)
        turns = client.app.state.service._queue._turns
        while not turns._in_a_hurry:
            assert not short.done(), short.result().text
            time.sleep(0.01)
        backend.goes.release()
        assert short.result().status_code == 200 and not long.done()
        backend.goes.release(1000)
        assert long.result().status_code == 200, long.result().text
    # with the short one's own between them
    assert backend.sizes[0] == 32 and backend.sizes.index(1) in (1, 2)


def test_too_long_recordings_are_refused(client, model):
    data = {"sample_rate": "1"}
    response = client.post("/report", files=parts(long_file(7300)), data=data)
    assert response.status_code == 422 and "lasts 2.0 h, more than the 2 h of a report" in response.json()["error"]
    with client_of(model, Limits(**_QUICK, **_SLOW, resampled=100_000)) as client:
        response = client.post("/predict", files=parts(long_file(300)), data=data)
    assert response.status_code == 422 and "too long for the memory" in response.json()["error"]


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), OSError(errno.ENOMEM, "no memory")],
)
def test_too_little_memory(client, model, monkeypatch, error):
    def fail(recording):
        raise error

    monkeypatch.setattr(model, "predict", fail)
    response = client.post("/predict", files=parts(wfdb_files()))
    assert response.status_code == 503 and "too little memory" in response.json()["error"]
