"""The parser of WFDB headers: same results as `wfdb`, and headers of archives that `wfdb` refuses."""

import contextlib
import io
import warnings
from datetime import datetime
from types import SimpleNamespace

import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.readers.wfdb import find_wfdb, read_wfdb
from fairseq_signals_ext.readers.wfdb_header import has_segments, named_files, parse_header

PLAIN = """\
r 2 500 100 09:17:34 09/11/1984
r.dat 16x1+24 1000.0(5)/mV 16 0 -115 13047 0 I
r.dat 16x1+24 204.9/uV 16 -3 -50 11561 0 aVR
#Age: 74
# Dx: 1,2
"""


def assert_same(header, reference):
    signals = header.signals
    assert [signal.name for signal in signals] == [name or "" for name in reference.sig_name]
    assert [signal.units for signal in signals] == reference.units
    assert [signal.gain for signal in signals] == reference.adc_gain
    assert [signal.baseline for signal in signals] == reference.baseline
    assert (header.frame_rate, header.frames) == (reference.fs, reference.sig_len or None)
    assert [signal.file_name for signal in signals] == reference.file_name
    assert [signal.offset for signal in signals] == [offset or 0 for offset in reference.byte_offset]
    assert [signal.per_frame for signal in signals] == [frames or 1 for frames in reference.samps_per_frame]
    assert [signal.fmt for signal in signals] == reference.fmt
    assert [signal.skew for signal in signals] == [skew or 0 for skew in reference.skew]
    assert [signal.initial for signal in signals] == [value or 0 for value in reference.init_value]
    assert header.start_time == reference.base_datetime
    assert list(header.remarks) == reference.comments


def test_agrees_with_wfdb_on_every_kind_of_real_header(each_kind):
    headers = [each_kind / name for name in find_wfdb(each_kind)]
    assert len(headers) > 200
    for path in headers:
        assert_same(parse_header(path.read_bytes(), path), wfdb.rdheader(str(path)[:-4]))


def quietly(folder, text):
    (folder / "r.hea").write_text(text)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return wfdb.rdheader(str(folder / "r"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (" 16x1+24 ", " 212 "),
        (" 16x1+24 ", " 16x2+24 "),
        (" 16x1+24 ", " 16:3 "),
        ("r 2 500 100", "r 2 500/50 100"),
        ("r 2 500 100", "r 2 500/50(-7.5) 100"),
        ("r 2 500 100 09:17:34 09/11/1984", "r 2 500"),
        ("r 2 500 100 09:17:34 09/11/1984", "r 2"),
        ("r 2 500 100 09:17:34 09/11/1984", "r 2 500 100 09:17:34.25 09/11/1984"),
        ("r 2 500 100 09:17:34 09/11/1984", "r 2 500 0"),
        ("r.dat 16x1+24 204.9", "s.dat 16x1+24 204.9"),
        ("204.9/uV", "0/uV"),
        ("204.9/uV", "2.5e3/uV"),
        ("204.9/uV", "-204.9/uV"),
        ("r.dat 16x1+24 204.9/uV 16 -3 -50 11561 0 aVR", "r.dat 16x1+24 204.9/uV"),
        ("r.dat 16x1+24 204.9/uV 16 -3 -50 11561 0 aVR", "r.dat 16x1+24"),
        ("r.dat 16x1+24 204.9/uV 16 -3 -50 11561 0 aVR", "r.dat 16x1+24 204.9/uV 16 -3"),
        ("r.dat 16x1+24 204.9/uV 16 -3 -50 11561 0 aVR", "r.dat 16x1+24 204.9/uV aVR and more"),
        ("r.dat 16x1+24 204.9/uV 16 -3 -50 11561 0 aVR", "r.dat\t16x1+24\t204.9/uV\t16  -3 -50 11561 0 aVR of it"),
    ],
)
def test_unusual_headers_are_read_as_wfdb_reads_them(tmp_path, old, new):
    assert old in PLAIN
    text = PLAIN.replace(old, new)
    assert_same(parse_header(text.encode(), "r.hea"), quietly(tmp_path, text))


@pytest.mark.parametrize(
    "first",
    [
        "E90001.mat 2 500 100",
        "WFDB/E90001.mat 2 500 100",
        "C:\\data\\E90001 2 500 100",
        "g1/7 2 500 100",
        "r 2 500 100 05-May-2020 09:49:17",
        "r 2 500 100 00:00:00 00/00/0000",
        "r 2 500 100 25:61:00 31/02/2020",
        "r 2 500 100 2020-05-05T09:49:17",
        "r 2 500 100 09:49 5.5.2020 (Berlin)",
        "r 2 500 100 - -",
    ],
)
def test_first_lines_of_archives(first):
    header = parse_header(PLAIN.replace("r 2 500 100 09:17:34 09/11/1984", first).encode(), "r.hea")
    assert (len(header.signals), header.rate, header.frames, header.start_time) == (2, 500, 100, None)
    assert header.segments is None


