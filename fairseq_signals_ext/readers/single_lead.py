"""Recognise text exports of a single lead, as from Apple's devices: lines of metadata above a column of numbers.

The names of the metadata depend on the language of the device, so they are recognised by their values: a number with a
unit of frequency, a lead, a unit of voltage.
"""

import re
from datetime import datetime
from typing import List, NamedTuple, Optional, Sequence

from fairseq_signals_ext.readers.facts import millivolts
from fairseq_signals_ext.readers.table_layout import LONGEST_NAME, TIME, Layout, cells_of

_NUMBER = re.compile(r"[\s\"]*[-+\u2212]?[0-9]+(?:[.,][0-9]+)?[\s\"]*")
_LEAD = re.compile(r"(?<![A-Za-z])(?:III|II|I|aV[RLF]|V[1-6])(?![A-Za-z0-9])")
_RATE = re.compile(r"([0-9]{1,6}(?:[.,][0-9]{1,6})?)\s*([^\W\d_]{1,15})\.?")
_HERTZ_WORDS = "hz hertz hercios hercio hertzů hertsiä hercov гц герц герца герців 赫 赫兹 赫茲 ヘルツ 헤르츠 הרץ هرتز"
_HERTZ = frozenset(_HERTZ_WORDS.split())
_LIKELY_RATES = (50.0, 10000.0)  # Hz
_MOMENT = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2})(?: ?[+-][0-9]{2}:?[0-9]{2}| ?Z)?")
_FEWEST = 3  # numbers that are checked
_NEAR = 3  # largest distance of the lead from the unit in lines; a person's name farther above may contain an I


class _Fact(NamedTuple):
    line: int
    name: str
    value: str


def single_lead_layout(encoding: str, lines: Sequence[str]) -> Optional[Layout]:
    """Return the layout of an export of one lead from its first lines; None if it is another table.

    Such an export has lines with a unit of voltage and a sample rate above at least three numbers, one per line.
    """
    used = [number for number, line in enumerate(lines) if line.strip()]
    first = next((number for number in used if _NUMBER.fullmatch(lines[number][:LONGEST_NAME])), None)
    if first is None:
        return None
    numbers = [number for number in used if number >= first][:_FEWEST]
    if len(numbers) < _FEWEST or not all(_NUMBER.fullmatch(lines[number][:LONGEST_NAME]) for number in numbers):
        return None
    for separator in "\t;,":
        facts = _facts([number for number in used if number < first], lines, separator)
        unit = next((fact for fact in reversed(facts) if millivolts(fact.value) is not None), None)
        rate = _rate(facts)
        if unit is not None and rate is not None:
            near = sorted(facts, key=lambda fact: abs(fact.line - unit.line))
            lead = next((lead for fact in near if (lead := _lead(fact, unit))), "")
            name = f"{lead} ({unit.value})"
            return Layout(encoding, "\t", [name], 1, first, remarked_rate=rate, start_time=_start(facts))
    return None


def _facts(used: Sequence[int], lines: Sequence[str], separator: str) -> List[_Fact]:
    facts = []
    for number in used:
        name, *values = cells_of(lines[number], separator)
        # a line of units, or a header, has no name for its values
        if values and millivolts(name) is None and not TIME.fullmatch(name):
            facts.append(_Fact(number, name, separator.join(values)))
    return facts


def _rate(facts: Sequence[_Fact]) -> Optional[float]:
    """Return the rate in Hz: the number with a word for hertz, or the only number with a word that is plausible."""
    found = [(match.group(1), match.group(2).lower()) for fact in facts if (match := _RATE.fullmatch(fact.value))]
    rates = [(float(digits.replace(",", ".")), word) for digits, word in found if millivolts(word) is None]
    known = {rate for rate, word in rates if word in _HERTZ}
    known = known or {rate for rate, _ in rates if _LIKELY_RATES[0] <= rate <= _LIKELY_RATES[1]}
    return known.pop() if len(known) == 1 else None


def _lead(fact: _Fact, unit: _Fact) -> Optional[str]:
    found = set(_LEAD.findall(fact.value)) if abs(fact.line - unit.line) <= _NEAR else set()
    return found.pop() if len(found) == 1 else None


def _start(facts: Sequence[_Fact]) -> Optional[datetime]:
    found = [match.group(1) for fact in facts if (match := _MOMENT.fullmatch(fact.value))]
    try:
        return datetime.fromisoformat(found[0]) if len(found) == 1 else None
    except ValueError:
        return None
