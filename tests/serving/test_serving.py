"""What the service answers, without a network."""

import asyncio
import io
import json
import threading
import time
from pathlib import Path

import h5py
import httpx
import numpy as np
import pytest
import scipy.io
from fastapi.testclient import TestClient
from made_up_checkpoints import LABELS, saved_checkpoint
from made_up_uploads import bad_files, csv_file, npy_file, parts, wfdb_files

import fairseq_signals_ext
from fairseq_signals_ext.common.errors import MissingPackageError, UserError, install_command
from fairseq_signals_ext.readers import read_ecg
from fairseq_signals_ext.serving import app as serving
from fairseq_signals_ext.serving import work
from fairseq_signals_ext.serving.app import make_app
from fairseq_signals_ext.serving.folders import PREFIX
from fairseq_signals_ext.serving.guard import hosts_of
from fairseq_signals_ext.serving.limits import Limits

_SAID = {"sample_rate": "500", "unit": "uV"}
_ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def client(model):
    app = make_app(model, Limits(upload_bytes=1_000_000, files=4), hosts_of("127.0.0.1"))
    with TestClient(app, base_url=_ADDRESS, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Where uploads are kept; nothing is left there."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield folder
    assert not list(folder.iterdir())


def written(folder, files):
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder / next(iter(files))


def refused(client, files, status, data=None):
    """The one line of a refusal, which has nothing of where files are kept."""
    response = client.post("/predict", files=parts(files), data=data)
    assert response.status_code == status, response.text
    answer = response.json()
    # the message names the request's field, not the command's option
    missing = {"rate is missing": "sample_rate", "no unit": "unit", "fit 2 leads": "leads"}
    line = answer.pop("error")
    assert list(answer.items()) == [("missing", name) for words, name in missing.items() if words in line]
    assert "--input" not in line
    assert "\n" not in line and "/temporary" not in line and PREFIX not in line
    return line


@pytest.mark.parametrize("made", [wfdb_files, csv_file, npy_file])
def test_answer_is_the_models(client, model, tmp_path, made):
    files = made(seed=3, samples=5000)
    data = _SAID if made is npy_file else {}
    response = client.post("/predict", files=parts(files), data=data)
    assert response.status_code == 200, response.text
    answer = response.json()
    recording = read_ecg(written(tmp_path, files), **({"sample_rate": 500.0, "unit": "uV"} if data else {}))
    expected = model.predict(recording)
    assert [label["name"] for label in answer["labels"]] == list(LABELS)
    assert [label["probability"] for label in answer["labels"]] == expected.scores.tolist()
    assert [label["positive"] for label in answer["labels"]] == expected.positive.tolist()
    assert [label["threshold"] for label in answer["labels"]] == [0.25, 0.5, 0.75]
    assert [segment["scores"] for segment in answer["segments"]] == expected.segment_scores.tolist()
    assert [(segment["start"], segment["end"]) for segment in answer["segments"]] == [(0.0, 1.0), (5.0, 6.0)]
    assert (answer["record_id"], answer["seconds"], answer["sample_rate"]) == (recording.record_id, 10.0, 500.0)
    assert answer["leads"] == ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
    assert answer["missing_leads"] == [] and list(answer["flags"]) == list(expected.recording.flags)
    assert answer["cut"] == {"start": 0.0, "end": 0.0}
    assert answer["note"].startswith("Research use only")


def test_same_ecg_same_answer(client):
    answers = [client.post("/predict", files=parts(made(seed=5))).json() for made in (wfdb_files, csv_file)]
    first, second = ([label["probability"] for label in answer["labels"]] for answer in answers)
    assert first == pytest.approx(second, abs=1e-3)


def test_regression_and_no_thresholds(tmp_path):
    path = saved_checkpoint(tmp_path / "regression.pt", "regression")
    app = make_app(fairseq_signals_ext.load(path), Limits(), hosts_of("127.0.0.1"))
    with TestClient(app, base_url=_ADDRESS) as client:
        labels = client.post("/predict", files=parts(wfdb_files())).json()["labels"]
    assert {tuple(label) for label in labels} == {("name", "value", "threshold", "positive", "calibrated", "decision")}
    assert {(label["threshold"], label["positive"]) for label in labels} == {(None, None)}


def test_pretrained_model_is_refused_at_the_start(tmp_path):
    path = saved_checkpoint(tmp_path / "pretrained.pt", "pretraining")
    with pytest.raises(UserError, match="is a pretrained model, which has no labels"):
        make_app(fairseq_signals_ext.load(path), Limits(), hosts_of("127.0.0.1"))


def test_model_and_health(client, checkpoint):
    facts = client.get("/model").json()
    assert facts["name"] == "small.pt" and facts["labels"] == list(LABELS) and facts["thresholds"] == [0.25, 0.5, 0.75]
    assert facts["largest_upload_bytes"] == 1_000_000 and str(checkpoint.parent) not in json.dumps(facts)
    assert client.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [
        (0, 415, "bad0.dcm: this kind of file is not supported"),
        (1, 422, "cut0.hea: its file 'cut0.dat' has 400 bytes, but 1250 samples per lead need 30000"),
        (2, 422, "empty0.csv: the file is empty"),
        (3, 422, "alone0.hea: its file 'alone0.dat' was not sent; send it together with the header"),
    ],
)
def test_bad_files(client, kind, status, message):
    assert refused(client, bad_files(kind), status).startswith(message)


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        ({}, 422, "its sample rate is missing"),
        ({"sample_rate": "500"}, 422, "it contains integers and no unit"),
        ({"sample_rate": "fast"}, 400, "sample_rate 'fast' is not a rate"),
        ({"sample_rate": "nan"}, 400, "is not a rate"),
        ({"sample_rate": "-5"}, 400, "is not a rate"),
        ({**_SAID, "leads": "I,X9"}, 400, "unknown lead 'X9'"),
        ({**_SAID, "leads": "I,II"}, 422, "does not fit 2 leads"),
        ({**_SAID, "unit": "kg"}, 422, "the unit 'kg' is not a voltage"),
        ({**_SAID, "rate": "500"}, 400, "field 'rate' is neither a file nor known"),
        ({**_SAID, "unit": "u" * 20_000}, 400, "maximum size"),
    ],
)
def test_errors_of_files(client, data, status, message):
    assert message in refused(client, npy_file(), status, data)


