"""Read sets of labels for reports from YAML files: each label with its findings."""

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Tuple, Union

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.labelling.vocabulary import Vocabulary
from fairseq_signals_ext.labelling.yaml_places import read_yaml

_FOLDER = Path(__file__).parent / "label_sets"


@dataclass(frozen=True)
class Label:
    """A label.

    Attributes:
        name: of the label.
        concepts: findings; any of them makes the label positive.
        unless: findings; any of them makes it negative.
        places: file and line of each of `concepts` and `unless`.
    """

    name: str
    concepts: Tuple[str, ...]
    unless: Tuple[str, ...]
    places: Tuple[str, ...]


@dataclass(frozen=True)
class LabelSet:
    """Labels for reports.

    Attributes:
        name: of the set, or of its file.
        description: in a line.
        labels: in order.
        ecg_fm: name of the vocabulary of the "ecg-fm" semantics; None if the set has none.
    """

    name: str
    description: str
    labels: Tuple[Label, ...]
    ecg_fm: Optional[str] = None

    @property
    def names(self) -> List[str]:
        """Of the labels."""
        return [label.name for label in self.labels]

    def check(self, vocabulary: Vocabulary) -> None:
        """Raise a `UserError` if a label has a finding that is not in the vocabulary."""
        for label in self.labels:
            for concept, place in zip((*label.concepts, *label.unless), label.places):
                if concept not in vocabulary.concepts:
                    raise UserError(f"{place}: no finding {concept!r} in the vocabulary; correct the name")


def shipped_label_sets() -> List[str]:
    """Return the names of the sets in this package."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def read_label_set(name: Union[str, Path]) -> LabelSet:
    """Return the label set of this name, or read it from a YAML file.

    Raises:
        UserError: no such set, or a file that is malformed (with the line).
    """
    shipped = str(name) in shipped_label_sets()
    path = _FOLDER / f"{name}.yaml" if shipped else Path(name)
    if not path.is_file():
        known = ", ".join(shipped_label_sets())
        raise UserError(f"label set {str(name)!r}: no such file; give a YAML file, or one of {known}")
    file = read_yaml(path)
    file.only("description", "labels", "ecg_fm")
    labels = []
    for label, node in file.entries("labels"):
        if node.is_list:
            concepts, unless = node.texts(), []
        else:
            node.only("of", "unless")
            concepts, unless = node.texts("of"), node.texts("unless")
        if not concepts:
            raise UserError(f"{node.place}: label {label!r} is of no finding; name one")
        named = [*concepts, *unless]
        places = tuple(one.place for one in named)
        labels.append(Label(label, tuple(one.text for one in concepts), tuple(one.text for one in unless), places))
    if not labels:
        raise UserError(f"{path}: no labels; write them under labels, each with its findings")
    text = {key: node.text for key, node in file.entries("") if key in ("description", "ecg_fm")}
    return LabelSet(str(name), text.get("description", ""), tuple(labels), text.get("ecg_fm"))
