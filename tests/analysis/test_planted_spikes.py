"""Encoders with weights that make them look at a spike: their saliency is at the spike."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import stored_recording
from made_up_checkpoints import LABELS

from fairseq_signals_ext.analysis.saliency import explain
from fairseq_signals_ext.checkpoints.description import ModelDescription, Preprocessing
from fairseq_signals_ext.inference.backends import TorchBackend
from fairseq_signals_ext.inference.model import LoadedModel
from fairseq_signals_ext.inference.network import EcgNetwork

PATCH, SAMPLES = 20, 500


def planted(patching):
    """A classifier; a token's first value is the sum of its patch, its last is nearly 1 for all."""
    from fairseq_signals_ext.models.ecg_classifier import EcgTransformerClassifier, EcgTransformerClassifierConfig

    encoder = {
        "_name": "ecg_jepa",
        "patch_size": PATCH,
        "patching": patching,
        **{"encoder_layers": 2, "encoder_embed_dim": 32, "encoder_attention_heads": 1},
    }
    torch.manual_seed(0)
    model = EcgTransformerClassifier(EcgTransformerClassifierConfig(encoder=encoder, num_labels=len(LABELS)))
    teacher = model.encoder.teacher
    with torch.no_grad():
        teacher.embed.weight.zero_()[0] = 1
        for layer in teacher.stack:
            layer.out.weight.zero_()
            layer.fc2.weight.zero_()
            query, key, _ = layer.qkv.weight.zero_().unflatten(0, (3, 32))
            query[0, 31], key[0, 0] = 30, 1
    return loaded(model)


def loaded(model, standardization="lead"):
    inputs = Preprocessing(segment_samples=SAMPLES, stride_samples=SAMPLES, standardization=standardization)
    facts = {"kind": "classification", "label_names": LABELS, "aggregation": ("mean",) * 3}
    description = ModelDescription(architecture={}, preprocessing=inputs, **facts)
    network = EcgNetwork(model.eval(), description).requires_grad_(False)
    return LoadedModel(description, TorchBackend(network), "planted")


@pytest.fixture(scope="module", params=["leads_together", "per_lead"])
def model(registered, request):
    return planted(request.param)


def recording_with_spikes(samples, length):
    counts = np.zeros((12, length), np.int16)
    counts[:, samples] = 1000
    return stored_recording(counts)


@settings(deadline=None, max_examples=10)
@given(places=st.lists(st.integers(0, SAMPLES - 1), min_size=2, max_size=2))
def test_attention_is_where_the_spike_is(model, places):
    """One spike in each of two segments, of a recording that goes on a little."""
    spikes = [segment * SAMPLES + place for segment, place in enumerate(places)]
    found = explain(model, recording_with_spikes(spikes, 2 * SAMPLES + 130), method="attention")
    assert found.values.shape == (2 * SAMPLES + 130,) and np.isnan(found.values[2 * SAMPLES :]).all()
    for segment, spike in enumerate(spikes):
        values = found.values[segment * SAMPLES :][:SAMPLES]
        expected = np.arange(SAMPLES) // PATCH == spike % SAMPLES // PATCH
        np.testing.assert_array_equal(values > 0.5, expected)


@pytest.mark.parametrize("place", [0, 137, SAMPLES - 1])
def test_the_gradient_is_where_the_spike_is(model, place):
    found = explain(model, recording_with_spikes([place], SAMPLES), method="gradient", label="B")
    assert found.values.shape == (12, SAMPLES)
    assert (np.abs(found.values).argmax(axis=1) == place).all()


@pytest.mark.parametrize("place", [0, 137, 489])
def test_the_gradient_of_a_state_space_encoder_is_where_the_spike_is(registered, place):
    """With random weights, of an input that is zero elsewhere; 490 samples make 48 whole frames."""
    from fairseq_signals_ext.models.ecg_classifier import EcgTransformerClassifier, EcgTransformerClassifierConfig

    encoder = {"_name": "ecg_cpc", "conv_feature_layers": "[(16, 10, 5), (24, 4, 2)]", "encoder_layers": 2}
    torch.manual_seed(0)
    config = EcgTransformerClassifierConfig(encoder={**encoder, "encoder_embed_dim": 32}, num_labels=len(LABELS))
    model = loaded(EcgTransformerClassifier(config), "fixed")
    found = explain(model, recording_with_spikes([place], SAMPLES), method="gradient", label="B")
    assert found.values.shape == (12, SAMPLES)
    assert (np.abs(found.values).argmax(axis=1) == place).all() and (np.abs(found.values).max(axis=1) > 0).all()
