"""`hf:` sources, from a cache and from a server on this machine that answers as the hub does."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from made_up_checkpoints import saved_checkpoint

from fairseq_signals_ext.inference.export import export

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# loads each argument and prints its type, or the error
SCRIPT = """
import json, sys
import numpy as np
import fairseq_signals_ext
from fairseq_signals_ext.common.errors import UserError

signal = np.random.default_rng(0).normal(size=(12, 700))
said = []
for source in sys.argv[1:]:
    try:
        model = fairseq_signals_ext.load(source)
        said.append([list(model.label_names), model.embed(signal, 500).tolist()])
    except UserError as error:
        said.append(f"{type(error).__name__}: {error}")
print("said " + json.dumps(said))
"""


def said_of(*sources, **environment):
    """The output of loading, in a separate process, because the hub's library reads its settings only once."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, *sources],
        env={**clean, **{name: str(value) for name, value in environment.items()}},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = [line[5:] for line in done.stdout.splitlines() if line.startswith("said ")]
    assert lines, done.stderr[-3000:]
    return json.loads(lines[0])


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A classifier, its export in a folder with a strange name, and one that is a program."""
    folder = tmp_path_factory.mktemp("repository")
    saved_checkpoint(folder / "classifier.pt")
    export(folder / "classifier.pt", "safetensors", folder / "exports" / "weights [1]")
    export(folder / "classifier.pt", "torchscript", folder / "exports" / "script")
    (folder / "exports" / "weights [1]" / "other.bin").write_bytes(b"not wanted")
    return folder


class Hub(BaseHTTPRequestHandler):
    """A server with the parts of the hub that a download needs; it has `folder` and `asked`."""

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        from urllib.parse import unquote, urlparse

        path = unquote(urlparse(self.path).path)
        self.server.asked.append(path)
        if not path.startswith(("/us/ecg/", "/api/models/us/ecg")):
            return self.fail("RepoNotFound")
        if path.startswith("/api/models/us/ecg"):
            return self.describe(path, with_body)
        revision, _, name = path[len("/us/ecg/resolve/") :].partition("/")
        if revision not in ("main", "v1", COMMIT):
            return self.fail("RevisionNotFound")
        file = self.server.folder / name
        if not file.is_file():
            return self.fail("EntryNotFound")
        return self.send(file.read_bytes(), with_body)

    def describe(self, path, with_body):
        """Either a revision with its files, or a listing of them."""
        if not any(part in ("main", "v1", COMMIT) for part in path.split("/")) and path != "/api/models/us/ecg":
            return self.fail("RevisionNotFound")
        files = sorted(file for file in self.server.folder.rglob("*") if file.is_file())
        names = [file.relative_to(self.server.folder).as_posix() for file in files]
        if "/tree/" in path:
            contents = [file.read_bytes() for file in files]
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in zip(names, contents)
            ]
            return self.send(json.dumps(entries).encode(), with_body, "application/json")
        facts = {"id": "us/ecg", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names], "private": False}
        facts.update(tags=[], downloads=0, likes=0)
        return self.send(json.dumps(facts).encode(), with_body, "application/json")

    def fail(self, code):
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", "not found")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, content, with_body, kind="application/octet-stream"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(content)


@pytest.fixture
def hub(repository):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.asked = repository, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    yield server
    server.shutdown()
    server.server_close()


def cached(repository, home):
    """The hub's cache, as its library documents it, with the repository in it."""
    cache = home / "hub" / "models--us--ecg"
    shutil.copytree(repository, cache / "snapshots" / COMMIT)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(COMMIT)


def test_from_a_server(hub, repository, tmp_path):
    local = [repository / "classifier.pt", repository / "exports" / "weights [1]"]
    remote = ["hf:us/ecg@v1/classifier.pt", "hf:us/ecg/exports/weights [1]"]
    expected = said_of(*map(str, local))
    assert expected[0][0] == ["A", "B", "C"]
    np.testing.assert_allclose(expected[0][1], expected[1][1], atol=1e-5)
    settings = {"HF_ENDPOINT": hub.address, "HF_HOME": tmp_path / "home"}
    assert said_of(*remote, **settings) == expected
    assert any(path.endswith("classifier.pt") for path in hub.asked)
    assert not any(path.endswith("other.bin") for path in hub.asked)
    # it is in the cache now
    hub.asked.clear()
    assert said_of(remote[1], **settings, HF_HUB_OFFLINE=1) == expected[1:]
    assert hub.asked == []


