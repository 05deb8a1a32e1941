"""DICOM without its preamble, in other encodings, and without samples."""

import numpy as np
import pytest
from made_up_parts import dicom_data, wave, write_dicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.readers import read_ecg
from fairseq_signals_ext.readers.formats import format_of

ENCODINGS = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]


def written(path, data, syntax, whole):
    """With its preamble and meta information, or as a bare data set."""
    if syntax == ExplicitVRBigEndian:
        for group in data.get("WaveformSequence", ()):
            group.WaveformData = np.frombuffer(group.WaveformData, "<i2").astype(">i2").tobytes()
    data.file_meta.TransferSyntaxUID = syntax
    options = {"implicit_vr": syntax == ImplicitVRLittleEndian, "little_endian": syntax != ExplicitVRBigEndian}
    if whole:
        data.save_as(path, enforce_file_format=True)
    else:
        del data.file_meta
        data.save_as(path, **options)
    return path


@pytest.mark.parametrize("syntax", ENCODINGS, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("form", ["whole", "only its mark", "no preamble", "bare"])
def test_encodings_and_beginnings(tmp_path, syntax, form):
    one = wave(5, seed=1)
    path = written(tmp_path / "m.dcm", dicom_data([one]), syntax, form != "bare")
    begins = {"only its mark": 128, "no preamble": 132}.get(form, 0)
    path.write_bytes(path.read_bytes()[begins:])
    assert format_of(path).name == "DICOM"
    recording = read_ecg(path)
    np.testing.assert_allclose(recording.signal, np.stack(list(one.millivolts.values())), rtol=0, atol=1e-9)
    assert recording.patient == "P-0001"


@pytest.mark.parametrize("name", ["dicom_12lead_1000hz.dcm"])
def test_a_real_file_without_its_preamble(ecg_data, tmp_path, name):
    path = tmp_path / name
    path.write_bytes((ecg_data / "formats" / name).read_bytes()[132:])
    np.testing.assert_array_equal(read_ecg(path).signal, read_ecg(ecg_data / "formats" / name).signal)


def test_other_files_are_not_read_as_dicom(ecg_data):
    """No real file of another format, and none of their parts."""
    for path in sorted((ecg_data / "formats").glob("*")):
        if path.suffix not in (".dcm", ".xml"):
            assert format_of(path).name != "DICOM"


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("group", [b"\x08\0", b"\0\x08", b"\2\0"])
def test_noise_with_a_dicom_beginning_is_not_read_as_dicom(tmp_path, seed, group):
    path = tmp_path / "m.bin"
    path.write_bytes(group + np.random.default_rng(seed).bytes(9000))
    with pytest.raises(UserError, match="this kind of file is not supported"):
        format_of(path)


def without_waveform(**elements):
    data = dicom_data([wave(1)])
    del data.WaveformSequence
    for name, value in elements.items():
        setattr(data, name, value)
    return data


PDF = {"MIMETypeOfEncapsulatedDocument": "application/pdf", "EncapsulatedDocument": b"%PDF-1.4\n"}
PICTURE = {"Rows": 2, "Columns": 2, "BitsAllocated": 8, "SamplesPerPixel": 1, "PixelRepresentation": 0}


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("elements", "message"),
    [
        (PDF, "this DICOM file contains a PDF, not samples; export the ECG as a DICOM waveform"),
        ({**PDF, "MIMETypeOfEncapsulatedDocument": "text/XML"}, "this DICOM file contains a document, not samples"),
        (PICTURE, "this DICOM file contains a picture, not samples; export the ECG as a DICOM waveform"),
        ({"Manufacturer": "Maker"}, "this DICOM file contains no waveform; export the ECG as a DICOM waveform"),
    ],
)
def test_dicom_without_samples(tmp_path, elements, message, whole):
    path = written(tmp_path / "m.dcm", without_waveform(**elements), ExplicitVRLittleEndian, whole)
    with pytest.raises(UserError, match=message) as caught:
        read_ecg(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_list_of_files(tmp_path):
    without_waveform(DirectoryRecordSequence=[Dataset()]).save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    with pytest.raises(UserError, match="this DICOMDIR is a list of other files; give those files"):
        read_ecg(tmp_path / "DICOMDIR")


def test_a_compressed_picture(tmp_path):
    from pydicom.encaps import encapsulate

    data = without_waveform(**PICTURE)
    data.PixelData = encapsulate([b"\xff\xd8\xff\xe0" + bytes(range(256)) * 20])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    data.save_as(tmp_path / "m.dcm", enforce_file_format=True)
    with pytest.raises(UserError, match="this DICOM file contains a picture, not samples"):
        read_ecg(tmp_path / "m.dcm")


def test_claims_hold_without_a_preamble(tmp_path):
    one = write_dicom(tmp_path / "m.dcm", [wave(1)])
    bare = tmp_path / "bare.dcm"
    content = one.read_bytes()[132:]
    bare.write_bytes(content[:-1000])
    with pytest.raises(UserError, match="is longer than the file"):
        read_ecg(bare)
