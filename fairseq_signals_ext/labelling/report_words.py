"""Split reports into statements, and statements into words with normalised spelling."""

import re
import unicodedata
from typing import Container, Dict, FrozenSet, Iterable, List, Mapping, NamedTuple, Optional, Set

_CONTROLS = {code: " " for code in (*range(32), *range(127, 160), 0x200B, 0x200E, 0x200F, 0xFEFF) if code != 10}
_SAME = str.maketrans({"’": "'", "´": "'", "–": "-", "—": "-", "−": "-"})
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"})
# abbreviations: a full stop after one does not end a statement
_SHORT = frozenset(
    {
        *("vent", "ventr", "intraventr", "intraventrik", "supraven", "supraventr", "supraventrik", "interv", "atr"),
        *("poss", "prob", "moegl", "mögl", "wahrsch", "fragl", "evtl", "ggf", "approx", "ca", "vs", "incl", "bzw"),
        *("abn", "abnrm", "abnorm", "unbest", "neg", "pos", "pathol", "path", "unspez", "nonspec", "nonsp", "max"),
        *("li", "re", "ant", "inf", "lat", "sept", "dev", "resp", "hx", "pt", "no", "nr", "dr", "hr", "st", "min"),
        *("kompl", "inkompl", "vollst", "unvollst", "compl", "comp", "incompl", "incomp", "inc", "hypertr", "rel"),
        *("linksventr", "rechtsventr", "tach", "brady", "fib", "flutt", "extrasyst", "prem", "occ", "freq", "frequ"),
        *("cond", "art", "alt", "v", "a", "t", "z", "av"),
    }
)
_ENDS = re.compile(
    r"\n|;|\*{2,}|\.{2,}|…+|(?:^|(?<=\s))/(?=\s)|-{3,}|\|"
    r"|[!]+|[。；，]|\.(?=\s)|(?<=[a-z]{3})\.(?=[A-Z][a-z])"
)
_WORD_BEFORE = re.compile(r"([^\s(]+)$")
_LETTERS = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")
_GRADE_AFTER = re.compile(r"\.\s*(?:grad|degree|°|deg\b)", re.IGNORECASE)
_TOKEN = re.compile(
    r"\((?:e?s|e?n|r|al)\)"  # plural in brackets: no word
    r"|\d+:\d+"
    r"|(?:[^\W\d_]\.){2,}(?![^\W\d_]{2})[^\W\d_]?"  # letters with full stops: A.V., v.a.
    r"|[^\W_]+(?:'[^\W_]*)?"
    r"|[º°]|[\u4e00-\u9fff]"
    r"|[^\w\s]"
)
# abbreviations in capitals that are joined to a word: AAIpacing, iRBBB
_JOINED = re.compile(r"(?<=[a-z])(?=[A-Z]{3,})|(?<=[A-Z]{3})(?=[a-z]{2,})")
_SHORTEST_TOLERATED, _LONGEST_WORD = 6, 40
_MOST_WORDS = 100_000  # size of the cache of spellings
_MOST_SIGNS = 3  # consecutive signs between two words of a phrase
# endings of plurals and of German adjectives, each with the least number of letters before it
_ENDINGS = (("s", 2), ("'s", 2), ("es", 4), ("e", 4), ("en", 4), ("er", 4), ("em", 4), ("n", 4))


class Word(NamedTuple):
    """A word or sign of a statement: normalised, with its start and end in the statement."""

    text: str
    start: int
    end: int


def clean(text: str) -> str:
    """Return the text with control characters except line ends replaced by spaces."""
    return text if text.isprintable() else text.translate(_CONTROLS)


def statements(text: str) -> List[str]:
    """Return the statements of a text, separated by line ends, semicolons and full stops that end a sentence."""
    text = clean(text).rstrip()
    found, begin = [], 0
    for end in _ENDS.finditer(text):
        if end[0] == "." and _continues(text, begin, end.start()):
            continue
        found.append(text[begin : end.start()])
        begin = end.end()
    found.append(text[begin:])
    return [" ".join(part.split()) for part in found if any(map(str.isalnum, part))]


def _continues(text: str, begin: int, stop: int) -> bool:
    """Return whether the full stop at `stop` belongs to an abbreviation or an ordinal number."""
    word = _WORD_BEFORE.search(text, max(begin, stop - 20), stop)
    if word is None:
        return False
    before = word[1].lower()
    if before.isdigit() or before in ("i", "ii", "iii"):
        return _GRADE_AFTER.match(text, stop) is not None
    return stop + 1 < len(text) and (before in _SHORT or _LETTERS.fullmatch(before) is not None)


