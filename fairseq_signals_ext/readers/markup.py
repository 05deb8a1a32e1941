"""Read XML and JSON of devices and hospitals with `ecgdatakit`: GE MUSE, Philips, HL7 aECG, Mortara, Kardia.

ecgdatakit reads the first waveform that is not named a median beat. Here the parsers of GE's and HL7's files read all
waveforms.
"""

import base64
import binascii
import contextlib
import struct
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Optional, Tuple
from xml.etree.ElementTree import Element, SubElement

import numpy as np

from fairseq_signals_ext.readers.clinical import Decoder, check_number, with_age
from fairseq_signals_ext.readers.formats import Beginning
from fairseq_signals_ext.readers.parts import Part, choose, names_beat, only_beats
from fairseq_signals_ext.readers.sizes import check_claim

if TYPE_CHECKING:
    from typing import Any as _Parser
else:
    _Parser = object  # of ecgdatakit's, see `_adapted`

_ORIGINAL_SERIES = ("", "RHYTHM")
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_LONGEST_OFFSET = 1e9  # s
_MOST_ELEMENTS = 300_000  # tags and attributes of an XML file, brackets of a JSON file
_CODES = 1 << 10  # of Philips' LZW


def _has_root(name: str) -> Callable[[Beginning], bool]:
    return lambda beginning: (beginning.root or "").lower() == name


def _is_kardia(beginning: Beginning) -> bool:
    return beginning.text.startswith("{") and beginning.contains('"recordedAt"')


def _check_json(path: Path) -> None:
    content = path.read_bytes()
    check_number("brackets", content.count(b"[") + content.count(b"{"), _MOST_ELEMENTS)


def _check_markup(path: Path) -> None:
    content = path.read_bytes()
    # these characters are the same byte in all supported encodings
    check_number("elements and attributes", content.count(b"<") + content.count(b"="), _MOST_ELEMENTS)
    if b"<!ATTLIST" in content.replace(b"\0", b""):  # would be copied to each element
        raise ValueError("declarations of attributes are not allowed")


def _adapted(methods: type) -> Callable[[Any, Path], Any]:
    """Return a function (parser class, file) -> parser that adds these methods and the attribute `_path`."""

    def make(parser: Any, path: Path) -> Any:
        made = type(methods.__name__, (methods, parser), {})()
        made._path = path
        return made

    return make


class _MuseParts(_Parser):
    """The parser of GE's files, with a part for each waveform."""

    _path: Path
    _warnings: List[Tuple[str, Any]]
    _unscaled: List[str]
    _lead_offsets: Dict[str, Dict[str, str]]

    def _read_patient(self, demography: Any, acquired: Optional[datetime], meta: Dict[str, Any]) -> Any:
        stated = super()._read_patient(demography, None, meta)
        return with_age(stated, lambda: super(_MuseParts, self)._read_patient(demography, acquired, meta), meta)

    def _read_waveforms(self, root: Element, record: Any, file: Path) -> Tuple[List[Any], List[Any]]:
        self.parts = [self._part(waveform, record, file) for waveform in root.findall("Waveform")]
        decoded = [part.leads for part in self.parts if part.leads]
        if self.parts and not decoded:
            raise only_beats(self._path)
        return (decoded[0] if decoded else []), []

    def _part(self, waveform: Element, record: Any, file: Path) -> Part:
        words = " ".join(child.text or "" for child in waveform if child.tag.lower() == "waveformtype").strip()
        if names_beat(words):
            return Part([], words=words)
        # ecgdatakit reads only waveforms named rhythm or without a name, and one per name
        alone, before = Element("RestingECG"), len(self._warnings)
        unnamed = SubElement(alone, "Waveform")
        unnamed.extend(child for child in waveform if child.tag.lower() != "waveformtype")
        self._unscaled, self._lead_offsets = [], {}
        leads, _ = super()._read_waveforms(alone, record, file)
        remarks = self._warnings[before:]
        del self._warnings[before:]
        return Part(leads, words=words, original=words.lower() in ("", "rhythm"), remarks=remarks)


class _AecgParts(_Parser):
    """The parser of HL7 aECG, with a part for each set of sequences in each series."""

    _path: Path
    _warnings: List[str]

    def _select_series(self, root: Element, file: Path) -> Tuple[Element, Optional[Element]]:
        self.parts: List[Part] = []
        self._chosen: Optional[Part] = None
        beats: List[Element] = []
        whole = root.findall("component/series")
        for series in whole:
            self._add_series(series, _code(series), beats, len(whole) == 1, file)
            for derived in series.findall("derivation/derivedSeries"):
                # a derived series without a name contains averaged beats
                self._add_series(derived, _code(derived) or "beats", beats, False, file)
        if not self.parts:
            return super()._select_series(root, file)
        chosen = [whole.parts[0] for whole in choose(self._path, self.parts)]
        self._chosen = chosen[0]
        if len(chosen) > 1:
            self._read_statements(chosen)
        return self._chosen.source, (beats[0] if beats else None)

    def _read_sequence_set(self, series: Element, kind: str, file: Path) -> Tuple[List[Any], Dict[str, Any]]:
        if kind != "rhythm" or self._chosen is None:
            return [], {}
        return self._chosen.leads, self._chosen.times

    def _add_series(self, series: Element, words: str, beats: List[Element], only: bool, file: Path) -> None:
        if names_beat(words):
            beats.append(series)
            self.parts.append(Part([], words=words))
            return
        original = series.tag == "series" and words.upper() in _ORIGINAL_SERIES
        for sequences in series.findall("component/sequenceSet"):
            before = len(self._warnings)
            leads, times = super()._read_sequence_set(_series_of_set(sequences), "rhythm", file)
            remarks = [(remark, UserWarning) for remark in self._warnings[before:]]
            del self._warnings[before:]
            if leads:
                part = Part(leads, times.get("sampling_rate_exact"), words=words, original=original)
                part.began, part.start = self._start(series, times, only)
                part.remarks, part.source, part.times = remarks, series, times
                self.parts.append(part)

    def _start(self, series: Element, times: Dict[str, Any], only: bool) -> Tuple[Any, Optional[float]]:
        """Return the start as a time, and in s: since 1970, or since the start of the only series."""
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

    def _read_statements(self, chosen: List[Part]) -> None:
        """Read the statements of each series for its parts."""
        from ecgdatakit.models import ECGRecord

        found: Dict[int, List[Tuple[str, str]]] = {}
        for part in chosen:
            if id(part.source) not in found:
                record = ECGRecord(source_format="hl7_aecg")
                self._read_annotations(record, part.source, part.source.find("derivation/derivedSeries"))
                found[id(part.source)] = record.interpretation.statements
            part.statements = found[id(part.source)]


