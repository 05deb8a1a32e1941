"""Damaged and hostile files: each is one `UserError` or a recording of sound shape, soon, and without a word else."""

import contextlib
import io
import re
import signal
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_wfdb import write_wfdb

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.readers import read_ecg

LONGEST = 10  # seconds for one file
MOST = 2**29  # bytes at a time for one file; the largest example has 0.5 MB
REAL = (
    "dicom_12lead_1000hz.dcm",
    "example.scp",
    "ge_muse_8lead.xml",
    "hl7_aecg.xml",
    "philips_sierra_1_04.xml",
    "single_lead_300hz.edf",
    "unsupported.xml",
)
MADE_UP = ("r.npy", "r4.mat", "r5.mat", "r73.mat", "r.csv", "time.csv", "integers.csv")


@contextlib.contextmanager
def no_longer_than(seconds):
    def stop(*_):
        raise TimeoutError(f"still reading after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def check(path, **keywords):
    """Check that reading this file gives a valid recording or a `UserError`."""
    out, recording = io.StringIO(), None
    with warnings.catch_warnings(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        warnings.simplefilter("error")
        with no_longer_than(LONGEST):
            try:
                recording = read_ecg(path, **keywords)
            except UserError as error:
                assert "\n" not in str(error)
                assert str(error).startswith(str(path.with_suffix("")))
    assert out.getvalue() == ""
    if recording is None:
        return
    rows = len(recording.leads)
    assert recording.signal.dtype == np.float64
    assert recording.signal.ndim == 2
    assert recording.signal.shape[0] == rows > 0
    assert recording.signal.shape[1] > 0
    assert list(recording.leads) == sorted(set(recording.leads))
    assert set(recording.leads) <= set(range(12))
    assert set(recording.derived) <= set(recording.leads)
    assert np.isfinite(recording.sample_rate)
    assert recording.sample_rate > 0
    assert not np.isinf(recording.signal).any()
    assert recording.age is None or 0 <= recording.age <= 130
    stored = recording.stored
    if stored is not None:
        assert stored.counts.shape == recording.signal.shape
        assert stored.scale.shape == stored.zero.shape == (rows,)
        physical = (stored.counts - stored.zero[:, None]) * stored.scale[:, None]
        valid = ~np.isnan(recording.signal)
        np.testing.assert_allclose(physical[valid], recording.signal[valid], rtol=1e-9, atol=1e-9)


# where: near the beginning, where headers are, or anywhere
PLACES = st.one_of(st.floats(0, 0.01), st.floats(0, 1, exclude_max=True))
PIECES = st.one_of(
    st.binary(min_size=1, max_size=6),
    st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", b"99999999", b"-1", b"<", b'"', b"1e400", b"NaN"]),
)
KINDS = st.sampled_from(["overwrite", "insert", "cut", "end"])
EDITS = st.lists(st.tuples(KINDS, PLACES, PIECES), min_size=1, max_size=4)
# XML that is still well-formed, so that what lies behind the parser is reached
WORDS = st.text("0123456789.-+eE AI", min_size=1, max_size=6).map(str.encode)
XML_EDITS = st.lists(st.tuples(st.sampled_from(["word", "number"]), PLACES, WORDS), min_size=1, max_size=4)
VALUE = re.compile(rb'>\s*[^<>]*?[^<>\s][^<>]*<|"[^"<>]+"')
NUMBER = re.compile(rb"[0-9.+-]+")


def with_other_value(content, at, piece, pattern):
    """The next text of an element, value of an attribute, or number, replaced."""
    match = pattern.search(content, at)
    if match is None:
        return content
    found = match.group()
    new = piece if pattern is NUMBER else found[:1] + piece + found[-1:]
    return content[: match.start()] + new + content[match.end() :]


def damaged(content, edits):
    for kind, place, piece in edits:
        at = int(place * len(content))
        if kind in ("word", "number"):
            content = with_other_value(content, at, piece, VALUE if kind == "word" else NUMBER)
        elif kind == "overwrite":
            content = content[:at] + piece + content[at + len(piece) :]
        elif kind == "insert":
            content = content[:at] + piece + content[at:]
        elif kind == "cut":
            content = content[:at] + content[at + 16 * len(piece) :]
        else:
            content = content[:at]
    return content


def fuzz(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@pytest.fixture(scope="session")
def made_up(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made_up")
    values = np.random.default_rng(0).normal(size=(12, 100))
    counts = (values * 1000).astype(np.int16)
    np.save(folder / "r.npy", counts)
    scipy.io.savemat(folder / "r4.mat", {"val": counts}, format="4")
    feats = {"feats": values, "mean": values[:, :1], "std": values[:, 1:2], "curr_sample_rate": 500}
    scipy.io.savemat(folder / "r5.mat", feats, do_compression=False)
    names = "I,II,V1"
    np.savetxt(folder / "r.csv", values[:3].T, "%.4f", ",", header=names, comments="")
    np.savetxt(folder / "integers.csv", counts[:3].T, "%d", ";", header="I (uV);aVR (uV);V6 (uV)", comments="")
    timed = np.vstack([np.arange(100) * 2.0, values[:3]])
    np.savetxt(folder / "time.csv", timed.T, "%.4f", "\t", header="time (ms)\tI\tII\tV1", comments="")
    with contextlib.suppress(ImportError):
        import h5py

        with h5py.File(folder / "r73.mat", "w") as file:
            file.create_dataset("val", data=values.T, compression="gzip")
    return folder


def damage(path, folder, edits, **keywords):
    spoilt = Path(folder) / f"damaged{path.suffix}"
    spoilt.write_bytes(damaged(path.read_bytes(), edits))
    check(spoilt, **keywords)


@pytest.mark.parametrize("name", REAL)
def test_damaged_real_files(ecg_data, tmp_path, name):
    @fuzz(60)
    @given(st.one_of(EDITS, XML_EDITS))
    def run(edits):
        damage(ecg_data / "formats" / name, tmp_path, edits)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_many_damaged_real_files(ecg_data, tmp_path, name):
    @fuzz(2000)
    @given(st.one_of(EDITS, XML_EDITS))
    def run(edits):
        damage(ecg_data / "formats" / name, tmp_path, edits, leads=["I"] if name.endswith("edf") else None)

    run()


KEYWORDS = {
    "r.npy": {"sample_rate": 500, "unit": "uV"},
    "r4.mat": {"sample_rate": 500, "unit": "uV"},
    "r73.mat": {"sample_rate": 500},
    "r.csv": {"sample_rate": 500},
    "integers.csv": {"sample_rate": 500},
}


def damage_made_up(made_up, tmp_path, name, examples):
    if not (made_up / name).is_file():
        pytest.skip("h5py is not installed")
    check(made_up / name, **KEYWORDS.get(name, {}))

    @fuzz(examples)
    @given(EDITS)
    def run(edits):
        damage(made_up / name, tmp_path, edits, **KEYWORDS.get(name, {}))

    run()


@pytest.mark.parametrize("name", MADE_UP)
def test_damaged_arrays_and_tables(made_up, tmp_path, name):
    damage_made_up(made_up, tmp_path, name, 80)


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE_UP)
def test_many_damaged_arrays_and_tables(made_up, tmp_path, name):
    damage_made_up(made_up, tmp_path, name, 3000)


def write_record(folder):
    counts = np.random.default_rng(0).integers(-3000, 3000, (100, 4))
    leads, comments = ["I", "II", "V1", "aVF"], ["Age: 74", "Sex: F"]
    return write_wfdb(folder / "damaged", counts.T, leads, gain=200.0, comments=comments)


def damage_header(tmp_path, examples):
    header = write_record(tmp_path)
    whole = header.read_bytes()

    @fuzz(examples)
    @given(EDITS)
    def run(edits):
        header.write_bytes(damaged(whole, edits))
        check(header)

    run()


def test_damaged_wfdb_headers(tmp_path):
    damage_header(tmp_path, 80)


@pytest.mark.slow
def test_many_damaged_wfdb_headers(tmp_path):
    damage_header(tmp_path, 3000)


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("length", [1, 7, 100, 300, 4096])
def test_truncated_files(ecg_data, tmp_path, name, length):
    path = tmp_path / name
    path.write_bytes((ecg_data / "formats" / name).read_bytes()[:length])
    with pytest.raises(UserError) as caught:
        read_ecg(path)
    assert "\n" not in str(caught.value)
    check(path)


@pytest.mark.parametrize("name", REAL)
def test_memory_stays_in_proportion(ecg_data, name):
    tracemalloc.start()
    try:
        check(ecg_data / "formats" / name)
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()


@fuzz(100)
@given(st.binary(max_size=600), st.sampled_from([b"", b"\0" * 128 + b"DICM", b"0       ", b"ISHNE1.0", b"\x40\x10MFR ",
                                                b"\x93NUMPY\x01\0", b"MATLAB 5.0", b"<ECG>", b"I,II\n"]))  # fmt: skip
def test_random_bytes_after_a_valid_beginning(tmp_path_factory, content, beginning):
    path = tmp_path_factory.getbasetemp() / "bytes.bin"
    path.write_bytes(beginning + content)
    check(path, sample_rate=500)
