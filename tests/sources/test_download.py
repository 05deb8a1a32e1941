"""Downloading, from a server of our own on the loopback address."""

import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import wfdb

from fairseq_signals_ext import cli
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.sources.download import download


def main(arguments):
    return cli.main(["prepare", *arguments])


ROOT = Path(__file__).resolve().parents[2]
MIMIC = "mimic-iv-ecg/1.0"
RECORDS = ["files/p1000/p10000032/s40689238/40689238", "files/p1000/p10000032/s44458630/44458630"]


class Server(ThreadingHTTPServer):
    """Serves `files` (path below files/ -> bytes, or a status) and records requests."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked, self.seconds, self.short = {}, [], 0, {}

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/files/"

    def fetched(self):
        """Return the GET requests since the last call."""
        found, self.asked = [path for method, path in self.asked if method == "GET"], []
        return sorted(found)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name = self.path[len("/files/") :]
        self.server.asked.append((self.command, name))
        time.sleep(self.server.seconds)
        content = self.server.files.get(name, 404)
        if isinstance(content, list):
            content = content.pop(0) if len(content) > 1 else content[0]
        if isinstance(content, int):
            self.send_response(content)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            # a connection that breaks off
            sent = content[: self.server.short.pop(name, len(content))]
            self.wfile.write(sent)
            self.close_connection = len(sent) < len(content)

    do_HEAD = do_GET

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("fairseq_signals_ext.sources.download.time", type("time", (), {"sleep": lambda seconds: None}))
    made = Server()
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    wfdb.set_db_index_url(made.url)
    yield made
    wfdb.set_db_index_url()
    made.shutdown()
    made.server_close()


@pytest.fixture
def mimic(server, tmp_path, write_record, counts):
    """A small MIMIC-IV-ECG; returns its files below the database."""
    lines = ["subject_id,study_id,file_name,ecg_time,path"]
    for seed, record in enumerate(RECORDS):
        write_record(tmp_path / "home" / record, counts(seed))
        study = record.split("/")[-1]
        lines.append(f"10000032,{study},{study},2180-07-23 08:44:00,{record}")
    (tmp_path / "home" / "record_list.csv").write_text("\n".join([*lines, ""]))
    (tmp_path / "home" / "machine_measurements.csv").write_text("study_id,report_0\n40689238,Sinus rhythm\n")
    files = {
        path.relative_to(tmp_path / "home").as_posix(): path.read_bytes()
        for path in (tmp_path / "home").rglob("*")
        if path.is_file()
    }
    publish(server, MIMIC, {**files, "RECORDS": "\n".join([*RECORDS, RECORDS[0], ""]).encode(), "LICENSE.txt": b"ODbL"})
    return files


def publish(server, database, files):
    server.files.update({f"{database}/{name}": content for name, content in files.items()})


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(kind, folder, **more):
    with pytest.raises(UserError) as caught:
        download(kind, folder, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_download_and_prepare(mimic, server, tmp_path, capsys):
    folder = tmp_path / "new" / "mimic"
    assert main(["mimic_iv_ecg", str(folder), "--out", str(tmp_path / "out"), "--download"]) == 0
    assert contents(folder) == mimic
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{tmp_path / 'out'}: 2 recordings, 0.00 h, 1 shard\n")
    assert printed.err == ""  # no terminal, and too short for a line of progress


def test_second_call_fetches_what_is_missing_or_short(mimic, server, tmp_path, capsys):
    folder = tmp_path / "mimic"
    download("mimic_iv_ecg", folder)
    assert server.fetched() == sorted(f"{MIMIC}/{name}" for name in [*mimic, "RECORDS"])
    download("mimic_iv_ecg", folder)
    assert server.fetched() == [f"{MIMIC}/RECORDS"]
    missing, short, long = f"{RECORDS[0]}.dat", f"{RECORDS[1]}.dat", "record_list.csv"
    (folder / missing).unlink()
    (folder / short).write_bytes(mimic[short][:1000])
    (folder / long).write_bytes(mimic[long] + b"more")
    download("mimic_iv_ecg", folder)
    assert server.fetched() == sorted(f"{MIMIC}/{name}" for name in ("RECORDS", missing, short, long))
    assert contents(folder) == mimic
    assert capsys.readouterr().out == ""


def test_lists_in_folders(server, tmp_path, write_record, counts):
    database = "challenge-2021/1.0.3"
    publish(server, database, {"RECORDS": b"training/georgia/g1/\ntraining/ptb/\n"})
    publish(server, database, {"training/georgia/g1/RECORDS": b"E1\r\nE2\n\n", "training/ptb/RECORDS": b"g1/\n"})
    publish(server, database, {"training/ptb/g1/RECORDS": b"S1"})
    expected = {}
    for seed, name in enumerate(["training/georgia/g1/E1", "training/georgia/g1/E2", "training/ptb/g1/S1"]):
        write_record(tmp_path / "home" / name, counts(seed), mat=True)
    expected = contents(tmp_path / "home")
    publish(server, database, expected)
    folder = tmp_path / "challenge"
    assert main(["physionet2021", str(folder), "--out", str(tmp_path / "out"), "--download"]) == 0
    assert contents(folder) == expected
    assert len(expected) == 6


@pytest.mark.parametrize(("rate", "records"), [(500, "records500"), (250, "records500"), (100, "records100")])
def test_ptbxl_at_one_rate(server, tmp_path, rate, records):
    names = ["records100/00000/00001_lr", "records500/00000/00001_hr"]
    publish(server, "ptb-xl/1.0.3", {"RECORDS": "\n".join(names).encode()})
    tables = ["ptbxl_database.csv", "scp_statements.csv"]
    publish(server, "ptb-xl/1.0.3", {name + suffix: b"x" for name in names for suffix in (".hea", ".dat")})
    publish(server, "ptb-xl/1.0.3", dict.fromkeys(tables, b"y"))
    download("ptbxl", tmp_path / "ptbxl", rate)
    found = [name for name in contents(tmp_path / "ptbxl") if "/" in name]
    assert len(found) == 2
    assert {name.split("/")[0] for name in found} == {records}
    assert set(tables) < set(contents(tmp_path / "ptbxl"))


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "files/../../x",
        "/tmp/x",
        "//server/x",
        "..",
        ".",
        "./x",
        "a//x",
        "..\\..\\x",
        "C:\\x",
        "a\0b",
        "x?y=1",
        "~root/x",
        "a/%2e%2e/x",
        "...../x",
    ],
)
def test_nothing_is_written_outside_the_folder(mimic, server, tmp_path, name):
    publish(server, MIMIC, {"RECORDS": f"{RECORDS[0]}\n{name}\n".encode()})
    before = contents(tmp_path)
    assert "its list of records has" in refusal("mimic_iv_ecg", tmp_path / "a" / "b")
    assert contents(tmp_path) == before


def test_lists_without_end(server, tmp_path):
    for depth in range(20):
        publish(server, MIMIC, {"a/" * depth + "RECORDS": b"a/\n"})
    assert "which is not a file below it" in refusal("mimic_iv_ecg", tmp_path / "mimic")


def test_refused(mimic, server, tmp_path):
    home = "https://physionet.org/content/mimic-iv-ecg/1.0/"
    for status in (401, 403):
        publish(server, MIMIC, {"record_list.csv": status})
        text = refusal("mimic_iv_ecg", tmp_path / "mimic")
        assert text.startswith(f"mimic_iv_ecg: {server.url}{MIMIC}/record_list.csv is refused ({status})")
        assert home in text
    publish(server, MIMIC, {"RECORDS": 403})
    assert home in refusal("mimic_iv_ecg", tmp_path / "mimic")


def test_not_found(mimic, server, tmp_path):
    del server.files[f"{MIMIC}/{RECORDS[1]}.dat"]
    text = refusal("mimic_iv_ecg", tmp_path / "mimic")
    assert f"{server.url}{MIMIC}/{RECORDS[1]}.dat does not exist" in text
    del server.files[f"{MIMIC}/RECORDS"]
    assert "mimic_iv_ecg: no list of records" in refusal("mimic_iv_ecg", tmp_path / "mimic")
    publish(server, MIMIC, {"RECORDS": "réc\n".encode()})
    assert "mimic_iv_ecg: no list of records" in refusal("mimic_iv_ecg", tmp_path / "mimic")


def test_temporary_errors_are_retried(mimic, server, tmp_path):
    whole = mimic["record_list.csv"]
    publish(server, MIMIC, {"record_list.csv": [503, 429, whole], "RECORDS": [500, server.files[f"{MIMIC}/RECORDS"]]})
    server.short = {f"{MIMIC}/{RECORDS[0]}.dat": 700}
    download("mimic_iv_ecg", tmp_path / "mimic")
    assert contents(tmp_path / "mimic") == mimic


def test_permanent_errors_are_reported(mimic, server, tmp_path):
    publish(server, MIMIC, {f"{RECORDS[0]}.dat": 503})
    text = refusal("mimic_iv_ecg", tmp_path / "mimic")
    assert text.startswith("mimic_iv_ecg: 503 Error")
    assert text.endswith("repeat the command later to continue")
    assert server.fetched().count(f"{MIMIC}/{RECORDS[0]}.dat") == 3
    # what is there is whole
    found = contents(tmp_path / "mimic")
    assert found == {name: mimic[name] for name in found}
    publish(server, MIMIC, {f"{RECORDS[0]}.dat": mimic[f"{RECORDS[0]}.dat"]})
    download("mimic_iv_ecg", tmp_path / "mimic")
    assert contents(tmp_path / "mimic") == mimic


def test_no_network(mimic, server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(SystemExit) as caught:
        main(["mimic_iv_ecg", str(tmp_path / "mimic"), "--out", str(tmp_path / "out"), "--download"])
    expected = (
        f"error: mimic_iv_ecg: {server.url}{MIMIC}/RECORDS cannot be reached (ConnectionError); check the network"
    )
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_folder_that_cannot_be_written(mimic, tmp_path):
    (tmp_path / "file").write_text("x")
    assert f"{tmp_path / 'file'}" in refusal("mimic_iv_ecg", tmp_path / "file")
    (tmp_path / "mimic" / "record_list.csv").mkdir(parents=True)
    assert "record_list.csv" in refusal("mimic_iv_ecg", tmp_path / "mimic")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("code15", "code15: cannot be downloaded from here; get exams.csv and exams_part*.zip from doi:10.5281/zenodo"),
        ("muse", "muse: cannot be downloaded from here; it stands for files of your own; leave --download out"),
        ("files", "files: cannot be downloaded from here"),
        ("wfdb", "wfdb: cannot be downloaded from here"),
        ("ptb", "ptb: no such kind of source; use one of code15, files"),
        ("download", "download: no such kind of source"),
    ],
)
def test_kinds_that_are_not_on_physionet(tmp_path, kind, expected):
    assert refusal(kind, tmp_path / "new").startswith(expected)
    assert not (tmp_path / "new").exists()


def test_interrupted(mimic, server, tmp_path):
    """Ctrl-C leaves whole files only, and the next call goes on."""
    folder = tmp_path / "mimic"
    names = [f"files/r{number}" for number in range(40)]
    publish(server, MIMIC, {"RECORDS": "\n".join([*RECORDS, *names]).encode()})
    publish(server, MIMIC, {name + suffix: b"x" * 3000 for name in names for suffix in (".hea", ".dat")})
    server.seconds = 0.1
    script = (
        # a shell's background jobs, and so their tests, ignore Ctrl-C
        "import signal, sys, wfdb; from fairseq_signals_ext.cli import main;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        f"wfdb.set_db_index_url({server.url!r}); sys.exit(main(['prepare', *sys.argv[1:]]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, "mimic_iv_ecg", str(folder), "--out", str(tmp_path / "out"), "--download"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while len(contents(folder)) < 8 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in err
    server.seconds, there = 0, contents(folder)
    assert 8 <= len(there) < len(mimic) + 80
    assert there == {name: server.files[f"{MIMIC}/{name}"] for name in there}
    server.fetched()
    download("mimic_iv_ecg", folder)
    assert len(server.fetched()) == 1 + len(contents(folder)) - len(there)
    assert len(contents(folder)) == len(mimic) + 80
