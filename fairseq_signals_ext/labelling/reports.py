"""Make labels from reports: the statements of an electrocardiograph or the free text of a cardiologist."""

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.labelling.assertions import Reading, read_statement
from fairseq_signals_ext.labelling.findings import Evidence, label_evidence
from fairseq_signals_ext.labelling.label_sets import LabelSet, read_label_set
from fairseq_signals_ext.labelling.report_words import statements
from fairseq_signals_ext.labelling.vocabulary import CLINICAL, Vocabulary, read_vocabulary

SEMANTICS = ("clinical", "ecg-fm")
_MOST_CACHED, _LONGEST_CACHED = 200_000, 1_000  # size of the cache of texts, longest cached text


class ReportLabeler:
    """Labels reports; each distinct statement is read once.

    Args:
        labels: name of a label set, or a YAML file.
        semantics: "clinical", or "ecg-fm" for labels like those of ECG-FM's training data.
        vocabulary: a YAML file that adds to the clinical vocabulary.
        rates: whether numbers such as "rate 45" count as slow, normal or fast.
        spelling: whether words of six letters and more may have one letter wrong.

    Raises:
        UserError: one of these cannot be used.
    """

    def __init__(
        self,
        labels: Union[str, Path] = "ecg-fm-17",
        semantics: str = "clinical",
        vocabulary: Optional[Union[str, Path]] = None,
        rates: bool = True,
        spelling: bool = True,
    ) -> None:
        self.label_set: LabelSet = read_label_set(labels)
        self.semantics = semantics
        names = _vocabularies(self.label_set, semantics, vocabulary)
        clinical = semantics == "clinical"
        self._vocabulary: Vocabulary = read_vocabulary(names, spelling and clinical)
        self.label_set.check(self._vocabulary)
        self._rates = rates and clinical
        self._read: Dict[str, Reading] = {}
        self._divided: Dict[str, List[str]] = {}

    def reading(self, statement: str) -> Reading:
        """Return the findings of a single statement."""
        known = self._read.get(statement)
        if known is None:
            known = read_statement(statement, self._vocabulary, self._rates)
            _remember(self._read, statement, known)
        return known

    def understood(self, texts: Sequence[str]) -> Tuple[int, List[str]]:
        """Return the number of statements in a report, and the statements that were not understood."""
        parts = [statement for text in texts for statement in self._statements(text)]
        return len(parts), [statement for statement in parts if not self.reading(statement).understood]

    def _statements(self, text: str) -> List[str]:
        known = self._divided.get(text)
        if known is None:
            known = statements(text)
            _remember(self._divided, text, known)
        return known

    def evidence(self, texts: Sequence[str]) -> Dict[str, Evidence]:
        """Return the status of each label that a report mentions; `texts` are its parts, in any order."""
        parts = [self.reading(statement).mentions for text in texts for statement in self._statements(text)]
        mentions = [mention for part in parts for mention in part]
        return label_evidence(mentions, self._vocabulary, self.label_set)


def _remember(known: Dict[str, Any], text: str, value: Any) -> None:
    """Cache a value for a text, unless the text is long; clear the cache if it is full."""
    if len(text) <= _LONGEST_CACHED:
        if len(known) >= _MOST_CACHED:
            known.clear()
        known[text] = value


def _vocabularies(label_set: LabelSet, semantics: str, more: Optional[Union[str, Path]]) -> List[Union[str, Path]]:
    if semantics not in SEMANTICS:
        raise UserError(f"semantics {semantics!r}: give one of {', '.join(SEMANTICS)}")
    if semantics == "clinical":
        return [*CLINICAL, *([] if more is None else [more])]
    if label_set.ecg_fm is None:
        raise UserError(f"label set {label_set.name!r}: has no ecg-fm semantics; leave --semantics out")
    if more is not None:
        raise UserError("--vocabulary: goes with clinical semantics only; leave it or --semantics ecg-fm out")
    return [label_set.ecg_fm]


def label_texts(
    texts: Sequence[str],
    labels: Union[str, Path] = "ecg-fm-17",
    semantics: str = "clinical",
    vocabulary: Optional[Union[str, Path]] = None,
) -> List[Dict[str, float]]:
    """Return the labels of texts, each a complete report or a single statement.

    Args:
        labels, semantics, vocabulary: see `ReportLabeler`.

    Returns:
        for each text, label -> 1.0 present, 0.5 uncertain, 0.0 absent (negated, in the past, or not mentioned).

    Raises:
        UserError: the label set or the vocabulary cannot be used, or a text is no text.
    """
    labeler = ReportLabeler(labels, semantics, vocabulary)
    found = []
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"text {number}: is {type(text).__name__}, not text; give texts")
        evidence = labeler.evidence([text])
        found.append({name: evidence[name].value if name in evidence else 0.0 for name in labeler.label_set.names})
    return found
