"""Determine the status of each finding in a statement: present, possible, negated, or in the past.

The method is ConText (Harkema et al., J Biomed Inform 42:839, 2009): words before or after a finding, such as "no" or
"cannot be excluded", apply until a word or sign ends their scope. The end of a statement ends every scope.
"""

import re
from dataclasses import dataclass
from typing import Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from fairseq_signals_ext.labelling.report_words import Word, clean
from fairseq_signals_ext.labelling.vocabulary import Cue, Meaning, Vocabulary

PRESENT, UNCERTAIN, ABSENT, PAST = "present", "uncertain", "absent", "past"

_SKIPPED = ("(", ")", '"', "'", ".", ":", "/")  # allowed inside a phrase
_RATE = re.compile(
    # rate 45, rate of 45
    r"(?<!atrial )\b(?:rate|hr|vr|hf|frequenz|kammerfrequenz|frequency)\b"
    r"(?: (?:of|is|was|at|approximately|about|ca|um|von))* ?[.:=~]? ?(?P<after>\d{2,3})"
    r"(?!\d|[.,]\d| ?- ?\d| ?(?:ms|msec|%|mm|mv))"
    # 45 bpm, but not "has increased by 45 bpm"
    r"|(?<!by )(?<!atrial rate )(?<!atrial rate of )\b(?P<before>\d{2,3}) ?"
    r"(?:bpm|/ ?min|b/min|beats per minute|beats/min|per minute|per min|pro minute)\b"
    # sinus rhythm at 45
    r"|\b(?:rhythm|escape|response|tachycardia|bradycardia|fibrillation|flutter) (?:at )?(?:a rate of )?(?P<at>\d{2,3})"
    r"(?![.,]?\d| ?- ?\d| ?(?:ms|msec|%|mm|mv|sec|s|hz|deg|years|beats|complexes)\b)"
)
SLOW, FAST = 60, 100  # beats per minute: below is bradycardia, above tachycardia
_BY_RATE = ("bradycardia", "controlled_rate", "tachycardia")


# signs that do not end the scope of an adjacent cue, forward and backward
_BESIDE = {1: (":", "("), -1: (":", "(", "-")}
_FARTHEST = 25  # findings, cues and signs that a cue reaches over, so that time stays linear in a text's length
# words that may be between a cue and its finding: "no new", "possible old"
_NARROWER = {
    "negated": ("negated", "uncertain", "past", "now"),
    "uncertain": ("uncertain", "past", "now"),
    "asked": ("uncertain", "past"),
    "compared": ("uncertain", "past"),
}


class Mention(NamedTuple):
    """A finding in a statement.

    Attributes:
        concept: its name in the vocabulary.
        status: `PRESENT`, `UNCERTAIN`, `ABSENT` or `PAST`.
        probability: 1 if present, 0 if absent or past.
        words: of the statement, from the first to the last that determined the status.
    """

    concept: str
    status: str
    probability: float
    words: str


class Reading(NamedTuple):
    """Findings in a statement, and whether anything in it was understood."""

    mentions: Tuple[Mention, ...]
    understood: bool


@dataclass
class _Item:
    """A phrase or sign of a statement, from the word `begin` to the word before `end`."""

    begin: int
    end: int
    meaning: Optional[Meaning] = None
    sign: str = ""

    @property
    def concept(self) -> Optional[str]:
        return self.meaning.concept if self.meaning else None

    @property
    def cues(self) -> Tuple[Cue, ...]:
        return self.meaning.cues if self.meaning else ()

    def means(self, *kinds: str) -> bool:
        return self.meaning is not None and not self.meaning.kinds.isdisjoint(kinds)


def read_statement(statement: str, vocabulary: Vocabulary, rates: bool = True) -> Reading:
    """Return the findings in a statement with their status, in time linear in its length.

    Args:
        rates: whether numbers such as "rate 45" count as slow, normal or fast.
    """
    statement = clean(statement)
    words = vocabulary.words(statement)
    items = _items(words, vocabulary)
    if rates and "bradycardia" in vocabulary.concepts:
        items = _with_rates(items, words, statement)
    cues = _cues_of_items(items, words)
    mentions = []
    for number, item in enumerate(items):
        if item.concept is not None:
            stays = vocabulary.concepts[item.concept].stays
            status, probability, deciding = _status(cues[number], stays)
            ends = [item, *(items[at] for at in deciding)]
            first, last = min(one.begin for one in ends), max(one.end for one in ends)
            text = statement[words[first].start : words[last - 1].end]
            mentions.append(Mention(item.concept, status, probability, text))
    understood = bool(mentions) or any(item.means("nothing", "compared") for item in items)
    return Reading(tuple(mentions), understood)


def _items(words: List[Word], vocabulary: Vocabulary) -> List[_Item]:
    items, at = [], 0
    while at < len(words):
        starts = words[at].text in vocabulary.phrases.begin_with
        match = vocabulary.phrases.longest(words, at, _SKIPPED) if starts else None
        if match is not None:
            items.append(_Item(at, match[1], match[0]))
            at = match[1]
            continue
        if not words[at].text[0].isalnum():
            items.append(_Item(at, at + 1, sign=words[at].text))
        at += 1
    return items


