"""The command in a process of its own: how it ends, and how good uploads fare beside hostile ones."""

import contextlib
import http.client
import logging
import os
import signal
import socket
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from hostile_uploads import HOSTILE
from made_up_uploads import csv_file, parts, wfdb_files
from serving_process import FAILING, eventually, is_running, running

from fairseq_signals_ext.serving.folders import PREFIX

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="processes are looked up in /proc"),
]
_GOOD, _SECONDS_TO_SETTLE = 50, 20


def in_background(function, *arguments):
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


def ask(address, name):
    try:
        return httpx.post(f"{address}predict", files=parts(csv_file(name=f"{name}.csv")), timeout=100)
    except httpx.HTTPError as error:
        return error


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_soon_with_hostile_uploads_in_work(checkpoint, tmp_path, number):
    """And with slow ones arriving, and a long one for the model: each has an answer, and nothing is left."""
    with running(tmp_path, checkpoint, "--port", 0, "--threads", 1, command=FAILING) as served:
        answers = []
        names = ("loops", "sleeps", "loops", "eats")
        threads = [in_background(lambda name=name: answers.append(ask(served.address, name))) for name in names]
        rows = b"I_mV,II_mV\n" + b"0.1,0.2\n0.3,0.4\n" * 20_000
        day = {"files": parts({"day.csv": rows}), "data": {"sample_rate": "1"}}
        threads.append(
            in_background(lambda: answers.append(httpx.post(f"{served.address}predict", **day, timeout=100)))
        )
        assert eventually(lambda: len(list(served.temporary.iterdir())) == 5)
        time.sleep(1)
        children = served.children()
        assert children
        began = time.monotonic()
        assert served.end(number) == 0
        seconds = time.monotonic() - began
        print(f"ended within {seconds:.1f} s of signal {number}")
        assert seconds < 5
        for thread in threads:
            thread.join(10)
        assert {response.status_code for response in answers} <= {200, 422, 503} and len(answers) == 5
        assert not list(served.temporary.iterdir()) and "Traceback" not in served.log()
        assert eventually(lambda: not any(map(is_running, children)), 5)


def test_folders_of_a_killed_service_are_removed_by_the_next(checkpoint, tmp_path):
    temporary = tmp_path / "shared"
    folders = [tmp_path / name for name in ("first", "second", "third")]
    for folder in folders:
        folder.mkdir()
    options = {"command": FAILING, "temporary": temporary}
    with contextlib.ExitStack() as held:
        first, second = (held.enter_context(running(one, checkpoint, "--port", 0, **options)) for one in folders[:2])
        for served in (first, second):
            in_background(ask, served.address, "sleeps")
        assert eventually(lambda: len(list(temporary.glob(f"{PREFIX}*/sleeps.csv"))) == 2)
        children = first.children()
        first.process.kill()
        first.process.wait(10)
        assert eventually(lambda: not any(map(is_running, children)), 5), "its readers outlive it"
        assert len(list(temporary.iterdir())) == 2
        with running(folders[2], checkpoint, "--port", 0, **options):
            assert len(list(temporary.iterdir())) == 1, "that of the living one"
        assert second.end() == 0
    assert not list(temporary.iterdir())


def request_of(files, data=None):
    """Body and type of a request, made before time is taken."""
    request = httpx.Request("POST", "http://any/", files=parts(files), data=data)
    return request.read(), request.headers["content-type"]


def begun(address, request, path="/predict"):
    """A connection on which a request was sent."""
    connection = http.client.HTTPConnection(address[len("http://") : -1], timeout=300)
    if request is None:
        connection.request("GET", path)
    else:
        connection.request("POST", path, request[0], {"content-type": request[1]})
    return connection


def answered(address, request, path="/predict"):
    """Status, and s until the answer was there, of an upload, or of a question without one."""
    began = time.monotonic()
    connection = begun(address, request, path)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status, time.monotonic() - began


def times_of(address, requests):
    """s until each was answered, sorted, of all at once."""
    with ThreadPoolExecutor(len(requests)) as threads:
        found = list(threads.map(lambda request: answered(address, request), requests))
    assert {status for status, _ in found} == {200}
    return sorted(seconds for _, seconds in found)