def test_empty_fields_say_nothing(client):
    assert client.post("/predict", files=parts(csv_file()), data=dict.fromkeys(_SAID, " ")).status_code == 200


def test_several_files(client):
    two = {**wfdb_files(0, "A"), **wfdb_files(1, "B")}
    assert "headers of several recordings" in refused(client, two, 400)
    assert "no WFDB header" in refused(client, {**csv_file(name="a.csv"), **csv_file(name="b.csv")}, 400)
    assert refused(client, {**wfdb_files(), **csv_file(name="b.csv")}, 400).startswith("b.csv: does not belong to A000")
    assert "Too many files" in refused(client, {f"{number}.csv": b"1" for number in range(5)}, 400)
    twice = [("file", ("A0001.hea", b"1")), ("file", ("x/A0001.hea", b"2"))]
    assert "two files of the upload" in client.post("/predict", files=twice).json()["error"]
    assert client.post("/predict", files=parts({**wfdb_files(), "A0001.atr": b"1"})).status_code == 200


def test_record_of_segments(client, tmp_path, model):
    files = {"whole.hea": b"whole/2 12 500 2500\nS1 1250\nS2 1250\n", **wfdb_files(1, "S1"), **wfdb_files(2, "S2")}
    expected = model.predict(read_ecg(written(tmp_path, files))).scores.tolist()
    app = make_app(model, Limits(), hosts_of("127.0.0.1"))
    with TestClient(app, base_url=_ADDRESS) as client:
        answer = client.post("/predict", files=parts(files)).json()
        assert [label["probability"] for label in answer["labels"]] == expected
        del files["S1.hea"]
        assert "'S1.hea' was not sent" in client.post("/predict", files=parts(files)).json()["error"]


