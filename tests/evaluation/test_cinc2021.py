"""The Challenge score: worked out by hand, and by the public definition written out, on the real matrix and diagnoses.

The definition (evaluate_model.py of physionetchallenges/evaluation-2021, `compute_modified_confusion_matrix` and
`compute_challenge_metric`), in words: a matrix A starts at 0; for each recording, with n the number of classes that are
labelled or put out, or 1 if there are none, 1 / n is added to A[j, k] for each labelled class j and each class k put
out. The sum of weights times A is the observed score. It is had again for outputs that equal the labels ("correct") and
for those that are the normal class alone ("inactive"); the result is (observed - inactive) / (correct - inactive).
"""

import numpy as np
import pandas as pd
import pytest
from made_up_predictions import predictions_of

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation.cinc2021 import (
    challenge_score,
    load_weights,
    match_labels,
    normal_class,
    score_predictions,
)


def defined_score(weights, labels, outputs):
    """The sum of weights times A, recording by recording, as in the definition."""
    total = np.zeros_like(weights)
    for label, output in zip(labels, outputs):
        named = max(sum(bool(a or b) for a, b in zip(label, output)), 1)
        for j in range(len(weights)):
            for k in range(len(weights)):
                if label[j] and output[k]:
                    total[j, k] += 1 / named
    return sum(weights[j, k] * total[j, k] for j in range(len(weights)) for k in range(len(weights)))


def defined_challenge_score(weights, labels, outputs, normal):
    inactive = [[k == normal for k in range(len(weights))] for _ in labels]
    lowest, highest = (defined_score(weights, labels, given) for given in (inactive, labels))
    return (defined_score(weights, labels, outputs) - lowest) / (highest - lowest)


@pytest.fixture(scope="module")
def scoring(ecg_data):
    return ecg_data / "cinc2021" / "scoring"


@pytest.fixture(scope="module")
def real(ecg_data, scoring):
    """Weights, and labels of all recordings there are, from their #Dx lines: weights, recordings x classes, normal."""
    classes, weights = load_weights(scoring / "weights.csv")
    rows = []
    for header in sorted((ecg_data / "cinc2021").glob("*/*.hea")):
        (line,) = (text for text in header.read_text().splitlines() if text.replace(" ", "").startswith("#Dx:"))
        codes = {code.strip() for code in line.split(":")[1].split(",")}
        rows.append([bool(codes & set(name.split("|"))) for name in classes])
    labels = np.array(rows)
    assert len(labels) > 100 and (labels.sum(axis=1) > 1).sum() > 20 and (labels.sum(axis=1) == 0).any()
    return weights, labels, normal_class(classes)


def test_by_hand():
    # Classes A, B and N (normal); rows are labels, columns outputs, and the matrix is not symmetric.
    # Recording 1 has A; A and B are put out: n = 2, credit (AA 1 + AB 1/2) / 2 = 3/4; perfect: 1; normal: AN 0.
    # Recording 2 has B and N; N is put out: n = 2, credit (BN 1/4 + NN 1) / 2 = 5/8; perfect: n = 2, credit
    # (BB 1 + BN 1/4 + NB 1/2 + NN 1) / 2 = 11/8; normal: as put out, 5/8.
    # Observed 11/8, correct 19/8, inactive 5/8: (11/8 - 5/8) / (19/8 - 5/8) = 3/7.
    weights = np.array([[1, 1 / 2, 0], [0, 1, 1 / 4], [0, 1 / 2, 1]])
    labels, outputs = np.array([[1, 0, 0], [0, 1, 1]], bool), np.array([[1, 1, 0], [0, 0, 1]], bool)
    assert challenge_score(weights, labels, outputs, normal=2) == pytest.approx(3 / 7, rel=1e-15)
    assert defined_challenge_score(weights, labels, outputs, normal=2) == pytest.approx(3 / 7, rel=1e-15)


def test_right_answers_score_1_and_normal_for_all_scores_0(real):
    # both follow from the definition: observed is then the correct, or the inactive, score
    weights, labels, normal = real
    assert challenge_score(weights, labels, labels, normal) == 1
    inactive = np.zeros_like(labels)
    inactive[:, normal] = True
    assert challenge_score(weights, labels, inactive, normal) == 0


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5, 0.0, 1.0])
def test_random_outputs_score_as_defined(real, rate):
    # expected: the definition written out as loops over recordings and classes, above
    weights, labels, normal = real
    outputs = np.random.default_rng(0).random(labels.shape) < rate
    expected = defined_challenge_score(weights, labels, outputs, normal)
    assert challenge_score(weights, labels, outputs, normal) == pytest.approx(expected, rel=1e-12)
    assert expected < 1


@pytest.mark.parametrize("wrong", [0.05, 0.3])
def test_labels_with_mistakes_score_as_defined(real, wrong):
    weights, labels, normal = real
    outputs = labels ^ ((np.random.default_rng(1).random(labels.shape) < wrong) & (np.arange(labels.shape[1]) % 2 == 0))
    expected = defined_challenge_score(weights, labels, outputs, normal)
    assert challenge_score(weights, labels, outputs, normal) == pytest.approx(expected, rel=1e-12)


