"""Poolings and layers of the classifier through all that is done with one: trained, exported, inspected, explained."""

import json

import numpy as np
import pytest
import torch
from fine_tuning import finetune, write_labelled, write_pretrained

import fairseq_signals_ext
from fairseq_signals_ext.analysis.attribution import attention_map, gradient_map, window_map
from fairseq_signals_ext.checkpoints.config_conversion import convert_config
from fairseq_signals_ext.checkpoints.inspecting import inspect_model
from fairseq_signals_ext.inference.export import export

QUERY_OF_A_MIX = {"pooling": "query", "pooling_heads": 8, "layers": "mix"}
MEAN_AND_DEVIATION = {"pooling": "mean_std", "layers": 1}
HEADS = [
    pytest.param(QUERY_OF_A_MIX, id="query of a mix"),
    pytest.param(MEAN_AND_DEVIATION, id="mean and deviation", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    data = write_labelled(tmp_path_factory.mktemp("data"))
    return data, write_pretrained(data, tmp_path_factory.mktemp("pretrained"))


@pytest.fixture(scope="module", params=HEADS)
def tuned(request, pretrained, tmp_path_factory):
    """A checkpoint after three updates, and the options of its head."""
    options, folder = request.param, tmp_path_factory.mktemp("run")
    given = [f"model.{name}={value}" for name, value in options.items()]
    finetune(pretrained[0], folder, pretrained[1], *given, "++optimization.max_update=3")
    return folder / "checkpoints" / "checkpoint_last.pt", options


def test_the_checkpoint_says_it(tuned):
    path, options = tuned
    config = torch.load(path, weights_only=True)["cfg"]["model"]
    assert {name: config[name] for name in options} == options
    model = inspect_model(path)["model"]
    assert (model["pooling"], model["layers_used"]) == (options["pooling"], options["layers"])
    assert model.get("pooling_heads") == options.get("pooling_heads")
    assert inspect_model(path)["parameters"]["parts"].get("other", 0) == 0


def test_exports_predict_the_same(tuned, tmp_path):
    path, _ = tuned
    signal = np.random.default_rng(0).normal(size=(12, 6000))
    model = fairseq_signals_ext.load(path)
    expected, embedding = model.predict(signal, sample_rate=500), model.embed(signal, sample_rate=500)
    assert np.isfinite(expected.segment_scores).all() and embedding.shape == (32,)
    for to, tolerance in (("onnx", 1e-4), ("torchscript", 1e-5), ("safetensors", 1e-6)):
        folder = export(path, to, tmp_path / to).folder
        other = fairseq_signals_ext.load(folder)
        found = other.predict(signal, sample_rate=500)
        np.testing.assert_allclose(found.segment_scores, expected.segment_scores, rtol=0, atol=tolerance)
        np.testing.assert_allclose(other.embed(signal, sample_rate=500), embedding, rtol=0, atol=tolerance)
        assert inspect_model(folder)["model"]["layers_used"] == tuned[1]["layers"]


def test_it_is_explained(tuned):
    """The layer of a classifier's own attention is the last that it is given."""
    model = fairseq_signals_ext.load(tuned[0])
    source = np.random.default_rng(2).standard_normal((2, 12, 2500)).astype(np.float32)
    mask = np.zeros((2, 2500), bool)
    label = model.label_names[0]
    assert np.isfinite(gradient_map(model, label, "gradient:saliency", 1)(source, mask)).all()
    assert np.isfinite(window_map(model, label, 1.0)(source, mask)).all()
    look = attention_map(model, None, roll_out=False)(source, mask)
    np.testing.assert_array_equal(look, attention_map(model, model.network.last_layer, roll_out=False)(source, mask))


@pytest.mark.slow
def test_it_is_gone_on_with_and_converted(tuned, pretrained, tmp_path):
    path, options = tuned
    given = [f"model.{name}={value}" for name, value in options.items()]
    start = f"checkpoint.finetune_from_model={path}"
    finetune(pretrained[0], tmp_path, pretrained[1], *given, f"+{start}", "++optimization.max_update=1")
    config = json.loads(json.dumps(torch.load(path, weights_only=True)["cfg"], default=str))
    converted = convert_config(config).sections["model"]
    assert {name: converted[name] for name in options} == options
