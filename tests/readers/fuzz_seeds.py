"""Valid recordings of every supported format, as bytes: the seeds for fuzzing."""

import base64
import contextlib
import io
import json
import os
import struct
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import numpy as np
import scipy.io
from made_up_scp import SAMPLES as _SAMPLES
from made_up_scp import counts, repair_scp, scp

_RATE = {"sample_rate": 500}


@dataclass(frozen=True)
class Seed:
    """Files that belong together, the one to read, and the options for reading."""

    main: str
    files: Dict[str, bytes]
    keywords: Dict[str, Any] = field(default_factory=dict)
    repair: Optional[Callable[[bytes], bytes]] = None  # puts the checksums of a changed file right


def seeds_of(reader: str) -> List[Seed]:
    """All seeds of one reader, with real recordings where `ECG_DATA` names them."""
    return [*_MAKERS[reader](), *_real(reader)]


def _real(reader: str) -> List[Seed]:
    folder = Path(os.environ.get("ECG_DATA") or "/nowhere")
    names = {
        "dicom": "dicom_12lead_1000hz.dcm",
        "scp": "example.scp",
        "muse": "ge_muse_8lead.xml",
        "aecg": "hl7_aecg.xml",
        "philips": "philips_sierra_1_04.xml",
        "edf": "single_lead_300hz.edf",
    }
    found = [folder / "formats" / names[reader]] if reader in names else []
    cases = folder.parent / "cases" / reader
    found += [path for path in sorted(cases.glob("*.*")) if path.suffix not in (".npz", ".hea", ".dat")]
    repair = {"scp": repair_scp, "ishne": repair_ishne}.get(reader)
    # no name in this one is a lead's
    keywords: Dict[str, Any] = {"leads": ["I"]} if reader == "edf" else {}
    made = []
    for path in found:
        if path.is_file() and path.stat().st_size < 600_000:
            name, use = f"real{path.suffix}", {} if cases in path.parents else keywords
            made.append(Seed(name, {name: path.read_bytes()}, use, repair))
    return made


def _one(name: str, content: bytes, **keywords: Any) -> List[Seed]:
    return [Seed(name, {name: content}, keywords)]


# --- WFDB ---


def _signal_lines(name: str, fmt: str, leads: List[str], gain: str = "200(0)/mV") -> List[str]:
    return [f"{name} {fmt} {gain} 16 0 0 0 0 {lead}" for lead in leads]


def _wfdb(main: str, parts: Dict[str, List[str]], **signals: bytes) -> Seed:
    files = {f"{name}.hea": ("\n".join(lines) + "\n").encode() for name, lines in parts.items()}
    files.update({f"{name}.dat": content for name, content in signals.items()})
    return Seed(f"{main}.hea", files)


def wfdb_plain() -> List[Seed]:
    """Headers as most collections have them."""
    values = counts(4)
    lines = [f"r 4 500 {_SAMPLES} 12:00:00 01/02/2003"]
    lines += _signal_lines("r.dat", "16", ["I", "II", "V1", "aVF"])
    lines += ["# Age: 74", "# Sex: F", "# Dx: 426783006,164889003", "# patient: 7"]
    return [_wfdb("r", {"r": lines}, r=values.T.astype("<i2").tobytes())]


