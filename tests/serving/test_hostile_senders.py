"""Senders that send slowly, endlessly, too much at once or nothing: all others are answered meanwhile."""

import asyncio
import contextlib
import socket
import threading
import time

import httpx
import pytest
import uvicorn
from made_up_uploads import csv_file, npy_file, parts
from test_uploads import call

from fairseq_signals_ext.serving import connections
from fairseq_signals_ext.serving.app import make_app
from fairseq_signals_ext.serving.connections import Connection, Server
from fairseq_signals_ext.serving.guard import hosts_of
from fairseq_signals_ext.serving.limits import Limits

_START = b"--x\r\nContent-Disposition: form-data; name=f; filename=a.npy\r\n\r\n"
_HEADER = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"


def connected(address):
    host, port = address[len("http://") : -1].split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def said(connection):
    """All that comes until the other side ends the connection; None if it cut it."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while True:
            piece = connection.recv(65536)
            if not piece:
                return received
            received += piece
    return None


@pytest.mark.parametrize("announced", [b"Content-Length: 1000000\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_slow_uploads_do_not_delay_others(served, announced):
    with contextlib.ExitStack() as held:
        for _ in range(50):
            slow = held.enter_context(connected(served.address))
            slow.sendall(_HEADER + announced + b"\r\n" + (_START if announced.startswith(b"Content") else b""))
        response = httpx.post(f"{served.address}predict", files=parts(csv_file()), timeout=60)
        assert response.status_code == 200, response.text
        assert httpx.get(f"{served.address}health", timeout=60).json() == {"status": "ok"}


class Pieces:
    """A body that comes in pieces, each after some time."""

    def __init__(self, size, seconds):
        self.size, self.seconds, self.taken = size, seconds, 0

    async def __call__(self):
        await asyncio.sleep(self.seconds)
        start = b"" if self.taken else _START
        self.taken += 1
        return {"type": "http.request", "body": start.ljust(self.size, b"0"), "more_body": True}


@pytest.mark.parametrize(
    ("size", "seconds", "limits", "message"),
    [
        (1000, 30, {"idle_seconds": 0.2}, "nearly nothing came for 0.2 s"),
        (1, 0.05, {"idle_seconds": 0.2}, "nearly nothing came for 0.2 s"),
        (1000, 0.02, {"idle_seconds": 0.2, "upload_seconds": 0.5}, "took more than 0.5 s"),
    ],
)
def test_slow_uploads_are_ended(model, size, seconds, limits, message):
    status, answer = call(model, Limits(**limits), Pieces(size, seconds), [("content-length", "9000000")])
    assert status == 408 and message in answer["error"] and "\n" not in answer["error"]


@pytest.mark.slow
def test_few_large_ones_arrive_at_a_time(model):
    """Of two large ones one waits, with a small part of it read; a small one does not."""
    app = make_app(model, Limits(at_once=1, small_bytes=20_000), hosts_of("127.0.0.1"))

    async def ask(receive):
        headers = [(b"host", b"127.0.0.1"), (b"content-type", b"multipart/form-data; boundary=x")]
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers, "query_string": b""}

        async def send(message):
            pass

        await app({**scope, "http_version": "1.1", "scheme": "http", "root_path": ""}, receive, send)

    async def run():
        large = [Pieces(11_000, 0.01), Pieces(11_000, 0.01)]
        async with app.router.lifespan_context(app):
            tasks = [asyncio.ensure_future(ask(one)) for one in large]
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                response = await client.post("/predict", files=parts(npy_file(samples=50)))
            await asyncio.sleep(0.3)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return response, sorted(one.taken for one in large)

    response, (few, many) = asyncio.run(run())
    assert response.status_code == 422 and "sample rate" in response.text
    assert few == 2 and many > 5


class Quiet:
    """Stands for a service; its answers may be large."""

    def __init__(self):
        self.size = 2

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"o" * self.size})

    def warm(self):
        pass

    end = warm


@pytest.fixture()
def quiet(monkeypatch):
    """Address and application of a server with the service's connections, running in a thread."""
    monkeypatch.setattr(connections, "_HEADER_SECONDS", 0.4)
    monkeypatch.setattr(connections, "_ANSWER_SECONDS", 0.4)
    monkeypatch.setattr(Connection, "most", 20)
    app = Quiet()
    config = uvicorn.Config(app, lifespan="off", http=Connection, ws="none", loop="asyncio", log_level="critical")
    server = Server(config, app)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/", app
    server.should_exit = True
    thread.join(10)


