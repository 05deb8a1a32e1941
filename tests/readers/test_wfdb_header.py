"""Plain headers: either exactly what `wfdb` says of them, or left to it."""

import contextlib
import io
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_signals_ext.readers.wfdb import find_wfdb, read_wfdb
from fairseq_signals_ext.readers.wfdb_header import parse_plain_header

PLAIN = """\
r 2 500 100 09:17:34 09/11/1984
r.dat 16x1+24 1000.0(5)/mV 16 0 -115 13047 0 I
r.dat 16x1+24 204.9/uV 16 -3 -50 11561 0 aVR
#Age: 74
# Dx: 1,2
"""


def assert_same(plain, reference):
    assert list(plain.names) == reference.sig_name
    assert list(plain.units) == reference.units
    assert list(plain.gains) == reference.adc_gain
    assert list(plain.baselines) == reference.baseline
    assert (plain.sample_rate, plain.samples) == (reference.fs, reference.sig_len)
    assert {plain.file_name} == set(reference.file_name)
    assert {plain.offset} == {offset or 0 for offset in reference.byte_offset}
    assert {frames or 1 for frames in reference.samps_per_frame} == {1} and set(reference.fmt) == {"16"}
    assert not any(reference.skew)
    assert plain.start_time == reference.base_datetime
    assert list(plain.comments) == reference.comments


def test_agrees_with_wfdb_on_every_kind_of_real_header(each_kind):
    headers = [each_kind / name for name in find_wfdb(each_kind)]
    assert len(headers) > 200
    for header in headers:
        plain, expected = parse_plain_header(header.read_bytes()), wfdb.rdheader(str(header)[:-4])
        assert (plain is not None) == (set(expected.fmt) == {"16"}), header
        if plain is not None:
            assert_same(plain, expected)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (" 16x1+24 ", " 212 "),
        (" 16x1+24 ", " 16x2+24 "),
        (" 16x1+24 ", " 16:3 "),
        ("r 2 ", "r/1 2 "),
        ("r 2 ", "r 3 "),
        ("r 2 500 100", "r 2 500/50 100"),
        ("r 2 500 100 09:17:34 09/11/1984", "r 2 500"),
        ("09/11/1984", "31/31/1984"),
        ("r.dat 16x1+24 204.9", "s.dat 16x1+24 204.9"),
        ("204.9/uV", "0/uV"),
        ("204.9/uV", "204.9/µV"),
        ("r.dat 16x1+24 204.9/uV 16 -3 -50 11561 0 aVR", "r.dat 16x1+24 204.9/uV"),
    ],
)
def test_anything_unusual_is_left_to_wfdb(old, new):
    assert parse_plain_header(PLAIN.encode()) is not None
    assert old in PLAIN
    assert parse_plain_header(PLAIN.replace(old, new).encode()) is None


PIECES = [" ", "\n", "#", "/", "(", ")", "-", "+", ".", ":", "0", "7", "16", "1e3", "x", "mV", "\t", "\x0b", "nan"]


@settings(max_examples=400, deadline=None)
@given(edits=st.lists(st.tuples(st.integers(0, len(PLAIN)), st.sampled_from(PIECES), st.booleans()), max_size=3))
def test_edited_headers_are_left_or_read_as_wfdb_reads_them(tmp_path_factory, edits):
    text = PLAIN
    for position, piece, replaces in edits:
        text = text[:position] + piece + text[position + len(piece) * replaces :]
    plain = parse_plain_header(text.encode())
    if plain is not None:
        folder = tmp_path_factory.mktemp("edited")
        (folder / "r.hea").write_text(text)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            assert_same(plain, wfdb.rdheader(str(folder / "r")))


def test_signals_are_those_of_wfdb(tmp_path):
    counts = np.random.default_rng(0).integers(-(2**15), 2**15, (100, 2)).astype("<i2")
    counts[3, 1] = -(2**15)
    (tmp_path / "r.hea").write_text(PLAIN)
    (tmp_path / "r.dat").write_bytes(bytes(24) + counts.tobytes())
    recording, reference = read_wfdb(tmp_path / "r.hea"), wfdb.rdrecord(str(tmp_path / "r"))
    expected = SimpleNamespace(I=reference.p_signal[:, 0], aVR=reference.p_signal[:, 1] / 1000)
    np.testing.assert_allclose(recording.signal, [expected.I, expected.aVR], rtol=1e-14, atol=1e-14)
    assert np.isnan(recording.signal[1, 3])