def test_undefined_where_normal_is_right():
    labels = np.array([[False, True]] * 3)
    assert np.isnan(challenge_score(np.eye(2), labels, ~labels, normal=1))


def test_both_matrices_are_the_same_in_the_same_order(scoring):
    codes, weights = load_weights(scoring / "weights.csv")
    abbreviations, same = load_weights(scoring / "weights_abbreviations.csv")
    np.testing.assert_array_equal(weights, same)
    assert weights.shape == (26, 26) and (np.diag(weights) == 1).all()
    names = pd.read_csv(scoring / "dx_mapping_scored.csv", dtype=str).set_index("SNOMEDCTCode")["Abbreviation"]
    for code, abbreviation in zip(codes, abbreviations):
        assert {names[part] for part in code.split("|")} == set(abbreviation.split("|"))
    assert codes[normal_class(codes)] == "426783006" and abbreviations[normal_class(abbreviations)] == "NSR"


@pytest.mark.parametrize("file", ["weights.csv", "weights_abbreviations.csv"])
def test_labels_are_matched_by_code_or_abbreviation(scoring, file):
    classes, _ = load_weights(scoring / file)
    names = ["LVH", "RBBB", "sinus rhythm", "CRBBB", "PVC|VPB"]
    codes = [["164873001"], ["59118001"], ["426783006", "NSR"], [713427006], []]
    members = match_labels(names, codes, classes)
    of_class = {name: positions for name, positions in zip(classes, members) if positions}
    bundle, normal, beats = {
        "weights.csv": ("713427006|59118001", "426783006", "427172004|17338001"),
        "weights_abbreviations.csv": ("CRBBB|RBBB", "NSR", "PVC|VPB"),
    }[file]
    expected = {bundle: [1, 3], normal: [2]}
    if file == "weights_abbreviations.csv":  # a name alone is no code
        expected[beats] = [4]
    assert of_class == expected


def test_predictions_of_labels_score_as_their_classes(real, scoring):
    weights, labels, normal = real
    abbreviations, _ = load_weights(scoring / "weights_abbreviations.csv")
    rng = np.random.default_rng(2)
    outputs, targets = rng.random(labels.shape) < 0.3, labels.astype(float)
    left_out = np.arange(len(labels)) % 9 == 0
    targets[left_out, rng.integers(0, 26, left_out.sum())] = np.nan
    # one class as two labels, each with a part of its recordings, and a label that is not scored and never known
    part, place = rng.random(len(labels)) < 0.5, abbreviations.index("PAC|SVPB")
    first, second = targets[:, place] * part, targets[:, place] * ~part
    columns = [np.delete(targets, place, axis=1), first[:, None], second[:, None], np.full((len(labels), 1), np.nan)]
    split = outputs[:, [place]] & np.stack([part, ~part], axis=1)
    called = [np.delete(outputs, place, axis=1), split, outputs[:, :1]]
    scores = np.where(np.concatenate(called, axis=1), 0.7, 0.2)
    names = (*np.delete(abbreviations, place), "PAC", "SVPB", "LVH")
    made = predictions_of(scores, np.concatenate(columns, axis=1), label_names=names)
    found = score_predictions(made, [[]] * 28, scoring / "weights_abbreviations.csv", np.full(28, 0.7))
    expected = defined_challenge_score(weights, labels[~left_out], outputs[~left_out], normal)
    assert found.score == pytest.approx(expected, rel=1e-12)
    assert (found.scored, found.unknown, found.missing) == ((~left_out).sum(), left_out.sum(), ())


def test_missing_classes_are_named_and_left_out(real, scoring):
    weights, labels, normal = real
    names = np.array(load_weights(scoring / "weights.csv")[0])
    present = np.isin(np.arange(26), [normal, 0, 7, 20])
    outputs = np.random.default_rng(3).random((len(labels), 4)) < 0.4
    made = predictions_of(outputs.astype(float), labels[:, present], label_names=tuple("abcd"))
    found = score_predictions(made, [name.split("|") for name in names[present]], scoring / "weights.csv")
    expected = defined_challenge_score(
        weights[np.ix_(present, present)], labels[:, present], outputs, normal=int(present[:normal].sum())
    )
    assert found.score == pytest.approx(expected, rel=1e-12) and found.missing == tuple(names[~present])


def test_without_sinus_rhythm_there_is_no_score(scoring):
    with pytest.raises(UserError, match="no class 426783006 or NSR"):
        score_predictions(predictions_of([[0.5]], [[1]], label_names=("AF",)), [["164889003"]], scoring / "weights.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("", "cannot be read"),
        (",a,b\na,1,0\nc,0,1\n", "rows and columns are not the same classes"),
        (",a,b\na,1,0\n", "rows and columns are not the same classes"),
        (",a,b\na,1,x\nb,0,1\n", "could not convert"),
        (",a,b\na,1,nan\nb,0,1\n", "row a, column b: nan is not a weight"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "weights.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as caught:
        load_weights(path)
    assert str(caught.value).startswith(str(path)) and message in str(caught.value) and "\n" not in str(caught.value)
