"""Reports of the service: equal to `report_html`, and no upload stays on the disk."""

import os
import sys
import threading

import pytest
from fastapi.testclient import TestClient
from made_up_uploads import bad_files, csv_file, npy_file, parts, wfdb_files

from fairseq_signals_ext.inference.model import LoadedModel
from fairseq_signals_ext.pages import recording_report as report
from fairseq_signals_ext.pages.recording_report import report_html
from fairseq_signals_ext.pages.report_findings import ReportOptions
from fairseq_signals_ext.readers import read_ecg
from fairseq_signals_ext.serving.app import make_app
from fairseq_signals_ext.serving.folders import PREFIX
from fairseq_signals_ext.serving.guard import hosts_of
from fairseq_signals_ext.serving.limits import Limits

_ADDRESS = "http://127.0.0.1:8000"
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Watched:
    """Files that are opened to be written while it is `on`; Python never forgets a hook."""

    def __init__(self):
        self.on, self.files = False, set()
        sys.addaudithook(self._see)

    def _see(self, event, arguments):
        if self.on and event == "open" and isinstance(arguments[0], str) and (arguments[2] or 0) & _WRITES:
            self.files.add(os.path.abspath(arguments[0]))


@pytest.fixture(scope="module")
def watched():
    return Watched()


def client_of(model):
    return TestClient(make_app(model, Limits(), hosts_of("127.0.0.1")), base_url=_ADDRESS)


@pytest.fixture(scope="module")
def client(model):
    with client_of(model) as client:
        yield client


def read(folder, files):
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return read_ecg(folder / next(iter(files)))


def test_report_is_that_of_report_html(client, model, tmp_path):
    files = wfdb_files(3, "A0001", samples=5000)
    # the header names the report, wherever it stands
    response = client.post("/report", files=parts(files)[::-1])
    assert response.status_code == 200, response.text
    assert response.text == report_html(model, read(tmp_path, files), name="A0001.hea", options=ReportOptions())
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = response.headers["content-security-policy"].split("; ")
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert not any(part.startswith("script-src") for part in policy)


@pytest.mark.parametrize("said", ["1", "true", "YES"])
def test_anonymous(client, said):
    files = parts(csv_file(name="Xq7Zplanted.csv"))
    assert "Xq7Zplanted" in client.post("/report", files=files, data={"anonymous": "0"}).text
    response = client.post("/report", files=files, data={"anonymous": said})
    assert response.status_code == 200 and "Xq7Zplanted" not in response.text and "anonymous" in response.text


@pytest.mark.parametrize(
    ("path", "files", "data", "status", "message"),
    [
        ("/report", csv_file(), {"anonymous": "perhaps"}, 400, "anonymous 'perhaps': give 1 or 0"),
        ("/report", csv_file(), {"name": "x"}, 400, "known are sample_rate, leads, unit, anonymous"),
        ("/predict", csv_file(), {"anonymous": "1"}, 400, "field 'anonymous' is neither a file nor known"),
        ("/report", bad_files(0), {}, 415, "this kind of file is not supported"),
        ("/report", npy_file(), {}, 422, "its sample rate is missing"),
    ],
)
def test_refused_requests(client, path, files, data, status, message):
    response = client.post(path, files=parts(files), data=data)
    assert response.status_code == status and {*response.json()} - {"missing"} == {"error"}
    line = response.json()["error"]
    assert message in line and "\n" not in line and PREFIX not in line


def test_nothing_is_written_outside_the_temporary_folder(client, watched, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    watched.on = True
    response = client.post("/report", files=parts(wfdb_files()))
    watched.on = False
    assert response.status_code == 200
    uploaded = {file for file in watched.files if file.endswith(("A0001.hea", "A0001.dat"))}
    assert len(uploaded) == 2, "the hook sees what is written"
    assert {file for file in watched.files if not file.startswith(f"{temporary}/")} <= {os.devnull}
    assert not list(temporary.iterdir())


def test_reports_are_made_in_the_thread_of_the_model(client, monkeypatch):
    threads = set()
    draw = report.draw

    def drawing(*arguments):
        threads.add(threading.current_thread().name)
        return draw(*arguments)

    monkeypatch.setattr(report, "draw", drawing)
    for _ in range(2):
        assert client.post("/report", files=parts(csv_file())).status_code == 200
    assert len(threads) == 1 and threads.pop().startswith("model")


def test_models_without_gradients_have_reports_without_a_map(model):
    def backend(source, padding_mask):
        return model.backend(source, padding_mask)

    with client_of(LoadedModel(model.description, backend, "only_runs")) as client:
        response = client.post("/report", files=parts(csv_file()))
    assert response.status_code == 200 and "where the model looked" not in response.text
