"""ecgdatakit's parsers of formats whose files may hold several waveforms, made to read each of them.

ecgdatakit reads the first one that is not called a median beat. Each class here overrides the method that reads one.
"""

import contextlib
import io
import itertools
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple
from xml.etree.ElementTree import Element, SubElement

import numpy as np

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.readers.facts import lead_position
from fairseq_signals_ext.readers.padding import padding_mask
from fairseq_signals_ext.readers.parts import Part, choose, only_beats, says_beat

_ORIGINAL_SERIES = ("", "RHYTHM")
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_LONGEST_OFFSET = 1e9  # s
_DOMINANT_BEAT = 9  # MFER's type of a waveform that is an averaged beat


def dicom_parts(parser: Any, path: Path) -> Any:
    """The parser of DICOM files, also of those without a preamble, with a part for each multiplex group."""

    class Parts(parser):
        def parse(self, file: Path) -> Any:
            self.parts: List[Part] = []
            data = _read_dicom(file)
            _refuse_without_waveform(path, data)
            return self._parse_dataset(data, file)

        def _read_patient(self, data: Any, acquired: Optional[datetime], meta: Dict[str, Any]) -> Any:
            stated = super()._read_patient(data, None, meta)
            return _with_age(stated, lambda: super(Parts, self)._read_patient(data, acquired, meta), meta)

        def _read_group(self, group: Any, index: int, little_endian: bool) -> Any:
            padding = _taken_padding(group, little_endian)
            read = super()._read_group(group, index, little_endian)
            if read is None:
                return None
            leads, rate = read["leads"], read["sampling_frequency"]
            if padding is not None:
                _mark(leads, padding, rate)
            words = f"{read['label']} {group.get('WaveformOriginality') or ''}"
            original = "DERIVED" not in str(group.get("WaveformOriginality") or "").upper()
            self.parts.append(Part(leads, rate, _group_start(group), words=words, original=original))
            return read

    return Parts()


def _read_dicom(path: Path) -> Any:
    import pydicom

    content = path.read_bytes()
    mark = 4 if content.startswith(b"DICM") else 0  # which belongs behind a preamble
    return pydicom.dcmread(io.BytesIO(content[mark:] if mark else content), force=True)


def _with_age(stated: Any, computed: Callable[[], Any], meta: Dict[str, Any]) -> Any:
    """A patient with the stated age, or with one from dates, and a note of which it is."""
    meta["age_is_stated"] = stated.age is not None
    return stated if stated.age is not None else computed()


def _group_start(group: Any) -> Optional[float]:
    """s after the acquisition began."""
    with contextlib.suppress(TypeError, ValueError):
        offset = float(group.get("MultiplexGroupTimeOffset")) / 1000
        return offset if abs(offset) < _LONGEST_OFFSET else None
    return None


def _taken_padding(group: Any, little_endian: bool) -> Optional[float]:
    """The value for missing samples, taken out of a group: ecgdatakit would find it in the signal as well."""
    value, kind = group.get("WaveformPaddingValue"), str(group.get("WaveformSampleInterpretation") or "SS").upper()
    size = int(group.get("WaveformBitsAllocated") or 0) // 8
    if not isinstance(value, (bytes, bytearray)) or not 0 < size <= len(value) or kind in ("MB", "AB"):
        return None
    del group.WaveformPaddingValue
    return float(int.from_bytes(value[:size], "little" if little_endian else "big", signed=kind.startswith("S")))


def _mark(leads: List[Any], padding: float, sample_rate: float) -> None:
    mask = padding_mask(np.stack([lead.samples for lead in leads]), padding, sample_rate)
    for lead, missing in zip(leads, mask):
        lead.samples[missing] = np.nan


