"""Files of electrocardiographs and hospitals, read with the `ecgdatakit` library."""

import math
import re
import warnings
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.errors import UserError, without_quotes
from fairseq_signals_ext.readers.claims import check_claims, check_xli
from fairseq_signals_ext.readers.counts import signal_and_counts
from fairseq_signals_ext.readers.facts import (
    age_of,
    millivolts,
    patient_of,
    rows_of_leads,
    sex_of,
    shown,
    start_of,
)
from fairseq_signals_ext.readers.part_parsers import PART_PARSERS
from fairseq_signals_ext.readers.parts import Part, Whole, choose, lead_names
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
# what some of it means, and what helps
_MEANINGS = (
    (
        re.compile(r"truncated|incomplete|shorter than the frame", re.IGNORECASE),
        "the file is cut short",
        "copy or download it again, whole",
    ),
    (
        re.compile(r"\bgap|expected \d+; frames", re.IGNORECASE),
        "there are gaps in it",
        "export what lies between the gaps as files of their own",
    ),
    (
        re.compile(r"was not applied", re.IGNORECASE),
        "its leads have offsets whose meaning is not documented",
        "export it in another format, such as DICOM",
    ),
)
_MISSING = {"ISHNE": -32768.0}  # counts that stand for no sample: where a lead was off (Badilini 1998)
_HIDDEN_START = {"EDF": date(1985, 1, 1)}  # what EDF+ prescribes where the date is not to be known
_FIRST_BIRTH = 1901  # a year before it stands for an unknown date of birth


def read_clinical(
    path: Path, kind: str, leads: Optional[Sequence[str]] = None, unit: Optional[str] = None
) -> List[Recording]:
    """Read the ECGs in a file of one of the formats of `PARSERS`, in the order of their times.

    Most files contain one. Of several waveforms, those that are ECGs are told by what they are (`parts.choose`), and
    waveforms of other leads over the same time are joined.

    Leads are found by name, other signals are ignored, amplitudes become mV with the file's own scale. Averaged beats
    are not read. Samples that the file marks as missing are NaN: a lead that was off (ISHNE), the value for no data
    (MFER), and padding (DICOM) where it can be padding. `start_time` is the clock at the place of recording, without
    its time zone; each ECG's own where the file gives one. Age, sex and patient are what the file says; made-up
    patients and hidden dates are None, and so is an age that was computed from one. Whatever `ecgdatakit` warns of that
    puts samples or scale in doubt (a checksum that differs, a truncated file, gaps, an offset that it does not apply)
    is an error here; its other warnings are dropped.

    Args:
        path: the file.
        kind: its format, a key of `PARSERS`.
        leads: names for all signals in their order, for a file none of whose signals has a lead's name.
        unit: a voltage, for a file that gives a scale without one.

    Raises:
        UserError: the file cannot be decoded or holds doubtful values, has no lead or one twice, a lead has no
            scale in a voltage, or its leads differ in sample rate, start or length.
    """
    record, parts = _parse(path, kind)
    wholes = choose(path, parts)
    for whole in wholes:
        for part in whole.parts:
            _refuse_doubtful(path, part.remarks)
    return [_recording(path, kind, record, whole, len(wholes) > 1, leads, unit) for whole in wholes]


def _recording(
    path: Path,
    kind: str,
    record: Any,
    whole: Whole,
    is_one_of_several: bool,
    names: Optional[Sequence[str]],
    unit: Optional[str],
) -> Recording:
    leads = whole.leads()
    rows = rows_of_leads(lead_names(leads), path, names)
    chosen = [leads[row] for row in rows.values()]
    _check_together(path, chosen)
    scale, zero = zip(*(_scale_and_zero(path, lead, unit) for lead in chosen))
    signal, stored = signal_and_counts([_samples(kind, lead) for lead in chosen], scale, zero)
    start = _start_time(kind, record, whole.parts[0], is_one_of_several)
    statements = whole.parts[0].statements
    return Recording(
        record_id=path.stem,
        physical=signal,
        leads=tuple(rows),
        sample_rate=_sample_rate(record, whole, list(rows.values())),
        # free text in a plain EDF: a name, a date, or remarks
        patient=None if record.source_format == "edf" else patient_of(record.patient.patient_id),
        start_time=start,
        age=_age(record, start),
        sex=sex_of(record.patient.sex),
        statements=_statements(record.interpretation.statements if statements is None else statements),
        stored=stored,
    )


def _parse(path: Path, kind: str) -> Tuple[Any, List[Part]]:
    """ecgdatakit's record, and the waveforms in the file."""
    from ecgdatakit import FileParser, UnsupportedFormatError

    parser = next(parser for parser in FileParser().parsers if parser.__name__ == PARSERS[kind])
    reader = PART_PARSERS.get(kind, _with_checked_payload if kind == "Philips Sierra XML" else _as_it_is)(parser, path)
    try:
        check_claims(path, kind)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as {kind} ({shown(error)}); get the file again") from error
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            record = reader.parse(path)
        except (ImportError, UserError):
            raise
        except Exception as error:  # parsers of damaged files raise whatever Python raises
            reason = shown(without_quotes(str(error).replace(str(path), path.name))) or type(error).__name__
            unknown = isinstance(error, UnsupportedFormatError)
            hint = "export it in another format" if unknown else "get the file again"
            raise UserError(f"{path}: cannot be read as {kind} ({reason}); {hint}") from error
    _refuse_doubtful(path, [(str(warning.message), warning.category) for warning in caught])
    if kind == "ISHNE":
        _refuse_cut_ishne(path, record)
    return record, getattr(reader, "parts", None) or [Part(record.leads)]


