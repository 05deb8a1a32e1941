"""Read files of electrocardiographs and hospitals with the `ecgdatakit` library."""

import functools
import math
import re
import warnings
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError, without_quotes
from fairseq_signals_ext.readers.facts import (
    age_of,
    agreed_rate,
    millivolts,
    patient_of,
    rows_of_leads,
    sex_of,
    shown,
    start_of,
)
from fairseq_signals_ext.readers.formats import Beginning, Format, GivenMetadata
from fairseq_signals_ext.readers.parts import Part, Whole, choose, lead_names
from fairseq_signals_ext.readers.recording import Recording, signal_and_counts
from fairseq_signals_ext.readers.sizes import check_size

# warnings of ecgdatakit that put sample values, their number or their scale in doubt
_DOUBTFUL = re.compile(
    r"crc|checksum|truncated|incomplete|shorter than the frame|no waveform data|gap|redefine"
    r"|bytes?(?:\(s\))? after the last|was not applied"
    r"|using (?:\d+$|\d+ bytes|the default)|header size field|lies outside|length is \d+ in its header",
    re.IGNORECASE,
)
# averaged beats are not read, so warnings about them do not matter
_OTHER_SIGNALS = re.compile(r"median|typical_cycle|representative beat|repbeats|subtraction zones", re.IGNORECASE)
# (pattern of a warning, its meaning, a hint)
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
_FIRST_BIRTH = 1901  # an earlier year is a placeholder for an unknown date of birth


def check_number(what: str, number: int, most: int) -> None:
    """Raise a `ValueError` if a number is above its limit."""
    if number > most:
        raise ValueError(f"it has {number:,} {what}, more than {most:,}")


def _unchanged(parser: Any, path: Path) -> Any:
    return parser()


def _no_check(path: Path, *_: Any) -> None:
    """Check nothing."""


@dataclass(frozen=True)
class Decoder:
    """How to decode the files of a format with `ecgdatakit`, with additional checks.

    Attributes:
        name: of the format.
        parser: name of the parser class in `ecgdatakit`.
        adapt: (parser class, file) -> the parser to use; its attribute `parts`, if present, lists all waveforms.
        check: raises a `ValueError` if a file claims more than it can hold, or has far more parts than an ECG. It runs
            before the library, which may take much memory or time for such files. It is linear in the size of the
            file, and much faster than reading.
        copies: most memory that reading takes, in multiples of the file's size (measured with files of the shortest
            values only).
        missing: the count that marks a missing sample; NaN if there is none.
        hidden_start: the placeholder for a hidden date.
        starts_together: whether a part's start is counted from the start time of the file.
        is_undated: (record of `ecgdatakit`) -> whether its date is a placeholder.
        check_record: (file, record of `ecgdatakit`) raises a `UserError` if the file is cut short.
    """

    name: str
    parser: str
    adapt: Callable[[Any, Path], Any] = _unchanged
    check: Callable[[Path], None] = _no_check
    copies: float = 100.0
    missing: float = math.nan
    hidden_start: Optional[date] = None
    starts_together: bool = False
    is_undated: Callable[[Any], bool] = lambda record: False
    check_record: Callable[[Path, Any], None] = _no_check

    def format(self, suffixes: Tuple[str, ...], sniff: Callable[[Beginning], bool], *imports: str) -> Format:
        """Return the `Format` of the files that this decoder reads."""
        needed = ("ecgdatakit.parsing", *imports)
        return Format(self.name, suffixes, sniff, functools.partial(read_clinical, self), imports=needed)


def read_clinical(decoder: Decoder, path: Path, given: GivenMetadata) -> List[Recording]:
    """Read the ECGs in a file of a device or a hospital, in the order of their times.

    Most files contain one. If there are several waveforms, `parts.choose` selects the ECGs, and waveforms of different
    leads over the same time are joined.

    Leads are found by name, other signals are ignored, amplitudes become mV with the file's own scale. Averaged beats
    are not read. Samples that the file marks as missing are NaN: a lead that was off (ISHNE), the value for no data
    (MFER), and padding (DICOM, see `dicom.padding_mask`). `start_time` is the local time of the recording, without
    time zone; each ECG has its own if the file gives it. Age, sex and patient are taken from the file; made-up patients
    and hidden dates become None, and so does an age that was computed from a hidden date. Warnings of `ecgdatakit` that
    put samples or scale in doubt (a wrong checksum, a truncated file, gaps, an offset that it does not apply) are
    errors here; its other warnings are dropped.

    Args:
        decoder: of its format.
        path: the file.
        given: names for all signals in their order, if the file contains no name of a lead; a unit, if the file gives
            a scale without one; a sample rate, which must equal the file's.

    Raises:
        UserError: the file cannot be decoded or holds doubtful values, it has no lead or one twice, a lead has no
            scale in a voltage, its leads differ in sample rate, start or length, or a given sample rate differs.
    """
    record, parts = _parse(path, decoder)
    wholes = choose(path, parts)
    for whole in wholes:
        for part in whole.parts:
            _refuse_doubtful(path, part.remarks)
    recordings = [_recording(path, decoder, record, whole, len(wholes) > 1, given) for whole in wholes]
    for recording in recordings:
        agreed_rate(path, recording.sample_rate, given.sample_rate)
    return recordings


def _recording(
    path: Path, decoder: Decoder, record: Any, whole: Whole, is_one_of_several: bool, given: GivenMetadata
) -> Recording:
    leads = whole.leads()
    rows = rows_of_leads(lead_names(leads), path, given.leads)
    chosen = [leads[row] for row in rows.values()]
    _check_together(path, chosen)
    scale, zero = zip(*(_scale_and_zero(path, lead, given.unit) for lead in chosen))
    signal, stored = signal_and_counts([_samples(decoder, lead) for lead in chosen], scale, zero)
    start = _start_time(decoder, record, whole.parts[0], is_one_of_several)
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


