"""Files of electrocardiographs and hospitals, read with the `ecgdatakit` library."""

import math
import re
import warnings
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.readers.claims import check_claims, check_xli
from fairseq_signals_ext.readers.counts import signal_and_counts
from fairseq_signals_ext.readers.facts import age_of, millivolts, reason_of, rows_of_leads, sex_of, shown
from fairseq_signals_ext.readers.recording import Recording

# format -> ecgdatakit's parser; its formats with a guessed scale or lead order (Edan, XLE) are left out
PARSERS = {
    "DICOM": "DICOMWaveformParser",
    "SCP-ECG": "SCPECGParser",
    "GE MUSE XML": "GEMuseXMLParser",
    "Philips Sierra XML": "SierraXMLParser",
    "HL7 aECG": "HL7aECGParser",
    "Mortara XML": "MortaraEL250Parser",
    "EDF": "EDFParser",
    "ISHNE": "ISHNEHolterParser",
    "MFER": "MFERParser",
    "Kardia JSON": "AliveCorKardiaParser",
}
# what ecgdatakit only warns of, but what puts sample values, their number or their scale in doubt
_DOUBTFUL = re.compile(
    r"crc|checksum|truncated|incomplete|shorter than the frame|no waveform data|gap|redefine"
    r"|bytes?(?:\(s\))? after the last|was not applied"
    r"|using (?:\d+$|\d+ bytes|the default)|header size field|lies outside|length is \d+ in its header",
    re.IGNORECASE,
)
# beats averaged by the device are not read, whatever is wrong with them
_OTHER_SIGNALS = re.compile(r"median|typical_cycle|representative beat|repbeats|subtraction zones", re.IGNORECASE)
_PART_UNREAD = re.compile(r"only the first is read|additional multiplex group|additional rhythm waveform")
_REPEATED = re.compile(r"(.+)_\d+")  # ecgdatakit calls a second lead II "II_2"


def read_clinical(
    path: Path, kind: str, leads: Optional[Sequence[str]] = None, unit: Optional[str] = None
) -> Recording:
    """Read one ECG in one of the formats of `PARSERS`.

    Leads are found by name, other signals are ignored, amplitudes become mV with the file's own scale. Averaged beats
    are not read. `start_time` is the clock at the place of recording, without its time zone. Age, sex and patient are
    what the file says. Whatever `ecgdatakit` warns of that puts samples or scale in doubt (a checksum that differs, a
    truncated file, gaps, an offset that it does not apply) is an error here; its other warnings are dropped.

    Args:
        path: the file.
        kind: its format, a key of `PARSERS`.
        leads: names for all signals in their order, for a file none of whose signals has a lead's name.
        unit: a voltage, for a file that gives a scale without one.

    Raises:
        UserError: the file cannot be decoded or holds doubtful values, has no lead or one twice, a lead has no
            scale in a voltage, or its leads differ in sample rate, start or length.
    """
    record, remarks = _parse(path, kind)
    rows = _find_leads(path, [lead.label for lead in record.leads], leads)
    _refuse_unread_parts(path, remarks, rows)
    chosen = [record.leads[row] for row in rows.values()]
    _check_together(path, chosen)
    scale, zero = zip(*(_scale_and_zero(path, lead, unit) for lead in chosen))
    signal, stored = signal_and_counts([lead.samples for lead in chosen], scale, zero)
    patient, start = record.patient, record.recording.date
    return Recording(
        record_id=path.stem,
        physical=signal,
        leads=tuple(rows),
        sample_rate=_sample_rate(record, list(rows.values())),
        patient=shown(patient.patient_id) or None,
        start_time=start.replace(tzinfo=None) if start else None,
        age=age_of(patient.age),
        sex=sex_of(patient.sex),
        statements=_statements(record),
        stored=stored,
    )


def _parse(path: Path, kind: str) -> Tuple[Any, List[str]]:
    """ecgdatakit's record, and what it warned of."""
    from ecgdatakit import ChecksumWarning, FileParser, UnsupportedFormatError

    parser = next(parser for parser in FileParser().parsers if parser.__name__ == PARSERS[kind])
    if kind == "Philips Sierra XML":
        parser = _with_checked_payload(parser, path)
    try:
        check_claims(path, kind)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as {kind} ({shown(error)}); get the file again") from error
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            record = parser().parse(path)
        except (ImportError, UserError):
            raise
        except Exception as error:  # parsers of damaged files raise whatever Python raises
            reason = reason_of(str(error).replace(str(path), path.name)) or type(error).__name__
            unknown = isinstance(error, UnsupportedFormatError)
            cure = "export it in another format" if unknown else "get the file again"
            raise UserError(f"{path}: cannot be read as {kind} ({reason}); {cure}") from error
    remarks = [str(warning.message) for warning in caught]
    for warning, remark in zip(caught, remarks):
        doubtful = issubclass(warning.category, ChecksumWarning) or _DOUBTFUL.search(remark)
        if doubtful and not _OTHER_SIGNALS.search(remark):
            raise UserError(f"{path}: its values are in doubt ({reason_of(remark)}); export the file again")
    return record, remarks