def wfdb_other() -> List[Seed]:
    """Other formats, segments, several samples per frame, skew."""
    made = []
    for fmt in ("80", "212", "16", "24", "32", "160", "310", "311", "508", "516", "524"):
        with contextlib.suppress(Exception):  # formats that the library does not write
            made.append(_written(fmt))
    values = counts(2)
    body = values.T.astype("<i2").tobytes()
    leads = ["I", "II"]
    for name, fmt, content in (("g", "61", values.T.astype(">i2").tobytes()), ("d", "8", bytes(2 * _SAMPLES))):
        made.append(_wfdb(name, {name: [f"{name} 2 500 {_SAMPLES}", *_signal_lines(f"{name}.dat", fmt, leads)]}))
        made[-1].files[f"{name}.dat"] = content
    framed = ["f 2 250/500(3) 30", *_signal_lines("f.dat", "16x2", leads)]
    made.append(_wfdb("f", {"f": framed}, f=body))
    skewed = [f"k 2 500 {_SAMPLES}", *_signal_lines("k.dat", "16:2+0", leads)]
    made.append(_wfdb("k", {"k": skewed}, k=body))
    parts = {
        "s": ["s/3 2 500 150", f"a {_SAMPLES}", "~ 30", f"b {_SAMPLES}"],
        "a": [f"a 2 500 {_SAMPLES}", *_signal_lines("a.dat", "16", leads)],
        "b": [f"b 2 500 {_SAMPLES}", *_signal_lines("b.dat", "16", leads, "100(5)/mV")],
    }
    made.append(_wfdb("s", parts, a=body, b=body))
    layout = {
        "v": ["v/4 2 500/500(0) 150", "l 0", f"a {_SAMPLES}", "~ 30", f"b {_SAMPLES}"],
        "l": ["l 2 500 0", "~ 0 200/mV 16 0 0 0 0 I", "~ 0 200/mV 16 0 0 0 0 II"],
        "a": parts["a"],
        "b": parts["b"],
    }
    made.append(_wfdb("v", layout, a=body, b=body))
    return made


def _written(fmt: str) -> Seed:
    from made_up_wfdb import write_wfdb

    big = {"80": 100, "212": 1500, "310": 400, "311": 400}.get(fmt, 900)
    values = np.random.default_rng(0).integers(-big, big, (_SAMPLES, 2))
    with tempfile.TemporaryDirectory() as folder:
        write_wfdb(Path(folder) / "w", values.T, ["I", "II"], gain=200.0, fmt=fmt, comments=["Age: 74"])
        return Seed("w.hea", {path.name: path.read_bytes() for path in Path(folder).iterdir()})


# --- arrays and tables ---


def _npy() -> List[Seed]:
    made = []
    for dtype in (np.int16, np.float32, ">f8"):
        saved = io.BytesIO()
        np.save(saved, counts().astype(dtype))
        made += _one("r.npy", saved.getvalue(), sample_rate=500, unit="uV")
    saved = io.BytesIO()
    np.save(saved, np.stack([counts(), counts() + 1]) / 1000)
    return [*made, *_one("r.npy", saved.getvalue(), **_RATE)]


def _mat(variables: Dict[str, Any], **options: Any) -> bytes:
    saved = io.BytesIO()
    scipy.io.savemat(saved, variables, **options)
    return saved.getvalue()


def _mats() -> List[Seed]:
    values = counts()
    feats = {"feats": values / 100, "mean": values[:, :1] / 1.0, "std": abs(values[:, 1:2]) / 1.0 + 1}
    return [
        *_one("r.mat", _mat({"val": values}, format="4"), sample_rate=500, unit="uV"),
        *_one("r.mat", _mat({"val": values}), sample_rate=500, unit="uV"),
        *_one("r.mat", _mat({"val": values}, do_compression=True), sample_rate=500, unit="uV"),
        *_one("r.mat", _mat({**feats, "curr_sample_rate": 500})),
        *_one("r.mat", _mat({**feats, "curr_sample_rate": 500, "patient_id": "p7", "idx": 3}, do_compression=True)),
        *_one("r.mat", _mat({"ECG": {"sex": "Male", "age": 74, "data": values / 1000}}), **_RATE),
        *_one("r.mat", _mat({"name": "text", "cell": np.array([[1]], object), "val": values / 10}), **_RATE),
    ]


