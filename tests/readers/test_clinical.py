"""Files of hospitals and electrocardiographs: values against the file's own bytes, decoded here by other means."""

import base64
import struct
import warnings
import zlib
from datetime import datetime
from xml.etree import ElementTree

import numpy as np
import pydicom
import pytest

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.readers import read_ecg

LIMB = (2, 3, 4, 5)


@pytest.fixture(scope="module")
def formats(ecg_data):
    return ecg_data / "formats"


def physical(recording):
    stored = recording.stored
    return (stored.counts - stored.zero[:, None]) * stored.scale[:, None]


def check(recording, expected):
    """`expected`: lead -> mV."""
    assert [LEADS[lead] for lead in recording.leads] == [name for name in LEADS if name in expected]
    reference = np.stack([expected[LEADS[lead]] for lead in recording.leads])
    np.testing.assert_allclose(recording.signal, reference, rtol=0, atol=1e-9)
    np.testing.assert_allclose(physical(recording), reference, rtol=0, atol=1e-9)


def facts(recording):
    return recording.patient, recording.start_time, recording.age, recording.sex, recording.sample_rate


def with_einthoven(expected):
    one, two = expected["I"], expected["II"]
    return {**expected, "III": two - one, "aVR": -(one + two) / 2, "aVL": one - two / 2, "aVF": two - one / 2}


def test_dicom(formats):
    path = formats / "dicom_12lead_1000hz.dcm"
    data = pydicom.dcmread(path)
    group = data.WaveformSequence[0]
    names = [item.ChannelSourceSequence[0].CodeMeaning for item in group.ChannelDefinitionSequence]
    units = {item.ChannelSensitivityUnitsSequence[0].CodeValue for item in group.ChannelDefinitionSequence}
    assert units == {"uV"}
    microvolts = data.waveform_array(0)
    recording = read_ecg(path)
    check(recording, {name.split()[1]: microvolts[:, k] / 1000 for k, name in enumerate(names)})
    assert facts(recording) == ("642341", datetime(2013, 1, 25, 10, 59, 19), 42, "female", 1000)
    assert recording.statements == ("RITMO SINUSALE", "ECG NORMALE")
    assert (recording.record_id, recording.derived) == ("dicom_12lead_1000hz", ())


def test_ge_muse(formats):
    path = formats / "ge_muse_8lead.xml"
    rhythm = next(
        item for item in ElementTree.parse(path).getroot().iter("Waveform") if item.findtext("WaveformType") == "Rhythm"
    )
    expected = {}
    for lead in rhythm.iter("LeadData"):
        payload = base64.b64decode(lead.findtext("WaveFormData"))
        assert zlib.crc32(payload) == int(lead.findtext("LeadDataCRC32"))
        assert lead.findtext("LeadAmplitudeUnits") == "MICROVOLTS"
        scale = float(lead.findtext("LeadAmplitudeUnitsPerBit")) / 1000
        expected[lead.findtext("LeadID")] = np.frombuffer(payload, "<i2") * scale
    assert len(expected) == 8
    recording = read_ecg(path)
    check(recording, with_einthoven(expected))
    assert recording.derived == LIMB
    # 00000000 is nobody
    assert facts(recording) == (None, datetime(2024, 1, 1, 10, 35, 17), 11, "male", 500)
    assert recording.statements[0] == "窦性心律"


def aecg(path):
    """lead -> mV, straight from the XML."""
    space = {"h": "urn:hl7-org:v3"}
    found = {}
    for sequence in ElementTree.parse(path).getroot().find(".//h:sequenceSet", space).iterfind(".//h:sequence", space):
        code = sequence.find("h:code", space).get("code")
        if code.startswith("MDC_ECG_LEAD_"):
            scale = sequence.find("h:value/h:scale", space)
            assert scale.get("unit") == "uV"
            digits = np.array(sequence.find("h:value/h:digits", space).text.split(), np.float64)
            name = code.split("_")[-1]
            found[name.replace("AV", "aV")] = digits * float(scale.get("value")) / 1000
    return found