@pytest.mark.parametrize(
    "name", ["../secret.dat", "{outside}/secret.dat", "..", "s3://bucket/secret.dat", "a/../../secret.dat"]
)
def test_headers_cannot_name_other_files(client, temporary, tmp_path, name):
    """A file of the right size lies where the header points to, so only refusing to open it makes a difference."""
    outside = tmp_path / "outside"
    outside.mkdir()
    content = wfdb_files(7)["A0001.dat"]
    for folder in (outside, tmp_path):
        (folder / "secret.dat").write_bytes(content)
    named = name.format(outside=outside)
    header = {"A0001.hea": wfdb_files(7, signal_file=named)["A0001.hea"]}
    assert "was not sent" in refused(client, header, 422)
    # nor does the reader open it
    (outside / "inner").mkdir()
    path = written(outside / "inner", header)
    with pytest.raises(UserError):
        read_ecg(path)
    # a file of this name that was sent lies beside the header, and is the one that is read
    files = {**header, "secret.dat": wfdb_files(8)["A0001.dat"]}
    if name == "..":
        assert "was not sent" in refused(client, files, 422)
    else:
        plain = {**wfdb_files(7, signal_file="secret.dat"), "secret.dat": files["secret.dat"]}
        del plain["A0001.dat"]
        answers = [client.post("/predict", files=parts(some)).json()["labels"] for some in (files, plain)]
        assert answers[0] == answers[1]


def test_hostile_names_of_files(client):
    content = csv_file()["a.csv"]
    for name in ("../../evil.csv", "/etc/evil.csv", "..\\evil.csv", ".evil.csv", "e\u0301vil ?.csv", "", "a" * 2000):
        response = client.post("/predict", files=[("file", (name or "x", content))])
        assert response.status_code == 200, response.text
        assert "/" not in response.json()["record_id"]
    said = refused(client, {"../../mein EKG.csv": b"I,II\n1,x\n"}, 422)
    assert said.startswith("mein EKG.csv: ")


def test_claims_of_samples(model, tmp_path):
    """Compressed files that would grow to far more than was sent are refused before they are read."""
    flac = b"A 12 500 900000000\n" + b"A.dat 516 1000/mV 16 0 0 0 0 I\n" * 12
    with h5py.File(tmp_path / "bomb.mat", "w", userblock_size=512) as file:
        file.create_dataset("val", data=np.ones((100_000, 12), "<i2"), compression="gzip")
    hdf5 = b"MATLAB 7.3 MAT-file".ljust(512, b"\0") + (tmp_path / "bomb.mat").read_bytes()[512:]
    scipy.io.savemat(tmp_path / "bomb.mat", {"val": np.ones((100_000, 12), "<i2")}, do_compression=True)
    with TestClient(make_app(model, Limits(50_000), hosts_of("127.0.0.1")), base_url=_ADDRESS) as client:
        assert "claims more than 1e+05 samples" in refused(client, {"A.hea": flac, "A.dat": b"0"}, 413)
        for bomb in (hdf5, (tmp_path / "bomb.mat").read_bytes()):
            assert "claims more than 1e+05 samples" in refused(client, {"bomb.mat": bomb}, 413, _SAID)


