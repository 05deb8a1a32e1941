"""Files that are no ECG: a message with kind and hint."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from fuzz_seeds import kardia

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.readers import read_ecg


def zipped(*names):
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, "content " * 5000)
    return whole.getvalue()


def tarred():
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.dcm"))
    return whole.getvalue()


def npz():
    whole = io.BytesIO()
    np.savez(whole, ecg=np.zeros((12, 5000)))
    return whole.getvalue()


def bmp():
    return b"BM" + struct.pack("<I", 60) + bytes(54)


CONTENTS = {
    "zip": (zipped("ecg.dcm"), "this is a zip archive; unpack it and give the files in it"),
    "xlsx": (zipped("[Content_Types].xml", "xl/workbook.xml"), "this is an Excel workbook; save the sheet as .csv"),
    "xlsx with much before": (
        zipped(*(f"docProps/{k}.xml" for k in range(300)), "xl/workbook.xml"),
        "this is an Excel workbook",
    ),
    "docx": (zipped("[Content_Types].xml", "word/document.xml"), "this is an Office document; export the ECG as data"),
    "npz": (npz(), r"this is a NumPy archive \(\.npz\); save one array as \.npy"),
    "gzip": (gzip.compress(b"ISHNE1.0"), "this is a file compressed with gzip; unpack it"),
    "bzip2": (bz2.compress(b"ISHNE1.0"), "this is a file compressed with bzip2; unpack it"),
    "xz": (lzma.compress(b"ISHNE1.0"), "this is a file compressed with xz; unpack it"),
    "tar": (tarred(), "this is a tar archive; unpack it"),
    "pdf": (b"%PDF-1.4\n%\xe2\xe3", "this is a PDF document; export the ECG as data, such as DICOM"),
    "pdf behind a line": (b"\r\n\r\n%PDF-1.7\n", "this is a PDF document"),
    "png": (b"\x89PNG\r\n\x1a\n\0\0", r"this is a picture \(PNG\); export the ECG as data"),
    "jpeg": (b"\xff\xd8\xff\xe0\0\x10JFIF", r"this is a picture \(JPEG\); export the ECG as data"),
    "tiff": (b"II*\0\x08\0\0\0", r"this is a picture \(TIFF\)"),
    "bmp": (bmp(), r"this is a picture \(BMP\)"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "this is an old Office document, such as an Excel"),
    "html": (b"<!DOCTYPE html>\n<html lang='en'>", "this is a web page, not what it links to; log in"),
    "html in capitals": (b"\xef\xbb\xbf<HTML><BODY>", "this is a web page"),
    "xhtml": (b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "x">\n<html>', "this is a web page"),
    "bdf": (b"\xffBIOSEMI" + bytes(300), r"this is a BDF file \(BioSemi\); convert it to EDF"),
    "parquet": (b"PAR1" + bytes(30), "this is a Parquet table; save its columns"),
    "pickle": (pickle.dumps([1, 2], 4), "this is a Python pickle, which could run any program"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "this is a pointer to a file that Git LFS"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_message_has_kind_and_hint(tmp_path, name):
    content, message = CONTENTS[name]
    path = tmp_path / "ecg.dat"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_ecg(path)
    assert str(caught.value).startswith(f"{path}: this is ")
    assert "; " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_that_begins_as_a_picture_is_a_table(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("BMI,I,II\n" + "20,0.5,0.25\n" * 600)
    assert read_ecg(path, sample_rate=500, unit="mV").samples == 600


@pytest.mark.parametrize("size", [60_000, 60_001, 522 + 24 * 1000, 522 + 24 * 4999])
def test_a_truncated_ishne(cases, tmp_path, size):
    path = tmp_path / "m.ecg"
    path.write_bytes((cases / "ishne" / "i02_fault.ecg").read_bytes()[:size])
    with pytest.raises(UserError, match="the file is cut short") as caught:
        read_ecg(path)
    assert "copy or download it again, whole" in str(caught.value)


@pytest.mark.parametrize("size", [8, 100, 521])
def test_an_ishne_cut_within_its_header(cases, tmp_path, size):
    path = tmp_path / "m.ecg"
    path.write_bytes((cases / "ishne" / "i02_fault.ecg").read_bytes()[:size])
    with pytest.raises(UserError, match="cannot be read as ISHNE .*; get the file again"):
        read_ecg(path)


@pytest.mark.parametrize("claimed", [500 * 3600 * 24, 2**31 - 1, 0, 60_000, 120_000, 3000])
def test_an_ishne_with_a_nominal_number_of_samples_is_read(cases, tmp_path, claimed):
    """All leads' together, in bytes, as many as fit a day, or none."""
    content = bytearray((cases / "ishne" / "i02_fault.ecg").read_bytes())
    content[8:10] = b"\0\0"
    struct.pack_into("<i", content, 14, claimed)
    (tmp_path / "m.ecg").write_bytes(content)
    assert read_ecg(tmp_path / "m.ecg").samples == 5000


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("indent", [None, 8])
@pytest.mark.parametrize("backwards", [False, True])
def test_kardia_in_any_order(tmp_path, encoding, indent, backwards):
    document = json.loads(kardia())
    samples = document["data"]["raw"]["samples"]
    samples.update({name: rows * 300 for name, rows in samples.items()})
    keys = sorted(document, reverse=backwards)
    path = tmp_path / "m.json"
    text = json.dumps({key: document[key] for key in keys}, indent=indent)
    path.write_text("\n \t" * bool(indent) + text, encoding=encoding)
    recording = read_ecg(path)
    np.testing.assert_allclose(recording.signal[0], np.array(samples["leadI"]) * 0.0005, atol=1e-9)
    assert recording.patient == "7"


def test_the_case_of_sorted_keys(cases):
    recording = read_ecg(cases / "json" / "k02_sorted.json")
    truth = np.load(cases / "json" / "truth.npz")["truth"][list(recording.leads)]
    np.testing.assert_allclose(recording.signal, truth, rtol=0, atol=0.00026)


def test_other_json_is_no_ecg(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps({"resourceType": "Observation", "x": "y" * 10**6}))
    with pytest.raises(UserError, match="this kind of file is not supported"):
        read_ecg(tmp_path / "m.json")
