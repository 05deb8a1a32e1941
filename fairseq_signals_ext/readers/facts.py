"""Parse the many spellings of lead names, units, patient, age, sex and time."""

import functools
import hashlib
import math
import re
import unicodedata
from datetime import date, datetime
from typing import Any, Dict, List, Optional, Sequence, Tuple

from fairseq_signals_ext.common.errors import MissingMetadataError, UserError, without_quotes
from fairseq_signals_ext.common.leads import LEADS, parse_leads

_POSITION = {name.lower(): position for position, name in enumerate(LEADS)}
_POSITION.update({"di": 0, "dii": 1, "diii": 2})  # I, II, III in Brazilian and Spanish devices
# "-aVR" is another signal than aVR, so a hyphen is not a separator
_DECORATION = re.compile(r"(?:mdc[\s_]+)?(?:(?:ecg|ekg)[\s_:]+)?(?:lead[\s_:]*)?")
_CHEST = re.compile(r"(?:(?:ecg|ekg)[\s_:]{1,2})?(?:lead[\s_:]{0,2})?c([1-6])\+?")
_V1, _FEWEST_LIMB_LEADS = 6, 2
_MILLIVOLTS = {"v": 1e3, "mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "nv": 1e-6}
_WORDS = {"volt": "v", "millivolt": "mv", "microvolt": "uv", "nanovolt": "nv"}
_SEX = {
    **dict.fromkeys(("f", "female", "woman", "w", "weiblich", "feminino", "femenino"), "female"),
    **dict.fromkeys(("m", "male", "man", "männlich", "masculino"), "male"),
}
# options in messages: the Python argument and the command line option
RATE_OPTION = "sample_rate in Hz, --input-rate"
UNIT_OPTION = "unit such as uV, --input-unit"
_MOST_SHOWN = 8  # names in a message
LEADS_OPTION = "leads, --input-leads"
_LONGEST = 64  # letters of a lead's name or a unit; limits the memory of the caches
_OLDEST = 130  # years; more is a code for "unknown" or an error
_AGE = re.compile(r"(>=?|≥|over )? ?([0-9]{1,9}(?:\.[0-9]{0,9})?) ?(\+|[a-zñ]{1,7}\.?)?(?: (?:old|of age))?")
_YEARS = {
    **dict.fromkeys(("", "y", "yr", "yrs", "yo", "year", "years", "j", "jahre", "ans", "años", "anos", "a"), 1.0),
    **dict.fromkeys(("m", "mo", "mos", "mon", "month", "months"), 1 / 12),
    **dict.fromkeys(("w", "wk", "wks", "week", "weeks"), 7 / 365.25),
    **dict.fromkeys(("d", "day", "days"), 1 / 365.25),
}
_OLDEST_GROUP = 80  # years; "18+" is not an age, but "90+" hides the exact age of the oldest patients
_LONGEST_ID = 200
# placeholders for a patient's id, without spaces and punctuation
_NOBODY_WORDS = """
anon anonym anonyme anonymes anonymisiert anonymised anonymized anonymous anonymus anonimo anonimizado anónimo
deidentified pseudonymised pseudonymized redacted removed deleted masked hidden private confidential withheld
unknown unknwon unk unidentified unspecified undefined undisclosed unassigned unnamed unbekannt desconhecido
desconocido inconnu sconosciuto onbekend none no not nobody null nil nan nat na notavailable available applicable
known given provided specified recorded entered missing blank empty default placeholder nn tbd tba test testing
tester demo dummy example sample patient patientid patienttest testpatient pat pid mrn id ident name noname noid
nopatient johndoe janedoe other u o unident temp temporary 匿名 不明 未知 аноним неизвестно
"""
_NOBODY = frozenset(_NOBODY_WORDS.split())
_MINUS = re.compile(r"-[0-9]+(?:\.0*)?")  # -1, -99: codes of tables for a missing number
_RUN = "12345678901234567890"
_SHORTEST_RUN, _SHORTEST_REPEAT = 5, 6  # 12345 is a typical placeholder; 1234 and 9999 may be real ids
_FIRST_YEAR, _LAST_YEAR = 1901, 2299
# first days of clocks and file formats; an ECG may be of such a day, but not of its first second
_EPOCHS = frozenset(date(*day) for day in ((1904, 1, 1), (1970, 1, 1), (1980, 1, 1), (1980, 1, 6), (1985, 1, 1)))


def lead_position(name: str) -> Optional[int]:
    """Return the position in `LEADS` of a name in any case, such as `I`, `Lead I`, `MDC_ECG_LEAD_AVR`; else None."""
    return _lead_position(name) if len(name) <= _LONGEST else None


@functools.lru_cache(maxsize=1000)
def _lead_position(name: str) -> Optional[int]:
    text = name.strip().lower()
    decoration = _DECORATION.match(text)
    plain = text[decoration.end() :] if decoration else text
    return _POSITION.get(plain[:-1] if plain.endswith("+") else plain)  # "V1+" is the lead, "V1-" another signal


@functools.lru_cache(maxsize=100)
def _positions(names: Tuple[str, ...]) -> Tuple[Optional[int], ...]:
    """Return positions of all signals; `C1`, `C2`, ... are chest leads (IEC 60601) in a file with limb leads.

    Except if the file has V1-V6 as well, or only some of C1-C6, such as `C3` and `C4` of an EEG.
    """
    positions = tuple(lead_position(name) for name in names)
    chest = [_chest_position(name) for name in names]
    found = sorted(position for position in chest if position is not None)
    known = [position for position in positions if position is not None]
    is_complete = found == list(range(_V1, _V1 + len(found)))
    if not found or not is_complete or max(known, default=_V1) >= _V1 or len(known) < _FEWEST_LIMB_LEADS:
        return positions
    return tuple(other if position is None else position for position, other in zip(positions, chest))


def _chest_position(name: str) -> Optional[int]:
    if len(name) > _LONGEST:
        return None
    match = _CHEST.fullmatch(name.strip().lower())
    return _V1 + int(match.group(1)) - 1 if match else None


def rows_of_leads(
    names: Sequence[str],
    where: object,
    given: Optional[Sequence[str]] = None,
    shown_names: Optional[Sequence[str]] = None,
) -> Dict[int, int]:
    """Map position in `LEADS` -> row in `names`, in standard order; names that are no standard lead are left out.

    Args:
        names: of the signals in the file.
        where: the file, for the start of a message.
        given: names of the leads from the user. If the file names no lead, they name its signals in order; otherwise
            they must be the leads of the file.
        shown_names: the names to show in messages; None: `names`.

    Raises:
        UserError: no name is a standard lead, two are the same one, or `given` does not fit.
    """
    positions: Sequence[Optional[int]] = _positions(tuple([name[: _LONGEST + 1] for name in names]))
    shown_names = names if shown_names is None else shown_names
    if given is not None:
        positions = _as_given(positions, parse_leads(given), where)
    found: Dict[int, int] = {}
    for row, position in enumerate(positions):
        if position in found:
            raise UserError(f"{where}: lead {shown(shown_names[row])!r} appears twice; rename or remove one")
        if position is not None:
            found[position] = row
    if not found:
        listed = ", ".join(shown(name, 20) for name in shown_names[:_MOST_SHOWN]) or "none"
        listed += ", ..." * (len(shown_names) > _MOST_SHOWN)
        hint = f"name them {', '.join(LEADS)}, or give their names ({LEADS_OPTION})"
        raise MissingMetadataError(f"{where}: none of its signals ({listed}) is a standard lead; {hint}", "leads")
    return dict(sorted(found.items()))


def _as_given(positions: Sequence[Optional[int]], given: List[int], where: object) -> Sequence[Optional[int]]:
    stated = sorted(position for position in positions if position is not None)
    if stated and stated != sorted(given):
        its, yours = (", ".join(LEADS[position] for position in some) for some in (stated, sorted(given)))
        raise UserError(f"{where}: its leads are {its}, not {yours}; leave the leads out or correct them")
    if not stated and len(given) != len(positions):
        raise UserError(f"{where}: it has {len(positions)} signals, but {len(given)} leads are given; name each signal")
    return positions if stated else list(given)


def millivolts(unit: str) -> Optional[float]:
    """Return mV per unit such as `uV`, `mV`, `Volt`, in any case; None if it is not a voltage."""
    return _millivolts(unit) if len(unit) <= _LONGEST else None


@functools.lru_cache(maxsize=1000)
def _millivolts(unit: str) -> Optional[float]:
    text = unit.strip().lower()
    return _MILLIVOLTS.get(_WORDS.get(text.rstrip("s"), text))


def patient_of(value: Any, numbered: bool = False) -> Optional[str]:
    """Return the patient's id from a value in a file or a table; None for an empty value or a placeholder.

    Placeholders are words such as `ANONYMOUS`, `n/a`, `test`, `X X X X`, marks without a letter or a digit, zeros,
    negative numbers, and `123456`, `999999`. Many people share a placeholder and would be taken for one person. An id
    is returned as text on one line. One of more than 200 letters is shortened, and a hash of the whole is appended.

    Args:
        value: text, a number (a whole one without a point), or None.
        numbered: whether the collection numbers its patients, so that 123456 is a valid id.
    """
    if value is None or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    written = str(value).strip()
    if _is_nobody(written[: 2 * _LONGEST_ID], numbered):
        return None
    if len(written) > _LONGEST_ID:
        return shown(written, _LONGEST_ID) + hashlib.sha256(written.encode("utf-8", "replace")).hexdigest()
    return shown(written)


def _is_nobody(written: str, numbered: bool) -> bool:
    if _MINUS.fullmatch(written):
        return True
    plain = unicodedata.normalize("NFKC", written).casefold().replace("n/a", "na")
    parts = "".join(letter if letter.isalnum() else " " for letter in plain).split()
    joined = "".join(parts)
    if joined in _NOBODY or all(part in _NOBODY or set(part) in ({"x"}, {"0"}) for part in parts):
        return True
    if numbered or not (joined.isascii() and joined.isdigit()):
        return len(set(joined)) == 1 and len(joined) >= _SHORTEST_REPEAT and joined.isalpha()
    counted = any(run.startswith(digits) for run in (_RUN, f"0{_RUN}") for digits in (joined, joined[::-1]))
    if counted and len(joined) >= _SHORTEST_RUN:
        return True
    return len(set(joined)) == 1 and len(joined) >= _SHORTEST_REPEAT


def sex_of(text: Any) -> Optional[str]:
    """Return `"female"` or `"male"` from a word or letter in any case; None for anything else."""
    return _SEX.get(str(text)[:_LONGEST].strip(" .;,\"'\t\r\n").lower())


def age_of(value: Any) -> Optional[float]:
    """Return the age in years from a number or a text such as `45`, `069Y`, `6M`, `12 weeks`, `3D`; else None.

    `90+` and `>89` become 90: ages of the oldest patients are hidden in this way (HIPAA). A limit below 80, such as
    `18+`, is not an age. Negative ages and ages above 130 become None.
    """
    age = _years(value) if isinstance(value, str) else _number(value)
    return age if age is not None and math.isfinite(age) and 0 <= age <= _OLDEST else None


def _years(text: str) -> Optional[float]:
    match = _AGE.fullmatch(text.strip().lower().replace(",", ".")) if len(text) <= _LONGEST else None
    if match is None:
        return _number(text) if len(text) <= _LONGEST else None
    above, digits, unit = match.group(1), match.group(2), (match.group(3) or "").rstrip(".")
    if not above and unit != "+":
        return float(digits) * _YEARS[unit] if unit in _YEARS else None
    if unit != "+" and _YEARS.get(unit) != 1:
        return None
    age = float(digits) + (above in (">", "over "))
    return age if age >= _OLDEST_GROUP else None


def _number(value: Any) -> Optional[float]:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def start_of(when: Optional[datetime], hidden: Optional[date] = None) -> Optional[datetime]:
    """Return the start of an ECG without its time zone; None if the date is a placeholder for "unknown".

    Placeholders are dates before 1901 and after 2299, and the first second of days with which clocks and formats begin:
    1904-01-01, 1970-01-01, 1980-01-01, 1980-01-06 and 1985-01-01. Shifted dates, such as 2100-2200 in MIMIC-IV-ECG,
    are kept, since their order is still correct.

    Args:
        when: the time in the file.
        hidden: a day that the format uses for a hidden date, at any time of the day: 1985-01-01 in EDF and BDF.
    """
    if when is None:
        return None
    local = when.replace(tzinfo=None)
    day = local.date()
    if day == hidden or (day in _EPOCHS and local == datetime(day.year, day.month, day.day)):
        return None
    return local if _FIRST_YEAR <= day.year <= _LAST_YEAR else None


def shown(value: Any, longest: int = 200) -> str:
    """Return a value as one short line for a message; the message of a library's exception without its quotations."""
    if isinstance(value, BaseException) and not isinstance(value, UserError):
        value = without_quotes(str(value)[: 2 * longest])
    return "".join(letter if letter.isprintable() else " " for letter in str(value)[: 2 * longest]).strip()[:longest]


def agreed_rate(where: object, stated: float, given: Optional[float]) -> float:
    """Return the sample rate (Hz) in the file; raise a `UserError` if the user gave another one."""
    if given is not None and not math.isclose(stated, given, rel_tol=1e-6):
        raise UserError(f"{where}: its sample rate is {stated:g} Hz, not {given:g} Hz; leave it out or correct it")
    return stated
