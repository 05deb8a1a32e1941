"""Recognition of formats by content, and parsing of names and units."""

import struct
from pathlib import Path

import pytest

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.readers import read_ecg
from fairseq_signals_ext.readers.facts import age_of, lead_position, millivolts, rows_of_leads, sex_of
from fairseq_signals_ext.readers.formats import all_formats, format_of, our_formats, supported

XML = {
    '<?xml version="1.0"?>\n<!DOCTYPE RestingECG SYSTEM "restecg.dtd">\n<RestingECG>': "GE MUSE XML",
    "<!-- <AnnotatedECG> --><restingecgdata xmlns='x'>": "Philips Sierra XML",
    "\ufeff<hl7:AnnotatedECG xmlns:hl7='x'>": "HL7 aECG",
    "<!DOCTYPE ECG [<!ENTITY a 'b'>]><ECG>": "Mortara XML",
}
SCP = struct.pack("<HI HHIBB6s HII", 0, 500, 0, 0, 136, 20, 20, b"SCPECG", 0, 136, 7)
DTD = "<!ELEMENT RestingECG (MuseInfo)>".join(["<!DOCTYPE RestingECG ["] + [""] * 600 + ["]>"])
CONTENTS = {
    f"<!-- {'-x' * 9000} --><AnnotatedECG>".encode(): "HL7 aECG",
    f"{DTD}<RestingECG>".encode(): "GE MUSE XML",
    b"\0" * 128 + b"DICM": "DICOM",
    SCP: "SCP-ECG",
    b"0       ".ljust(256): "EDF",
    b"ISHNE1.0..": "ISHNE",
    b"\x40\x20MFR ": "MFER",
    b'{"a": 1, "recordedAt": ""}': "Kardia JSON",
    b"\x93NUMPY\x01": "NumPy",
    b"MATLAB 5.0 MAT-file": "MATLAB",
    struct.pack("<5i4s", 30, 12, 5000, 0, 4, b"val\0"): "MATLAB",
    b"MATLAB 7.3".ljust(512) + b"\x89HDF\r\n\x1a\n": "MATLAB 7.3",
    b"\x89HDF\r\n\x1a\n": "MATLAB 7.3",
    b"I,II\n": "table",
    # of two marks, that which is asked first
    b"\x93NUMPY".ljust(128) + b"DICM": "NumPy",
    b"ISHNE1.0".ljust(128) + b"DICM": "ISHNE",
    b"MATLAB 7.3".ljust(128) + b"DICM".ljust(384) + b"\x89HDF\r\n\x1a\n": "DICOM",
    struct.pack("<5i4s", 8, 12, 5000, 0, 4, b"val\0") + b"\x08\0\x05\0CS\x02\0AB" * 3: "MATLAB",
    b'<ECG recordedAt="x,1">': "Mortara XML",
    b"V1\n0.5\n": "table",
    "I\tII\n".encode("utf-16"): "table",
    **{text.encode(encoding): kind for text, kind in XML.items() for encoding in ("utf-8", "utf-16")},
}


@pytest.mark.parametrize("content", CONTENTS)
def test_format_by_content(tmp_path, content):
    path = tmp_path / "ecg.dat"
    path.write_bytes(content)
    assert format_of(path).name == CONTENTS[content]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\x7fELF\0\0", "this kind of file is not supported"),
        (b"\0" * 5000, "this kind of file is not supported"),
        (b"{}", "this kind of file is not supported"),
        (b"<!doctype html><RestingECG>", "this is a web page, not what it links to"),
        (b"PK\x03\x04,1,2\n1,2,3\n", "this is a zip archive"),
        (b"<svg>", "XML of the kind <svg> is not supported"),
        (b"<?xml", "XML without a root element is not supported"),
        (b"r 5 500 100\nr.dat 16\n", r"this is a WFDB header; give it the suffix \.hea"),
        (b"A prose text that has no separator in it, at least not before its 24th letter", "it is not an ECG"),
        (b"A prose text that has no separator in it", "this kind of file is not supported"),
    ],
)
def test_unsupported_formats(tmp_path, content, message):
    path = tmp_path / "ecg.dat"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_ecg(path, sample_rate=500)
    assert str(caught.value).startswith(f"{path}: ")
    assert "; " in str(caught.value)


def test_lists_are_those_of_the_formats(tmp_path):
    """Messages, the page on data and the page of the service."""
    from fairseq_signals_ext.pages.rendering import drop_page

    path = tmp_path / "ecg.dat"
    path.write_bytes(b"\x7fELF")
    with pytest.raises(UserError) as caught:
        read_ecg(path)
    page = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    for text in (str(caught.value), page, drop_page("", supported()).html):
        assert supported() in text
    for one in all_formats():
        assert (one.called or one.name) in supported()
    assert {one.name for one in our_formats()} | {"table"} == set(CONTENTS.values()) | {"WFDB"}


def test_folder_and_missing_file(tmp_path):
    with pytest.raises(UserError, match="this is a folder; give one file"):
        read_ecg(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        read_ecg(tmp_path / "no.dcm")


@pytest.mark.parametrize(
    "decorate", ["{}", " {} ", "Lead {}", "LEAD_{}", "ECG {}", "EKG {}", "ecg lead {}", "MDC_ECG_LEAD_{}"]
)
@pytest.mark.parametrize("change", [str, str.lower, str.upper])
def test_lead_names(decorate, change):
    for position, name in enumerate(LEADS):
        assert lead_position(decorate.format(change(name))) == position


@pytest.mark.parametrize("name", ["-aVR", "ECG -aVR", "MLII", "V7", "V3R", "IV", "X", "", "lead", "1", "II_2", "I I"])
def test_names_of_no_standard_lead(name):
    assert lead_position(name) is None


def test_rows_of_leads():
    assert list(rows_of_leads(["V1", "resp", "avf", "DI"], "f").items()) == [(0, 3), (5, 2), (6, 0)]
    assert rows_of_leads(["a", "b"], "f", ["V2", "II"]) == {1: 1, 7: 0}
    with pytest.raises(UserError, match="f: lead 'Lead V1' appears twice"):
        rows_of_leads(["V1", "Lead V1"], "f")
    with pytest.raises(UserError, match="a lead is named twice"):
        rows_of_leads(["a", "b"], "f", ["V2", "v2"])


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("mV", 1), ("MV", 1), ("uV", 1e-3), ("\u00b5V", 1e-3), ("\u03bcV", 1e-3), ("V", 1e3), ("nV", 1e-6)]
    + [("Millivolts", 1), ("microvolt", 1e-3), ("volts", 1e3), ("mmHg", None), ("", None), ("kV", None), ("s", None)],
)
def test_units(unit, expected):
    assert millivolts(unit) == expected


def test_age_and_sex():
    assert [age_of(value) for value in ("74", 7.5, "0", 130, -1, "131", "NaN", "", None, "x")] == [
        74, 7.5, 0, 130, *[None] * 6
    ]  # fmt: skip
    assert [sex_of(value) for value in ("F", "Female", " m", "MALE", "U", "", None)] == [
        "female", "female", "male", "male", None, None, None
    ]  # fmt: skip
