"""Poolings and the mix of layers, by themselves: gradients, independent references, frames of padding."""

import numpy as np
import pytest
import torch

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.models.pooling import AttentionPooling, LayerMix, QueryPooling, build_pooling

NAMES = ("mean", "attention", "query", "mean_std")
FRAMES, DIMENSIONS = 6, 8


def pooling_of(name, dtype=torch.float64):
    torch.manual_seed(0)
    pooling = build_pooling(name, DIMENSIONS, heads=4).to(dtype)
    if name == "attention":
        torch.nn.init.normal_(pooling.score.weight)
    return pooling


def frames(dtype=torch.float64):
    """Two segments, of 6 and of 4 frames."""
    x = torch.randn(2, FRAMES, DIMENSIONS, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return x, torch.arange(FRAMES) >= torch.tensor([[FRAMES], [4]])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("padded", [False, True])
def test_gradients_are_those_of_finite_differences(name, padded):
    pooling, (x, padding) = pooling_of(name), frames()
    parameters = [parameter.detach() for parameter in pooling.parameters()]
    names = [each for each, _ in pooling.named_parameters()]

    def pooled(x, *values):
        given = (x, padding if padded else None)
        return torch.func.functional_call(pooling, dict(zip(names, values)), given)

    assert torch.autograd.gradcheck(pooled, [value.requires_grad_() for value in (x, *parameters)])


def test_gradient_of_a_mix():
    weights = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    layers = [frames()[0].requires_grad_() for _ in range(3)]
    mix = LayerMix(3)

    def mixed(weights, *layers):
        return torch.func.functional_call(mix, {"weights": weights}, (layers,))

    assert torch.autograd.gradcheck(mixed, (weights, *layers))


@pytest.mark.parametrize("name", NAMES)
def test_frames_of_padding_have_no_influence(name):
    pooling, (x, padding) = pooling_of(name, torch.float32), frames(torch.float32)
    x.requires_grad_()
    pooled = pooling(x, padding)
    pooled.square().sum().backward()
    assert pooled.shape == (2, pooling.outputs)
    assert (x.grad[padding] == 0).all() and (x.grad[~padding] != 0).all()
    with torch.no_grad():
        torch.testing.assert_close(pooled[1:], pooling(x[1:, :4]))
        assert torch.equal(pooled, pooling(x.masked_fill(padding.unsqueeze(-1), 1e30), padding))


@pytest.mark.parametrize("name", ["mean", "attention"])
def test_untrained_attention_is_the_mean(name):
    x, padding = frames()
    pooled = build_pooling(name, DIMENSIONS).double()(x, padding)
    torch.testing.assert_close(pooled, torch.stack([x[0].mean(0), x[1, :4].mean(0)]))


def test_a_query_equals_torchs_attention():
    pooling, (x, padding) = pooling_of("query"), frames()
    reference = torch.nn.MultiheadAttention(DIMENSIONS, 4, bias=False, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([part.weight for part in (pooling.q, pooling.k, pooling.v)]))
        reference.out_proj.weight.copy_(torch.eye(DIMENSIONS))
        expected, _ = reference(pooling.query.expand(2, 1, -1), x, x, key_padding_mask=padding)
        torch.testing.assert_close(pooling(x, padding), expected[:, 0], rtol=1e-12, atol=1e-12)


def test_a_query_has_projections_of_its_own():
    names = [name for name, _ in QueryPooling(32, 16).named_parameters()]
    assert names == ["query", "q.weight", "k.weight", "v.weight"]


def test_mean_and_deviation_are_numpys():
    x, padding = frames()
    found = pooling_of("mean_std")(x, padding).numpy()
    for row, valid in enumerate((FRAMES, 4)):
        own = x[row, :valid].numpy()
        np.testing.assert_allclose(found[row, :DIMENSIONS], own.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found[row, DIMENSIONS:], own.std(0), rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("valid", [1, FRAMES])
def test_a_deviation_of_zero_has_a_gradient(dtype, valid):
    x = torch.full((1, FRAMES, DIMENSIONS), 100.0, dtype=dtype, requires_grad=True)
    pooled = build_pooling("mean_std", DIMENSIONS)(x, torch.arange(FRAMES).unsqueeze(0) >= valid)
    pooled[:, DIMENSIONS:].sum().backward()
    assert pooled.dtype == dtype and (pooled[:, DIMENSIONS:] < 0.01).all() and (x.grad == 0).all()


def test_a_mix_starts_equal_and_can_choose_one():
    layers = [torch.randn(2, 3, 4) for _ in range(3)]
    mix = LayerMix(3)
    torch.testing.assert_close(mix(layers), torch.stack(layers).mean(0))
    mix.weights.data[1] = 1e4
    assert torch.equal(mix(layers), layers[1])


@pytest.mark.parametrize(
    "name, heads, said",
    [
        ("foo", 4, "model.pooling=foo: use one of mean, attention, query, mean_std"),
        ("query", 3, "model.pooling_heads=3 does not divide the encoder's 8 dimensions; give a divisor, such as 2"),
        ("query", 0, "model.pooling_heads=0 does not divide"),
    ],
)
def test_what_is_no_pooling(name, heads, said):
    with pytest.raises(UserError, match=said):
        build_pooling(name, DIMENSIONS, heads)


def test_attention_keeps_its_parameters():
    """Those of checkpoints that are there."""
    assert [name for name, _ in AttentionPooling(8).named_parameters()] == ["score.weight", "score.bias"]
