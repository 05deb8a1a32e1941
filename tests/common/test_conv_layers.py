"""The text form of convolutions: same as Python's for what is allowed, refused otherwise, never run."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairseq_signals_ext.common.conv_layers import frames_of, parse_conv_layers, samples_per_frame
from fairseq_signals_ext.common.errors import UserError

layer = st.tuples(st.integers(1, 64), st.integers(1, 5), st.integers(1, 4))


@given(parts=st.lists(st.tuples(st.lists(layer, min_size=1, max_size=3), st.integers(1, 3)), min_size=1, max_size=4))
def test_is_what_python_would_make_of_it(parts):
    text = " + ".join(f"{layers} * {times}" if times > 1 else f"{layers}" for layers, times in parts)
    assert parse_conv_layers(text) == [layer for layers, times in parts for layer in layers * times]
    assert parse_conv_layers(str(parse_conv_layers(text))) == parse_conv_layers(text)


def test_forms_in_use():
    assert parse_conv_layers("[(256, 2, 2)] * 4") == parse_conv_layers("4*[(256,2,2)]") == [(256, 2, 2)] * 4
    assert len(parse_conv_layers("[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]")) == 7


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "(256, 2, 2)",
        "[(256, 2)]",
        "[(256, 2, 0)]",
        "[(256, 2, -1)]",
        "[(256.0, 2, 2)]",
        "[(True, 2, 2)]",
        "[(256, 2, 2)] * 1000000000",
        "[(256, 2, 2)] * 4 * 4 * 4 * 4",
        "[(256, 2, 2)] ** 4",
        "[(256, 2, 2)] * -1",
        "[(x, 2, 2)]",
        "__import__('os').getcwd()",
        "[(256, 2, 2) for _ in range(4)]",
        "[[(256, 2, 2)]]",
        "(" * 500,
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(UserError, match="conv_feature_layers"):
        parse_conv_layers(text)


@given(layers=st.lists(layer, min_size=1, max_size=4), samples=st.integers(300, 1000))
def test_frames_are_those_of_the_convolutions(layers, samples):
    signal, before = torch.zeros(1, 1, samples), 1
    for _, kernel, stride in layers:
        if signal.shape[-1] < kernel:
            return
        signal = torch.nn.Conv1d(before, 1, kernel, stride)(signal[:, :1])
    assert frames_of(samples, layers) == signal.shape[-1]


def test_frames_of_a_segment():
    layers = parse_conv_layers("[(256, 2, 2)] * 4")
    assert frames_of(2500, layers) == 156 and samples_per_frame(layers) == 16
    assert frames_of(torch.tensor([2500, 1700]), layers).tolist() == [156, 106]