def test_hl7_aecg(formats):
    path = formats / "hl7_aecg.xml"
    recording = read_ecg(path)
    check(recording, aecg(path))
    assert facts(recording) == ("SBJ-123", datetime(2002, 11, 22, 9, 10), 46, "male", 500)


def test_scp_and_aecg_of_one_recording_agree(formats):
    recording = read_ecg(formats / "example.scp")
    check(recording, aecg(formats / "hl7_aecg.xml"))
    assert facts(recording) == ("SBJ-123", datetime(2002, 11, 22, 9, 10), 49, "male", 500)


def test_philips(formats):
    path = formats / "philips_sierra_1_04.xml"
    import ecgdatakit

    record = ecgdatakit.FileParser.parse(path, units="mV")
    recording = read_ecg(path)
    # the last 0.4 s are the device's calibration: 0.2 s of 1 mV in every lead, zeros around it
    pulse = np.repeat([0, 1, 0], [50, 100, 50])
    assert all((lead.samples[5300:] == pulse).all() and len(lead.samples) == 5500 for lead in record.leads)
    check(recording, {lead.label: lead.samples[:5300] for lead in record.leads})
    ecg = recording.stored.counts.astype(int)
    assert ecg.shape == (12, 5300)
    assert np.abs(ecg[2] - (ecg[1] - ecg[0])).max() <= 1
    # the halves were rounded by the device, from a III that is itself off by up to one count
    assert np.abs(ecg[3] + (ecg[0] + ecg[1]) / 2).max() <= 1.5
    assert np.abs(ecg[4] - (ecg[0] - ecg[2]) / 2).max() <= 1.5
    assert np.abs(ecg[5] - (ecg[1] + ecg[2]) / 2).max() <= 1.5
    assert facts(recording) == ("9999", datetime(2008, 12, 23, 19, 44, 46), 32, "female", 500)
    assert recording.statements[0] == "SINUS BRADYCARDIA (V-rate<60)"


def edf(path):
    """Physical values of an EDF file with one signal."""
    raw = path.read_bytes()
    records, duration, signals = int(raw[236:244]), float(raw[244:252]), int(raw[252:256])
    assert signals == 1
    low, high, least, most = (float(raw[256 + at : 264 + at]) for at in (104, 112, 120, 128))
    samples = int(raw[256 + 216 : 256 + 224])
    digital = np.array(struct.unpack_from(f"<{records * samples}h", raw, 512))
    return (digital - least) * (high - low) / (most - least) + low, samples / duration


def test_edf_without_a_lead_name(formats):
    path = formats / "single_lead_300hz.edf"
    with pytest.raises(UserError, match=r"none of its signals \(ECG\) is a standard lead"):
        read_ecg(path)
    with pytest.raises(UserError, match="it has 1 signals, but 2 leads are given"):
        read_ecg(path, leads=["I", "II"])
    expected, rate = edf(path)
    recording = read_ecg(path, leads=["I"], unit="mV", sample_rate=300)
    assert recording.sample_rate == rate == 300
    # a record of 40 s of which the last 10 s are padding
    assert (expected[9000:] == expected[-1]).all() and recording.cut == (0.0, 10.0)
    check(recording, {"I": expected[:9000]})
    assert recording.derived == ()


def test_unsupported_files_are_named(formats):
    path = formats / "unsupported.xml"
    with pytest.raises(UserError) as caught:
        read_ecg(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "Philips Sierra XML" in text
    assert "MortaraECG 1.03" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"sample_rate": 500}, "its sample rate is 1000 Hz, not 500 Hz"),
        ({"unit": "mV"}, "its unit is uV, not mV"),
        ({"leads": ["I", "II"]}, "its leads are I, II, III, aVR"),
    ],
)
def test_given_metadata_must_equal_the_file(formats, keywords, message):
    path = formats / "dicom_12lead_1000hz.dcm"
    with pytest.raises(UserError, match=message):
        read_ecg(path, **keywords)
    read_ecg(path, sample_rate=1000, unit="uV", leads=LEADS)


