"""Read patient data from the remarks of a WFDB header, in the notations of PhysioNet's collections.

PhysioNet recommends `<age>: 35  <sex>: M  <diagnoses>: (none)`; the Challenges have `Age: 74` on separate lines, the
European ST-T Database `Age: 62  Sex: M`, the MIT-BIH databases `69 M 1085 1629 x1`, and INCART `patient 1`.
"""

import functools
import re
from typing import Any, Dict, Iterable, Iterator, Optional, Sequence, Tuple

from fairseq_signals_ext.readers.facts import age_of, patient_of, sex_of

_LONGEST = 2000  # letters of a remark that are searched
# a name of a value, plain or in <>, optionally with a unit: `Age (years):`, `<subject_id>:`, `sex =`
_FIELD = re.compile(
    r"(?<!\w)(?P<open><)?(?P<key>age|sex|gender|patient|subject|participant)(?P<id>[ _-]?(?:id|no\.?|nr\.?|number|#))?"
    r"(?:[ _]?(?:[(\[][a-z ./]{1,12}[)\]]|(?:in[ _])?years))?(?P<close>>)?[ \t]{0,8}(?P<separator>[:=])?",
    re.IGNORECASE,
)
_PATIENT_WORDS = ("patient", "patient's", "patients", "subject", "subject's", "participant")
_END = re.compile(r"[;|\t]|  |,\s|<[A-Za-z]")
_AGE_AND_SEX = re.compile(r"(?P<age>-?\d{1,3})[ \t/,]{1,4}(?P<sex>[MF])(?!\w)", re.IGNORECASE)
_AGE_AND_SEX_ONLY = re.compile(r"(?P<age>-?\d{1,3})[ \t]{1,4}(?P<sex>[MF])(?:[ \t]+\d.*)?", re.IGNORECASE)
_NUMBERED = re.compile(
    r"(?:patient|subject|participant)[ \t_]{0,4}(?:id|no\.?|nr\.?|number)?[ \t_#]{0,4}"
    r"(?P<number>[a-z]{0,8}[_-]?\d{1,12})(?:[,;:.].*)?",
    re.IGNORECASE,
)
# names of common remarks with one value; names to ignore; signs of further values; words of a remark with any value
_ALONE = ("age", "sex", "patient id")
_OTHERS = ("rx", "hx", "sx")  # treatment, history and symptoms in the Challenges
_MORE = re.compile(r"[:=<]")
_WORTH = re.compile(r"age|sex|gender|patient|subject|participant|^-?\d", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+")


def facts_of(remarks: Sequence[str]) -> Dict[str, Any]:
    """Return patient, age, sex and codes as attributes of `Recording`; the first known value of each."""
    found: Dict[str, Any] = {"patient": None, "age": None, "sex": None}
    codes: Tuple[str, ...] = ()
    for remark in remarks:
        name, _, value = remark[:_LONGEST].partition(":")
        name = name.strip().lower()
        if name == "dx":
            codes = codes or _codes(remark)
            continue
        if name in _OTHERS:
            continue
        described: Iterable[Tuple[str, Any]]
        if name in _ALONE and not _MORE.search(value):  # fast path for most remarks
            described = _values(name, _one(value))
        elif _WORTH.search(remark, 0, _LONGEST):
            described = _described(remark[:_LONGEST].strip())
        else:
            continue
        for name, value in described:
            if found[name] is None:
                found[name] = value
    return {**found, "codes": codes}


def _described(remark: str) -> Iterable[Tuple[str, Any]]:
    """Return names and values; None for an unknown value."""
    alone = _AGE_AND_SEX_ONLY.fullmatch(remark)
    if alone:
        return _both(alone)
    numbered = _NUMBERED.fullmatch(remark)
    return (("patient", patient_of(numbered["number"])),) if numbered else _fields(remark)


def _fields(remark: str) -> Iterator[Tuple[str, Any]]:
    fields = [one for one in _FIELD.finditer(remark) if one["separator"] or (one["open"] and one["close"])]
    # "predicted age: 50" is not the age
    if fields and not _may_begin(remark[: fields[0].start()].strip()):
        fields = fields[1:]
    for field, following in zip(fields, [*fields[1:], None]):
        value = remark[field.end() : None if following is None else following.start()]
        yield from _values(field["key"].lower(), _one(value))


def _one(value: str) -> str:
    """Return the first value in a text."""
    value = value.strip()
    end = _END.search(value)
    return (value[: end.start()] if end else value).strip(" ,")


def _may_begin(before: str) -> bool:
    return not before or before[-1] in ",;|" or before.lower() in _PATIENT_WORDS


@functools.lru_cache(maxsize=1000)
def _values(key: str, value: str) -> Sequence[Tuple[str, Any]]:
    if key == "age":
        both = _AGE_AND_SEX.match(value)
        return _both(both) if both else (("age", _age(value)),)
    if key in ("sex", "gender"):
        word = _WORD.match(value)
        return (("sex", sex_of(word.group()) if word else None),)
    return (("patient", patient_of(value)),)


def _both(found: "re.Match[str]") -> Sequence[Tuple[str, Any]]:
    return ("age", age_of(found["age"])), ("sex", sex_of(found["sex"]))


def _age(value: str) -> Optional[float]:
    """Return the age in a text that may continue: `45 years at the time of recording`."""
    age = age_of(value)
    if age is not None:
        return age
    words = value.split()
    ages = (age_of(" ".join(words[:number])) for number in (3, 2, 1) if number < len(words))
    return next((age for age in ages if age is not None), None)


def _codes(remark: str) -> Tuple[str, ...]:
    """Return the codes of a remark such as `Dx: 426783006,164889003`."""
    codes = [code.strip() for code in remark.partition(":")[2].split(",")]
    return tuple(code for code in codes if code and code.lower() != "unknown")
