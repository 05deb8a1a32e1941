"""WFDB records: same values as the `wfdb` library, leads by name, and one clear line for errors."""

import os
import sys
from datetime import datetime

import numpy as np
import pytest
import wfdb
from made_up_wfdb import write_wfdb

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.readers import read_ecg
from fairseq_signals_ext.readers.wfdb import find_wfdb, read_wfdb

NAMES = ["V1", "AVF", "ii", "I", "resp"]  # not in standard order, in several cases, one that is no lead
ROW_OF = {"I": 0, "II": 1, "aVF": 2, "V1": 3}


def write(folder, counts, names=None, units="mV", gain=200.0, baseline=0, name="r", **others):
    names = names or NAMES[: counts.shape[1]]
    return write_wfdb(folder / name, counts.T, names, unit=units, gain=gain, baseline=baseline, **others)


@pytest.fixture
def counts():
    return np.random.default_rng(0).integers(-3000, 3000, (100, 5))


def replace(path, old, new, encoding="utf-8"):
    text = path.read_text()
    assert old in text
    path.write_bytes(text.replace(old, new).encode(encoding))
    return path


def test_every_kind_of_real_record_equals_wfdb(each_kind):
    headers = [each_kind / name for name in find_wfdb(each_kind)]
    assert len(headers) > 200
    for header in headers:
        recording = read_ecg(header)
        reference = wfdb.rdrecord(str(header)[:-4])
        columns = {name.lower(): column for column, name in enumerate(reference.sig_name)}
        expected = np.stack([reference.p_signal[:, columns[LEADS[lead].lower()]] for lead in recording.leads])
        np.testing.assert_allclose(recording.signal, expected, rtol=0, atol=1e-9, err_msg=str(header))
        stored = recording.stored
        physical = (stored.counts - stored.zero[:, None]) * stored.scale[:, None]
        np.testing.assert_allclose(physical, expected, rtol=0, atol=1e-9, err_msg=str(header))
        assert recording.sample_rate == reference.fs
        assert len(recording.leads) == 12
        says_sex = any(comment.lower().startswith("sex: ") for comment in reference.comments)
        assert (recording.sex in ("female", "male")) == says_sex


def test_facts_of_real_records(ecg_data):
    recording = read_ecg(ecg_data / "code15_wfdb" / "111102.hea")
    assert (recording.record_id, recording.patient) == ("111102", "1331343")
    assert (recording.age, recording.sex, recording.sample_rate) == (66, "female", 400)
    recording = read_ecg(ecg_data / "ptbxl" / "records500" / "17583_hr.hea")
    assert recording.start_time == datetime(1997, 2, 1, 8, 15, 13)


def test_leads_come_in_standard_order_whatever_their_case(tmp_path, counts):
    recording = read_wfdb(write(tmp_path, counts, gain=200.0, baseline=7))
    assert [LEADS[lead] for lead in recording.leads] == list(ROW_OF)
    expected = (counts[:, [3, 2, 1, 0]].T - 7) / 200
    np.testing.assert_allclose(recording.signal, expected, atol=1e-12)
    assert (recording.stored.counts == counts[:, [3, 2, 1, 0]].T).all()
    assert recording.stored.zero.tolist() == [7] * 4
    without_suffix = read_wfdb(tmp_path / "r")
    assert (without_suffix.signal == recording.signal).all()


@pytest.mark.parametrize(("unit", "factor"), [("mV", 1), ("mv", 1), ("uV", 1e-3), ("V", 1e3), ("nV", 1e-6)])
def test_units_become_millivolts(tmp_path, counts, unit, factor):
    recording = read_wfdb(write(tmp_path, counts, units=unit))
    expected = counts[:, 3] / 200 * factor
    np.testing.assert_allclose(recording.signal[0], expected, rtol=1e-12)
    np.testing.assert_allclose(recording.stored.counts[0] * recording.stored.scale[0], expected, rtol=1e-12)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_micro_sign_is_not_lost(tmp_path, counts, encoding):
    header = replace(write(tmp_path, counts), "/mV", "/\u00b5V", encoding)
    np.testing.assert_allclose(read_wfdb(header).signal[0], counts[:, 3] / 200 * 1e-3, rtol=1e-12)


def test_invalid_samples_are_nan(tmp_path, counts):
    counts[5, 0] = -32768
    header = write(tmp_path, counts)
    for other in (header, replace(header, "r.dat 16 ", "r.dat 16:0 ")):
        recording = read_wfdb(other)
        assert np.argwhere(np.isnan(recording.signal)).tolist() == [[ROW_OF["V1"], 5]]
        assert (recording.stored.counts == counts[:, [3, 2, 1, 0]].T).all()


def test_counts_beyond_int16(tmp_path):
    write_wfdb(tmp_path / "r", [[0, 40000, -70000]], ["I"], fmt="32")
    assert read_wfdb(tmp_path / "r.hea").stored.counts.tolist() == [[0, 40000, -70000]]
    np.testing.assert_allclose(read_wfdb(tmp_path / "r.hea").signal, [[0, 40, -70]])


def test_several_samples_a_frame_are_kept(tmp_path, counts):
    header = write(tmp_path, counts[:, :1], names=["I"])
    replace(header, "r.dat 16 ", "r.dat 16x2 ")
    recording = read_wfdb(replace(header, " 500 100", " 250 50"))
    assert recording.sample_rate == 500
    assert (recording.stored.counts[0] == counts[:, 0]).all()