def test_format_depends_on_content_not_on_the_name(formats, tmp_path):
    for name in ("dicom_12lead_1000hz.dcm", "example.scp", "ge_muse_8lead.xml", "hl7_aecg.xml"):
        disguised = tmp_path / f"{name}.csv"
        disguised.write_bytes((formats / name).read_bytes())
        np.testing.assert_array_equal(read_ecg(disguised).signal, read_ecg(formats / name).signal)


def muse(formats, tmp_path, *changes):
    text = (formats / "ge_muse_8lead.xml").read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "muse.xml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<LeadID>V6</LeadID>", "<LeadID>V5</LeadID>", "lead 'V5' appears twice"),
        ("<LeadID>V6</LeadID>", "<LeadID>Lead II</LeadID>", "lead 'II' appears twice"),
        ("MICROVOLTS", "MMHG", "lead I has no unit or no scale"),
        ("<LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits>", "", "lead I has no unit or no scale"),
        ("<SampleBase>500</SampleBase>", "<SampleBase>0</SampleBase>", "cannot be read as GE MUSE XML"),
        ("<LeadDataCRC32>", "<LeadDataCRC32>1", "its values are in doubt"),
    ],
)
def test_doubtful_values_are_refused(formats, tmp_path, old, new, message):
    with pytest.raises(UserError, match=message) as caught:
        read_ecg(muse(formats, tmp_path, (old, new)))
    assert "\n" not in str(caught.value)


def test_a_unit_can_be_given_to_a_scale_without_one(formats, tmp_path):
    path = muse(formats, tmp_path, ("<LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits>", ""))
    np.testing.assert_allclose(
        read_ecg(path, unit="uV").signal, read_ecg(formats / "ge_muse_8lead.xml").signal, rtol=1e-12
    )


@pytest.mark.parametrize(("said", "age"), [("0", 0), ("130", 130), ("131", None), ("-3", None)])
def test_only_nonsense_ages_are_dropped(formats, tmp_path, said, age):
    path = muse(formats, tmp_path, ("<PatientAge>11</PatientAge>", f"<PatientAge>{said}</PatientAge>"))
    assert read_ecg(path).age == age


def bomb(levels):
    entities = "".join(f'<!ENTITY e{k} "{f"&e{k - 1};" * 10}">' for k in range(1, levels))
    return f'<?xml version="1.0"?><!DOCTYPE ROOT [<!ENTITY e0 "ha">{entities}]><ROOT>&e{levels - 1};</ROOT>'


@pytest.mark.parametrize("root", ["RestingECG", "restingecgdata", "AnnotatedECG", "ECG"])
def test_xml_bombs_and_outside_entities_are_refused(tmp_path, root):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    outside = f'<!DOCTYPE ROOT [<!ENTITY e0 SYSTEM "{secret.as_uri()}">]><ROOT>&e0;</ROOT>'
    for text in (bomb(12), outside):
        path = tmp_path / "bomb.xml"
        path.write_text(text.replace("ROOT", root))
        with pytest.raises(UserError, match="cannot be read as") as caught:
            read_ecg(path)
        assert len(str(caught.value)) < 600


def test_deflated_dicom_is_refused(formats, tmp_path):
    data = pydicom.dcmread(formats / "dicom_12lead_1000hz.dcm")
    data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    path = tmp_path / "deflated.dcm"
    data.save_as(path)
    with pytest.raises(UserError, match="a deflated DICOM file is not supported"):
        read_ecg(path)


