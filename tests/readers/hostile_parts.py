"""Small files of many waveforms, which ask for minutes if each costs as much as the file; added to `hostile.MAKERS`."""

import copy
from typing import Any

import numpy as np
from fuzz_seeds import Seed, aecg, muse
from hostile import changed_dicom, one_file, sample


@sample
def dicom_of_as_many_small_groups_as_may_be() -> Seed:
    def change(data: Any) -> None:
        group = data.WaveformSequence[0]
        group.NumberOfWaveformChannels, group.NumberOfWaveformSamples = 1, 1
        group.ChannelDefinitionSequence, group.WaveformData = [], b"\0\0"
        data.WaveformSequence = [group] * 4_000

    return changed_dicom(change)


@sample
def dicom_of_many_ecgs_with_times() -> Seed:
    def change(data: Any) -> None:
        groups = []
        for k in range(1_000):
            group = copy.deepcopy(data.WaveformSequence[0])
            group.MultiplexGroupTimeOffset = str(k % 7)
            groups.append(group)
        data.WaveformSequence = groups

    return changed_dicom(change)


@sample
def dicom_whose_padding_is_everywhere() -> Seed:
    def change(data: Any) -> None:
        group = data.WaveformSequence[0]
        values = np.tile(np.array([0, 1, 0, 2], "<i2"), 500_000)
        group.NumberOfWaveformSamples, group.WaveformData = len(values) // 2, values.tobytes()
        group.WaveformPaddingValue = b"\0\0"
        group["WaveformPaddingValue"].VR = "OW"
        data.WaveformSequence = [group, group]
        del group.ChannelDefinitionSequence

    return changed_dicom(change)


@sample
def muse_of_many_waveforms() -> Seed:
    text = muse().decode()
    start, end = text.index("<Waveform>"), text.index("</RestingECG>")
    one = text[start:end].replace("<LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits>", "")
    return one_file("m.xml", (text[:start] + one * 8_000 + text[end:]).encode())


@sample
def aecg_of_many_series() -> Seed:
    text = aecg().decode()
    start, end = text.index("<component><series>"), text.index("</AnnotatedECG>")
    return one_file("m.xml", (text[:start] + text[start:end] * 3_000 + text[end:]).encode())


@sample
def aecg_of_many_sets_in_one_series() -> Seed:
    text = aecg().decode()
    start, end = text.index("<component><sequenceSet>"), text.index("</series>")
    notes = "<subjectOf><annotationSet/></subjectOf>" * 2_000
    return one_file("m.xml", (text[:start] + text[start:end] * 3_000 + notes + text[end:]).encode())


@sample
def json_without_its_keys() -> Seed:
    return one_file("m.json", b'{"x": "' + b'"recordedA' * 5_000_000 + b'"}')