def words_of(statement: str, joined: bool = True) -> List[Word]:
    """Return the words and signs of a statement, without hyphens inside words and plurals in brackets.

    Args:
        joined: whether to separate an abbreviation in capitals from a joined word, such as AAIpacing.
    """
    found = []
    for match in _TOKEN.finditer(statement):
        text, start = match[0], match.start()
        if text[0] == "(" and len(text) > 1:
            continue
        if "." in text and len(text) > 1:
            found.append(Word(even(text.replace(".", "")), start, match.end()))
            continue
        if text == "-" and not _spaced(statement, start):
            continue
        if not joined or not text.isalnum() or text.islower():
            _append(found, text, start)
            continue
        for part in _JOINED.split(text):
            _append(found, part, start)
            start += len(part)
    return found


def _append(found: List[Word], text: str, start: int) -> None:
    evened = even(text)
    if evened:  # a single accent becomes empty
        found.append(Word(evened, start, start + len(text)))


def _spaced(statement: str, at: int) -> bool:
    return 0 < at < len(statement) - 1 and statement[at - 1] == " " and statement[at + 1] == " "


def even(word: str) -> str:
    """Return a word in lower case, with ae for ä, and without other accents."""
    word = word.lower()
    if word.isascii():
        return word
    word = unicodedata.normalize("NFC", word.translate(_SAME)).translate(_UMLAUTS)
    return "".join(letter for letter in unicodedata.normalize("NFKD", word) if not unicodedata.combining(letter))


class Spelling:
    """Maps a word of a report to a word of the vocabulary.

    Args:
        known: the words of the vocabulary.
        tolerant: whether a word of six letters and more may differ by one letter left out, added, changed or swapped
            with its neighbour; the first letter must be correct.
    """

    def __init__(self, known: FrozenSet[str], tolerant: bool = True) -> None:
        self.known = known
        self._near: Dict[str, Set[str]] = {}
        self._found: Dict[str, str] = {}
        for word in known if tolerant else ():
            if len(word) >= _SHORTEST_TOLERATED and word.isalpha():
                for less in _without_one(word):
                    self._near.setdefault(less, set()).add(word)

    def __call__(self, word: str) -> str:
        """Return the known word; the word itself if there is none, or several."""
        if word in self.known:
            return word
        found = self._found.get(word)
        if found is None:
            found = self._search(word)
            if len(word) <= _LONGEST_WORD and len(self._found) < _MOST_WORDS:
                self._found[word] = found
        return found

    def _search(self, word: str) -> str:
        for ending, stem in _ENDINGS:
            if word.endswith(ending) and len(word) >= len(ending) + stem and word[: -len(ending)] in self.known:
                return word[: -len(ending)]
        if len(word) < _SHORTEST_TOLERATED or len(word) > _LONGEST_WORD or not word.isalpha():
            return word
        near = {other for less in _without_one(word) for other in self._near.get(less, ()) if _near(word, other)}
        return near.pop() if len(near) == 1 else word


def _without_one(word: str) -> Iterable[str]:
    """Return the word, and all words with one letter after the first left out."""
    return {word, *(word[:at] + word[at + 1 :] for at in range(1, len(word)))}


def _near(word: str, other: str) -> bool:
    """Return whether two words differ by one letter (added, left out, changed, or swapped with the next)."""
    if word[0] != other[0] or abs(len(word) - len(other)) > 1:
        return False
    first = next((at for at, (a, b) in enumerate(zip(word, other)) if a != b), min(len(word), len(other)))
    if len(word) != len(other):
        longer, shorter = (word, other) if len(word) > len(other) else (other, word)
        return longer[first + 1 :] == shorter[first:]
    if word[first + 1 :] == other[first + 1 :]:
        return True
    return word[first : first + 2] == other[first : first + 2][::-1] and word[first + 2 :] == other[first + 2 :]


class Phrases:
    """Sequences of words with their meanings, as a tree for finding the longest one at a position."""

    def __init__(self, phrases: Optional[Mapping[str, object]] = None) -> None:
        self._root: Dict[str, dict] = {}
        self.begin_with = self._root.keys()
        for phrase, meaning in (phrases or {}).items():
            self.add(phrase.split(), meaning)

    def add(self, words: Iterable[str], meaning: object) -> None:
        """Add a sequence of words with its meaning."""
        node = self._root
        for word in words:
            node = node.setdefault(word, {})
        node[""] = meaning  # type: ignore[assignment]

    def longest(self, words: List[Word], begin: int, skipped: Container[str] = ()) -> Optional[tuple]:
        """Return the meaning of the longest phrase that begins at `begin`, and its end; None if there is none.

        Args:
            skipped: signs that may be between the words of a phrase.
        """
        node, best, at, signs = self._root, None, begin, 0
        while at < len(words):
            text = words[at].text
            following = node.get(text)
            at += 1
            if following is None:
                signs += 1
                if text in skipped and at - 1 > begin and signs <= _MOST_SIGNS:
                    continue
                break
            node, signs = following, 0
            if "" in node:
                best = node[""], at
        return best