def _with_rates(items: List[_Item], words: List[Word], statement: str) -> List[_Item]:
    """Return the items, and one for each heart rate that is given as a number."""
    found = []
    for match in _RATE.finditer(statement.lower()):
        kind = next(name for name in ("after", "before", "at") if match[name])
        rate = int(match[kind])
        if 20 <= rate <= 350:
            covered = [at for at, word in enumerate(words) if word.end > match.start(kind) and word.start < match.end()]
            concept = _BY_RATE[(rate >= SLOW) + (rate > FAST)]
            if covered:
                found.append(_Item(covered[0], covered[-1] + 1, Meaning(concept)))
    return sorted([*items, *found], key=lambda item: item.begin) if found else items


_Cues = Dict[str, Tuple[float, int]]  # meaning of a cue -> probability, number of its item


def _cues_of_items(items: List[_Item], words: List[Word]) -> List[_Cues]:
    """Return the cues that apply to each item."""
    found: List[_Cues] = [{} for _ in items]
    over_all: Set[str] = set()  # cues that apply to the end of the statement
    for number, item in enumerate(items):
        for cue in item.cues:
            if cue.means in ("end", "list", "nothing", *over_all):
                continue
            if cue.reach == "statement":
                over_all.add(cue.means)
            ahead = list(_reached(items, number, 1, cue)) if cue.before else []
            behind = list(_reached(items, number, -1, cue)) if cue.after else []
            if cue.either:
                ahead, behind = ahead[:1], behind[:1]
                if not (ahead and behind) or items[ahead[0]].concept == items[behind[0]].concept:
                    continue
            if cue.before and not cue.after and not ahead and _is_last(items, words, number):
                behind = list(_reached(items, number, -1, Cue(cue.means, after=True, reach="one"), over_sign=True))
            if cue.after and not cue.before and not behind and _is_first(items, words, number):
                ahead = list(_reached(items, number, 1, Cue(cue.means, before=True, reach="one")))
            for at in (*ahead, *behind):
                known = found[at].get(cue.means)
                if known is None or cue.probability < known[0]:
                    found[at][cue.means] = cue.probability, number
    return found


def _is_last(items: List[_Item], words: List[Word], number: int) -> bool:
    """Return whether no word is between the item and the next sign or the end of the statement."""
    end = items[number].end
    return end == len(words) or not words[end].text[0].isalnum()


def _is_first(items: List[_Item], words: List[Word], number: int) -> bool:
    """Return whether the item is one word or sign, at the start of the statement or right after a sign."""
    begin = items[number].begin
    if items[number].end > begin + 1:
        return False
    return begin == 0 or not words[begin - 1].text[0].isalnum()


def _reached(items: List[_Item], number: int, step: int, cue: Cue, over_sign: bool = False) -> Iterator[int]:
    """Return the numbers of the findings in the scope of an item's cue, on one side of it."""
    count, at = 0, number + step
    while 0 <= at < len(items) and (cue.reach == "statement" or abs(at - number) <= _FARTHEST):
        item = items[at]
        if item.concept is not None:
            yield at
            count += 1
            following = at + step
            if cue.reach == "one" and not (0 <= following < len(items) and _joins(items[following])):
                return
        elif item.sign:
            beside = abs(at - number) == 1 and (over_sign or item.sign in _BESIDE[step])
            if not (beside or _passes_sign(items, at, step, cue)):
                return
        elif cue.reach != "statement" and _stops(item, step, cue, count):
            return
        at += step


def _joins(item: _Item) -> bool:
    return item.sign == "/" or item.means("list")


def _stops(item: _Item, step: int, cue: Cue, count: int) -> bool:
    """Return whether other cues end the scope of a cue, after `count` findings."""
    if item.means("end"):
        return True
    if item.means("list", "nothing"):
        return False
    if step < 0:
        return any(other.after for other in item.cues)
    others = [other for other in item.cues if other.before]
    return bool(others) and not (count == 0 and others[0].means in _NARROWER.get(cue.means, ("uncertain",)))


def _passes_sign(items: List[_Item], at: int, step: int, cue: Cue) -> bool:
    sign = items[at].sign
    if sign in ("/", '"', "'", ".", "*", "&", "+", "[", "]", "<", ">", "=", "#", "%", "°", "º", "_"):
        return True
    if cue.reach == "statement":
        return True
    return sign == "," and step > 0 and cue.means in ("negated", "uncertain") and _list_continues(items, at)


def _list_continues(items: List[_Item], comma: int) -> bool:
    """Return whether a list of findings continues after a comma, up to an "or" before its last finding."""
    for item in items[comma + 1 : comma + 1 + _FARTHEST]:
        if item.means("list") and item.means("uncertain", "negated"):  # or, nor
            return True
        if not (item.concept is not None or item.sign in (",", "/") or item.means("list")):
            return False
    return False


def _status(cues: _Cues, stays: bool) -> Tuple[str, float, List[int]]:
    """Return status, probability, and numbers of the items that determined them."""
    if "negated" in cues:
        return ABSENT, 0.0, [cues["negated"][1]]
    for kind in ("asked", "past", "compared"):
        if kind in cues and "now" not in cues and not (kind == "past" and stays):
            return PAST, 0.0, [cues[kind][1]]
    deciding = [cues["now"][1]] if "now" in cues else []
    if "uncertain" in cues:
        probability, number = cues["uncertain"]
        return UNCERTAIN, probability, [*deciding, number]
    return PRESENT, 1.0, deciding
