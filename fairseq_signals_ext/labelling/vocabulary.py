"""The vocabulary of reports: phrases for findings, and cues that negate a finding or make it uncertain.

It is in YAML files that a clinician can read and change; `docs/labels_from_reports.md` describes them.
"""

import itertools
import re
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Dict, FrozenSet, Iterator, List, Optional, Sequence, Tuple, Union

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.labelling.report_words import Phrases, Spelling, Word, words_of
from fairseq_signals_ext.labelling.yaml_places import Node, read_yaml

_FOLDER = Path(__file__).parent / "vocabulary"
CLINICAL = ("english", "german")

MEANINGS = ("negated", "uncertain", "past", "asked", "compared", "now", "end", "list", "nothing")
REACHES = ("clause", "one", "statement")
_PARTS = re.compile(r"\(([^()\[\]]*)\)|\[([^()\[\]]*)\]|([^()\[\]]+)")
_MOST_VARIANTS = 20_000


@dataclass(frozen=True)
class Cue:
    """Words before or after a finding that modify it.

    Attributes:
        means: one of `MEANINGS`.
        before, after: whether the words are before their findings, after them, or both.
        reach: "clause", "one" (the nearest finding, and those joined to it by "and") or "statement" (all to its end).
        probability: of the finding, for "uncertain".
    """

    means: str
    before: bool = False
    after: bool = False
    reach: str = "clause"
    probability: float = 1.0

    @property
    def either(self) -> bool:
        """Whether it is a word for an alternative of two findings, such as "or"."""
        return self.before and self.after and self.reach == "one"


@dataclass
class Concept:
    """A finding.

    Attributes:
        parents: more general findings.
        suggests: findings that it makes possible, unless another finding excludes them.
        excludes: findings that are not suggested by others if this one is present.
        stays: whether it is still present if it is in the past, such as an old infarct.
        place: file and line.
    """

    name: str
    place: str
    parents: List[str] = field(default_factory=list)
    suggests: List[str] = field(default_factory=list)
    excludes: List[str] = field(default_factory=list)
    stays: bool = False


@dataclass(frozen=True)
class Meaning:
    """Meaning of a phrase: a finding, or cues."""

    concept: Optional[str] = None
    cues: Tuple[Cue, ...] = ()

    @cached_property
    def kinds(self) -> FrozenSet[str]:
        """Meanings of its cues."""
        return frozenset(cue.means for cue in self.cues)


class Vocabulary:
    """Findings and cues of one or several files.

    Attributes:
        concepts: by name.
        compounds: combinations of findings that make another: (these, that one).
        phrases: sequences of words -> `Meaning`.
    """

    def __init__(self) -> None:
        self.concepts: Dict[str, Concept] = {}
        self.compounds: List[Tuple[Tuple[str, ...], str]] = []
        self.phrases = Phrases()
        self._rewritten = Phrases()
        self._spelling = Spelling(frozenset(), False)
        self._joined = True
        self._ancestors: Dict[str, FrozenSet[str]] = {}

    def words(self, statement: str) -> List[Word]:
        """Return the words of a statement in the spelling of the phrases."""
        spelled = self._spelling
        words = [Word(spelled(text), start, end) for text, start, end in words_of(statement, self._joined)]
        # twice: a misspelled word may be part of a spelling variant, such as "1st degee"
        return rewritten(rewritten(words, self._rewritten), self._rewritten)

    def is_a(self, name: str) -> FrozenSet[str]:
        """Return the finding and all more general ones."""
        if name not in self._ancestors:
            parents = [self.is_a(parent) for parent in self.concepts[name].parents]
            self._ancestors[name] = frozenset([name]).union(*parents)
        return self._ancestors[name]


def rewritten(words: List[Word], phrases: Phrases) -> List[Word]:
    """Return the words with all spelling variants replaced."""
    if phrases.begin_with.isdisjoint([word.text for word in words]):
        return words
    found: List[Word] = []
    at = 0
    while at < len(words):
        if words[at].text not in phrases.begin_with:
            found.append(words[at])
            at += 1
            continue
        match = phrases.longest(words, at)
        if match is None:
            found.append(words[at])
            at += 1
            continue
        texts, after = match
        found += [Word(text, words[at].start, words[after - 1].end) for text in texts]
        at = after
    return found


def read_vocabulary(names: Sequence[Union[str, Path]] = CLINICAL, spelling: bool = True) -> Vocabulary:
    """Read a vocabulary from files: names of files in this package, or paths.

    Args:
        spelling: whether words of six letters and more may have one letter wrong, and abbreviations may be joined to
            words.

    Raises:
        UserError: a file cannot be read, or contradicts itself or another; the message has file and line.
    """
    return _read(tuple(str(name) for name in names), spelling)


@lru_cache(maxsize=8)
def _read(names: Tuple[str, ...], spelling: bool) -> Vocabulary:
    builder = _Builder()
    files = [read_yaml(_path(name)) for name in names]
    for file in files:
        file.only("words", "concepts", "compounds", "cues")
        builder.add_words(file)
    for file in files:
        builder.add_concepts(file)
        builder.add_cues(file)
    return builder.finished(spelling)


def _path(name: str) -> Path:
    shipped = _FOLDER / f"{name}.yaml"
    return shipped if shipped.is_file() else Path(name)