def health_times(address, is_over, found):
    while not is_over.is_set():
        found.append(answered(address, None, "/health")[1])
        time.sleep(0.05)


def of_names(*names):
    return [request_of(csv_file(name=f"{name}.csv")) for name in names]


def of_files(*names):
    return [request_of(*HOSTILE[name]()) for name in names]


def shown(times):
    return f"median {1e3 * statistics.median(times):.0f} ms, 95 % {1e3 * times[int(0.95 * len(times))]:.0f} ms"


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param(lambda: of_files("remarks", "blanks", "mat", "xml"), id="files"),
        pytest.param(lambda: of_names("loops", "loops", "loops", "loops"), id="loops"),
        pytest.param(lambda: of_names("sleeps", "eats", "aborts", "loops"), id="others"),
    ],
)
def test_good_uploads_beside_hostile_ones(checkpoint, tmp_path, monkeypatch, hostile):
    """Fifty good ones at once, alone and beside four hostile ones that were sent just before; in turns, twice.

    Before each turn the service has time to replace what was stopped.
    """
    monkeypatch.setattr(logging.root, "disabled", True)
    good = [request_of((wfdb_files, csv_file)[number % 2](number, samples=5000)) for number in range(_GOOD)]
    with running(tmp_path, checkpoint, "--port", 0, "--threads", 1, command=FAILING) as served:
        times_of(served.address, good)
        single = sorted(answered(served.address, good[number])[1] for number in range(20))
        usual, beside, health, memory = [], [], [], []
        for _ in range(2):
            time.sleep(_SECONDS_TO_SETTLE)
            usual += times_of(served.address, good)
            is_over = threading.Event()
            looking = in_background(health_times, served.address, is_over, health)
            attacks = [begun(served.address, request) for request in hostile()]
            time.sleep(0.05)
            beside += times_of(served.address, good)
            memory.append((served.resident_mb(), served.children_mb()))
            is_over.set()
            looking.join(60)
            for attack in attacks:
                attack.close()
            assert eventually(lambda: not list(served.temporary.iterdir()))
        usual, beside, health = sorted(usual), sorted(beside), sorted(health)
        ratio = statistics.median(beside) / statistics.median(usual)
        late = beside[int(0.95 * len(beside))] / usual[int(0.95 * len(usual))]
        print(
            f"\none after the other: {shown(single)}; {_GOOD} at once: {shown(usual)}; beside hostile: {shown(beside)}"
        )
        print(f"ratio: median {ratio:.2f}, 95 % {late:.2f}; health: {shown(health)}, largest {1e3 * health[-1]:.0f} ms")
        print(f"resident MB, service and readers: {[tuple(map(round, one)) for one in memory]}")
        assert ratio < 3 and late < 3 and health[-1] < 5
        assert eventually(lambda: not list(served.temporary.iterdir()))
        assert served.end() == 0


def test_two_hundred_slow_uploads_and_idle_connections(checkpoint, tmp_path):
    """Beside them a good one is answered, and none of them lasts."""
    with running(tmp_path, checkpoint, "--port", 0, "--threads", 1) as served:
        host, port = served.address[len("http://") : -1].split(":")
        header = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9000000\r\n"
        header += b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        slow = [socket.create_connection((host, int(port))) for _ in range(200)]
        idle = [socket.create_connection((host, int(port))) for _ in range(200)]
        for connection in slow:
            connection.sendall(header)
        began = time.monotonic()
        assert answered(served.address, request_of(csv_file()))[0] == 200
        print(f"answered within {time.monotonic() - began:.2f} s beside 200 slow uploads and 200 idle connections")
        for connection in slow:
            connection.settimeout(40)
            assert b" 408 " in connection.recv(1000)
            connection.close()
        for connection in idle:
            connection.settimeout(40)
            assert connection.recv(1000) == b""
            connection.close()
        assert eventually(lambda: not os.listdir(served.temporary))