def _refuse_without_waveform(path: Path, data: Any) -> None:
    """DICOM also holds documents and pictures."""
    if data.get("WaveformSequence"):
        return
    hint = "export the ECG as a DICOM waveform, not as a report"
    if "EncapsulatedDocument" in data:
        is_pdf = "pdf" in str(data.get("MIMETypeOfEncapsulatedDocument") or "").lower()
        raise UserError(f"{path}: this DICOM file contains a {'PDF' if is_pdf else 'document'}, not samples; {hint}")
    if "PixelData" in data or "Rows" in data:
        raise UserError(f"{path}: this DICOM file contains a picture, not samples; {hint}")
    if "DirectoryRecordSequence" in data:
        raise UserError(f"{path}: this DICOMDIR is a list of other files; give those files")
    raise UserError(f"{path}: this DICOM file contains no waveform; {hint}")


def muse_parts(parser: Any, path: Path) -> Any:
    """The parser of GE's files, with a part for each waveform."""

    class Parts(parser):
        _warnings: List[Tuple[str, Any]]
        _unscaled: List[str]
        _lead_offsets: Dict[str, Dict[str, str]]

        def _read_patient(self, demography: Any, acquired: Optional[datetime], meta: Dict[str, Any]) -> Any:
            stated = super()._read_patient(demography, None, meta)
            return _with_age(stated, lambda: super(Parts, self)._read_patient(demography, acquired, meta), meta)

        def _read_waveforms(self, root: Element, record: Any, file: Path) -> Tuple[List[Any], List[Any]]:
            self.parts = [self._part(waveform, record, file) for waveform in root.findall("Waveform")]
            decoded = [part.leads for part in self.parts if part.leads]
            if self.parts and not decoded:
                raise only_beats(path)
            return (decoded[0] if decoded else []), []

        def _part(self, waveform: Element, record: Any, file: Path) -> Part:
            words = " ".join(child.text or "" for child in waveform if child.tag.lower() == "waveformtype").strip()
            if says_beat(words):
                return Part([], words=words)
            # ecgdatakit reads waveforms called rhythm, or not called anything, and one of each name
            alone, before = Element("RestingECG"), len(self._warnings)
            unnamed = SubElement(alone, "Waveform")
            unnamed.extend(child for child in waveform if child.tag.lower() != "waveformtype")
            self._unscaled, self._lead_offsets = [], {}
            leads, _ = super()._read_waveforms(alone, record, file)
            remarks = self._warnings[before:]
            del self._warnings[before:]
            return Part(leads, words=words, original=words.lower() in ("", "rhythm"), remarks=remarks)

    return Parts()