class _Builder:
    """Combines the files of a vocabulary, and checks them."""

    def __init__(self) -> None:
        self.vocabulary = Vocabulary()
        self.ways: Dict[Tuple[str, ...], Tuple[str, ...]] = {}  # way of writing -> words to use
        self.rewriting = Phrases()
        self.meanings: Dict[Tuple[str, ...], Tuple[Meaning, str]] = {}
        self.references: List[Tuple[str, str]] = []  # name of a finding, place

    def add_words(self, file: Node) -> None:
        for word, ways in file.entries("words"):
            target = tuple(one.text for one in words_of(word))
            for text, place in [(word, ways.place), *((way.text, way.place) for way in ways.texts())]:
                way = tuple(one.text for one in words_of(text))
                other = self.ways.setdefault(way, target)
                if other != target:
                    raise UserError(f"{place}: {text!r} already stands for {' '.join(other)!r}; delete one")
                self.rewriting.add(way, target)

    def add_concepts(self, file: Node) -> None:
        for name, node in file.entries("concepts"):
            node.only("phrases", "parents", "suggests", "excludes", "stays")
            concept = self.vocabulary.concepts.setdefault(name, Concept(name, node.place))
            for key in ("parents", "suggests", "excludes"):
                named = node.texts(key)
                getattr(concept, key).extend(one.text for one in named)
                self.references += [(one.text, one.place) for one in named]
            concept.stays |= node.truth("stays")
            for phrase in node.texts("phrases"):
                self._add_phrases(phrase, Meaning(concept=name))
        for compound in file.items("compounds"):
            compound.only("of", "gives")
            parts, whole = compound.texts("of"), compound.required_text("gives")
            self.references += [(one.text, one.place) for one in (*parts, whole)]
            self.vocabulary.compounds.append((tuple(one.text for one in parts), whole.text))

    def add_cues(self, file: Node) -> None:
        for node in file.items("cues"):
            node.only("means", "before", "after", "reach", "probability", "phrases")
            means, reach = node.choice("means", MEANINGS), node.choice("reach", REACHES, "clause")
            probability = node.number("probability", 0.5 if means == "uncertain" else 1.0, 0.0, 1.0)
            cue = Cue(means, node.truth("before"), node.truth("after"), reach, probability)
            for phrase in node.texts("phrases"):
                self._add_phrases(phrase, Meaning(cues=(cue,)))

    def _add_phrases(self, phrase: Node, meaning: Meaning) -> None:
        for variant in variants(phrase):
            words = tuple(word.text for word in rewritten(rewritten(words_of(variant), self.rewriting), self.rewriting))
            if not words:
                raise UserError(f"{phrase.place}: a phrase without words; delete it")
            known, place = self.meanings.get(words, (Meaning(), ""))
            if place and (known.concept != meaning.concept or (meaning.concept and known.cues)):
                raise UserError(
                    f"{phrase.place}: {' '.join(words)!r} already stands for {known.concept or known.cues[0].means}"
                    f" ({place}); delete one"
                )
            cues = (*known.cues, *(cue for cue in meaning.cues if cue not in known.cues))
            self.meanings[words] = Meaning(meaning.concept, cues), place or phrase.place

    def finished(self, spelling: bool) -> Vocabulary:
        vocabulary = self.vocabulary
        for name, place in self.references:
            if name not in vocabulary.concepts:
                raise UserError(f"{place}: no finding {name!r}; write one of those under concepts")
        for name in vocabulary.concepts:
            self._check_cycle(name)
        for words, (meaning, _) in self.meanings.items():
            vocabulary.phrases.add(words, meaning)
        vocabulary._rewritten = self.rewriting
        known = {word for words in self.meanings for word in words}
        known.update(word for way, target in self.ways.items() for word in (*way, *target))
        vocabulary._spelling, vocabulary._joined = Spelling(frozenset(known), spelling), spelling
        return vocabulary

    def _check_cycle(self, name: str) -> None:
        """Raise a `UserError` if a finding is its own ancestor, by parents and suggestions."""
        concepts, above, seen = self.vocabulary.concepts, [name], set()
        while above:
            concept = concepts[above.pop()]
            for other in (*concept.parents, *concept.suggests):
                if other == name:
                    raise UserError(f"{concepts[name].place}: {name!r} is above itself, through {concept.name!r}")
                if other not in seen:
                    seen.add(other)
                    above.append(other)


def variants(phrase: Node) -> Iterator[str]:
    """Return all phrases for a pattern with (a|b) and [a].

    Raises:
        UserError: brackets do not match, or there are too many phrases.
    """
    choices, end, count = [], 0, 1
    for part in _PARTS.finditer(phrase.text):
        if part.start() != end:
            break
        end = part.end()
        options = [part[3]] if part[3] else (part[1] or part[2] or "").split("|")
        choices.append([*options, ""] if part[2] is not None else options)
        count *= len(choices[-1])
    if end != len(phrase.text) or count > _MOST_VARIANTS:
        what = "brackets do not match" if end != len(phrase.text) else f"stands for {count} phrases"
        raise UserError(f"{phrase.place}: {phrase.text!r}: {what}; write it as several phrases")
    yield from (" ".join(parts) for parts in itertools.product(*choices))
