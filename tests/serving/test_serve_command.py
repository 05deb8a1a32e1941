"""The command as a user runs it: concurrent uploads, remaining files, and its end."""

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from made_up_tables import contents
from made_up_uploads import bad_files, csv_file, npy_file, parts, wfdb_files
from serving_process import eventually, running

import fairseq_signals_ext
from fairseq_signals_ext.cli import main
from fairseq_signals_ext.readers import read_ecg

_SAID = {"sample_rate": 500.0, "unit": "uV"}


def made_up_upload(number):
    """Files, their metadata, and whether they are good; each tenth is bad."""
    if number % 10 == 9:
        return bad_files(number // 10, number), {}, False
    made = (wfdb_files, csv_file, npy_file)[number % 3]
    files = made(number, samples=2500 * (1 + number % 4))
    return files, _SAID if made is npy_file else {}, True


def answers(address, uploads, at_once):
    """Responses to uploads, sent by so many threads."""

    def ask(upload):
        return httpx.post(f"{address}predict", files=parts(upload[0]), data=upload[1], timeout=600)

    with ThreadPoolExecutor(at_once) as threads:
        return list(threads.map(ask, uploads))


def scores_of(response):
    return [label["probability"] for label in response.json()["labels"]]


def expected_scores(model, folder, upload):
    folder.mkdir()
    for name, content in upload[0].items():
        (folder / name).write_bytes(content)
    return model.predict(read_ecg(folder / next(iter(upload[0])), **upload[1])).scores.tolist()


def check(responses, uploads, expected):
    for response, upload, scores in zip(responses, uploads, expected):
        if upload[2]:
            assert response.status_code == 200, response.text
            # threads of the runtime may add in another order
            assert scores_of(response) == pytest.approx(scores, abs=1e-6)
        else:
            assert response.status_code in (415, 422), response.text
            assert list(response.json()) == ["error"] and "\n" not in response.json()["error"]


def test_uploads_at_once(served, model, tmp_path):
    uploads = [made_up_upload(number) for number in range(20)]
    assert sum(not upload[2] for upload in uploads) == 2
    expected = [upload[2] and expected_scores(model, tmp_path / str(n), upload) for n, upload in enumerate(uploads)]
    before = {name: content for name, content in contents(served.temporary.parent).items() if name != "log.txt"}
    check(answers(served.address, uploads, at_once=20), uploads, expected)
    assert eventually(lambda: not list(served.temporary.iterdir()))
    after = {name: content for name, content in contents(served.temporary.parent).items() if name != "log.txt"}
    assert after == before and "Traceback" not in served.log()


def test_printed_lines(served):
    assert served.line.startswith("http://127.0.0.1:") and "research use only" in served.line
    assert httpx.get(f"{served.address}health").json() == {"status": "ok"}
    assert "warning" not in served.log()


def test_large_uploads_get_an_answer(served):
    """Although the client would rather go on sending."""

    def pieces():
        for _ in range(70):
            yield b"0" * 1_000_000

    headers = {"content-type": "multipart/form-data; boundary=x"}
    for content in (b"0" * 70_000_000, pieces()):
        response = httpx.post(f"{served.address}predict", content=content, headers=headers, timeout=60)
        assert response.status_code in (400, 413), response.text
    files = {"file": ("a.npy", b"0" * 70_000_000)}
    response = httpx.post(f"{served.address}predict", files=files, timeout=60)
    assert response.status_code == 413 and "more than 64 MB" in response.json()["error"]
    assert eventually(lambda: not list(served.temporary.iterdir()))


@pytest.mark.slow
def test_control_c_ends_it_cleanly(checkpoint, tmp_path):
    with running(tmp_path, checkpoint, "--port", 0, "--host", "0.0.0.0") as served:
        address = served.address.replace("0.0.0.0", "127.0.0.1")
        assert httpx.post(f"{address}predict", files=parts(wfdb_files())).status_code == 200
        assert served.end(signal.SIGINT) == 0
        assert "Traceback" not in served.log() and not list(served.temporary.iterdir())
        assert served.log().count("warning: --host 0.0.0.0: anyone who can reach it may use it") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "no such host"], "--host no such host: no such address"),
        (["--port", "70000"], "--port 70000: give 0 to 65535"),
        (["--max-upload-mb", "nan"], "--max-upload-mb nan: give 0.001 to 100000"),
        (["--max-upload-mb", "0"], "--max-upload-mb 0: give"),
        (["--port", "0", "--device", "nosuch"], "nosuch"),
    ],
)
def test_users_mistakes(checkpoint, options, message):
    with pytest.raises(SystemExit) as end:
        main(["serve", str(checkpoint), *options])
    assert str(end.value).startswith("error: ") and message in str(end.value) and "\n" not in str(end.value)


def test_port_in_use(checkpoint):
    handler = signal.getsignal(signal.SIGTERM)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SystemExit, match=f"error: --port {port}: is in use; give another, or 0 for any that is"):
            main(["serve", str(checkpoint), "--port", str(port)])
    assert signal.getsignal(signal.SIGTERM) is handler


def real_uploads(ecg_data, count):
    """Real files of all formats that say all of themselves; each tenth is bad."""
    headers = sorted(ecg_data.glob("cinc2021/*/*.hea")) + sorted(ecg_data.glob("ptbxl/**/*.hea"))
    headers += sorted(ecg_data.glob("code15_wfdb/**/*.hea"))
    names = ("dicom_12lead_1000hz.dcm", "example.scp", "ge_muse_8lead.xml", "hl7_aecg.xml", "philips_sierra_1_04.xml")
    groups = [[ecg_data / "formats" / name] for name in names]
    for header in headers:
        groups.append([header, *(path for path in header.parent.glob(f"{header.stem}.*") if path != header)])
    bad = [bad_files(number, number) for number in range(count // 10)]
    good = [{path.name: path.read_bytes() for path in group} for group in groups[: count - len(bad)]]
    uploads = [(files, {}, True) for files in good]
    for number, files in enumerate(bad):
        uploads.insert(10 * number + 9, (files, {}, False))
    return uploads


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_two_hundred_real_uploads(golden_folder, ecg_data, tmp_path):
    """Twice 200 at once, with 10 % bad ones; the second time must not need more memory."""
    checkpoint = golden_folder / "tiny_finetuned.pt"
    model = fairseq_signals_ext.load(checkpoint, threads=1)
    uploads = real_uploads(ecg_data, 200)
    assert len(uploads) == 200 and sum(not upload[2] for upload in uploads) == 20
    expected = [upload[2] and expected_scores(model, tmp_path / str(n), upload) for n, upload in enumerate(uploads)]
    (tmp_path / "served").mkdir()
    with running(tmp_path / "served", checkpoint, "--port", 0, "--threads", 1) as served:
        before = contents(served.temporary.parent / "home")
        memory = [served.resident_mb()]
        for _ in range(4):
            check(answers(served.address, uploads, at_once=200), uploads, expected)
            memory.append(served.resident_mb())
        print(f"resident MB at the start and after each 200 uploads: {[round(mb) for mb in memory]}")
        assert memory[-1] - memory[1] < 25
        assert eventually(lambda: not list(served.temporary.iterdir()))
        assert contents(served.temporary.parent / "home") == before and "Traceback" not in served.log()
        assert served.end() == 0
    assert os.listdir(tmp_path / "served" / "home") == []