def _mats73() -> List[Seed]:
    import h5py

    made = []
    for options in ({"compression": "gzip"}, {"compression": "gzip", "shuffle": True, "fletcher32": True}, {}):
        saved = io.BytesIO()
        with h5py.File(saved, "w") as file:
            file.create_dataset("val", data=counts().T / 100, **options)
            file.create_dataset("curr_sample_rate", data=np.array([[500.0]]))
            text = file.create_dataset("patient_id", data=np.array([[112], [55]], np.uint16))
            text.attrs["MATLAB_class"] = np.bytes_("char")
        made += _one("r.mat", saved.getvalue())
    return made


def _hdf5() -> List[Seed]:
    """Batches of ECGs."""
    import h5py

    made = []
    batch = np.stack([counts(), counts() + 1]) / 1000
    for data, options in ((batch, {"compression": "gzip", "chunks": (1, 12, _SAMPLES)}), (batch.swapaxes(1, 2), {})):
        saved = io.BytesIO()
        with h5py.File(saved, "w") as file:
            file.create_dataset("tracings", data=data, **options)
        made += _one("r.h5", saved.getvalue(), **_RATE)
    return made


def _lines(rows: List[List[str]]) -> str:
    return "\n".join("\t".join(row) for row in rows)


def _stamped(rows: str) -> str:
    return "\n".join(f"'0:00.{2 * number:03d}',{row}" for number, row in enumerate(rows.splitlines()))


def _tables() -> List[Seed]:
    values = counts(3).T / 1000
    rows = "\n".join(",".join(f"{value:.3f}" for value in row) for row in values)
    timed = [[f"{2 * k}", *(f"{value:.3f}".replace(".", ",") for value in row)] for k, row in enumerate(values)]
    whole = "\n".join(";".join(str(value) for value in row) for row in counts(3).T)
    return [
        *_one("r.csv", f"I,II,V1\n{rows}\n".encode(), **_RATE),
        *_one("r.csv", f"time (ms)\tI (uV)\tLead II [mV]\tV1_mV\n{_lines(timed)}\n".encode("utf-16")),
        *_one("r.csv", f"#I (uV);aVR (uV);V6 (uV)\n{whole}\n".encode("utf-8-sig"), **_RATE),
        *_one("r.csv", f"'Elapsed time','I','II','V1'\n'hh:mm:ss.mmm','mV','mV','mV'\n{_stamped(rows)}".encode()),
        *_one("r.csv", f"device X\nSample rate: 500 Hz\n\nI,II,V1\n{rows}\n".encode()),
        *_one("r.csv", f"{rows}\n".encode(), sample_rate=500, leads=["I", "II", "V1"]),
    ]


# --- devices ---


def _dicom() -> List[Seed]:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.9.1.1"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["fuzz"])
    data.PatientID, data.PatientAge, data.PatientSex = "7", "074Y", "F"
    group = Dataset()
    group.NumberOfWaveformChannels, group.NumberOfWaveformSamples = 2, _SAMPLES
    group.SamplingFrequency, group.WaveformBitsAllocated = "500", 16
    group.WaveformSampleInterpretation = "SS"
    group.ChannelDefinitionSequence = []
    for name in ("Lead I", "Lead II"):
        source, unit, channel = Dataset(), Dataset(), Dataset()
        source.CodeMeaning, unit.CodeValue = name, "uV"
        channel.ChannelSourceSequence, channel.ChannelSensitivityUnitsSequence = [source], [unit]
        channel.ChannelSensitivity = "2.5"
        group.ChannelDefinitionSequence.append(channel)
    group.WaveformData = counts(2).T.astype("<i2").tobytes()
    group["WaveformData"].VR = "OW"
    data.WaveformSequence = [group]
    saved = io.BytesIO()
    data.save_as(saved, enforce_file_format=True)
    return _one("r.dcm", saved.getvalue())


def repair_ishne(content: bytes) -> bytes:
    """No checksum, which the format allows."""
    return content[:8] + b"\0\0" + content[10:]