def write_edf(path, signals, records=2, seconds=1.0):
    """`signals`: (label, unit, physical low and high, digital low and high, samples x records as int16)."""
    widths = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)
    fields = [
        (label, "", unit, *limits, "", values.shape[1] if records else 0, "") for label, unit, limits, values in signals
    ]
    header = f"{'0':8}{'P 1':80}{'':80}01.02.2003.04.05{256 * (len(signals) + 1):<8}{'':44}{records:<8}{seconds:<8}"
    header = header[:168] + "01.02.0304.05.06" + header[184:]
    header += f"{len(signals):<4}"
    columns = "".join(f"{str(field[k])[:width]:{width}}" for k, width in enumerate(widths) for field in fields)
    body = b"".join(values[k].astype("<i2").tobytes() for k in range(records) for _, _, _, values in signals)
    path.write_bytes((header[:256] + columns).encode("latin-1") + body)
    return path


def made_up_edf(tmp_path, **changes):
    values = np.random.default_rng(0).integers(-2000, 2000, (2, 333))
    second = changes.pop("second", ("ECG Lead II", "mV", (-5, 5, -32768, 32767), values + 1))
    signals = [("EKG aVF", "uV", (-1000, 3000, -2048, 2047), values), ("SpO2", "%", (0, 100, 0, 100), values), second]
    return write_edf(tmp_path / "made_up.edf", signals, **changes), values


def test_edf_with_an_offset_other_signals_and_a_fractional_rate(tmp_path):
    path, values = made_up_edf(tmp_path, seconds=0.7)
    recording = read_ecg(path)
    first = (values.ravel() + 2048) * 4000 / 4095 - 1000
    second = (values.ravel() + 1 + 32768) * 10 / 65535 - 5
    check(recording, {"II": second, "aVF": first / 1000})
    assert recording.sample_rate == pytest.approx(333 / 0.7, rel=1e-12)
    assert recording.start_time == datetime(2003, 2, 1, 4, 5, 6)


def test_leads_of_different_rates_are_refused(tmp_path):
    path, _ = made_up_edf(tmp_path, second=("II", "mV", (-5, 5, -100, 100), np.zeros((2, 100), int)))
    with pytest.raises(UserError, match=r"its leads have different sample rates \(100, 333\)"):
        read_ecg(path)


def test_a_lead_without_a_voltage_is_refused(tmp_path):
    for unit, message in (("mmHg", "has the unit 'mmHg'"), ("", "no unit or no scale")):
        path, values = made_up_edf(tmp_path, second=("II", unit, (-5, 5, -100, 100), np.zeros((2, 333), int)))
        with pytest.raises(UserError, match=f"lead II {message}" if unit else message):
            read_ecg(path)


def test_truncated_and_lengthened_edf(tmp_path):
    path, _ = made_up_edf(tmp_path)
    whole = path.read_bytes()
    for content, message in ((whole[:-1], "the file is cut short"), (whole + b"\0\0", "its values are in doubt")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_ecg(path)


def test_gaps_are_named(cases, tmp_path):
    """Exporting such a file again does not help."""
    content = bytearray((cases / "edf" / "e25_date1985.edf").read_bytes())
    content[196:197] = b"D"
    at = content.index(b"+9\x14")
    content[at : at + 3] = b"+99"
    content[at + 3 : at + 5] = b"\x14\x14"
    (tmp_path / "m.edf").write_bytes(content)
    with pytest.raises(UserError, match="there are gaps in it .*; export what lies between the gaps"):
        read_ecg(tmp_path / "m.edf")


def test_offsets_of_unknown_meaning_are_named(formats, tmp_path):
    first = "<LeadOffsetFirstSample>0</LeadOffsetFirstSample>"
    path = muse(formats, tmp_path, (first, first.replace("0", "5")))
    with pytest.raises(
        UserError, match="its leads have offsets whose meaning is not documented .*; export it in another"
    ):
        read_ecg(path)


def test_nothing_is_warned_or_printed(formats, tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in formats.glob("*"):
            if path.name not in ("unsupported.xml", "single_lead_300hz.edf"):
                read_ecg(path)
    assert capsys.readouterr() == ("", "")