def test_segments_are_joined_each_with_its_gain(tmp_path, counts):
    write(tmp_path, counts[:60], name="s1", gain=200.0)
    write(tmp_path, counts[60:], name="s2", gain=100.0)
    (tmp_path / "m.hea").write_text("m/2 5 500 100\ns1 60\ns2 40\n")
    recording = read_wfdb(tmp_path / "m.hea")
    gain = np.repeat([200.0, 100.0], [60, 40])
    np.testing.assert_allclose(recording.signal, counts[:, [3, 2, 1, 0]].T / gain, rtol=1e-12)
    assert recording.stored is None


@pytest.mark.parametrize(
    ("comments", "age", "sex", "patient", "statements"),
    [
        (["Age: 74", "Sex: Female", "Dx: 426783006,164889003"], 74, "female", None, ("426783006", "164889003")),
        (["  Age: 7.5", "Sex: M", "Dx: AF, RBBB", "Patient: P 1"], 7.5, "male", "P 1", ("AF", "RBBB")),
        (["Age: NaN", "Sex: Unknown", "Dx: Unknown", "Patient ID: 12"], None, None, "12", ()),
        (["Age: -1", "Sex:", "a remark without a field"], None, None, None, ()),
        ([], None, None, None, ()),
    ],
)
def test_comments(tmp_path, counts, comments, age, sex, patient, statements):
    recording = read_wfdb(write(tmp_path, counts, comments=comments))
    assert (recording.age, recording.sex, recording.patient, recording.codes) == (age, sex, patient, statements)


def test_start_time_needs_a_date(tmp_path, counts):
    assert read_wfdb(write(tmp_path, counts, base_time=datetime(2000, 1, 1, 8, 15).time())).start_time is None
    start = datetime(2020, 2, 29, 8, 15)
    header = write(tmp_path, counts, base_time=start.time(), base_date=start.date())
    assert read_wfdb(header).start_time == start


WRONG = {
    "no signal file": (lambda header: header.with_suffix(".dat").unlink(), "its file 'r.dat' is missing"),
    "truncated": (
        lambda header: os.truncate(header.with_suffix(".dat"), 333),
        "has 333 bytes, but 100 samples per lead",
    ),
    "too few samples": (
        lambda header: replace(header, " 500 100", " 500 90"),
        "1000 bytes, but 90 samples per lead need",
    ),
    "too many samples": (lambda header: replace(header, " 500 100", " 500 110"), "1000 bytes, but 110 samples"),
    "lines missing": (
        lambda header: header.write_text("r 5 500 100\nr.dat 16 200/mV\n"),
        "claims 5 signals, but 1 follow",
    ),
    "not a header": (lambda header: header.write_text("nonsense\n"), "is not a line of a WFDB header"),
    "empty": (lambda header: header.write_text(""), "the file is empty"),
    "binary": (lambda header: header.write_bytes(bytes(range(256))), "is not a line of a WFDB header"),
    "unknown format": (lambda header: replace(header, ".dat 16", ".dat 17"), "signal format '17' is not known"),
    "no rate": (lambda header: replace(header, " 500 100", " 0 100"), "its sample rate is 0"),
    "unit": (lambda header: replace(header, "/mV", "/mmHg"), "lead I has the unit 'mmHg'"),
    "lead twice": (lambda header: replace(header, "AVF", "V1"), "lead 'V1' appears twice"),
    "gone": (lambda header: header.unlink(), "no such file"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_input_is_one_clear_line(tmp_path, counts, what):
    header = write(tmp_path, counts)
    spoil, message = WRONG[what]
    spoil(header)
    with pytest.raises(UserError) as caught:
        read_ecg(header)
    text = str(caught.value)
    assert text.startswith(f"{header}: ")
    assert message in text
    assert "\n" not in text
    assert "; " in text


def test_no_standard_lead(tmp_path, counts):
    header = write(tmp_path, counts, names=["resp", "pleth", "abp", "0", "MLII"])
    with pytest.raises(UserError, match=r"none of its signals \(resp, pleth, abp, 0, MLII\) is a standard lead"):
        read_wfdb(header)


def test_leads_of_different_rates(tmp_path):
    header = tmp_path / "r.hea"
    header.write_text("r 2 250 2\nr.dat 16x2 200/mV 16 0 0 0 0 I\nr.dat 16 200/mV 16 0 0 0 0 II\n")
    np.arange(6, dtype="<i2").tofile(tmp_path / "r.dat")
    with pytest.raises(UserError, match="different sample rates"):
        read_wfdb(header)


def test_files_of_other_kinds(tmp_path):
    path = tmp_path / "ecg.xyz"
    with pytest.raises(UserError, match=r"ecg\.xyz: no such file"):
        read_ecg(path)
    path.write_text("?")
    with pytest.raises(UserError, match=r"ecg\.xyz: this kind of file is not supported; give .*WFDB"):
        read_ecg(path)


def test_find_wfdb(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        find_wfdb(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no \.hea file"):
        find_wfdb(tmp_path)
    for name in ("b/2.hea", "a.hea", "b/10.hea"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_wfdb(tmp_path) == ["a.hea", "b/10.hea", "b/2.hea"]


def test_no_record_needs_wfdb(tmp_path, counts, monkeypatch):
    header = write(tmp_path, counts)
    monkeypatch.setitem(sys.modules, "wfdb", None)
    assert read_wfdb(header).signal.shape == (4, 100)
    replace(header, "r.dat 16 ", "r.dat 16:0 ")
    assert read_wfdb(header).signal.shape == (4, 100)
