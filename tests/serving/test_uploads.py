"""Names and limits of uploads."""

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from made_up_uploads import wfdb_files

from fairseq_signals_ext.serving.app import make_app
from fairseq_signals_ext.serving.guard import hosts_of
from fairseq_signals_ext.serving.limits import Limits
from fairseq_signals_ext.serving.upload import Upload
from fairseq_signals_ext.serving.uploads import safe_name

_PIECE = 10_000


@given(st.text(max_size=300))
@example("../../etc/passwd")
@example("..\\..\\windows\\system.ini")
@example("/")
@example("...")
@example(".bashrc")
@example("a" * 300 + ".hea")
@example("a." + "b" * 300)
def test_safe_names_are_files_of_their_folder(sent):
    name = safe_name(sent)
    assert 0 < len(name) <= 100 and not name.startswith(".")
    assert set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
    assert (Path("/folder") / name).resolve().parent == Path("/folder")
    assert safe_name(name) == name


@pytest.mark.parametrize("name", ["A0001.hea", "my-ecg_2.DCM", "a" * 96 + ".hea"])
def test_plain_names_stay(name):
    assert safe_name(name) == name and safe_name(f"C:\\ecgs\\{name}") == name


def test_messages_are_in_the_senders_words():
    upload = Upload(Path("/tmp/private"), {"m_n_EKG.csv": "mein EKG.csv"})
    assert upload.in_senders_words("/tmp/private/m_n_EKG.csv: is empty") == "mein EKG.csv: is empty"
    assert upload.in_senders_words("/tmp/private/other: no") == "other: no"
    assert "private" not in upload.in_senders_words("cannot read /tmp/private")


def call(model, limits, receive, headers=()):
    """Status and answer of a request with a body from `receive`, and the files left in the temporary folder."""
    app = make_app(model, limits, hosts_of("127.0.0.1"))
    sent = []

    async def send(message):
        sent.append(message)

    async def run():
        all_headers = {"host": "127.0.0.1", "content-type": "multipart/form-data; boundary=x", **dict(headers)}
        raw = [(name.encode(), value.encode()) for name, value in all_headers.items()]
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": raw, "query_string": b""}
        scope.update(http_version="1.1", scheme="http", root_path="", client=None, server=("127.0.0.1", 8000))
        async with app.router.lifespan_context(app):
            await app(scope, receive, send)

    asyncio.run(run())
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return sent[0]["status"], json.loads(sent[1]["body"])


class Endless:
    """A body that never ends; counts the bytes that were read."""

    def __init__(self):
        self.taken = 0

    async def __call__(self):
        start = b"--x\r\nContent-Disposition: form-data; name=f; filename=a.npy\r\n\r\n" if not self.taken else b""
        self.taken += _PIECE
        return {"type": "http.request", "body": start.ljust(_PIECE, b"0"), "more_body": True}


@pytest.fixture()
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield tmp_path
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("headers", [(), (("content-length", "900000000"),)])
def test_endless_uploads_are_ended(model, temporary, headers):
    receive, limit = Endless(), 500_000
    status, answer = call(model, Limits(upload_bytes=limit), receive, headers)
    assert status == 413 and answer["error"] == "upload: has more than 0.5 MB, the limit here; send a shorter ECG"
    assert receive.taken <= 4 * limit + 2 * _PIECE


def test_uploads_announced_as_too_large_are_not_stored(model, temporary, monkeypatch):
    def stored(*arguments, **options):
        raise AssertionError("a file was made")

    monkeypatch.setattr("starlette.formparsers.SpooledTemporaryFile", stored)
    assert call(model, Limits(upload_bytes=500_000), Endless(), [("content-length", "500001")])[0] == 413


def test_missing_data_are_not_waited_for(model, temporary):
    async def receive():
        await asyncio.sleep(60)

    status, answer = call(model, Limits(upload_seconds=0.2), receive)
    assert status == 408 and answer["error"] == "upload: took more than 0.2 s; send it again"


def test_interrupted_uploads(model, temporary):
    messages = [{"type": "http.request", "body": b"--x\r\n", "more_body": True}, {"type": "http.disconnect"}]

    async def receive():
        return messages.pop(0)

    assert call(model, Limits(), receive) == (400, {"error": "upload: was broken off; send it again"})


def test_exactly_the_limit_is_taken(model, temporary):
    files = wfdb_files()
    start = 'Content-Disposition: form-data; name="f"; filename="{}"\r\n\r\n'
    body = b"".join(b"--x\r\n" + start.format(name).encode() + content + b"\r\n" for name, content in files.items())
    body += b"--x--\r\n"

    def statuses(limit):
        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        return call(model, Limits(upload_bytes=limit), receive)[0]

    assert (statuses(len(body)), statuses(len(body) - 1)) == (200, 413)