def _refuse_doubtful(path: Path, remarks: Sequence[Tuple[str, Any]]) -> None:
    from ecgdatakit import ChecksumWarning

    for remark, category in remarks:
        if _OTHER_SIGNALS.search(remark) or not (issubclass(category, ChecksumWarning) or _DOUBTFUL.search(remark)):
            continue
        known = ((meaning, hint) for words, meaning, hint in _MEANINGS if words.search(remark))
        meaning, hint = next(known, ("its values are in doubt", "export the file again"))
        raise UserError(f"{path}: {meaning} ({shown(without_quotes(remark))}); {hint}")


def _refuse_cut_ishne(path: Path, record: Any) -> None:
    """Nothing but the number of samples in the header tells that a file ends early, at the end of a sample.

    It is a lead's or that of all leads, and some recorders write a nominal one: whole hours, or a round number.
    """
    claimed, samples = record.raw_metadata["ecg_size"], record.raw_metadata["samples_per_lead"]
    total, rate = samples * len(record.leads), record.leads[0].sampling_rate
    nominal = claimed % (3600 * rate) == 0 or claimed & (claimed + 1) == 0 or claimed & (claimed - 1) == 0
    if claimed > samples and claimed not in (total, 2 * total) and not nominal:
        raise UserError(
            f"{path}: the file is cut short ({samples:,} of {claimed:,} samples); copy or download it again, whole"
        )


def _as_it_is(parser: Any, path: Path) -> Any:
    return parser()


def _with_checked_payload(parser: Any, path: Path) -> Any:
    """The parser of Philips' files, which looks at what its compressed samples expand to before it expands them."""

    class Checked(parser):
        def _read_leads(self, parsed: Any, signal_node: Any) -> Any:
            check_xli(path, parsed)
            return super()._read_leads(parsed, signal_node)

    return Checked()


def _check_together(path: Path, chosen: List[Any]) -> None:
    """All leads were taken at the same times."""
    for what, values in (
        ("sample rates", {lead.sampling_rate for lead in chosen}),
        ("lengths", {len(lead.samples) for lead in chosen}),
        ("starts", {lead.annotations.get("start_sample", "1") for lead in chosen}),
        ("starts", {lead.annotations.get("LeadTimeOffset", "0") for lead in chosen}),
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


def _samples(kind: str, lead: Any) -> np.ndarray:
    """What the file stores, NaN where it marks a sample as missing."""
    samples = np.asarray(lead.samples)
    missing = samples == _MISSING.get(kind, math.nan)
    return np.where(missing, math.nan, samples) if missing.any() else samples


def _sample_rate(record: Any, whole: Whole, rows: List[int]) -> float:
    """Hz; ecgdatakit rounds a lead's rate to an integer and keeps the exact one elsewhere, if at all."""
    first, extra = whole.leads()[rows[0]], record.raw_metadata
    exact = {whole.parts[0].sample_rate, extra.get("exact_sampling_rates", {}).get(first.label)}  # the latter of EDF
    rounded = float(first.sampling_rate)
    differing = [rate for rate in exact if rate and 1e-6 * rounded < abs(rate - rounded) <= 0.5]
    return float(differing[0]) if len(differing) == 1 else rounded


def _start_time(kind: str, record: Any, part: Part, is_one_of_several: bool) -> Optional[datetime]:
    """Of this part where the file gives it, otherwise what the file gives for all; None where it is hidden."""
    when = part.began if is_one_of_several and part.began else record.recording.date
    if kind == "EDF" and record.raw_metadata["recording_id"].upper().split()[:2] == ["STARTDATE", "X"]:
        return None
    start = start_of(when, _HIDDEN_START.get(kind))
    return start + timedelta(seconds=part.start or 0) if start and kind == "DICOM" else start


def _age(record: Any, start: Optional[datetime]) -> Optional[float]:
    """In years; None where it can only come from a date that stands for an unknown one."""
    age, birth, when = record.patient.age, record.patient.birth_date, record.recording.date
    if birth and when and not record.raw_metadata.get("age_is_stated") and (start is None or birth.year < _FIRST_BIRTH):
        computed = when.year - birth.year - ((when.month, when.day) < (birth.month, birth.day))
        return None if age == computed else age_of(age)
    return age_of(age)


def _statements(pairs: Sequence[Tuple[str, str]]) -> Tuple[str, ...]:
    shown_pairs = ((shown(left), shown(right)) for left, right in pairs)
    joined = (f"{left} ({right})" if left and right else left or right for left, right in shown_pairs)
    return tuple(statement for statement in joined if statement)