def _code(series: Element) -> str:
    code = series.find("code")
    return "" if code is None else (code.get("code") or code.get("displayName") or "").strip()


def _relative_start(times: Dict[str, Any]) -> float:
    """Return the start in s after the start of its series."""
    with contextlib.suppress(ValueError):
        offset = float(times.get("head") or 0) * _SECONDS.get(str(times.get("head_unit")), 0.0)
        if times.get("code", "").upper() == "TIME_RELATIVE" and abs(offset) < _LONGEST_OFFSET:
            return offset
    return 0.0


def _series_of_set(sequences: Element) -> Element:
    """Return a series with one set, without the sequences that are marked as having no values."""
    series = Element("series")
    one = SubElement(SubElement(series, "component"), "sequenceSet")
    for component in sequences:
        value = component.find("sequence/value")
        if value is None or value.get("nullFlavor") is None or value.find("digits") is not None:
            one.append(component)
    return series


# --- Philips: base64 of LZW with codes of 10 bits, which can expand 1 kB to 600 kB ---


class _CheckedPayload(_Parser):
    """The parser of Philips' files, with a check of the expanded size before samples are expanded."""

    _path: Path

    def _read_leads(self, parsed: Any, signal_node: Any) -> Any:
        _check_xli(self._path, parsed)
        return super()._read_leads(parsed, signal_node)


def _check_xli(path: Path, element: Any) -> None:
    """Check that the compressed samples of a Philips file do not expand far beyond its size.

    Args:
        element: element with the samples, as parsed by `xmltodict`.

    Raises:
        UserError: they do.
    """
    expanded = 0
    for text in _texts(element):
        # samples in digits, or damaged ones, are left to the reader
        with contextlib.suppress(binascii.Error, ValueError):
            raw = base64.b64decode("".join(text.split()), validate=True)
            expanded += sum(_expanded(chunk) for chunk in _chunks(raw))
    check_claim(path, expanded // 2, path.stat().st_size)


def _texts(element: Any) -> Iterator[str]:
    if isinstance(element, str):
        yield element
    elif isinstance(element, (dict, list)):
        for part in element.values() if isinstance(element, dict) else element:
            yield from _texts(part)


def _chunks(raw: bytes) -> Iterator[bytes]:
    """Yield the compressed leads of an XLI payload."""
    at = 0
    while at + 8 <= len(raw):
        size = struct.unpack_from("<i", raw, at)[0]
        if not 0 < size <= len(raw) - at - 8:
            return
        yield raw[at + 8 : at + 8 + size]
        at += 8 + size


def _expanded(chunk: bytes) -> int:
    """Return the expanded size of a chunk of LZW codes in bytes, from the lengths of its strings only."""
    bits = np.unpackbits(np.frombuffer(chunk, np.uint8))
    codes = bits[: len(bits) // 10 * 10].reshape(-1, 10) @ (1 << np.arange(9, -1, -1))
    lengths: List[int] = [1] * 256
    total = previous = 0
    for code in codes.tolist():
        if code > _CODES - 2 or (code >= len(lengths) and not previous):
            break
        length = lengths[code] if code < len(lengths) else previous + 1
        if previous and len(lengths) < _CODES - 1:
            lengths.append(previous + 1)
        total, previous = total + length, length
    return total


_XML = (".xml",)
MUSE = Decoder("GE MUSE XML", "GEMuseXMLParser", _adapted(_MuseParts), _check_markup).format(
    _XML, _has_root("restingecg")
)
PHILIPS = Decoder("Philips Sierra XML", "SierraXMLParser", _adapted(_CheckedPayload), _check_markup).format(
    _XML, _has_root("restingecgdata")
)
AECG = Decoder("HL7 aECG", "HL7aECGParser", _adapted(_AecgParts), _check_markup).format(_XML, _has_root("annotatedecg"))
MORTARA = Decoder("Mortara XML", "MortaraEL250Parser", check=_check_markup, copies=125.0).format(_XML, _has_root("ecg"))
KARDIA = Decoder("Kardia JSON", "AliveCorKardiaParser", check=_check_json).format((".json",), _is_kardia)
