"""Every signal format of WFDB: counts that were packed here, as `wfdb` unpacks them."""

import numpy as np
import pytest
import soundfile
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_wfdb import write_wfdb

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.readers import read_ecg

BITS = {"8": 8, "16": 16, "24": 24, "32": 32, "61": 16, "80": 8, "160": 16, "212": 12, "310": 10, "311": 10}
FLAC = {"508": 8, "516": 16, "524": 24}
PREFIX = b"0123456789"


def packed(samples, fmt):
    """Bytes of samples in the order in which they are stored, by the words of signal(5)."""
    if fmt in ("16", "61", "32"):
        return samples.astype({"16": "<i2", "61": ">i2", "32": "<i4"}[fmt]).tobytes()
    if fmt in ("80", "160"):
        return (samples + (128 if fmt == "80" else 32768)).astype("u1" if fmt == "80" else "<u2").tobytes()
    if fmt == "8":
        return samples.astype("i1").tobytes()
    if fmt == "24":
        return samples.astype("<i4").view("u1").reshape(-1, 4)[:, :3].tobytes()
    group = {"212": 2, "310": 3, "311": 3}[fmt]
    rows = np.append(samples, np.zeros(-len(samples) % group, int)).reshape(-1, group) & (2 ** BITS[fmt] - 1)
    whole = b"".join(GROUPS[fmt](*map(int, row)) for row in rows)
    return whole[: {"212": -(-len(samples) * 3 // 2)}.get(fmt, len(whole))]


def of_212(first, second):
    return bytes([first & 255, first >> 8 | second >> 8 << 4, second & 255])


def of_310(first, second, third):
    words = first << 1 | (third & 31) << 11, second << 1 | third >> 5 << 11
    return b"".join(word.to_bytes(2, "little") for word in words)


def of_311(first, second, third):
    return (first | second << 10 | third << 20).to_bytes(4, "little")


GROUPS = {"212": of_212, "310": of_310, "311": of_311}


def write(folder, samples, fmt, per_frame=1, skew=0, frames=None, prefix=b""):
    """A record of some leads; samples: leads x samples."""
    number, length = samples.shape
    stored = samples.reshape(number, -1, per_frame).transpose(1, 0, 2)
    kind = f"{fmt}x{per_frame}:{skew}+{len(prefix)}"
    lines = [f"r.dat {kind} 200(7)/uV 16 0 5 0 0 {lead}" for lead in LEADS[:number]]
    claimed = "" if frames is None else f" {frames}"
    (folder / "r.hea").write_text("\n".join([f"r {number} 250{claimed}", *lines, ""]))
    (folder / "r.dat").write_bytes(prefix + packed(stored.reshape(-1), fmt))
    return folder / "r.hea"


def random_samples(bits, number, length, seed=0):
    largest = 2 ** (bits - 1) - 1
    samples = np.random.default_rng(seed).integers(-largest, largest, (number, length), endpoint=True)
    samples[0, :2] = largest, -largest
    return samples


def in_uv(counts):
    return (counts - 7) / 200


@pytest.mark.parametrize("prefix", [b"", PREFIX])
@pytest.mark.parametrize("per_frame", [1, 2])
@pytest.mark.parametrize(("number", "length"), [(1, 50), (2, 52), (12, 100), (5, 26)])
@pytest.mark.parametrize("fmt", BITS)
def test_every_format_is_unpacked_exactly(tmp_path, fmt, number, length, per_frame, prefix):
    samples = random_samples(BITS[fmt], number, length)
    path = write(tmp_path, samples, fmt, per_frame, frames=length // per_frame, prefix=prefix)
    recording = read_ecg(path)
    counts = 5 + np.cumsum(samples, axis=1) if fmt == "8" else samples
    rows = [recording.leads.index(lead) for lead in range(number)]
    np.testing.assert_array_equal(recording.stored.counts[rows], counts)
    np.testing.assert_allclose(recording.signal[rows], in_uv(counts) / 1000, rtol=1e-12, atol=1e-15)
    assert recording.sample_rate == 250 * per_frame


@pytest.mark.parametrize("fmt", sorted(set(BITS) - {"61"}))
def test_every_format_equals_wfdb(tmp_path, fmt):
    """Also where the length is left to the file, and the signal is late. (`wfdb` 4.3.1 fails with format 61.)"""
    for number, skew, frames in ((2, 0, 50), (3, 0, None), (2, 3, 50), (12, 0, 50)):
        samples = random_samples(BITS[fmt], number, 50)
        path = write(tmp_path, samples, fmt, skew=skew, frames=frames)
        reference = wfdb.rdrecord(str(path)[:-4]).p_signal if not (fmt == "8" and skew) else None
        recording = read_ecg(path)
        if reference is not None:
            rows = [recording.leads.index(lead) for lead in range(number)]
            np.testing.assert_allclose(recording.signal[rows], reference.T / 1000, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("fmt", [fmt for fmt in BITS if fmt != "8"])
def test_invalid_samples_of_every_format_are_nan(tmp_path, fmt):
    samples = random_samples(BITS[fmt], 2, 60)
    samples[1, 7] = -(2 ** (BITS[fmt] - 1))
    signal = read_ecg(write(tmp_path, samples, fmt, frames=60)).signal
    assert np.argwhere(np.isnan(signal[:2])).tolist() == [[1, 7]]


@settings(max_examples=200, deadline=None)
@given(
    fmt=st.sampled_from(sorted(BITS)),
    number=st.integers(1, 4),
    frames=st.integers(1, 9),
    per_frame=st.integers(1, 3),
    skew=st.integers(0, 3),
    prefix=st.sampled_from([b"", b"x", PREFIX]),
    seed=st.integers(0, 99),
)
def test_any_arrangement(tmp_path_factory, fmt, number, frames, per_frame, skew, prefix, seed):
    folder = tmp_path_factory.mktemp("arranged")
    samples = random_samples(BITS[fmt], number, max(2, frames * per_frame), seed)[:, : frames * per_frame]
    path = write(folder, samples, fmt, per_frame, skew, frames, prefix)
    if skew >= frames:
        with pytest.raises(UserError, match="longer than its signals"):
            read_ecg(path)
        return
    recording = read_ecg(path)
    rows = [recording.leads.index(lead) for lead in range(number)]
    counts = 5 + np.cumsum(samples, axis=1) if fmt == "8" else samples
    late = skew * per_frame
    np.testing.assert_array_equal(recording.stored.counts[rows][:, : -late or None], counts[:, late:])
    if late and fmt != "8":
        assert np.isnan(recording.signal[rows][:, -late:]).all()
        assert not np.isnan(recording.signal[rows][:, :-late]).any()


@pytest.mark.parametrize("fmt", FLAC)
def test_flac(tmp_path, fmt):
    counts = random_samples(FLAC[fmt], 12, 300)
    counts[3, 9] = -(2 ** (FLAC[fmt] - 1))
    write_wfdb(tmp_path / "r", counts, rate=250, unit="uV", gain=200.0, baseline=7, fmt=fmt)
    recording, reference = read_ecg(tmp_path / "r.hea"), wfdb.rdrecord(str(tmp_path / "r"))
    np.testing.assert_array_equal(recording.stored.counts, counts)
    np.testing.assert_allclose(recording.signal, reference.p_signal.T / 1000, rtol=1e-12, atol=1e-15)
    assert np.argwhere(np.isnan(recording.signal)).tolist() == [[3, 9]]
    header = (tmp_path / "r.hea").read_text()
    (tmp_path / "r.hea").write_text(header.replace("r 12 250 300", "r 12 250"))
    assert read_ecg(tmp_path / "r.hea").samples == 300
    (tmp_path / "r.hea").write_text(header.replace("r 12 250 300", "r 12 250 301"))
    with pytest.raises(UserError, match=r"its file 'r_1\.dat' cannot be read \(it ends too soon\); get the record"):
        read_ecg(tmp_path / "r.hea")


def test_another_kind_of_sound_is_not_flac(tmp_path, capfd):
    """libsndfile would read it, or print its own messages on the way."""
    (tmp_path / "r.hea").write_text("r 1 250 30\nr.dat 516 200 16 0 0 0 0 I\n")
    soundfile.write(tmp_path / "r.dat", np.zeros(30, np.int16), 250, format="WAV")
    for content in ((tmp_path / "r.dat").read_bytes(), b"\xff\xfb\x90\x64" + bytes(400), b""):
        (tmp_path / "r.dat").write_bytes(content)
        with pytest.raises(UserError, match=r"r\.hea: its file 'r\.dat' cannot be read \(it is not FLAC\)"):
            read_ecg(tmp_path / "r.hea")
    assert capfd.readouterr() == ("", "")


def test_flac_with_several_samples_per_frame(tmp_path):
    counts = random_samples(16, 4, 300)
    frames = {"samps_per_frame": [3] * 4}
    write_wfdb(tmp_path / "r", counts, LEADS[:4], rate=250, gain=200.0, fmt="516", **frames)
    recording = read_ecg(tmp_path / "r.hea")
    np.testing.assert_array_equal(recording.stored.counts[:4], counts)
    assert recording.sample_rate == 750


def test_files_of_several_formats(tmp_path):
    """Each file has one of its own; the second one is too short where the first one gives the length."""
    counts = random_samples(12, 2, 40)
    (tmp_path / "a.dat").write_bytes(packed(counts[0], "61"))
    (tmp_path / "b.dat").write_bytes(packed(counts[1], "212"))
    lines = "a.dat 61 200 16 0 0 0 0 I\nb.dat 212 200 12 0 0 0 0 II\n"
    (tmp_path / "r.hea").write_text(f"r 2 500\n{lines}")
    np.testing.assert_array_equal(read_ecg(tmp_path / "r.hea").stored.counts[:2], counts)
    (tmp_path / "b.dat").write_bytes(b"12")
    with pytest.raises(UserError, match=r"its file 'b\.dat' has 2 bytes, but 40 samples per lead need 60"):
        read_ecg(tmp_path / "r.hea")
    (tmp_path / "r.hea").write_text("r 2 500\na.dat 61 200 16 0 0 0 0 I\na.dat 16 200 12 0 0 0 0 II\n")
    with pytest.raises(UserError, match=r"its file 'a\.dat' has several formats; correct the header"):
        read_ecg(tmp_path / "r.hea")
