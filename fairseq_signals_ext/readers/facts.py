"""What files say about an ECG in many spellings: lead names, units, age, sex."""

import functools
import math
import re
from typing import Any, Dict, List, Optional, Sequence

from fairseq_signals_ext.errors import NotSaidError, UserError
from fairseq_signals_ext.leads import LEADS, parse_leads

_POSITION = {name.lower(): position for position, name in enumerate(LEADS)}
_POSITION.update({"di": 0, "dii": 1, "diii": 2})  # as Brazilian and Spanish devices write I, II, III
# "-aVR" is another signal than aVR, so a hyphen is no separator
_DECORATION = re.compile(r"(?:mdc[\s_]+)?(?:(?:ecg|ekg)[\s_:]+)?(?:lead[\s_:]*)?")
_MILLIVOLTS = {"v": 1e3, "mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "nv": 1e-6}
_WORDS = {"volt": "v", "millivolt": "mv", "microvolt": "uv", "nanovolt": "nv"}
_SEX = {"f": "female", "female": "female", "m": "male", "male": "male"}
# how a message names what a user can say of a file: from Python, and on the command line
RATE_OPTION = "sample_rate in Hz, --input-rate"
UNIT_OPTION = "unit such as uV, --input-unit"
LEADS_OPTION = "leads, --input-leads"
_LONGEST = 64  # letters of a lead's name or a unit; so that no file fills the memory with what is kept of names
_OLDEST = 130  # years; more is a code for "unknown" or a slip


def lead_position(name: str) -> Optional[int]:
    """Position in `LEADS` of a name in any case, as it is or as in `Lead I`, `MDC_ECG_LEAD_AVR`; None if no lead."""
    return _lead_position(name) if len(name) <= _LONGEST else None


@functools.lru_cache(maxsize=1000)
def _lead_position(name: str) -> Optional[int]:
    text = name.strip().lower()
    decoration = _DECORATION.match(text)
    return _POSITION.get(text[decoration.end() :] if decoration else text)


def rows_of_leads(names: Sequence[str], where: object, given: Optional[Sequence[str]] = None) -> Dict[int, int]:
    """Position in `LEADS` -> row in `names`, in standard order; names that are no standard lead are left out.

    Args:
        names: what the file calls its signals.
        where: the file, with which a message begins.
        given: the user's names of the leads. They name the signals if the file names no lead, one for each signal;
            otherwise they must be the leads that the file has.

    Raises:
        UserError: no name is a standard lead, two are the same one, or `given` does not fit.
    """
    positions = [lead_position(name) for name in names]
    if given is not None:
        positions = _as_given(positions, parse_leads(given), where)
    found: Dict[int, int] = {}
    for row, position in enumerate(positions):
        if position in found:
            raise UserError(f"{where}: lead {shown(names[row])!r} is there twice; rename or remove one")
        if position is not None:
            found[position] = row
    if not found:
        listed = ", ".join(shown(name, 20) for name in names[:20]) or "none"
        cure = f"name them {', '.join(LEADS)}"
        raise NotSaidError(f"{where}: none of its signals ({listed}) is a standard lead; {cure}", "leads")
    return dict(sorted(found.items()))


def _as_given(positions: List[Optional[int]], given: List[int], where: object) -> List[Optional[int]]:
    said = sorted(position for position in positions if position is not None)
    if said and said != sorted(given):
        its, yours = (", ".join(LEADS[position] for position in some) for some in (said, sorted(given)))
        raise UserError(f"{where}: its leads are {its}, not {yours}; leave the leads out or correct them")
    if not said and len(given) != len(positions):
        raise UserError(f"{where}: it has {len(positions)} signals, but {len(given)} leads are given; name each signal")
    return positions if said else list(given)


def millivolts(unit: str) -> Optional[float]:
    """mV in one of a unit such as `uV`, `mV`, `Volt`, in any case; None if it is no voltage."""
    return _millivolts(unit) if len(unit) <= _LONGEST else None


@functools.lru_cache(maxsize=1000)
def _millivolts(unit: str) -> Optional[float]:
    text = unit.strip().lower()
    return _MILLIVOLTS.get(_WORDS.get(text.rstrip("s"), text))


def sex_of(text: Any) -> Optional[str]:
    """`"female"` or `"male"` from a word or letter in any case; None for anything else."""
    return _SEX.get(str(text).strip().lower())


def age_of(value: Any) -> Optional[float]:
    """Age in years from a number or its text; None if it is none, negative or above 130."""
    try:
        age = float(value)
    except (TypeError, ValueError):
        return None
    return age if math.isfinite(age) and 0 <= age <= _OLDEST else None


def shown(value: Any, longest: int = 200) -> str:
    """A file's own words on one line, shortened, for a message."""
    return "".join(letter if letter.isprintable() else " " for letter in str(value)[: 2 * longest]).strip()[:longest]


def agreed_rate(where: object, said: float, given: Optional[float]) -> float:
    """The sample rate (Hz) that a file says; a user's that differs is a `UserError`."""
    if given is not None and not math.isclose(said, given, rel_tol=1e-6):
        raise UserError(f"{where}: its sample rate is {said:g} Hz, not {given:g} Hz; leave it out or correct it")
    return said