def test_errors_of_a_server(hub, tmp_path):
    said = said_of(
        "hf:us/ecg/none.pt",
        "hf:us/none/x.pt",
        "hf:us/ecg@v9/x.pt",
        "hf:us/ecg/nowhere",
        "hf:us/ecg",
        "hf:us",
        "hf:us/e c g/model.pt",
        "hf:us/ecg@v1@v2/model.pt",
        HF_ENDPOINT=hub.address,
        HF_HOME=tmp_path,
    )
    assert said == [
        "UserError: hf:us/ecg/none.pt: no such file in the repository; correct the name",
        "UserError: hf:us/none/x.pt: no such repository, or a private one; correct the name, or `hf auth login`",
        "UserError: hf:us/ecg@v9/x.pt: no such revision; give a branch, tag or commit of the repository",
        "UserError: hf:us/ecg/nowhere: has no config.json; give a FILE.pt, or the FOLDER of an export",
        "UserError: hf:us/ecg: has no config.json; give a FILE.pt, or the FOLDER of an export",
        "UserError: hf:us: write it as hf:OWNER/REPO/FILE.pt, or hf:OWNER/REPO/FOLDER of an export",
        said[6],
        "UserError: hf:us/ecg@v1@v2/model.pt: write it as hf:OWNER/REPO/FILE.pt, or hf:OWNER/REPO/FOLDER of an export",
    ]
    assert said[6].startswith("UserError: hf:us/e c g/model.pt: ") and "\n" not in said[6]


@pytest.mark.slow
def test_from_a_cache_without_network(repository, tmp_path):
    cached(repository, tmp_path)
    expected = said_of(str(repository / "exports" / "weights [1]"))
    sources = ["hf:us/ecg/exports/weights [1]", "hf:us/ecg/none.pt", "hf:us/other/folder"]
    out_of_reach = "not in the cache, and the hub is out of reach; connect, or give a local file"
    said = said_of(*sources, HF_HOME=tmp_path, HF_HUB_OFFLINE=1)
    assert said == [*expected, *(f"UserError: {source}: {out_of_reach}" for source in sources[1:])]
    # no server listens there; for a single file the library tries again for 20 s
    said = said_of(sources[0], sources[2], HF_HOME=tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert said == [*expected, f"UserError: {sources[2]}: {out_of_reach}"]


def test_programs_of_others_are_not_run(repository, tmp_path):
    """TorchScript can write files, also while it is loaded."""
    cached(repository, tmp_path)
    sources = [f"hf:us/ecg/exports/script{rest}" for rest in ("", "/", "/config.json", "/model.pt")]
    said = said_of(*sources, str(repository / "exports" / "script"), HF_HOME=tmp_path, HF_HUB_OFFLINE=1)
    refused = "is TorchScript, which contains code; use its ONNX or safetensors export"
    assert said[:4] == [f"UserError: {source}: {refused}" for source in sources]
    assert said[4][0] == ["A", "B", "C"]  # of this machine


@pytest.mark.parametrize(
    "path",
    [
        "us/ecg/../../x",
        "us/ecg/../../x.pt",
        "us/ecg/exports/..",
        "us/ecg/exports/../x.pt",
        "us/ecg/./x.pt",
        "us/ecg//x.pt",
        "us/ecg//",
        "us/ecg/x//",
        "us/ecg@../x.pt",
        "../ecg/x.pt",
        "us/..",
        "us/../x.pt",
    ],
)
def test_nothing_outside_the_repository(path):
    import fairseq_signals_ext
    from fairseq_signals_ext.common.errors import UserError

    with pytest.raises(UserError, match="write it as hf:OWNER/REPO/FILE.pt"):
        fairseq_signals_ext.load(f"hf:{path}")


def test_without_the_library(monkeypatch):
    import fairseq_signals_ext
    from fairseq_signals_ext.common.errors import MissingPackageError, install_command

    for module in [module for module in sys.modules if module.split(".")[0] == "huggingface_hub"]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    hint = f"hf:a/b/c.pt: huggingface_hub is not installed: {install_command('hub')}"
    with pytest.raises(MissingPackageError, match=re.escape(hint)):
        fairseq_signals_ext.load("hf:a/b/c.pt")


def test_a_folder_named_like_the_hub_is_none(tmp_path, monkeypatch):
    """Only text is a source on the hub."""
    import fairseq_signals_ext
    from fairseq_signals_ext.common.errors import UserError

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="hf:a/b/c.pt: no such checkpoint"):
        fairseq_signals_ext.load(Path("hf:a/b/c.pt"))
