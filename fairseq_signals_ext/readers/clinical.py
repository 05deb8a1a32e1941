"""Files of electrocardiographs and hospitals, read with the `ecgdatakit` library."""

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

# what ecgdatakit only warns of, but what puts sample values, their number or their scale in doubt
_DOUBTFUL = re.compile(
    r"crc|checksum|truncated|incomplete|shorter than the frame|no waveform data|gap|redefine"
    r"|bytes?(?:\(s\))? after the last|was not applied"
    r"|using (?:\d+$|\d+ bytes|the default)|header size field|lies outside|length is \d+ in its header",
    re.IGNORECASE,
)
# beats averaged by the device are not read, even if damaged
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
_FIRST_BIRTH = 1901  # a year before it stands for an unknown date of birth


def check_number(what: str, number: int, most: int) -> None:
    """Raise a `ValueError` if there are more of something than there may be."""
    if number > most:
        raise ValueError(f"it has {number:,} {what}, more than {most:,}")


def _as_it_is(parser: Any, path: Path) -> Any:
    return parser()


def _nothing(path: Path, *_: Any) -> None:
    """There is nothing to check."""


@dataclass(frozen=True)
class Decoder:
    """How `ecgdatakit` decodes the files of a format, and what it leaves to us.

    Attributes:
        name: of the format.
        parser: name of its class of `ecgdatakit`.
        adapt: (that class, file) -> the parser that is used, whose `parts`, if it has some, are all waveforms.
        check: raises a `ValueError` if a file claims more than it can hold, or has far more parts than an ECG. The
            library reserves memory for what a file contains, or takes memory per element or time with the square of a
            length, so this comes first. It is linear in the size of the file, and takes a small part of the time that
            reading takes. The library's message describes damage.
        copies: what reading takes at most, in sizes of the file (measured with files of nothing but the shortest
            values).
        missing: the count that stands for no sample; NaN if there is none.
        hidden_start: the day that stands for a date that is not to be known.
        starts_together: whether a part's start is counted from the time that the file gives for all.
        is_undated: (record of `ecgdatakit`) -> whether its date stands for none.
        check_record: (file, record of `ecgdatakit`) raises a `UserError` if the file is cut short.
    """

    name: str
    parser: str
    adapt: Callable[[Any, Path], Any] = _as_it_is
    check: Callable[[Path], None] = _nothing
    copies: float = 100.0
    missing: float = math.nan
    hidden_start: Optional[date] = None
    starts_together: bool = False
    is_undated: Callable[[Any], bool] = lambda record: False
    check_record: Callable[[Path, Any], None] = _nothing

    def format(self, suffixes: Tuple[str, ...], sniff: Callable[[Beginning], bool], *imports: str) -> Format:
        """The format of files that are decoded so."""
        needed = ("ecgdatakit.parsing", *imports)
        return Format(self.name, suffixes, sniff, functools.partial(read_clinical, self), imports=needed)


def read_clinical(decoder: Decoder, path: Path, given: GivenMetadata) -> List[Recording]:
    """Read the ECGs in a file of a device or a hospital, in the order of their times.

    Most files contain one. Of several waveforms, those that are ECGs are recognised by what they are (`parts.choose`),
    and waveforms of other leads over the same time are joined.

    Leads are found by name, other signals are ignored, amplitudes become mV with the file's own scale. Averaged beats
    are not read. Samples that the file marks as missing are NaN: a lead that was off (ISHNE), the value for no data
    (MFER), and padding (DICOM) where it can be padding. `start_time` is the clock at the place of recording, without
    its time zone; each ECG's own where the file gives one. Age, sex and patient are what the file contains; made-up
    patients and hidden dates are None, and so is an age that was computed from one. Whatever `ecgdatakit` warns of that
    puts samples or scale in doubt (a checksum that differs, a truncated file, gaps, an offset that it does not apply)
    is an error here; its other warnings are dropped.

    Args:
        decoder: of its format.
        path: the file.
        given: names for all signals in their order, for a file none of whose signals has a lead's name; a voltage, for
            a file that gives a scale without one; and a sample rate, which must be that of the file.

    Raises:
        UserError: the file cannot be decoded or holds doubtful values, has no lead or one twice, a lead has no
            scale in a voltage, its leads differ in sample rate, start or length, or it has another sample rate.
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
    """ecgdatakit's record, and the waveforms in the file."""
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
    """What the file stores, NaN where it marks a sample as missing."""
    samples = np.asarray(lead.samples)
    missing = samples == decoder.missing
    return np.where(missing, math.nan, samples) if missing.any() else samples


def _sample_rate(record: Any, whole: Whole, rows: List[int]) -> float:
    """Hz; ecgdatakit rounds a lead's rate to an integer and keeps the exact one elsewhere, if at all."""
    first, extra = whole.leads()[rows[0]], record.raw_metadata
    exact = {whole.parts[0].sample_rate, extra.get("exact_sampling_rates", {}).get(first.label)}  # the latter of EDF
    rounded = float(first.sampling_rate)
    differing = [rate for rate in exact if rate and 1e-6 * rounded < abs(rate - rounded) <= 0.5]
    return float(differing[0]) if len(differing) == 1 else rounded


def _start_time(decoder: Decoder, record: Any, part: Part, is_one_of_several: bool) -> Optional[datetime]:
    """Of this part where the file gives it, otherwise what the file gives for all; None where it is hidden."""
    when = part.began if is_one_of_several and part.began else record.recording.date
    start = None if decoder.is_undated(record) else start_of(when, decoder.hidden_start)
    return start + timedelta(seconds=part.start or 0) if start and decoder.starts_together else start


def _age(record: Any, start: Optional[datetime]) -> Optional[float]:
    """In years; None where it can only come from a date that stands for an unknown one."""
    age, birth, when = record.patient.age, record.patient.birth_date, record.recording.date
    if birth and when and not record.raw_metadata.get("age_is_stated") and (start is None or birth.year < _FIRST_BIRTH):
        computed = when.year - birth.year - ((when.month, when.day) < (birth.month, birth.day))
        return None if age == computed else age_of(age)
    return age_of(age)


def with_age(stated: Any, computed: Callable[[], Any], meta: Dict[str, Any]) -> Any:
    """A patient with the stated age, or with one from dates, and a note of which it is."""
    meta["age_is_stated"] = stated.age is not None
    return stated if stated.age is not None else computed()


def _statements(pairs: Sequence[Tuple[str, str]]) -> Tuple[str, ...]:
    shown_pairs = ((shown(left), shown(right)) for left, right in pairs)
    joined = (f"{left} ({right})" if left and right else left or right for left, right in shown_pairs)
    return tuple(statement for statement in joined if statement)
