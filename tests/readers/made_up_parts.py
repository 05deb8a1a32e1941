"""Files of several waveforms, in the formats that can hold them, from one description of the waveforms."""

import base64
import struct
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Callable, Dict, Optional, Sequence

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from fairseq_signals_ext.common.leads import LEADS

EIGHT = ("I", "II", *LEADS[6:])
UV = 2.5  # per count
BEGAN = datetime(2024, 1, 31, 12, 34, 56)


@dataclass(frozen=True)
class Wave:
    """One waveform: leads x samples of int16, 2.5 uV each."""

    counts: np.ndarray
    leads: Sequence[str] = LEADS
    derived: bool = False
    label: str = ""
    start: Optional[float] = None  # s
    rate: int = 500
    padding: Optional[int] = None

    @property
    def millivolts(self) -> Dict[str, np.ndarray]:
        """Lead -> mV."""
        return {lead: row * (UV / 1000) for lead, row in zip(self.leads, self.counts)}


def noise(seconds: float, leads: Sequence[str] = LEADS, seed: int = 0, rate: int = 500) -> np.ndarray:
    """Leads x samples of int16, different for each seed, in which Einthoven's law holds."""
    eight = np.random.default_rng(seed).integers(-500, 500, (12, round(seconds * rate))) * 4
    one, two = eight[0], eight[1]
    rows = dict(zip(LEADS, eight))
    rows.update(III=two - one, aVR=-(one + two) // 2, aVL=one - two // 2, aVF=two - one // 2)
    return np.stack([rows[lead] for lead in leads]).astype(np.int16)


def wave(seconds: float, leads: Sequence[str] = LEADS, seed: int = 0, **facts: object) -> Wave:
    """A waveform of so many seconds of noise."""
    return Wave(noise(seconds, leads, seed, int(facts.get("rate", 500))), leads, **facts)


def _group(one: Wave) -> Dataset:
    group = Dataset()
    if one.start is not None:
        group.MultiplexGroupTimeOffset = str(round(1000 * one.start))
    group.WaveformOriginality = "DERIVED" if one.derived else "ORIGINAL"
    group.NumberOfWaveformChannels, group.NumberOfWaveformSamples = one.counts.shape
    group.SamplingFrequency = str(one.rate)
    if one.label:
        group.MultiplexGroupLabel = one.label[:16]
    group.ChannelDefinitionSequence = []
    for name in one.leads:
        channel, source, unit = Dataset(), Dataset(), Dataset()
        source.CodeMeaning, unit.CodeValue = f"Lead {name}", "uV"
        channel.ChannelSourceSequence, channel.ChannelSensitivityUnitsSequence = [source], [unit]
        channel.ChannelSensitivity = str(UV)
        group.ChannelDefinitionSequence.append(channel)
    group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 16, "SS"
    if one.padding is not None:
        group.WaveformPaddingValue = int(one.padding).to_bytes(2, "little", signed=True)
        group["WaveformPaddingValue"].VR = "OW"
    group.WaveformData = one.counts.T.astype("<i2").tobytes()
    group["WaveformData"].VR = "OW"
    return group


def dicom_data(waves: Sequence[Wave]) -> pydicom.Dataset:
    """A DICOM data set with a multiplex group for each waveform."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.9.1.1"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["parts"])
    data.StudyDate, data.Modality = "20240131", "ECG"
    data.AcquisitionDateTime = BEGAN.strftime("%Y%m%d%H%M%S")
    data.PatientID, data.PatientAge, data.PatientSex = "P-0001", "063Y", "F"
    data.WaveformSequence = [_group(one) for one in waves]
    return data


def write_dicom(path: Path, waves: Sequence[Wave]) -> Path:
    """Write them as DICOM."""
    dicom_data(waves).save_as(path, enforce_file_format=True)
    return path


def write_muse(path: Path, waves: Sequence[Wave]) -> Path:
    """Write them as GE MUSE XML; it has no times for them."""
    text = ""
    for one in waves:
        leads = "".join(
            f"<LeadData><LeadID>{name}</LeadID><LeadAmplitudeUnitsPerBit>{UV}</LeadAmplitudeUnitsPerBit>"
            "<LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits>"
            f"<WaveFormData>{base64.b64encode(row.astype('<i2').tobytes()).decode()}</WaveFormData></LeadData>"
            for name, row in zip(one.leads, one.counts)
        )
        kind = one.label or ("Computed" if one.derived else "Rhythm")
        text += (
            f"<Waveform><WaveformType>{kind}</WaveformType><SampleBase>{one.rate}</SampleBase>"
            f"<SampleExponent>0</SampleExponent>{leads}</Waveform>"
        )
    patient = "<PatientDemographics><PatientID>P-0001</PatientID><Gender>FEMALE</Gender></PatientDemographics>"
    test = (
        f"<TestDemographics><AcquisitionDate>{BEGAN:%m-%d-%Y}</AcquisitionDate>"
        f"<AcquisitionTime>{BEGAN:%H:%M:%S}</AcquisitionTime></TestDemographics>"
    )
    path.write_text(f"<RestingECG>{patient}{test}{text}</RestingECG>")
    return path


def write_aecg(path: Path, waves: Sequence[Wave]) -> Path:
    """Write them as HL7 aECG, a series each."""

    def sequence(code: str, value: str) -> str:
        return f'<component><sequence><code code="{code}"/><value>{value}</value></sequence></component>'

    text = ""
    for one in waves:
        leads = "".join(
            sequence(
                f"MDC_ECG_LEAD_{name.upper()}",
                f'<origin value="0" unit="uV"/><scale value="{UV}" unit="uV"/>'
                f"<digits>{' '.join(map(str, row))}</digits>",
            )
            for name, row in zip(one.leads, one.counts.tolist())
        )
        step = f'<increment value="{1 / one.rate}" unit="s"/>'
        if one.start is None:
            time = sequence("TIME_RELATIVE", f'<head value="0" unit="s"/>{step}')
        else:
            head = (BEGAN + timedelta(seconds=one.start)).strftime("%Y%m%d%H%M%S.%f")
            time = sequence("TIME_ABSOLUTE", f'<head value="{head}"/>{step}')
        code = one.label.replace(" ", "_") or ("COMPUTED" if one.derived else "RHYTHM")
        text += (
            f'<component><series><code code="{code}"/><component><sequenceSet>{time}{leads}</sequenceSet></component>'
            "</series></component>"
        )
    taken = f'<effectiveTime><low value="{BEGAN:%Y%m%d%H%M%S}"/></effectiveTime>'
    path.write_text(f'<AnnotatedECG xmlns="urn:hl7-org:v3">{taken}{text}</AnnotatedECG>')
    return path


LEAD_CODES = dict(zip(LEADS, (1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8)))


def write_mfer(path: Path, waves: Sequence[Wave]) -> Path:
    """Write them as MFER, one frame each, without times and without marks for derived signals."""

    def item(tag: int, value: bytes) -> bytes:
        length = bytes([len(value)]) if len(value) < 128 else b"\x84" + struct.pack(">I", len(value))
        return bytes([tag]) + length + value

    content = item(0x40, b"MFR " + b" " * 28) + item(0x01, b"\0") + item(0x0A, b"\0") + item(0x82, b"P-0001")
    year, month, day, *time = BEGAN.timetuple()[:6]
    content += item(0x85, struct.pack(">HBBBBB", year, month, day, *time))
    content += item(0x0C, b"\0" + struct.pack(">bh", -7, round(UV * 10)))
    for one in waves:
        content += item(0x08, struct.pack(">H", 9 if one.label or one.derived else 1))
        content += item(0x05, struct.pack(">H", len(one.leads))) + item(0x04, struct.pack(">I", one.counts.shape[1]))
        content += item(0x0B, b"\0\0" + struct.pack(">h", one.rate))
        for channel, lead in enumerate(one.leads):
            content += b"\x3f" + bytes([channel]) + item(0, item(0x09, bytes([LEAD_CODES[lead]])))[1:]
        content += item(0x1E, one.counts.astype(">i2").tobytes())
    path.write_bytes(content + b"\x80\0")
    return path


WRITERS: Dict[str, Callable[[Path, Sequence[Wave]], Path]] = {
    "dicom": write_dicom,
    "muse": write_muse,
    "aecg": write_aecg,
}