def _with_checked_payload(parser: Any, path: Path) -> Any:
    """The parser of Philips' files, which looks at what its compressed samples expand to before it expands them."""

    class Checked(parser):
        def _read_leads(self, parsed: Any, signal_node: Any) -> Any:
            check_xli(path, parsed)
            return super()._read_leads(parsed, signal_node)

    return Checked


def _find_leads(path: Path, labels: List[str], leads: Optional[Sequence[str]]) -> Dict[int, int]:
    """Position in `LEADS` -> index of the signal."""
    names = [repeated.group(1) if (repeated := _REPEATED.fullmatch(label)) else label for label in labels]
    return rows_of_leads(names, path, leads)


def _refuse_unread_parts(path: Path, remarks: List[str], rows: Dict[int, int]) -> None:
    """A file may hold its twelve leads in several groups of signals, of which ecgdatakit reads the first."""
    eight = {0, 1, *range(6, 12)}  # the other four follow from I and II
    if not eight <= set(rows) and any(_PART_UNREAD.search(remark) for remark in remarks):
        raise UserError(f"{path}: its leads are in several groups, of which one can be read; export them as one group")


def _check_together(path: Path, chosen: List[Any]) -> None:
    """All leads were taken at the same times."""
    for what, values in (
        ("sample rates", {lead.sampling_rate for lead in chosen}),
        ("lengths", {len(lead.samples) for lead in chosen}),
        ("starts", {lead.annotations.get("start_sample", "1") for lead in chosen}),
    ):
        if len(values) != 1:
            listed = ", ".join(str(value) for value in sorted(values))
            raise UserError(f"{path}: its leads have different {what} ({listed}); export them with one")


def _scale_and_zero(path: Path, lead: Any, unit: Optional[str]) -> Tuple[float, float]:
    """mV per count, and the count at 0 mV."""
    said = (lead.resolution_unit if lead.is_raw else lead.units).strip()
    scaled = bool(said) or lead.resolution != 1.0  # ecgdatakit's value where a file says nothing
    factor = millivolts(said or unit or "")
    if factor is None or not scaled:
        what = f"the unit {shown(said)!r}" if said else "no unit or no scale"
        raise UserError(f"{path}: lead {shown(lead.label)} has {what}, so its voltage is unknown; export it in mV")
    if said and unit and millivolts(unit) != factor:
        raise UserError(f"{path}: its unit is {said}, not {unit}; leave the unit out or correct it")
    resolution, offset = (float(lead.resolution), float(lead.offset)) if lead.is_raw else (1.0, 0.0)
    if not (math.isfinite(resolution) and math.isfinite(offset) and resolution):
        raise UserError(f"{path}: lead {shown(lead.label)} has the scale {resolution:g}; export it again")
    return resolution * factor, 0.0 - offset / resolution


def _sample_rate(record: Any, rows: List[int]) -> float:
    """Hz; ecgdatakit rounds a lead's rate to an integer and keeps the exact one elsewhere, if at all."""
    first, extra = record.leads[rows[0]], record.raw_metadata
    exact = {extra.get("exact_sampling_rates", {}).get(first.label)}  # EDF
    exact.update(extra.get("sampling_rates", ())[rows[0] : rows[0] + 1])  # MFER
    exact.add(extra.get("rhythm_time", {}).get("sampling_rate_exact"))  # HL7 aECG
    for group in extra.get("multiplex_groups", ()):  # DICOM
        if (group["channels"], group["samples"]) == (len(record.leads), len(first.samples)):
            exact.add(group["sampling_frequency"])
    rounded = float(first.sampling_rate)
    differing = [rate for rate in exact if rate and 1e-6 * rounded < abs(rate - rounded) <= 0.5]
    return float(differing[0]) if len(differing) == 1 else rounded


def _statements(record: Any) -> Tuple[str, ...]:
    pairs = ((shown(left), shown(right)) for left, right in record.interpretation.statements)
    joined = (f"{left} ({right})" if left and right else left or right for left, right in pairs)
    return tuple(statement for statement in joined if statement)