def _ishne() -> List[Seed]:
    head = bytearray(522)
    head[:8] = b"ISHNE1.0"
    struct.pack_into("<iiiih", head, 10, 4, _SAMPLES, 522, 526, 1)
    head[108:109] = b"7"
    struct.pack_into("<h", head, 128, 2)
    struct.pack_into("<hhh", head, 138, 1, 2, 2003)
    struct.pack_into("<h", head, 156, 2)
    struct.pack_into("<12h", head, 158, 5, 6, *[-9] * 10)
    struct.pack_into("<12h", head, 206, 1000, 1000, *[-9] * 10)
    struct.pack_into("<h", head, 272, 500)
    content = bytes(head) + b"note" + counts(2).T.astype("<i2").tobytes()
    return [Seed("r.ecg", {"r.ecg": content}, repair=repair_ishne)]


def mfer(*definitions: bytes, channels: int = 2) -> bytes:
    """A small MFER file; further definitions come before its signal."""

    def item(tag: int, value: bytes) -> bytes:
        length = bytes([len(value)]) if len(value) < 128 else b"\x84" + struct.pack(">I", len(value))
        return bytes([tag]) + length + value

    content = item(0x40, b"MFR " + b" " * 28) + item(0x01, b"\0") + item(0x05, struct.pack(">H", channels))
    content += item(0x0B, b"\x01\xfd" + struct.pack(">h", 2)) + item(0x0C, b"\x00\xfa" + struct.pack(">h", 1))
    content += item(0x0A, b"\0") + item(0x04, struct.pack(">I", _SAMPLES)) + item(0x82, b"7")
    content += b"".join(b"\x3f" + bytes([k]) + item(0, item(0x09, bytes([k + 1])))[1:] for k in range(channels))
    return content + b"".join(definitions) + item(0x1E, counts(channels).astype(">i2").tobytes()) + b"\x80\0"


def kardia() -> bytes:
    """A Kardia recording of two leads."""
    one, two = counts(2).tolist()
    raw = {"frequency": 500, "amplitudeResolution": 500, "samples": {"leadI": one, "leadII": two}}
    return json.dumps({"recordedAt": "2003-02-01T10:00:00Z", "patientID": "7", "data": {"raw": raw}}).encode()


def _encoded(row: np.ndarray) -> str:
    return base64.b64encode(row.astype("<i2").tobytes()).decode()


def muse(extra: str = "") -> bytes:
    """A GE MUSE recording of two leads."""
    leads = "".join(
        f"<LeadData><LeadID>{name}</LeadID><LeadSampleCountTotal>{_SAMPLES}</LeadSampleCountTotal>"
        "<LeadAmplitudeUnitsPerBit>4.88</LeadAmplitudeUnitsPerBit><LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits>"
        f"<WaveFormData>{_encoded(row)}</WaveFormData></LeadData>"
        for name, row in zip(("I", "II"), counts(2))
    )
    text = (
        '<?xml version="1.0" encoding="ISO-8859-1"?><!DOCTYPE RestingECG SYSTEM "restecg.dtd"><RestingECG>'
        "<PatientDemographics><PatientID>7</PatientID><PatientAge>74</PatientAge><AgeUnits>YEARS</AgeUnits>"
        f"</PatientDemographics>{extra}<Waveform><WaveformType>Rhythm</WaveformType><SampleBase>500</SampleBase>"
        f"<SampleExponent>0</SampleExponent>{leads}</Waveform></RestingECG>"
    )
    return text.encode()


def mortara(extra: str = "") -> bytes:
    """A Mortara recording of two leads."""
    leads = "".join(
        f'<CHANNEL NAME="{name}" UNITS_PER_MV="1000" SAMPLE_FREQ="500" DURATION="{_SAMPLES}" BITS="16" '
        f'FORMAT="SIGNED" ENCODING="BASE64" DATA="{_encoded(row)}"/>'
        for name, row in zip(("I", "II"), counts(2))
    )
    return (
        '<?xml version="1.0"?><ECG ACQUISITION_TIME="20030201120000"><SOURCE MANUFACTURER="MORTARA" TYPE="RESTING"/>'
        f'<SUBJECT ID="7" GENDER="F"/>{extra}{leads}</ECG>'
    ).encode()


