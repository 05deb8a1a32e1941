"""Negatives and similarities: fairseq's own numbers, and those by place equal to those of copies."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_signals_ext.models.faster_parts import (
    draw_negatives,
    places_of,
    similarities,
    similarities_by_place,
    targets_at,
)

WEIGHTS = torch.randint(-(2**63), 2**63 - 1, (7,), generator=torch.Generator().manual_seed(0))


@settings(deadline=None, max_examples=25)
@given(segments=st.integers(1, 4), frames=st.integers(2, 9), number=st.integers(1, 6), seed=st.integers(0, 99))
def test_negatives_are_those_that_fairseq_draws(segments, frames, number, seed):
    from types import SimpleNamespace

    from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Model

    targets = torch.randn(segments, frames, 3)
    torch.manual_seed(seed)
    of_fairseq, _ = Wav2Vec2Model.sample_negatives(
        SimpleNamespace(n_negatives=number, cross_sample_negatives=0), targets, frames
    )
    torch.manual_seed(seed)
    places = draw_negatives(segments, frames, number, torch.device("cpu"))
    assert torch.equal(targets_at(targets, places), of_fairseq)
    assert not (places == torch.arange(frames)).any()


def of_fairseq(predicted, targets, negatives):
    from types import SimpleNamespace

    from fairseq.models.wav2vec.wav2vec2 import Wav2Vec2Model

    return Wav2Vec2Model.compute_preds(SimpleNamespace(logit_temp=1.0), predicted, targets, negatives)


@settings(deadline=None, max_examples=40)
@given(
    segments=st.integers(1, 3),
    frames=st.integers(2, 8),
    number=st.integers(1, 5),
    codes=st.integers(1, 6),
    seed=st.integers(0, 999),
)
def test_similarities_with_equal_targets(segments, frames, number, codes, seed):
    """Few codes, so that negatives often equal the target and must be -inf."""
    generator = torch.Generator().manual_seed(seed)
    code = torch.randn(codes, 7, generator=generator)
    code[0] = 0.0
    targets = code[torch.randint(codes, (segments, frames), generator=generator)]
    predicted = torch.randn(segments, frames, 7, generator=generator)
    places = draw_negatives(segments, frames, number, torch.device("cpu"))
    expected = of_fairseq(predicted, targets, targets_at(targets, places))
    assert torch.equal(similarities(predicted, targets, targets_at(targets, places)), expected)
    torch.testing.assert_close(similarities_by_place(predicted, targets, places, WEIGHTS), expected, rtol=0, atol=1e-6)


def test_minus_zero_equals_zero():
    targets = torch.tensor([[[0.0] * 7, [-0.0] * 7, [1.0] * 7]])
    places = torch.tensor([[[1, 2, 0]]])
    found = similarities_by_place(torch.ones(1, 3, 7), targets, places, WEIGHTS)
    assert found[1].isneginf().tolist() == [[True, False, False]]


def test_neighbouring_numbers_are_not_equal():
    """The fingerprint sees the last bit of one of many values."""
    base = torch.randn(7, generator=torch.Generator().manual_seed(1))
    other = base.clone()
    other[3] = torch.nextafter(other[3], torch.tensor(10.0))
    swapped = base[[1, 0, 2, 3, 4, 5, 6]]
    targets = torch.stack([base, other, swapped]).unsqueeze(0)
    found = similarities_by_place(targets, targets, torch.tensor([[[1, 2, 0]]]), WEIGHTS)
    assert found.isfinite().all()


def test_gradients_by_place():
    generator = torch.Generator().manual_seed(3)
    predicted, targets = (torch.randn(2, 6, 7, generator=generator, dtype=torch.float32) for _ in range(2))
    places = draw_negatives(2, 6, 4, torch.device("cpu"))
    gradients = []
    for by_place in (False, True):
        inputs = [predicted.clone().requires_grad_(), targets.clone().requires_grad_()]
        if by_place:
            found = similarities_by_place(*inputs, places, WEIGHTS)
        else:
            found = similarities(*inputs, targets_at(inputs[1], places))
        found.softmax(0)[0].log().sum().backward()
        gradients.append([value.grad for value in inputs])
    for plain, fast in zip(*gradients):
        assert plain.abs().max() > 0.01
        torch.testing.assert_close(fast, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 4])
def test_places_pick_what_the_mask_picks(frames):
    mask = torch.zeros(3, 9, dtype=torch.bool)
    for row in range(3):
        mask[row, torch.randperm(9)[:frames]] = True
    values = torch.randn(3, 9, 5)
    masked_frames = mask.nonzero()[:, 1].view(3, frames)
    assert torch.equal(values[places_of(masked_frames)], values[mask].view(3, frames, 5))
