"""The score of the PhysioNet/Computing in Cardiology Challenge 2021, as its organisers define it.

Reyna et al. 2021, "Will two do? Varying dimensions in electrocardiography", doi:10.23919/CinC53138.2021.9662687; the
public scorer is physionetchallenges/evaluation-2021. The score weighs mistakes: an output that leads to a similar
treatment as the label gets part of the credit, by a matrix of classes. Correct outputs score 1, and "normal" for all
recordings scores 0.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Iterable, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation.metrics import thresholds_of
from fairseq_signals_ext.evaluation.predictions import Predictions
from fairseq_signals_ext.evaluation.thresholds import called

if TYPE_CHECKING:
    import pandas as pd

# sinus rhythm: SNOMED CT code and the Challenge's abbreviation
_NORMAL = {"426783006", "NSR"}


class Score(NamedTuple):
    """The Challenge score of predictions.

    Attributes:
        score: NaN if undefined: no item is scored, or correct outputs score no more than "normal" for all.
        scored: number of items.
        unknown: number of items left out because a scored label is unknown.
        missing: classes left out because no label stands for them.
    """

    score: float
    scored: int
    unknown: int
    missing: Tuple[str, ...]


def load_weights(path: Union[str, Path]) -> Tuple[Tuple[str, ...], np.ndarray]:
    """Read the Challenge's weights: its `weights.csv`, or `weights_abbreviations.csv`.

    Returns:
        Classes, each with its equivalent SNOMED CT codes (or abbreviations) joined by `|`; and the matrix, float64,
        classes x classes: the credit for an output (column) if the label (row) is true.

    Raises:
        UserError: the file has another content.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, index_col=0, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read ({reason}); give the Challenge's weights.csv") from error
    classes = tuple(str(name).strip() for name in table.columns)
    if not classes or classes != tuple(str(name).strip() for name in table.index):
        raise UserError(f"{path}: rows and columns are not the same classes; give the Challenge's weights.csv")
    return classes, _numbers(path, table)


def _numbers(path: Union[str, Path], table: "pd.DataFrame") -> np.ndarray:
    try:
        matrix = table.to_numpy().astype(np.float64)
    except ValueError as error:
        raise UserError(f"{path}: {error}; give the Challenge's weights.csv") from error
    if not np.isfinite(matrix).all():
        row, column = np.argwhere(~np.isfinite(matrix))[0]
        place = f"row {table.index[row]}, column {table.columns[column]}"
        raise UserError(f"{path}: {place}: {matrix[row, column]:g} is not a weight; give the Challenge's weights.csv")
    return matrix


def normal_class(classes: Sequence[str]) -> int:
    """Position of sinus rhythm among the classes.

    Raises:
        UserError: it is not there.
    """
    for position, name in enumerate(classes):
        if _NORMAL & set(name.split("|")):
            return position
    raise UserError(f"no class {' or '.join(sorted(_NORMAL))} (sinus rhythm): without it the score is not defined")


def match_labels(
    label_names: Sequence[str], label_codes: Sequence[Iterable[str]], classes: Sequence[str]
) -> List[List[int]]:
    """Which labels stand for each class: those that share a code or, in their name, an abbreviation with it.

    Args:
        label_names: L names, also such as `CRBBB|RBBB`.
        label_codes: the codes of each; may be empty.
        classes: from `load_weights`.

    Returns:
        For each class the positions of its labels; none if no label stands for it.
    """
    names_of_classes = [
        {name.strip(), *(part.strip() for part in name.split("|")), *(str(code).strip() for code in codes)}
        for name, codes in zip(label_names, label_codes)
    ]
    return [
        [position for position, names in enumerate(names_of_classes) if names & set(name.split("|"))]
        for name in classes
    ]


def check_scored(path: Union[str, Path], label_names: Sequence[str], label_codes: Sequence[Iterable[str]]) -> None:
    """Raise a `UserError` if a file gives no score for these labels: not a weights.csv, or none is sinus rhythm."""
    classes, _ = load_weights(path)
    members = match_labels(label_names, label_codes, classes)
    normal_class([name for name, labels in zip(classes, members) if labels])


def challenge_score(weights: np.ndarray, labels: np.ndarray, outputs: np.ndarray, normal: int) -> float:
    """The Challenge score.

    A recording adds 1 / (number of classes that are labelled or predicted) to each pair of a labelled class and a
    predicted class; these pairs are weighted. The sum is scaled so that outputs equal to the labels score 1, and the
    normal class for every recording scores 0.

    Args:
        weights: classes x classes.
        labels, outputs: bool, N x classes.
        normal: position of the normal class.

    Returns:
        The score, at most 1 and possibly below 0; NaN if these two score the same (the public scorer returns 0).
    """
    all_normal = np.zeros_like(labels, dtype=bool)
    all_normal[:, normal] = True
    observed, right, inactive = (_credit(weights, labels, given) for given in (outputs, labels, all_normal))
    return (observed - inactive) / (right - inactive) if right != inactive else float("nan")


def _credit(weights: np.ndarray, labels: np.ndarray, outputs: np.ndarray) -> float:
    named = np.maximum((labels | outputs).sum(axis=1, keepdims=True), 1)
    return float((weights * ((labels / named).T @ outputs.astype(np.float64))).sum())


def score_predictions(
    predictions: Predictions,
    label_codes: Sequence[Iterable[str]],
    weights_file: Union[str, Path],
    thresholds: Optional[np.ndarray] = None,
) -> Score:
    """The Challenge score of predictions, for the classes that their labels stand for.

    A class is labelled (predicted) if any of its labels is. With missing classes the score cannot be compared with
    published ones.

    Args:
        predictions: of recordings.
        label_codes: of each label; see `match_labels`.
        weights_file: see `load_weights`.
        thresholds: of the labels (L); default 0.5.

    Raises:
        UserError: the file is not a matrix of weights, or no label stands for sinus rhythm.
    """
    predictions.check()
    classes, weights = load_weights(weights_file)
    members = match_labels(predictions.label_names, label_codes, classes)
    present = [position for position, labels in enumerate(members) if labels]
    normal = normal_class([classes[position] for position in present])
    taken = sorted({label for labels in members for label in labels})
    known = ~np.isnan(predictions.targets[:, taken]).any(axis=1)
    labelled = predictions.targets[known] == 1
    found = called(predictions.scores[known], thresholds_of(predictions, thresholds))
    labels, outputs = (
        np.stack([values[:, members[position]].any(axis=1) for position in present], axis=1)
        for values in (labelled, found)
    )
    score = challenge_score(weights[np.ix_(present, present)], labels, outputs, normal)
    missing = tuple(name for name, labels_of in zip(classes, members) if not labels_of)
    return Score(score, int(known.sum()), int((~known).sum()), missing)