def _parse(path: Path, decoder: Decoder) -> Tuple[Any, List[Part]]:
    """Return ecgdatakit's record and the waveforms in the file."""
    from ecgdatakit import FileParser, UnsupportedFormatError

    parser = next(parser for parser in FileParser().parsers if parser.__name__ == decoder.parser)
    reader = decoder.adapt(parser, path)
    check_size(path, decoder.copies)
    try:
        decoder.check(path)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as {decoder.name} ({shown(error)}); get the file again") from error
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            record = reader.parse(path)
        except (ImportError, UserError):
            raise
        except Exception as error:  # parsers of damaged files may raise anything
            reason = shown(without_quotes(str(error).replace(str(path), path.name))) or type(error).__name__
            unknown = isinstance(error, UnsupportedFormatError)
            hint = "export it in another format" if unknown else "get the file again"
            raise UserError(f"{path}: cannot be read as {decoder.name} ({reason}); {hint}") from error
    _refuse_doubtful(path, [(str(warning.message), warning.category) for warning in caught])
    decoder.check_record(path, record)
    return record, getattr(reader, "parts", None) or [Part(record.leads)]


def _refuse_doubtful(path: Path, remarks: Sequence[Tuple[str, Any]]) -> None:
    from ecgdatakit import ChecksumWarning

    for remark, category in remarks:
        if _OTHER_SIGNALS.search(remark) or not (issubclass(category, ChecksumWarning) or _DOUBTFUL.search(remark)):
            continue
        known = ((meaning, hint) for words, meaning, hint in _MEANINGS if words.search(remark))
        meaning, hint = next(known, ("its values are in doubt", "export the file again"))
        raise UserError(f"{path}: {meaning} ({shown(without_quotes(remark))}); {hint}")


def _check_together(path: Path, chosen: List[Any]) -> None:
    """Raise a `UserError` unless all leads have the same sample rate, length and start."""
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
    """Return mV per count, and the count at 0 mV."""
    stated_unit = (lead.resolution_unit if lead.is_raw else lead.units).strip()
    scaled = bool(stated_unit) or lead.resolution != 1.0  # ecgdatakit's value where a file contains nothing
    factor = millivolts(stated_unit or unit or "")
    if factor is None or not scaled:
        what = f"the unit {shown(stated_unit)!r}" if stated_unit else "no unit or no scale"
        raise UserError(f"{path}: lead {shown(lead.label)} has {what}, so its voltage is unknown; export it in mV")
    if stated_unit and unit and millivolts(unit) != factor:
        raise UserError(f"{path}: its unit is {stated_unit}, not {unit}; leave the unit out or correct it")
    resolution, offset = (float(lead.resolution), float(lead.offset)) if lead.is_raw else (1.0, 0.0)
    if not (math.isfinite(resolution) and math.isfinite(offset) and resolution):
        raise UserError(f"{path}: lead {shown(lead.label)} has the scale {resolution:g}; export it again")
    return resolution * factor, 0.0 - offset / resolution


def _samples(decoder: Decoder, lead: Any) -> np.ndarray:
    """Return the samples as stored, with NaN for missing ones."""
    samples = np.asarray(lead.samples)
    missing = samples == decoder.missing
    return np.where(missing, math.nan, samples) if missing.any() else samples


def _sample_rate(record: Any, whole: Whole, rows: List[int]) -> float:
    """Return the exact rate (Hz) where ecgdatakit keeps it; a lead has only a rounded one."""
    first, extra = whole.leads()[rows[0]], record.raw_metadata
    exact = {whole.parts[0].sample_rate, extra.get("exact_sampling_rates", {}).get(first.label)}  # the latter of EDF
    rounded = float(first.sampling_rate)
    differing = [rate for rate in exact if rate and 1e-6 * rounded < abs(rate - rounded) <= 0.5]
    return float(differing[0]) if len(differing) == 1 else rounded


def _start_time(decoder: Decoder, record: Any, part: Part, is_one_of_several: bool) -> Optional[datetime]:
    """Return the start of this part, or the start of the file if the part has none; None if it is hidden."""
    when = part.began if is_one_of_several and part.began else record.recording.date
    start = None if decoder.is_undated(record) else start_of(when, decoder.hidden_start)
    return start + timedelta(seconds=part.start or 0) if start and decoder.starts_together else start


def _age(record: Any, start: Optional[datetime]) -> Optional[float]:
    """Return the age in years; None if it was computed from a placeholder date."""
    age, birth, when = record.patient.age, record.patient.birth_date, record.recording.date
    if birth and when and not record.raw_metadata.get("age_is_stated") and (start is None or birth.year < _FIRST_BIRTH):
        computed = when.year - birth.year - ((when.month, when.day) < (birth.month, birth.day))
        return None if age == computed else age_of(age)
    return age_of(age)


def with_age(stated: Any, computed: Callable[[], Any], meta: Dict[str, Any]) -> Any:
    """Return the patient with the stated age or one computed from dates; record in `meta` whether it is stated."""
    meta["age_is_stated"] = stated.age is not None
    return stated if stated.age is not None else computed()


def _statements(pairs: Sequence[Tuple[str, str]]) -> Tuple[str, ...]:
    shown_pairs = ((shown(left), shown(right)) for left, right in pairs)
    joined = (f"{left} ({right})" if left and right else left or right for left, right in shown_pairs)
    return tuple(statement for statement in joined if statement)
