"""The twelve standard leads: their order, their names, and sets of them as bit masks."""

import functools
import re
from typing import Dict, Iterable, List, Sequence, Tuple, Union

from fairseq_signals_ext.common.errors import UserError

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
LIMB_LEADS = LEADS[:6]

_INDEX: Dict[str, int] = {name.lower(): index for index, name in enumerate(LEADS)}
_INDEX.update({str(index): index for index in range(len(LEADS))})
_SHOWN = 40  # letters of a value in a message


def lead_index(name: Union[str, int]) -> int:
    """Return the position of a lead in the standard order (0-11), from its name in any case or its number.

    Raises:
        UserError: the lead is not one of the twelve.
    """
    text = _text(name).strip()
    try:
        return _INDEX[text.lower()]
    except KeyError:
        raise UserError(f"unknown lead {text[:_SHOWN]!r}: use names of {', '.join(LEADS)}, or numbers 0-11") from None


def _text(name: Union[str, int]) -> str:
    try:
        return str(name)
    except ValueError:  # Python refuses numbers of thousands of digits
        return "of thousands of digits"


def parse_leads(leads: Union[None, str, Sequence[Union[str, int]]]) -> List[int]:
    """Return lead positions from a list or a text such as `"I,II,V1"`, `"[0, 1]"`; None or `""` means all twelve.

    Raises:
        UserError: a lead is unknown or named twice.
    """
    if leads is None or (isinstance(leads, str) and not leads.strip()):
        return list(range(len(LEADS)))
    names = re.split(r"[\s,;]+", leads.strip("[]() ")) if isinstance(leads, str) else leads
    indices = [lead_index(_text(name).strip("'\"")) for name in names]
    if len(set(indices)) != len(indices):
        raise UserError(f"leads {', '.join(LEADS[index] for index in indices[:20])}: a lead is named twice")
    return indices


def leads_to_mask(indices: Iterable[int]) -> int:
    """Return the bit mask (bit k set: lead k of `LEADS` is present) of lead positions."""
    return sum(1 << index for index in set(indices))


@functools.lru_cache(maxsize=None)
def mask_to_leads(mask: int) -> Tuple[int, ...]:
    """Return the lead positions, ascending, of a bit mask."""
    return tuple(index for index in range(len(LEADS)) if mask >> index & 1)
