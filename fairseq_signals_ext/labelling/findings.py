"""Combine the findings of a report's statements; the order of statements does not matter."""

from typing import Dict, Iterable, List, NamedTuple, Optional, Set, Tuple

from fairseq_signals_ext.labelling.assertions import ABSENT, PAST, PRESENT, UNCERTAIN, Mention
from fairseq_signals_ext.labelling.label_sets import Label, LabelSet
from fairseq_signals_ext.labelling.vocabulary import Vocabulary

_SUGGESTED = 0.5  # probability of a finding that another one suggests


class Evidence(NamedTuple):
    """Status of a label in a report.

    Attributes:
        status: present, uncertain, absent or past.
        probability: 1 if present, 0 if absent or past.
        words: words of the report that determined it.
    """

    status: str
    probability: float
    words: str

    @property
    def value(self) -> float:
        """1.0 present, 0.5 uncertain, 0.0 absent or past."""
        return {PRESENT: 1.0, UNCERTAIN: 0.5}.get(self.status, 0.0)


_Found = Dict[str, Evidence]
_RANK = {PRESENT: 3, UNCERTAIN: 2, ABSENT: 1, PAST: 0}


def label_evidence(mentions: Iterable[Mention], vocabulary: Vocabulary, label_set: LabelSet) -> Dict[str, Evidence]:
    """Return the status of each label that the report mentions.

    Args:
        mentions: of all statements of the report.
    """
    found = _findings(mentions, vocabulary)
    if not found:
        return {}
    labels = {label.name: _of_label(label, found) for label in label_set.labels}
    return {name: evidence for name, evidence in labels.items() if evidence is not None}


def _of_label(label: Label, found: _Found) -> Optional[Evidence]:
    best = max((found[name] for name in label.concepts if name in found), key=_strength, default=None)
    if best is None or best.value == 0:
        return best
    against = max((found[name] for name in label.unless if name in found), key=_strength, default=None)
    if against is None or against.value == 0:
        return best
    if against.value == 1:
        return Evidence(ABSENT, 0.0, against.words)
    return best._replace(status=UNCERTAIN, probability=min(best.probability, 1 - against.probability))


def _strength(evidence: Evidence) -> Tuple[int, float, str]:
    # the words make the choice independent of the order of the statements
    return _RANK[evidence.status], evidence.probability, evidence.words


def _findings(mentions: Iterable[Mention], vocabulary: Vocabulary) -> _Found:
    found: _Found = {}
    for mention in mentions:
        evidence = Evidence(mention.status, mention.probability, mention.words)
        # a negated finding does not negate its parents: without LBBB there may be another block
        names = vocabulary.is_a(mention.concept) if evidence.value else (mention.concept,)
        _add(found, names, evidence)
    denied = {name for name, evidence in found.items() if evidence.status == ABSENT}
    for parts, whole in vocabulary.compounds:
        if all(part in found and found[part].value for part in parts):
            _add(found, vocabulary.is_a(whole), _joint([found[part] for part in parts]))
    _add_suggested(found, vocabulary, denied)
    return found


def _add(found: _Found, names: Iterable[str], evidence: Evidence) -> None:
    for name in names:
        known = found.get(name)
        if known is None or _strength(evidence) > _strength(known):
            found[name] = evidence


def _joint(parts: List[Evidence]) -> Evidence:
    weakest = min(parts, key=_strength)
    return weakest._replace(words=" + ".join(sorted({part.words for part in parts})))


def _add_suggested(found: _Found, vocabulary: Vocabulary, denied: Set[str]) -> None:
    """Add suggested findings that are neither negated nor excluded."""
    stated = [(name, evidence) for name, evidence in found.items() if evidence.value]
    excluded = {name for one, evidence in stated if evidence.value == 1 for name in vocabulary.concepts[one].excludes}
    waiting = [(name, evidence) for name, evidence in stated if vocabulary.concepts[name].suggests]
    while waiting:
        name, evidence = waiting.pop()
        for suggested in vocabulary.concepts[name].suggests:
            possible = Evidence(UNCERTAIN, min(evidence.probability, _SUGGESTED), evidence.words)
            names = [one for one in vocabulary.is_a(suggested) if one not in excluded and one not in denied]
            _add(found, names, possible)
            waiting += [(one, possible) for one in names if vocabulary.concepts[one].suggests]
