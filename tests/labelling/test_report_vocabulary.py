"""The vocabulary of reports and label sets as files: what they add, and mistakes in them with their place."""

import pytest

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.labelling.label_sets import read_label_set
from fairseq_signals_ext.labelling.reports import ReportLabeler, label_texts
from fairseq_signals_ext.labelling.vocabulary import CLINICAL, read_vocabulary


def write(folder, text, name="mine.yaml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_adds_phrases_findings_and_cues(tmp_path):
    mine = write(
        tmp_path,
        """
        words: {infarct: [nekrosezone]}
        concepts:
          atrial_fibrillation: {phrases: ["delirium cordis"]}
          brugada_type_1: {parents: [rbbb], phrases: ["coved [st] (elevation|segment)"]}
        cues:
          - {means: negated, before: true, phrases: ["nil"]}
        """,
    )
    texts = ["Delirium cordis", "coved segment", "nil RBBB", "nekrosezone"]
    before, after = label_texts(texts), label_texts(texts, vocabulary=mine)
    assert [before[row][name] for row, name in enumerate(EXPECTED)] == [0, 0, 1, 0]
    assert [after[row][name] for row, name in enumerate(EXPECTED)] == [1, 1, 0, 1]


EXPECTED = ["Atrial fibrillation", "Right bundle branch block", "Right bundle branch block", "Infarction"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("concepts:\n  mine:\n    parents: [nobody]\n", r"mine.yaml: line 3: no finding 'nobody'"),
        ("concepts:\n  mine:\n    phrases: [LBBB]\n", r"mine.yaml: line 3: 'lbbb' already stands for lbbb \(.*english"),
        (
            "concepts:\n  a: {parents: [b]}\n  b: {suggests: [a]}\n",
            "mine.yaml: line 2: 'a' is above itself, through 'b'",
        ),
        ("concepts:\n  a: {phrases: ['one (two']}\n", "mine.yaml: line 2: 'one \\(two': brackets do not match"),
        ("concepts:\n  a: {phrase: [one]}\n", "mine.yaml: line 2: unknown key 'phrase'"),
        ("concepts:\n  a: {}\n  a: {}\n", "mine.yaml: line 3: 'a' appears twice"),
        ("concepts: [a]\n", "mine.yaml: line 1: give keys and values"),
        ("concepts:\n  a: {phrases: one}\n", "mine.yaml: line 2: give a list"),
        ("concepts:\n  a: {phrases: [[one]]}\n", "mine.yaml: line 2: give a text"),
        ("concepts:\n  a: {phrases: ['  ']}\n", "mine.yaml: line 2: a phrase without words"),
        ("concepts:\n  a: {stays: maybe}\n", "mine.yaml: line 2: stays: 'maybe'; give one of true, false"),
        ("cues:\n  - {means: shouted, phrases: [x]}\n", "mine.yaml: line 2: means: 'shouted'; give one of negated"),
        (
            "cues:\n  - {means: uncertain, probability: 7, phrases: [x]}\n",
            "line 2: probability: '7'; give a number from 0",
        ),
        ("words: {left: [right]}\nconcepts: {}\n", "line 1: 'right' .*; delete one"),
        ("compounds:\n  - {of: [rbbb]}\n", "mine.yaml: line 2: no gives; add it"),
        ("concepts: {\n", "mine.yaml: line .: cannot be read as YAML"),
        ("concepts: !!python/object:os.system {}\n", ""),
        ("words: {mi: [lbbb]}\n", "'mi' already stands for lbbb"),
    ],
)
def test_a_mistake_is_shown_with_its_place(tmp_path, text, message):
    path = write(tmp_path, text)
    if not message:  # unusual, but harmless: nothing is executed
        read_vocabulary([*CLINICAL, path])
        return
    with pytest.raises(UserError, match=message):
        read_vocabulary([*CLINICAL, path])


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(UserError, match="none.yaml: cannot be read"):
        ReportLabeler(vocabulary=tmp_path / "none.yaml")


def test_a_label_set_of_ones_own(tmp_path):
    mine = write(
        tmp_path, "labels:\n  block: [rbbb, lbbb]\n  clean: {of: [sinus_rhythm], unless: [premature_ventricular]}\n"
    )
    texts = ["Sinus rhythm, LBBB", "Sinus rhythm with PVCs", "Sinus rhythm, possible PVCs"]
    assert label_texts(texts, mine) == [
        {"block": 1, "clean": 1},
        {"block": 0, "clean": 0},
        {"block": 0, "clean": 0.5},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("labels:\n  a: [nothing_known]\n", "line 2: no finding 'nothing_known' in the vocabulary"),
        ("labels:\n  a: []\n", "line 2: label 'a' is of no finding"),
        ("labels: {}\n", "no labels"),
        ("label:\n  a: [rbbb]\n", "line 2: unknown key 'label'"),
    ],
)
def test_mistakes_in_a_label_set(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=message):
        ReportLabeler(path)


def test_what_does_not_go_together(tmp_path):
    with pytest.raises(UserError, match="no such file; give a YAML file, or one of cinc2021, ecg-fm-17"):
        read_label_set("none")
    with pytest.raises(UserError, match="'cinc2021': has no ecg-fm semantics"):
        ReportLabeler("cinc2021", "ecg-fm")
    with pytest.raises(UserError, match="give one of clinical, ecg-fm"):
        ReportLabeler(semantics="loose")
    with pytest.raises(UserError, match="--vocabulary: goes with clinical semantics only"):
        ReportLabeler(semantics="ecg-fm", vocabulary=write(tmp_path, "words: {}\n"))
