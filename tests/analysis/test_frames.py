"""Frames stand for exactly the samples that the convolutions make them of."""

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fairseq_signals_ext.analysis.attribution import samples_of_frames
from fairseq_signals_ext.common.conv_layers import Geometry, frames_of, receptive_field, samples_per_frame

stacks = st.lists(st.tuples(st.just(1), st.integers(1, 6), st.integers(1, 4)), min_size=1, max_size=4)


def seen_by(frame, layers, samples):
    """First and last sample that a frame of real convolutions depends on."""
    signal = torch.zeros(1, 1, samples, requires_grad=True)
    found = signal
    for _, kernel, stride in layers:
        found = torch.nn.functional.conv1d(found, torch.ones(1, 1, kernel), stride=stride)
    found[0, 0, frame].backward()
    seen = torch.nonzero(signal.grad[0, 0]).flatten()
    return int(seen[0]), int(seen[-1])


@settings(deadline=None, max_examples=50)
@given(stacks, st.integers(0, 30), st.data())
def test_receptive_field_is_that_of_the_convolutions(layers, more, data):
    samples = receptive_field(layers) + more
    frame = data.draw(st.integers(0, frames_of(samples, layers) - 1))
    first = frame * samples_per_frame(layers)
    assert seen_by(frame, layers, samples) == (first, first + receptive_field(layers) - 1)


def test_receptive_field_of_known_stacks():
    assert receptive_field([(256, 2, 2)] * 4) == 16
    # wav2vec 2.0 of speech: 25 ms of 16 kHz
    assert receptive_field([(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2) == 400


@settings(deadline=None, max_examples=50)
@given(stacks, st.integers(1, 80), st.integers(0, 40), st.integers(0, 9))
def test_a_sample_has_the_mean_of_its_frames(layers, samples, padding, seed):
    assume(frames_of(samples + padding, layers) >= 1)
    frames = frames_of(samples + padding, layers)
    values = np.random.default_rng(seed).random((1, frames))
    mask = np.arange(samples + padding)[None] >= samples
    found = samples_of_frames(values, mask, Geometry.of_convolutions(layers))
    hop, field = samples_per_frame(layers), receptive_field(layers)
    for sample in range(samples + padding):
        of = [values[0, t] for t in range(frames) if t * hop <= sample < t * hop + field <= samples]
        expected = np.mean(of) if of else np.nan
        np.testing.assert_allclose(found[0, sample], expected, rtol=1e-6)


def test_frames_that_were_cropped_away_are_unknown():
    values = np.ones((1, 2))
    found = samples_of_frames(values, np.zeros((1, 64), bool), Geometry.of_convolutions([(1, 2, 2)] * 4))
    assert np.isfinite(found[0, :32]).all() and np.isnan(found[0, 32:]).all()