def aecg_parts(parser: Any, path: Path) -> Any:
    """The parser of HL7 aECG, with a part for each set of sequences in each series."""

    class Parts(parser):
        _warnings: List[str]

        def _select_series(self, root: Element, file: Path) -> Tuple[Element, Optional[Element]]:
            self.parts: List[Part] = []
            self._chosen: Optional[Part] = None
            beats: List[Element] = []
            whole = root.findall("component/series")
            for series in whole:
                self._add_series(series, _code(series), beats, len(whole) == 1, file)
                for derived in series.findall("derivation/derivedSeries"):
                    # a series derived from another is beats unless it is called otherwise
                    self._add_series(derived, _code(derived) or "beats", beats, False, file)
            if not self.parts:
                return super()._select_series(root, file)
            chosen = [whole.parts[0] for whole in choose(path, self.parts)]
            self._chosen = chosen[0]
            if len(chosen) > 1:
                self._tell_statements(chosen)
            return self._chosen.source, (beats[0] if beats else None)

        def _read_sequence_set(self, series: Element, kind: str, file: Path) -> Tuple[List[Any], Dict[str, Any]]:
            if kind != "rhythm" or self._chosen is None:
                return [], {}
            return self._chosen.leads, self._chosen.times

        def _add_series(self, series: Element, words: str, beats: List[Element], only: bool, file: Path) -> None:
            if says_beat(words):
                beats.append(series)
                self.parts.append(Part([], words=words))
                return
            original = series.tag == "series" and words.upper() in _ORIGINAL_SERIES
            for sequences in series.findall("component/sequenceSet"):
                before = len(self._warnings)
                leads, times = super()._read_sequence_set(_alone(sequences), "rhythm", file)
                remarks = [(remark, UserWarning) for remark in self._warnings[before:]]
                del self._warnings[before:]
                if leads:
                    part = Part(leads, times.get("sampling_rate_exact"), words=words, original=original)
                    part.began, part.start = self._start(series, times, only)
                    part.remarks, part.source, part.times = remarks, series, times
                    self.parts.append(part)

        def _start(self, series: Element, times: Dict[str, Any], only: bool) -> Tuple[Any, Optional[float]]:
            """When it began, and as s: since 1970, or since the only series began."""
            from ecgdatakit.models import ECGRecord

            timed = ECGRecord(source_format="hl7_aecg")
            self._complete_dates(timed, times)  # takes an absolute time
            offset, began = _relative_start(times), timed.recording.date
            if began is None:
                began = self._read_recording(Element("none"), series, {}).date
                began = None if began is None else began + timedelta(seconds=offset)
            if began is None:
                return None, offset if only else None
            began = began.replace(tzinfo=None)
            return began, (began - datetime(1970, 1, 1)).total_seconds()

        def _tell_statements(self, chosen: List[Part]) -> None:
            """Each series has its own."""
            from ecgdatakit.models import ECGRecord

            found: Dict[int, List[Tuple[str, str]]] = {}
            for part in chosen:
                if id(part.source) not in found:
                    told = ECGRecord(source_format="hl7_aecg")
                    self._read_annotations(told, part.source, part.source.find("derivation/derivedSeries"))
                    found[id(part.source)] = told.interpretation.statements
                part.statements = found[id(part.source)]

    return Parts()


def _code(series: Element) -> str:
    code = series.find("code")
    return "" if code is None else (code.get("code") or code.get("displayName") or "").strip()


def _relative_start(times: Dict[str, Any]) -> float:
    """s after its series began."""
    with contextlib.suppress(ValueError):
        offset = float(times.get("head") or 0) * _SECONDS.get(str(times.get("head_unit")), 0.0)
        if times.get("code", "").upper() == "TIME_RELATIVE" and abs(offset) < _LONGEST_OFFSET:
            return offset
    return 0.0


def _alone(sequences: Element) -> Element:
    """A series of one set, without the sequences of which the file says that it has no values."""
    series = Element("series")
    one = SubElement(SubElement(series, "component"), "sequenceSet")
    for component in sequences:
        value = component.find("sequence/value")
        if value is None or value.get("nullFlavor") is None or value.find("digits") is not None:
            one.append(component)
    return series


def mfer_parts(parser: Any, path: Path) -> Any:
    """The parser of MFER, with a part for all frames of the same channels, sample rates and scales that follow."""
    found: List[Part] = []  # as ecgdatakit parses with a copy of its parser

    class Parts(parser):
        parts = found
        _frames: List[Dict[str, Any]]

        def _build_leads(self) -> None:
            rhythm = [frame for frame in self._frames if frame["wfm"] != _DOMINANT_BEAT]
            runs = [list(run) for _, run in itertools.groupby(rhythm, self._frame_key)]
            if self._frames and not runs:
                raise only_beats(path)
            for frames in runs:
                leads, rates = self._frames_to_leads(frames)
                rows = [row for row, lead in enumerate(leads) if lead_position(lead.label) is not None] or [0]
                if leads:  # further signals may have other rates
                    found.append(Part(leads, rates[rows[0]]))
            self._frames = runs[0] if runs else []  # so that it warns of nothing that is read here
            super()._build_leads()

    return Parts()


PART_PARSERS = {"DICOM": dicom_parts, "GE MUSE XML": muse_parts, "HL7 aECG": aecg_parts, "MFER": mfer_parts}