def test_too_long(client):
    rows = {"slow.csv": b"I_mV,II_mV\n" + b"0.1,0.2\n0.3,0.4\n" * 43_201}
    assert (
        refused(client, rows, 422, {"sample_rate": "1"}) == "slow.csv: lasts 24.0 h, more than 24 h; send a part of it"
    )


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{}", "application/json", 415),
        (b"a=1", "application/x-www-form-urlencoded", 415),
        (b"", "", 415),
        (b"nonsense", "multipart/form-data; boundary=x", 400),
        (b"nonsense", "multipart/form-data", 400),
        (b"--x\r\nno header\r\n\r\n1\r\n--x--\r\n", "multipart/form-data; boundary=x", 400),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n", "multipart/form-data; boundary=x", 400),
        (b"--x--\r\n", "multipart/form-data; boundary=x", 400),
    ],
)
def test_requests_that_are_none(client, content, kind, status):
    response = client.post("/predict", content=content, headers={"content-type": kind})
    assert response.status_code == status and "\n" not in response.json()["error"]


def test_cut_uploads_are_never_a_failure_of_ours(client):
    request = httpx.Request("POST", f"{_ADDRESS}/predict", files=parts(wfdb_files()))
    body = request.read()
    for size in (10, 60, 300, 1500, len(body) // 2, len(body) - 70, len(body) - 3):
        kind = request.headers["content-type"]
        response = client.post("/predict", content=body[:size], headers={"content-type": kind})
        assert response.status_code in (400, 422), (size, response.text)


def test_damaged_files_are_never_a_failure_of_ours(ecg_data, model):
    """Real files of all formats with some bytes changed: an answer, or a refusal."""
    rng = np.random.default_rng(0)
    georgia = ecg_data / "cinc2021" / "georgia"
    groups = [[path] for path in sorted((ecg_data / "formats").iterdir())]
    groups.append([georgia / "E00001.hea", georgia / "E00001.mat"])
    found = set()
    with TestClient(make_app(model, Limits(), hosts_of("127.0.0.1")), base_url=_ADDRESS) as client:
        for number in range(3 * len(groups)):
            files = {path.name: bytearray(path.read_bytes()) for path in groups[number % len(groups)]}
            for content in files.values():
                if rng.random() < 0.2:
                    del content[-rng.integers(1, 500) :]
                for place in rng.integers(0, len(content), rng.integers(0, 4)):
                    content[place] = rng.integers(0, 256)
            response = client.post("/predict", files=parts({name: bytes(file) for name, file in files.items()}))
            assert response.status_code in (200, 400, 413, 415, 422), response.text
            found.add(response.status_code)
    assert {200, 422} <= found


def test_other_paths(client):
    for method, path, status in (("GET", "/predict", 405), ("GET", "/docs", 404), ("GET", "/openapi.json", 404)):
        response = client.request(method, path)
        assert response.status_code == status and list(response.json()) == ["error"]
        if status == 405:
            assert response.json()["error"] == "/predict: does not take GET; send POST"
            assert response.headers["allow"] == "POST"
        else:
            addresses = "GET /, GET /health, GET /model, POST /predict, POST /report"
            assert response.json()["error"] == f"{path}: no such address; there are {addresses}"


def test_a_mistake_of_ours_is_not_shown(client, model, monkeypatch):
    def fail(recording):
        raise RuntimeError("secret")

    monkeypatch.setattr(model, "predict", fail)
    response = client.post("/predict", files=parts(wfdb_files()))
    assert response.status_code == 500 and response.json() == {"error": "the service failed; see its log"}


def test_a_missing_package(client, model, monkeypatch):
    def fail(recording):
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")

    monkeypatch.setattr(model, "predict", fail)
    assert refused(client, wfdb_files(), 501) == f"matplotlib is not installed: {install_command('report')}"


def test_a_missing_package_of_the_model(client, model, monkeypatch):
    def fail(recording):
        raise MissingPackageError(f"{model.source}: x is not installed: {install_command('formats')}")

    monkeypatch.setattr(model, "predict", fail)
    said = refused(client, wfdb_files(), 501)
    assert said == f"small.pt: x is not installed: {install_command('formats')}"


@pytest.mark.parametrize(
    ("host", "called", "status"),
    [
        ("127.0.0.1", "127.0.0.1:8000", 200),
        ("127.0.0.1", "localhost", 200),
        ("127.0.0.1", "LOCALHOST:8000", 200),
        ("127.0.0.1", "[::1]:8000", 200),
        ("127.0.0.1", "evil.com", 400),
        ("127.0.0.1", "localhost.evil.com:8000", 400),
        ("127.0.0.1", "192.168.0.7:8000", 400),
        ("127.0.0.1", "[::1", 400),
        ("127.0.0.1", "", 400),
        ("0.0.0.0", "192.168.0.7:8000", 200),
        ("0.0.0.0", "evil.com:8000", 400),
        ("ecg.hospital.org", "ECG.hospital.org", 200),
    ],
)
def test_hosts(model, host, called, status):
    with TestClient(make_app(model, Limits(), hosts_of(host)), base_url=_ADDRESS) as client:
        assert client.get("/model", headers={"host": called}).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        ("http://127.0.0.1:8000", 200),
        ("http://127.0.0.1:8001", 403),
        ("http://localhost:8000", 403),
        ("https://evil.com", 403),
        ("null", 403),
        ("http://[", 403),
        ("", 403),
    ],
)
def test_origins(client, origin, status):
    headers = {} if origin is None else {"origin": origin}
    assert client.post("/predict", files=parts(wfdb_files()), headers=headers).status_code == status