def test_checksum_fields_are_ignored():
    text = PLAIN.replace("-115 13047 0 I", "-115 NaN 0 I").replace("-50 11561 0 aVR", "0 115.61 0 aVR")
    assert [signal.name for signal in parse_header(text.encode(), "r.hea").signals] == ["I", "aVR"]


def test_files_lie_beside_their_header():
    for name in ("data/r.dat", "..\\x\\r.dat", "/etc/r.dat"):
        header = parse_header(PLAIN.replace("r.dat", name).encode(), "r.hea")
        assert header.files == ("r.dat",)
    assert header.signals[0].file_name == "r.dat"


def test_segments():
    text = "m/4 2 250/1(0) 150 10:00:00 01/02/2003\nl 0\nsub/a.hea 60\n~ 30\nb 60\n# patient 1\n"
    header = parse_header(text.encode(), "m.hea")
    assert header.segments == (("l", 0), ("a", 60), ("~", 30), ("b", 60))
    assert (header.frames, header.width, header.remarks) == (150, 2, ("patient 1",))
    assert header.start_time == datetime(2003, 2, 1, 10)
    assert header.files == ("l.hea", "a.hea", "b.hea")
    assert named_files(text.encode()) == ("a.hea", "b.hea", "l.hea")
    assert has_segments(text.encode()) and not has_segments(PLAIN.encode())
    assert named_files(PLAIN.encode()) == ("r.dat",)
    assert named_files(b"\xef\xbb\xbf" + PLAIN.encode()) == ("r.dat",)
    assert named_files(b"this is a text\nof lines\n") == named_files(b"") == ()


WRONG = {
    "empty": "",
    "no header": "nonsense\n",
    "few lines": "r 3 500 100\nr.dat 16 200 16 0 0 0 0 I\n",
    "no signals": "r 0 500 100\n",
    "no format": "r 1 500 100\nr.dat x 200 16 0 0 0 0 I\n",
    "no gain": "r 1 500 100\nr.dat 16 200(x) 16 0 0 0 0 I\n",
    "digits": "r 1 500 100\nr.dat 16 200(" + "9" * 400 + ") 16 0 0 0 0 I\n",
    "few segments": "m/3 1 500 100\na 50\nb 50\n",
    "long line": "r 1 500 100\nr.dat 16 200 16 0 0 0 0 " + "I" * 5000,
    "long name": "r 1 500 100\n" + "r" * 300 + " 16 200 16 0 0 0 0 I\n",
}


@pytest.mark.parametrize("what", WRONG)
def test_an_invalid_header_is_one_clear_line(what):
    with pytest.raises(UserError, match=r"^r\.hea: its .*; ") as caught:
        parse_header(WRONG[what].encode(), "r.hea")
    assert len(str(caught.value)) < 200


PIECES = [" ", "\n", "#", "/", "(", ")", "-", "+", ".", ":", "0", "7", "16", "1e3", "x", "mV", "\t", "\x0b", "nan"]


@settings(max_examples=400, deadline=None)
@given(edits=st.lists(st.tuples(st.integers(0, len(PLAIN)), st.sampled_from(PIECES), st.booleans()), max_size=3))
def test_edited_headers_are_refused_or_have_the_right_scale(tmp_path_factory, edits):
    """Where `wfdb` reads an edited header too, and the same signals, amplitudes are the same."""
    text = PLAIN
    for position, piece, replaces in edits:
        text = text[:position] + piece + text[position + len(piece) * replaces :]
    try:
        header = parse_header(text.encode(), "r.hea")
    except UserError:
        return
    try:
        reference = quietly(tmp_path_factory.mktemp("edited"), text)
        expected = list(zip(reference.fmt, reference.adc_gain, reference.baseline, reference.units))
    except Exception:  # noqa: BLE001 - whatever wfdb raises where it cannot read it
        return
    if [signal.name for signal in header.signals] == reference.sig_name:
        assert [(signal.fmt, signal.gain, signal.baseline, signal.units) for signal in header.signals] == expected


def test_signals_are_those_of_wfdb(tmp_path):
    counts = np.random.default_rng(0).integers(-(2**15), 2**15, (100, 2)).astype("<i2")
    counts[3, 1] = -(2**15)
    (tmp_path / "r.hea").write_text(PLAIN)
    (tmp_path / "r.dat").write_bytes(bytes(24) + counts.tobytes())
    recording, reference = read_wfdb(tmp_path / "r.hea"), wfdb.rdrecord(str(tmp_path / "r"))
    expected = SimpleNamespace(I=reference.p_signal[:, 0], aVR=reference.p_signal[:, 1] / 1000)
    np.testing.assert_allclose(recording.signal, [expected.I, expected.aVR], rtol=1e-14, atol=1e-14)
    assert np.isnan(recording.signal[1, 3])
