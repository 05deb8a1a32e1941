"""A placeholder date gives neither a time nor an age; and free text is no patient id."""

from datetime import datetime

import pytest
from made_up_parts import dicom_data, wave

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.readers import read_ecg


def facts(recording):
    return recording.patient, recording.start_time, recording.age, recording.sex


def edf(cases, tmp_path, patient, recording, day="31.01.24", plus=True):
    """A file of EDF+ with other words in its header."""
    content = (cases / "edf" / "e25_date1985.edf").read_bytes()
    head = content[:8] + f"{patient:80}{recording:80}{day}12.34.56".encode() + content[184:192]
    head += (b"EDF+C" if plus else b"").ljust(44) + content[236:]
    (tmp_path / "m.edf").write_bytes(head)
    return tmp_path / "m.edf"


def test_cases(cases):
    assert facts(read_ecg(cases / "edf" / "e01_std.edf")) == (None, datetime(2024, 1, 31, 12, 34, 56), None, None)
    assert facts(read_ecg(cases / "edf" / "e25_date1985.edf")) == (None, None, None, "female")


KNOWN = datetime(2024, 1, 31, 12, 34, 56)
STARTED = "Startdate 31-JAN-2024 X X X"


@pytest.mark.parametrize(
    ("patient", "recording", "day", "expected"),
    [
        ("MCH-1 F 02-JAN-1961 X", STARTED, "31.01.24", ("MCH-1", KNOWN, 63, "female")),
        ("MCH-1 F 02-JAN-1961 X", "Startdate X X X X", "31.01.24", ("MCH-1", None, None, "female")),
        ("MCH-1 F 02-JAN-1961 X", "Startdate X X X X", "01.01.85", ("MCH-1", None, None, "female")),
        ("MCH-1 F 02-JAN-1961 X", "Startdate 01-JAN-1985 X X X", "01.01.85", ("MCH-1", None, None, "female")),
        ("MCH-1 F 01-JAN-1900 X", STARTED, "31.01.24", ("MCH-1", KNOWN, None, "female")),
        ("X F X X", STARTED, "31.01.24", (None, KNOWN, None, "female")),
        ("X X X X", STARTED, "31.01.24", (None, KNOWN, None, None)),
        ("ANONYMOUS M 02-FEB-1961 X", STARTED, "31.01.24", (None, KNOWN, 62, "male")),
    ],
)
def test_edf_plus(cases, tmp_path, patient, recording, day, expected):
    assert facts(read_ecg(edf(cases, tmp_path, patient, recording, day))) == expected


@pytest.mark.parametrize("patient", ["Doe, Jane 1961", "12 F", "X F 02-JAN-1961 X", ""])
def test_the_free_text_of_a_plain_edf_is_no_id(cases, tmp_path, patient):
    path = edf(cases, tmp_path, patient, "Ward 3", plus=False)
    assert facts(read_ecg(path)) == (None, KNOWN, None, None)
    assert read_ecg(edf(cases, tmp_path, patient, "Ward 3", "01.01.85", plus=False)).start_time is None


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"AcquisitionDateTime": "19000101000000"}, ("P-0001", None, 63, "female")),
        (
            {"AcquisitionDateTime": "19700101000000", "PatientBirthDate": "19610102", "PatientAge": ""},
            ("P-0001", None, None, "female"),
        ),
        # all dates moved alike: their differences are true
        (
            {"AcquisitionDateTime": "21500131123456", "PatientBirthDate": "20870102", "PatientAge": ""},
            ("P-0001", datetime(2150, 1, 31, 12, 34, 56), 63, "female"),
        ),
        ({"PatientBirthDate": "19000101", "PatientAge": ""}, ("P-0001", KNOWN, None, "female")),
        ({"PatientBirthDate": "19610102", "PatientAge": ""}, ("P-0001", KNOWN, 63, "female")),
        ({"PatientID": "xxxxxx"}, (None, KNOWN, 63, "female")),
        ({"PatientID": "00000"}, (None, KNOWN, 63, "female")),
        ({"PatientID": " - "}, (None, KNOWN, 63, "female")),
    ],
)
def test_dicom(tmp_path, elements, expected):
    data = dicom_data([wave(2, ("II",))])
    for name, value in elements.items():
        setattr(data, name, value)
    data.save_as(tmp_path / "m.dcm", enforce_file_format=True)
    assert facts(read_ecg(tmp_path / "m.dcm")) == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (">01-31-2024<", ">01-01-1900<", ("0001", None, 63, "female")),
        (">0001<", ">UNKNOWN<", (None, KNOWN, 63, "female")),
    ],
)
def test_muse(cases, tmp_path, old, new, expected):
    text = (cases / "muse" / "m06_two_rhythm_halves.xml").read_text(encoding="latin-1")
    assert old in text
    first, *_ = text.replace(old, new).split("</Waveform>")
    (tmp_path / "m.xml").write_text(f"{first}</Waveform></RestingECG>", encoding="latin-1")
    assert facts(read_ecg(tmp_path / "m.xml")) == expected


def test_ishne(cases, tmp_path):
    content = bytearray((cases / "ishne" / "i02_fault.ecg").read_bytes())
    content[8:10] = b"\0\0"
    assert facts(read_ecg(cases / "ishne" / "i02_fault.ecg")) == ("P-0001", KNOWN, 63, "female")
    content[138:144] = b"\1\0\1\0\x6c\x07"  # 1 January 1900
    (tmp_path / "m.ecg").write_bytes(content)
    assert facts(read_ecg(tmp_path / "m.ecg")) == ("P-0001", None, None, "female")


def test_messages_do_not_quote_file_content(cases, tmp_path):
    """Fields of a header that is shifted by a letter may be anybody's name."""
    content = bytearray((cases / "edf" / "e01_std.edf").read_bytes())
    content[244:252] = b"Jane Doe"
    (tmp_path / "m.edf").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as EDF .*data record duration [.]{3}") as caught:
        read_ecg(tmp_path / "m.edf")
    assert "Jane" not in str(caught.value)