@pytest.mark.parametrize(
    "begin", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nA: "]
)
def test_headers_that_never_end(quiet, begin):
    with connected(quiet[0]) as slow:
        slow.sendall(begin)
        began = time.monotonic()
        received = said(slow)
        assert time.monotonic() - began < 20 and (received or b"").count(b"200 OK") == begin.count(b"\r\n\r\n")


def test_headers_that_drip(quiet):
    with connected(quiet[0]) as slow, contextlib.suppress(ConnectionError):
        slow.sendall(b"GET / HTTP/1.1\r\n")
        end = time.monotonic() + 20
        while time.monotonic() < end:
            slow.sendall(b"A: b\r\n")
            time.sleep(0.05)
        pytest.fail("it was never cut")


def test_idle_connections_make_room(quiet):
    with contextlib.ExitStack() as held:
        idle = [held.enter_context(connected(quiet[0])) for _ in range(60)]
        assert httpx.get(quiet[0], timeout=30).status_code == 200
        assert not said(idle[0])


def test_chunks_that_are_too_small(quiet):
    with connected(quiet[0]) as tiny:
        tiny.sendall(_HEADER + b"Transfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                tiny.sendall(b"1\r\na\r\n" * 1000)
                time.sleep(0.001)
            pytest.fail("it was never cut")


def test_answers_that_are_not_taken(quiet):
    address, app = quiet
    app.size = 50_000_000
    with connected(address) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(2)
        received = said(slow)
        assert received is None or len(received) < app.size


def test_bodies_after_the_answer_are_not_read_for_ever(served):
    """Of a request to any path: the connection ends."""
    for line in (b"GET /health", b"POST /nosuch", b"POST /predict"):
        with connected(served.address) as endless:
            endless.sendall(line + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n")
            began = time.monotonic()
            with contextlib.suppress(ConnectionError):
                while time.monotonic() - began < 60:
                    endless.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")
            assert time.monotonic() - began < 60, line


_EXTREMES = {
    "sample_rate": [
        "9" * 5000,
        "nan",
        "inf",
        "-inf",
        "1e400",
        "-1",
        "0",
        "1e-320",
        "0x10",
        "1_0",
        "\u0661",
        "5e2\0",
        "5\n",
    ],
    "leads": ["9" * 5000, "-1", "\u00b2", "\u0661" * 3000, "I," * 3000, "[" * 3000, "\0", "I\ud7ff", "nan", "1e400"],
    "unit": ["\0", "\u0130", "m" * 9000, "{0}", "%s", "mV\nuV", "\u2028"],
    "anonymous": ["2", "\u0661", "nan", "9" * 5000],
}


@pytest.mark.parametrize(("field", "text"), [(field, text) for field, texts in _EXTREMES.items() for text in texts])
def test_extreme_fields(served, field, text):
    path = "report" if field == "anonymous" else "predict"
    data = {"sample_rate": "500", "unit": "uV", field: text}
    response = httpx.post(f"{served.address}{path}", files=parts(npy_file()), data=data, timeout=60)
    assert response.status_code in (200, 400, 422), response.text
    assert response.status_code == 200 or "\n" not in response.json()["error"]


@pytest.mark.parametrize("charset", ["punycode", "idna", "undefined", "unicode_escape", "zip", "utf-16", "nosuch"])
def test_other_charsets(served, charset):
    kind = f"multipart/form-data; boundary=x; charset={charset}"
    body = b'--x\r\nContent-Disposition: form-data; name="unit"\r\n\r\n\\ud800xn--\r\n' + _START + b"1\r\n--x--\r\n"
    response = httpx.post(f"{served.address}predict", content=body, headers={"content-type": kind}, timeout=60)
    assert response.status_code == 415 and "UTF-8" in response.json()["error"]


@pytest.mark.parametrize("name", ["a" * 100_000, "\u0661\u202e.csv", "%00.csv", "a\tb.csv", "\u0130" * 90 + ".csv"])
def test_extreme_names(served, name):
    response = httpx.post(f"{served.address}predict", files=[("f", (name, csv_file()["a.csv"]))], timeout=60)
    assert response.status_code in (200, 400), response.text
    assert len(response.text) < 10_000
