"""What is written beside an export is read back, and a wrong fact in it is named in one line."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq_signals_ext.checkpoints.description import (
    ModelDescription,
    Preprocessing,
    read_description,
    read_training,
    write_description,
)
from fairseq_signals_ext.common.errors import UserError

CLASSIFIER = ModelDescription(
    "classification",
    {"_name": "ecg_transformer_classifier", "dropout": 0.1},
    Preprocessing(250.0, ("I", "II", "V1"), ("II", "I"), 500, 1250, "segment"),
    ("A", "B"),
    (0.25, 0.5),
    "f1 on valid",
    ("mean", "max"),
    provenance={"updates": 7},
)
REGRESSION = ModelDescription(
    "regression", {}, label_names=("age",), aggregation=("mean",), target_mean=(61.5,), target_std=(17.0,)
)


def written(folder, description=CLASSIFIER, **facts):
    """An export's `config.json`, some facts of which are others."""
    (folder / "model.onnx").touch()
    path = write_description(description, "model.onnx", folder)
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))
    return path


@pytest.mark.parametrize("description", [CLASSIFIER, REGRESSION, ModelDescription("pretraining", {})])
def test_there_and_back(tmp_path, description):
    written(tmp_path, description)
    assert read_description(tmp_path) == (description, tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("item", "value", "message"),
    [
        ("weights", 5, "weights 5: use the name of a file"),
        ("weights", ["model.onnx"], r"weights \['model.onnx'\]: use the name of a file"),
        ("weights", "../model.onnx", "its weights '../model.onnx' are not in this folder"),
        ("kind", ["classification"], r"kind \('classification',\): use one of"),
        ("architecture", [1], r"architecture \[1\]: use values by names"),
        ("provenance", None, "provenance None: use values by names"),
        ("label_names", "AB", "label_names 'AB': use a list of texts"),
        ("label_names", ["A", 2], r"label_names\[1\] 2: use a list of texts"),
        ("thresholds", ["a", 0.5], r"thresholds\[0\] 'a': use a list of numbers, or null"),
        ("thresholds", [0.5, None], r"thresholds\[1\] None: use"),
        ("thresholds", [0.5, True], r"thresholds\[1\] True: use"),
        ("thresholds", [float("nan"), 0.5], r"thresholds\[0\] nan: use"),
        ("thresholds", 0.5, "thresholds 0.5: use"),
        ("thresholds", [0.5], "thresholds: 1 values, but there are 2 labels"),
        ("thresholds", [0.5, 10**400], "not of an export of this version"),
        ("aggregation", "mean", "aggregation 'mean': use a list of mean or max"),
        ("aggregation", ["mean", "sum"], "aggregation 'sum': use a list of mean or max"),
        ("aggregation", [["mean"], "max"], r"aggregation\[0\] \['mean'\]: use a list of mean or max"),
        ("aggregation", ["mean"], "aggregation: 1 values, but there are 2 labels"),
        ("preprocessing", 5, "not of an export of this version"),
        ("unknown", 5, "not of an export of this version"),
        ("version", 2, "not of an export of this version"),
    ],
)
def test_wrong_facts(tmp_path, item, value, message):
    path = written(tmp_path, **{item: value})
    with pytest.raises(UserError, match=message) as error:
        read_description(tmp_path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("item", "value", "message"),
    [
        ("leads", "I", "leads 'I': use each once of I, II, III"),
        ("leads", [], "leads: none; use each once"),
        ("leads", ["I", "II", "X"], "leads 'X': use each once of"),
        ("leads", ["I", "II", "I"], "leads 'I': use each once of"),
        ("leads", ["I", 2], r"leads\[1\] 2: use each once of"),
        ("loaded_leads", ["I", "V6"], "loaded_leads 'V6': use each once of I, II, V1"),
        ("loaded_leads", ["I", "I"], "loaded_leads 'I': use each once of I, II, V1"),
        ("loaded_leads", [], "loaded_leads: none; use each once"),
        ("segment_samples", 500.5, "segment_samples 500.5: use a whole number"),
        ("segment_samples", True, "segment_samples True: use a whole number"),
        ("stride_samples", "1250", "stride_samples '1250': use a whole number"),
        ("stride_samples", 0, "must be above 0"),
        ("sample_rate", "250", "sample_rate '250': use a rate in Hz"),
        ("sample_rate", float("inf"), "sample_rate inf: use a rate in Hz"),
        ("sample_rate", -250, "must be above 0"),
        ("standardization", ["lead"], r"standardization \('lead',\): use one of lead, segment, recording, fixed"),
        ("unknown", 5, "not of an export of this version"),
    ],
)
def test_wrong_preprocessing(tmp_path, item, value, message):
    path = written(tmp_path, preprocessing={**dataclasses.asdict(CLASSIFIER.preprocessing), item: value})
    with pytest.raises(UserError, match=message) as error:
        read_description(tmp_path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["regression", "pretraining"])
def test_thresholds_are_of_probabilities(kind):
    other = dataclasses.replace(CLASSIFIER, kind=kind, target_mean=(0.0, 0.0), target_std=(1.0, 1.0))
    dataclasses.replace(other, thresholds=None).check()
    with pytest.raises(UserError, match=f"thresholds: a model of kind '{kind}' has none; use null"):
        other.check()


@pytest.mark.parametrize("name", ["target_mean", "target_std"])
def test_targets(tmp_path, name):
    for value, message in ((["60"], rf"{name}\[0\] '60': use a list of numbers"), ([], f"{name}: 0 values, but")):
        written(tmp_path, REGRESSION, **{name: value})
        with pytest.raises(UserError, match=message):
            read_description(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "5", "{", "[" * 100_000, "\xff"])
def test_not_a_description(tmp_path, text):
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="config.json: not of an export of this version") as error:
        read_description(tmp_path)
    assert "\n" not in str(error.value)


def no_constant(name):
    raise AssertionError(f"{name} is no JSON")


def test_what_is_no_number_is_null(tmp_path):
    description = dataclasses.replace(CLASSIFIER, provenance={"best": float("nan"), "list": [np.float32("inf"), 1.5]})
    training = {"cfg": {"model": {"x": (float("-inf"), np.float64(2))}}}
    path = write_description(description, "model.onnx", tmp_path, training)
    facts = json.loads(path.read_text(), parse_constant=no_constant)
    assert facts["provenance"] == {"best": None, "list": [None, 1.5]}
    assert read_training(tmp_path) == {"cfg": {"model": {"x": [None, 2]}}}


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 600), st.floats(), st.sampled_from(["I", "mean", "lead", ""])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "b"]), inner)),
    max_leaves=5,
)


@given(st.sampled_from([field.name for field in dataclasses.fields(ModelDescription)]), JSON)
def test_any_value_is_read_or_named(tmp_path_factory, item, value):
    folder = tmp_path_factory.mktemp("any")
    path = written(folder, **{item: value})
    try:
        description, _ = read_description(folder)
    except UserError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    else:
        description.check()