def aecg(extra: str = "") -> bytes:
    """An HL7 aECG of two leads."""

    def sequence(code: str, value: str) -> str:
        return f'<component><sequence><code code="{code}"/><value>{value}</value></sequence></component>'

    leads = "".join(
        sequence(
            f"MDC_ECG_LEAD_{name}",
            '<origin value="0" unit="uV"/><scale value="2.5" unit="uV"/>'
            f"<digits>{' '.join(str(value) for value in row)}</digits>",
        )
        for name, row in zip(("I", "II"), counts(2))
    )
    time = sequence("TIME_RELATIVE", '<head value="0" unit="s"/><increment value="0.002" unit="s"/>')
    return (
        f'<?xml version="1.0"?><AnnotatedECG xmlns="urn:hl7-org:v3">{extra}<component><series><code code="RHYTHM"/>'
        f"<component><sequenceSet>{time}{leads}</sequenceSet></component></series></component></AnnotatedECG>"
    ).encode()


def philips(payload: bytes, attributes: str = 'dataencoding="Base64"') -> bytes:
    """A Philips recording of two leads."""
    return (
        '<?xml version="1.0"?><restingecgdata><documentinfo><documenttype>SierraECG</documenttype>'
        "<documentversion>1.04</documentversion></documentinfo><dataacquisition><signalcharacteristics>"
        "<samplingrate>500</samplingrate><resolution>5</resolution><numberchannelsvalid>2</numberchannelsvalid>"
        "<numberchannelsallocated>2</numberchannelsallocated><leadset>STD-12</leadset>"
        "</signalcharacteristics></dataacquisition><waveforms><parsedwaveforms "
        f'{attributes} durationperchannel="120" numberofleads="2" leadlabels="I II" samplespersecond="500">'
        f"{base64.b64encode(payload).decode()}</parsedwaveforms></waveforms></restingecgdata>"
    ).encode()


def write_edf(labels: List[str], unit: str = "uV", **fields: Any) -> bytes:
    """A small EDF file; `fields` replaces header values of records, seconds, signals or samples."""
    body = counts(len(labels)).astype("<i2").tobytes()
    said = {"records": 1, "seconds": 0.12, "signals": len(labels), "samples": _SAMPLES, **fields}
    head = f"{'0':8}{'7 F X X':80}{'':80}01.02.0304.05.06{256 * (len(labels) + 1):<8}{'':44}"
    head += f"{said['records']:<8}{said['seconds']:<8}{said['signals']:<4}"
    rows = [[label, "", unit, -1000, 1000, -1000, 1000, "HP:0.05Hz", said["samples"], ""] for label in labels]
    for column, width in enumerate((16, 80, 8, 8, 8, 8, 8, 80, 8, 32)):
        head += "".join(f"{row[column]!s:{width}}" for row in rows)
    return head.encode() + body


_MAKERS: Dict[str, Callable[[], List[Seed]]] = {
    "wfdb-plain": wfdb_plain,
    "wfdb": wfdb_other,
    "npy": _npy,
    "mat": _mats,
    "mat73": _mats73,
    "hdf5": _hdf5,
    "csv": _tables,
    "dicom": _dicom,
    "scp": lambda: [Seed("r.scp", {"r.scp": scp([1, 2])}, repair=repair_scp)],
    "muse": lambda: _one("r.xml", muse()),
    "philips": lambda: _one("r.xml", philips(counts(2).astype("<i2").tobytes())),
    "aecg": lambda: _one("r.xml", aecg()),
    "mortara": lambda: _one("r.xml", mortara()),
    "edf": lambda: _one("r.edf", write_edf(["ECG I", "EKG II"])),
    "ishne": _ishne,
    "mfer": lambda: _one("r.mwf", mfer()),
    "json": lambda: _one("r.json", kardia()),
}
READERS = tuple(_MAKERS)
