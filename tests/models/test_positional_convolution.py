"""The convolution by Fourier transform against torch's, over shapes."""

import pytest
import scipy.fft
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fairseq_signals_ext.models.faster_parts import FftConv1d, fast_length


@settings(deadline=None, max_examples=60)
@given(
    groups=st.integers(1, 3),
    inside=st.integers(1, 3),
    outside=st.integers(1, 3),
    kernel=st.integers(1, 12),
    padding=st.integers(0, 9),
    frames=st.integers(1, 30),
    bias=st.booleans(),
)
def test_values_and_gradients(groups, inside, outside, kernel, padding, frames, bias):
    if frames + 2 * padding < kernel:
        return
    generator = torch.Generator().manual_seed(kernel)
    arguments = (groups * inside, groups * outside, kernel)
    plain, by_fft = (of(*arguments, padding=padding, groups=groups, bias=bias) for of in (nn.Conv1d, FftConv1d))
    by_fft.load_state_dict(plain.state_dict())
    x = torch.randn(2, groups * inside, frames, generator=generator)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    expected, found = plain(inputs[0]), by_fft(inputs[1])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    weight = torch.randn(expected.shape, generator=generator)
    for output in (expected, found):
        (output * weight).sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=0, atol=1e-5)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(getattr(by_fft, name).grad, parameter.grad, rtol=1e-5, atol=1e-4)


def test_length_of_the_transform_is_scipys():
    assert [fast_length(least) for least in range(1, 2000)] == [
        scipy.fft.next_fast_len(least, real=True) for least in range(1, 2000)
    ]


def test_evaluation_is_torchs_own():
    layer = FftConv1d(4, 4, 8, padding=4, groups=2).eval()
    x = torch.randn(2, 4, 9)
    expected = nn.functional.conv1d(x, layer.weight, layer.bias, padding=4, groups=2)
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_output_has_the_dtype_of_the_input(dtype):
    layer = FftConv1d(4, 4, 8, padding=4, groups=2).to(dtype)
    assert layer(torch.randn(2, 4, 9, dtype=dtype)).dtype == dtype