def test_headers_of_answers(client):
    for response in (client.get("/"), client.get("/model"), client.post("/predict"), client.get("/nosuch")):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["content-security-policy"].startswith("default-src 'none'")
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_few_are_in_work_and_the_model_runs_one(model, monkeypatch):
    """Of many requests at once; counted where they are read and where the model runs."""
    at, most = {"read": 0, "model": 0}, {"read": 0, "model": 0}
    lock, read, predict = threading.Lock(), work._read, model.predict

    def count(where, change):
        with lock:
            at[where] += change
            most[where] = max(most[where], at[where])

    async def reading(*arguments):
        count("read", 1)
        await asyncio.sleep(0.02)
        found = await read(*arguments)
        count("read", -1)
        return found

    def predicting(recording):
        count("model", 1)
        time.sleep(0.01)
        prediction = predict(recording)
        count("model", -1)
        return prediction

    monkeypatch.setattr(work, "_read", reading)
    monkeypatch.setattr(model, "predict", predicting)
    app = make_app(model, Limits(at_once=3, readers=2), hosts_of("127.0.0.1"))

    async def ask_all():
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(
            transport=transport, base_url=_ADDRESS
        ) as client:
            asked = [client.post("/predict", files=parts(wfdb_files(seed))) for seed in range(12)]
            return await asyncio.gather(*asked)

    assert {response.status_code for response in asyncio.run(ask_all())} == {200}
    assert most == {"read": 3, "model": 1}


def test_uploads_are_private(client, monkeypatch):
    modes = []
    receive = serving.receive_upload

    async def receiving(request, folder, *arguments):
        modes.append(Path(folder).stat().st_mode & 0o777)
        return await receive(request, folder, *arguments)

    monkeypatch.setattr(serving, "receive_upload", receiving)
    assert client.post("/predict", files=parts(wfdb_files())).status_code == 200
    assert modes == [0o700]


def test_arrays_with_named_leads(client, model):
    signal = np.random.default_rng(0).normal(size=(2, 1250)).astype(np.float32)
    saved = io.BytesIO()
    np.save(saved, signal)
    data = {"sample_rate": "500", "leads": "V2, II"}
    answer = client.post("/predict", files=parts({"a.npy": saved.getvalue()}), data=data).json()
    expected = model.predict(signal.astype(np.float64), 500.0, ["V2", "II"]).scores.tolist()
    assert answer["leads"] == ["II", "V2"] and len(answer["missing_leads"]) == 10 and "filled" in answer["flags"]
    assert [label["probability"] for label in answer["labels"]] == expected
