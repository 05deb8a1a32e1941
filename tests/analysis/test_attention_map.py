"""Saliency from attention: the golden values, planted attention, padding and layers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import made_up_counts, stored_recording

import fairseq_signals_ext
from fairseq_signals_ext.analysis.attribution import attention_map
from fairseq_signals_ext.analysis.saliency import explain
from fairseq_signals_ext.common.conv_layers import frames_of, receptive_field, samples_per_frame
from fairseq_signals_ext.common.errors import UserError


def segments_of_noise(lengths, samples=500, leads=12):
    source = np.random.default_rng(1).standard_normal((len(lengths), leads, samples)).astype(np.float32)
    mask = np.arange(samples) >= np.array(lengths)[:, None]
    return np.where(mask[:, None], np.float32(0), source), mask


def test_golden(golden_folder):
    model = fairseq_signals_ext.load(golden_folder / "tiny_finetuned.pt", labels="ecg-fm")
    golden = np.load(golden_folder / "tiny_golden.npz")
    mask = np.zeros((8, 2500), bool)
    with torch.no_grad():
        attention = model.network.attention(torch.from_numpy(golden["source"]), torch.from_numpy(mask))
    assert np.abs(attention.numpy() - golden["attention"]).max() <= 1e-6
    for layer in (1, 2):
        found = attention_map(model, layer, roll_out=False)(golden["source"], mask)
        expected = golden["attention"][:, layer - 1].max(axis=1).repeat(16, axis=1)
        assert np.abs(found[:, :2496] - expected).max() <= 1e-6
        assert np.isnan(found[:, 2496:]).all()
    # matrices by hand: half of each layer's output is its input
    first, second = (golden["attention"].astype(float).transpose(1, 0, 2, 3) + np.eye(156)) / 2
    expected = (second @ first).mean(axis=1).repeat(16, axis=1)
    found = attention_map(model, None, roll_out=True)(golden["source"], mask)
    assert np.abs(found[:, :2496] - expected).max() <= 1e-6


@pytest.mark.parametrize("roll_out", [False, True])
def test_padding_never_counts(made_up_model, roll_out):
    model = made_up_model()
    look = attention_map(model, None, roll_out)
    source, mask = segments_of_noise([500, 300, 203])
    together = look(source, mask)
    assert [int(np.isfinite(row).sum()) for row in together] == [496, 288, 192]
    for row in range(3):
        alone = look(source[row : row + 1], mask[row : row + 1])
        np.testing.assert_allclose(together[row : row + 1], alone, rtol=0, atol=1e-6)


def test_attention_of_padding_does_not_count(planted, monkeypatch):
    model = planted(sample=160)
    attention = model.network.attention
    source, mask = segments_of_noise([500, 300])

    def with_padding_that_looks_at_the_first_frame(source, padding_mask):
        weights = attention(source, padding_mask)
        weights[1, :, 18:] = 0  # 300 samples are 18 frames
        weights[1, :, 18:, 0] = 1
        return weights

    expected = [attention_map(model, None, roll_out)(source, mask) for roll_out in (False, True)]
    monkeypatch.setattr(model.network, "attention", with_padding_that_looks_at_the_first_frame)
    for roll_out, values in zip((False, True), expected):
        found = attention_map(model, 1, roll_out)(source, mask)
        assert np.nanargmax(found[1]) == 160 and np.isnan(found[1, 288:]).all()
        if not roll_out:
            np.testing.assert_array_equal(found, values)


def test_rollout_is_a_distribution_over_frames(made_up_model):
    source, mask = segments_of_noise([500, 300])
    found = attention_map(made_up_model(), None, roll_out=True)(source, mask)
    np.testing.assert_allclose(np.nansum(found, axis=1) / 16, 1, rtol=1e-5)


stacks = st.lists(st.tuples(st.just(1), st.integers(1, 6), st.integers(1, 4)), min_size=1, max_size=4).filter(
    # every sample is part of a frame, and there is another frame
    lambda layers: all(kernel >= stride for _, kernel, stride in layers) and frames_of(500, layers) >= 2
)


@settings(deadline=None, max_examples=20)
@given(
    layers=stacks,
    sample=st.integers(0, 400),
    segments=st.integers(1, 3),
    method=st.sampled_from(["attention", "rollout"]),
)
def test_planted_sample_is_where_the_saliency_is(planted, layers, sample, segments, method):
    recording = stored_recording(made_up_counts(np.random.default_rng(0), 500 * segments + 130))
    found = explain(planted(sample=sample, conv_layers=layers), recording, method=method)
    assert found.values.shape == (500 * segments + 130,) and found.leads == () and found.label is None
    assert np.isnan(found.values[500 * segments :]).all()
    hop, field = samples_per_frame(layers), receptive_field(layers)
    frames = frames_of(500, layers)
    first = min(sample // hop, frames - 1) * hop
    for segment in range(segments):
        values = found.values[500 * segment :][:500]
        # a sample has the mean of its frames, which are not over a hundred
        raised = values - np.nanmin(values) > 0.01 * np.ptp(values[np.isfinite(values)])
        expected = np.zeros(500, bool)
        expected[first : first + field] = True
        np.testing.assert_array_equal(raised, expected)


def test_planted_frame_without_overlap_is_exact(planted):
    recording = stored_recording(made_up_counts(np.random.default_rng(0), 1000))
    found = explain(planted(sample=200), recording)
    highest = np.flatnonzero(found.values == np.nanmax(found.values))
    assert highest.tolist() == [*range(192, 208), *range(692, 708)]
    assert found.peak == ("", pytest.approx(192 / 500))


def test_layers(made_up_model):
    model = made_up_model()
    recording = stored_recording(made_up_counts(np.random.default_rng(0), 500))
    last, second, first = (explain(model, recording, layer=layer).values for layer in (None, 2, 1))
    np.testing.assert_array_equal(last, second)
    assert not np.allclose(first[:496], second[:496])
    for layer in (0, 3, -1):
        with pytest.raises(UserError, match=f"^layer {layer}: made_up.pt has layers 1 to 2; give one of them$"):
            explain(model, recording, layer=layer)
